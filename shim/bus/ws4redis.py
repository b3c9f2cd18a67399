"""What is said to Redis on ws4redis's wire (`REALTIME_WIRE = "ws4redis"`); the rest is as in `shim.bus.commands`.

The last message of a topic is kept under the channel's own name, where the old processes write and read it, too:
``SET … PX`` and ``PUBLISH`` in one transaction. They send the two one after the other; here nobody can come between.
There is no number, no list of older messages, and no script.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from redis.exceptions import InvalidResponse

from shim.bus.commands import Command, Commands, Exchange, Outgoing, checked, ms, origin_of
from shim.core.errors import WireError, shown
from shim.core.history import ReadRequest, ReadResult, Want
from shim.core.wire import Position
from shim.core.wires import NOWHERE, Wire, Ws4redisWire


@dataclass(frozen=True, slots=True)
class Ws4redisCommands(Commands):
    """What a bus says to Redis on ws4redis's wire.

    Args:
        wire: names the channels, and remembers what this process's own connections send.
    """

    wire: Ws4redisWire = field(default_factory=Ws4redisWire)

    def publish(self, outgoing: Outgoing) -> Exchange[Position | None]:
        """Publish one message: None, as it has no position."""
        yield from self.publish_many([outgoing])
        return None

    def publish_many(self, messages: Iterable[Outgoing]) -> Exchange[list[Position | None]]:
        """Publish messages in their order, in one round trip."""
        outgoing = list(messages)
        if not outgoing:
            return []
        said: list[Command] = []
        own: list[tuple[str, bytes, str]] = []
        for topic, _, body, history, origin in outgoing:
            self.wire.check(topic, body)
            channel = self.wire.channel(topic)
            publish: Command = ("PUBLISH", channel, body)
            said += (
                [("MULTI",), ("SET", channel, body, "PX", ms(history.ttl)), publish, ("EXEC",)]
                if history.size
                else [publish]
            )
            if (sender := origin_of(origin)) is not None:
                own.append((channel, body, sender))
        for each in own:
            self.wire.sent.add(*each)
        try:
            for reply in (yield said):
                _look(reply)
        except BaseException:
            for each in own:
                self.wire.sent.drop(*each)
            raise
        return [None] * len(outgoing)

    def read_many(self, requests: Iterable[ReadRequest]) -> Exchange[list[ReadResult]]:
        """Answer questions about topics' pasts: the last messages and a mark for the moment in one transaction.

        Questions about positions are about what is on our own wire in any case, such as the control channel.
        """
        asked = list(requests)
        said = {request: command for request in asked if (command := _question(request)) is not None}
        others = [request for request in asked if request not in said]
        results = dict(zip(others, (yield from Commands.read_many(self, others)), strict=True))
        if said:
            *queued, executed = yield [("MULTI",), *said.values(), ("EXEC",)]
            for reply in queued:
                checked(reply)
            results |= self._results(said, executed)
        return [results[request] for request in asked]

    def _results(self, said: Mapping[ReadRequest, Command], reply: object) -> dict[ReadRequest, ReadResult]:
        answers = checked(reply)
        if not isinstance(answers, list) or len(answers) != len(said):
            raise InvalidResponse(f"not the answer of a transaction: {shown(reply)}")
        return {request: self._result(request, checked(answer)) for request, answer in zip(said, answers, strict=True)}

    def _result(self, request: ReadRequest, reply: object) -> ReadResult:
        if request.want is not Want.LAST or not isinstance(reply, bytes):
            return ReadResult(request.channel, NOWHERE)
        try:
            return ReadResult(request.channel, NOWHERE, (self.wire.kept(reply),))
        except WireError:  # ws4redis does not deliver it, either
            return ReadResult(request.channel, NOWHERE)


def commands_for(wire: Wire | None, prefix: str, meta_ttl: float) -> Commands:
    """What a bus says to Redis on a wire; None is our own."""
    if isinstance(wire, Ws4redisWire):
        return Ws4redisCommands(prefix, meta_ttl, wire=wire)
    return Commands(prefix, meta_ttl)


def _question(request: ReadRequest) -> Command | None:
    match request.want:
        case Want.LAST:
            return ("GET", request.channel)
        case Want.MARK:
            return ("PUBLISH", request.channel, request.mark)
    return None


def _look(reply: object) -> None:
    """Raise what a command, or one of a transaction, came to."""
    answers: Sequence[object] = reply if isinstance(reply, list) else [reply]
    for answer in answers:
        checked(answer)
