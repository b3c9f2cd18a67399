"""The two ends of a WebSocket that is not there: the client's, and the sink that the hub writes to."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from shim.core.protocol import PING_FRAME, Close, Frame
from shim.core.protocol import Protocol as ClientProtocol

PONG: Final = '{"op":"pong"}'


class MemoryClient:
    """The client's end of one connection. Single-threaded; what it does happens at once.

    Attributes:
        id: the connection's.
        protocol: raw or v1.
        frames: what has arrived and was not taken yet.
        closed: the close code that it got, once it has read all that came before; 1006 when the line broke.
        close_reason: what came with the code.
        answers_pings: whether it does, as every WebSocket client that is alive (contract 7.1).
    """

    def __init__(
        self,
        id: str,
        protocol: ClientProtocol,
        *,
        said: Callable[[str | bytes], None],
        pinged: Callable[[], None],
        ended: Callable[[], None],
        clock: Callable[[], float],
        max_backlog: int,
    ) -> None:
        """Made by `MemoryServer.connect`.

        Args:
            said: takes a message of the client's. pinged: called for a v1 `ping`.
            ended: called once, when either side has ended the connection.
            clock: seconds. max_backlog: bytes that may wait while the client does not read (contract 7.2).
        """
        self.id = id
        self.protocol = protocol
        self.frames: deque[Frame] = deque()
        self.closed: int | None = None
        self.close_reason = ""
        self.answers_pings = True
        self.sink = MemorySink(self, clock, max_backlog, ended, pinged)
        self._said = said
        self._is_reading = True

    def __repr__(self) -> str:
        return f"<MemoryClient {self.id} {self.protocol} closed={self.closed}>"

    @property
    def is_reading(self) -> bool:
        """Whether it takes what is sent to it."""
        return self._is_reading

    def send(self, data: str | bytes) -> None:
        """Send a message: a text frame, or a binary one. A connection that has ended takes nothing."""
        if self.sink.close_code is None:
            self._said(data)

    def close(self, code: int = Close.NORMAL, reason: str = "") -> None:
        """Close it from this side, politely."""
        if self.sink.close_code is None:
            self.closed, self.close_reason = code, reason
            self.sink.end(code)

    def cut(self) -> None:
        """Break the line: neither side says goodbye."""
        if self.sink.close_code is None:
            self.closed = Close.ABNORMAL
            self.sink.end(Close.ABNORMAL)

    def pause(self) -> None:
        """Stop reading: what is sent waits, up to a limit (contract 7.2)."""
        self._is_reading = False

    def resume(self) -> None:
        """Read what has waited, and on."""
        self._is_reading = True
        self.sink.flush()

    def take(self, frame: Frame) -> None:
        """A frame has arrived. For the sink."""
        self.frames.append(frame)

    def told_to_close(self, code: int, reason: str) -> None:
        """The server's close frame has arrived. For the sink."""
        if self.closed is None:
            self.closed, self.close_reason = code, reason


class MemorySink:
    """`shim.core.member.Sink` without a socket: a frame is there at once, or waits while the client does not read.

    Attributes:
        confirmed: whether Redis has confirmed all topics.
        close_code: how the connection has ended, None while it lives; the first who ends it decides.
    """

    def __init__(
        self,
        client: MemoryClient,
        clock: Callable[[], float],
        max_backlog: int,
        ended: Callable[[], None],
        pinged: Callable[[], None],
    ) -> None:
        self.confirmed = False
        self.close_code: int | None = None
        self.last_heard = clock()
        self._client = client
        self._clock = clock
        self._ended = ended
        self._pinged = pinged
        self._waiting: deque[Frame | tuple[int, str]] = deque()
        self._backlog = 0
        self._max_backlog = max_backlog
        self._exempt = 0  # bytes of a batch that may wait on top of the limit, until all has been read

    # `Sink`

    def send(self, frame: Frame) -> None:
        """See `Sink`."""
        if self.close_code is not None:
            return
        if not self._client.is_reading and self._waiting and self._over(frame):
            code, reason = Close.TOO_SLOW, f"{self._backlog} bytes wait"
            self._waiting.clear()
            self._backlog = 0
            self.close(code, reason)
            return
        self._put(frame)

    def send_batch(self, frames: Sequence[Frame]) -> None:
        """See `Sink`."""
        if self.close_code is None:
            for frame in frames:
                self._exempt += len(frame)
                self._put(frame)

    def ping(self) -> None:
        """See `Sink`."""
        if self._client.answers_pings and self._client.is_reading:
            self.heard()

    def close(self, code: int, reason: str) -> None:
        """See `Sink`."""
        if self.close_code is None:
            self._waiting.append((code, reason))
            self.flush()
            self.end(code)

    def subscribed(self) -> None:
        """See `Sink`."""
        self.confirmed = True

    # The other end

    def heard(self) -> None:
        """Something came from the client."""
        self.last_heard = self._clock()

    def end(self, code: int) -> None:
        """The connection is over: nothing comes or goes any more, but for what is on its way to the client."""
        if self.close_code is None:
            self.close_code = code
            self._ended()

    def flush(self) -> None:
        """Hand over what has waited, while the client reads."""
        while self._client.is_reading and self._waiting:
            item = self._waiting.popleft()
            if isinstance(item, Frame):
                self._backlog -= len(item)
                self._arrive(item)
            else:
                self._client.told_to_close(*item)
        if not self._waiting:
            self._exempt = 0

    def _over(self, frame: Frame) -> bool:
        return self._backlog + len(frame) > self._max_backlog + self._exempt

    def _put(self, frame: Frame) -> None:
        self._waiting.append(frame)
        self._backlog += len(frame)
        self.flush()

    def _arrive(self, frame: Frame) -> None:
        self._client.take(frame)
        if frame is PING_FRAME and self._client.answers_pings:
            self._pinged()
