"""A server process without sockets, threads or an event loop: hub, node, subscription and visits, in one thread.

Theory of operation. It is the third shell around the pure core; the other two are
`legacy_ws4redis/{process,application}.py` and `channels_impl/{process,consumer}.py`, whose order of steps it keeps.
Nothing happens by itself: `work` does one thing that is to be done, `farewell` runs one `disconnected`, `tick` is the
timer. So whoever holds several servers decides in which order they go on, and time is the Redis's clock.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from random import Random
from secrets import token_hex
from typing import Any, Final
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied

from shim.api import redis_url, sync_bus
from shim.bus.commands import heard, subscriptions
from shim.bus.endpoint import is_memory
from shim.bus.memory_redis import NOTHING, Line, memory_redis
from shim.bus.moves import announce_command, round_from
from shim.complaints import Complaints
from shim.conf import conf
from shim.core.cohorts import Cohort
from shim.core.connection import Connection as CoreConnection
from shim.core.connection import Effect as ConnectionEffect
from shim.core.connection import End, Keep, Ping
from shim.core.errors import RealtimeUnavailable, WireError
from shim.core.history import ReadRequest, ReadResult
from shim.core.hub import Effect, Read, Subscribe, Unsubscribe
from shim.core.kept import Batch, Keeping
from shim.core.live import hub_for
from shim.core.names import control_channel
from shim.core.node import Due, Node, Refusal
from shim.core.protocol import SUBPROTOCOL, Close, Protocol
from shim.core.wire import Position
from shim.door import Handshake, connection_of, identified, look, refusal_of
from shim.facility import topics_of
from shim.rollout import new_state, poll, stored
from shim.testing.client import PONG, MemoryClient
from shim.testing.visit import Visit, run

logger = logging.getLogger("realtime")

_complaints = Complaints()

RETRY_SECONDS: Final = 1.0
MAX_FAILURES: Final = 100


class Refused(Exception):
    """A handshake was refused (contract 1.1).

    Attributes:
        status: the HTTP status. reason: the text that goes with it. retry_after: seconds, with 503.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.status} {HTTPStatus(refusal.status).phrase}: {refusal.reason}")
        self.status = refusal.status
        self.reason = refusal.reason
        self.retry_after = refusal.retry_after


def handshake(
    facility: str,
    *,
    query: str | Mapping[str, Any] = "",
    cookies: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    protocol: str = "raw",
) -> Handshake:
    """A client's request for a WebSocket.

    Args:
        facility: its name.
        query: the query string, or what `urlencode` makes one of.
        cookies: by name.
        headers: more headers, which win over the usual ones; names in any case.
        protocol: `raw` or `v1`.
    """
    usual = {"host": "testserver", "connection": "Upgrade", "upgrade": "websocket"}
    if cookies:
        usual["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    if Protocol(protocol) is Protocol.V1:
        usual["sec-websocket-protocol"] = SUBPROTOCOL
    given = {name.lower(): value for name, value in (headers or {}).items()}
    text = query if isinstance(query, str) else urlencode(query, doseq=True)
    return Handshake(conf().ws_path + facility, text, {**usual, **given})


class MemoryServer:
    """One process of a backend. Single-threaded; `REALTIME_REDIS_URL` must be a ``memory://`` one (see `InMemory`).

    Args:
        backend: `legacy` or `channels`: the cohort that it serves.
        random: numbers in [0, 1) for what real servers leave to chance; the same ones each time by default.

    Attributes:
        failures: what handlers have raised and a real server would have logged: the last hundred.
    """

    def __init__(self, backend: Cohort = "legacy", *, random: Callable[[], float] | None = None) -> None:
        url = redis_url()
        if not is_memory(url):
            raise RuntimeError(f"a MemoryServer needs REALTIME_REDIS_URL = 'memory://', not {url!r}: see InMemory")
        settings = conf()
        self.backend = backend
        self.failures: deque[Exception] = deque(maxlen=MAX_FAILURES)
        self.redis = memory_redis(url)
        self.clock = self.redis.clock
        self._random = random or Random(0).random
        self.hub = hub_for(settings.wire, settings.prefix, name=token_hex(8), control=self._told)
        self.node = Node(backend, new_state(), settings.pace, now=self.clock(), random=self._random)
        self._line: Line | None = None
        self._is_cut = self._is_dead = False
        self._retry_at = 0.0
        self._reads: deque[tuple[ReadRequest, ...]] = deque()
        self._pinged: deque[Visit] = deque()
        self._ending: deque[Visit] = deque()
        self._keepings: deque[Keeping] = deque()
        self._farewells: deque[tuple[Visit, int]] = deque()
        self._visits: dict[str, Visit] = {}
        self._learn_flag()
        self._pump()

    def __repr__(self) -> str:
        return f"<MemoryServer {self.backend} connections={len(self.node)}>"

    # Clients

    def connect(self, request: Handshake) -> MemoryClient:
        """Open a connection: all of contract 1, then what `accepted` brings (the retained message on raw).

        Raises:
            Refused: it was not let in.
            ConnectionRefusedError: the process was killed.
        """
        if self._is_dead:
            raise ConnectionRefusedError(f"the {self.backend} server was killed")
        entered = self._entered(request)
        if isinstance(entered, Refusal):
            raise Refused(entered)
        return entered

    def clients(self) -> list[MemoryClient]:
        """The open ones, in the order in which they came."""
        return [visit.client for visit in self._visits.values() if visit.client.sink.close_code is None]

    # What happens to a process

    def cut(self) -> None:
        """Break the subscription's line to Redis (contract 7.3), until `restore`. Publishing and reading still work.

        `self.redis.stop()` takes Redis away altogether, for everybody.
        """
        self._is_cut = True
        if self._line is not None:
            self._line.end()

    def restore(self) -> None:
        """Let the subscription connect again (contract 7.4)."""
        self._is_cut = False

    def drain(self) -> None:
        """SIGTERM: nobody comes in any more, everybody goes within the window, as time passes (contract 9.1)."""
        self.node.drain(self.clock())

    def kill(self) -> None:
        """SIGKILL: every line breaks, and no handler hears of it (contract 6.4)."""
        self._is_dead = self._is_cut = True
        for visit in self._visits.values():
            visit.client.cut()
        if self._line is not None:
            self._line.end()
        for queue in (self._ending, self._farewells, self._pinged, self._reads, self._keepings):
            queue.clear()
        self._visits.clear()
        self.node.connections.clear()

    def poll_flag(self) -> None:
        """Look at the flag in the database, for a change that nobody pushed (contract 8.2)."""
        if poll(self.node.flag):
            self.node.flipped(self.clock())

    # Going on

    def work(self) -> bool:
        """Do one thing that is to be done. No handler is called. False: nothing is to be done."""
        if self._is_dead:
            return False
        if self._line is None:
            if not self._is_cut and self.redis.is_up:
                self._line = self.redis.line()
                self._perform(self.hub.connected())
                self.node.redis_back(self.clock())
                return True
        elif self._line.ended is not None:
            self._line = None
            self.hub.disconnected()
            self.node.redis_away()
            return True
        elif (said := self._line.hear()) is not NOTHING:
            self._hear(said)
            return True
        if self._reads:
            self._heal(self._reads.popleft())
        elif self._pinged:
            self._pinged.popleft().received(PONG)
        elif self._keepings:
            self._save([self._keepings.popleft() for _ in range(len(self._keepings))])
        elif self._ending:
            visit = self._ending.popleft()
            code = visit.client.sink.close_code
            told = self._leave(visit.core, Close.ABNORMAL if code is None else code)
            if told is not None:
                self._leave_state(visit.core)
                self._farewells.append((visit, told))
        else:
            return False
        return True

    def farewell(self) -> bool:
        """Run one `disconnected` that is due. False: none is."""
        if not self._farewells:
            return False
        visit, code = self._farewells.popleft()
        visit.disconnected(code)
        self._leave_state(visit.core)  # which may have changed it
        return True

    def tick(self) -> None:
        """The timer, which a real process has ten times a second: heartbeats, moves, drains, healing that failed."""
        if self._is_dead:
            return
        now = self.clock()
        self._end(self.node.tick(now))
        self._announce_due()
        if now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            self._perform([*self.hub.retry(), *self.hub.check()])

    # Opening

    def _entered(self, request: Handshake) -> MemoryClient | Refusal:
        settings = conf()
        self._pump()
        found = look(request, self.node, settings, self.clock())
        if isinstance(found, Refusal):
            return found
        visitor = identified(request, found, self.backend, settings)
        if isinstance(visitor, Refusal):
            return visitor
        core = None
        try:
            visitor.audiences = tuple(run(found.audiences, visitor))
            visit = Visit(self, found, visitor, settings.max_backlog)
            core = visit.core = connection_of(
                visitor,
                topics_of(visitor, visitor.audiences),
                visit.client.sink,
                handshake=request,
                node=self.node,
                conf=settings,
                pings=True,
                now=self.clock(),
                random=self._random(),
            )
            self._subscribe(visit)
            past = self._read_past(core, {}) if core.protocol is Protocol.RAW else None
        except Exception as error:  # noqa: BLE001  # whatever it is becomes a refusal
            if core is not None:
                self._leave(core, Close.ABNORMAL)
            if not isinstance(error, (PermissionDenied, RealtimeUnavailable)):
                self.failures.append(error)
            return refusal_of(error, visitor, self.node)
        self._visits[core.id] = visit
        visit.begin(past)
        return visit.client

    def _subscribe(self, visit: Visit) -> None:
        if not self.hub.up:
            raise RealtimeUnavailable("Redis is away: no topic can be subscribed")
        self._perform(self.hub.subscribe(visit.core, visit.core.topics))
        self._pump()
        if not visit.client.sink.confirmed:
            raise RealtimeUnavailable("Redis did not confirm a subscription")

    def _pump(self) -> None:
        while self.work():
            pass

    # What visits ask for

    def accepted(self, core: CoreConnection) -> list[ConnectionEffect]:
        """See `shim.testing.visit.Server`."""
        self.node.opened(core, self.clock())
        return core.accepted(self.clock())

    def join(self, core: CoreConnection, resume: Mapping[str, Position], past: Iterable[ReadResult] | None) -> None:
        """See `shim.testing.visit.Server`."""
        results = self._read_past(core, resume) if past is None else past
        self._perform(self.hub.attach(core, results, resume))

    def keep(self, core: CoreConnection) -> None:
        """See `shim.testing.visit.Server`."""
        self._keepings.append(Keeping(core, self.clock()))

    def ended(self, visit: Visit) -> None:
        """See `shim.testing.visit.Server`."""
        self._ending.append(visit)

    def pinged(self, visit: Visit) -> None:
        """See `shim.testing.visit.Server`."""
        self._pinged.append(visit)

    # Inside

    def _read_past(self, core: CoreConnection, resume: Mapping[str, Position]) -> list[ReadResult]:
        past, state = sync_bus().join(self.hub.begin(core, resume), core.inherits(conf().prefix))
        if state is not None:
            core.kept.carry(state)
        return past

    def _leave_state(self, core: CoreConnection) -> None:
        if core.leaves_state:
            self.keep(core)

    def _save(self, keepings: list[Keeping]) -> None:
        batch, worked = Batch(conf().prefix, keepings), False
        with suppress(RealtimeUnavailable):
            sync_bus().save(batch.saves)
            worked = True
        batch.finished(self.clock(), worked=worked)

    def _leave(self, core: CoreConnection, code: int) -> int | None:
        self._visits.pop(core.id, None)
        self.node.closed(core)
        self._perform(self.hub.unsubscribe(core))
        return core.ended(code)

    def _hear(self, said: object) -> None:
        news = heard(said)
        if news is None:
            return
        channel, data = news
        try:
            if data is None:
                self._perform(self.hub.confirmed(channel))
                if channel == control_channel(conf().prefix) and self._learn_flag():
                    self.node.flipped(self.clock())
            else:
                self._perform(self.hub.message(channel, data))
        except WireError as error:
            if _complaints.allow("message"):
                logger.warning("passed over something on %s: %s", channel, error)

    def _told(self, data: bytes) -> None:
        try:
            self._end(self.node.control(data, self.clock()))
            self._announce_due()
        except WireError as error:
            if _complaints.allow("control"):
                logger.warning("passed over a control message: %s", error)

    def _heal(self, requests: tuple[ReadRequest, ...]) -> None:
        try:
            results = sync_bus().read_many(requests)
        except RealtimeUnavailable:
            for request in requests:
                self.hub.unhealed(request.channel)
            return
        for result in results:
            self._perform(self.hub.healed(result))

    def _announce_due(self) -> None:
        if (said := self.node.announced(self.clock())) is None:
            return
        round = None
        with suppress(RealtimeUnavailable):
            round = round_from(sync_bus().execute(*announce_command(conf().prefix, said)))
        self.node.granted(round, self.clock())

    def _learn_flag(self) -> bool:
        """What was pushed while nobody here listened (contract 8.2); whether it is news."""
        try:
            snapshot = stored()
        except RealtimeUnavailable:
            return False
        return snapshot is not None and self.node.flag.pushed(snapshot)

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Subscribe(channels):
                    self._say("SUBSCRIBE", channels)
                case Unsubscribe(channels):
                    self._say("UNSUBSCRIBE", channels)
                case Read(requests):
                    self._reads.append(requests)

    def _say(self, verb: str, channels: Iterable[str]) -> None:
        if self._line is not None and self._line.ended is None:
            self._line.say(list(subscriptions(verb, channels)))

    def _end(self, due: Iterable[Due]) -> None:
        for connection, effects in due:
            for effect in effects:
                match effect:
                    case Ping():
                        connection.sink.ping()
                    case End(code, reason):
                        connection.sink.close(code, reason)
                    case Keep(within):
                        self._keepings.append(Keeping(connection, self.clock(), within))
