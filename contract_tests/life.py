"""One life: real connections, real publishes, and the model that both are held against after each step."""

import asyncio
import base64
import json
import os
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from contract_tests.app.lives import facility_echo, facility_history, facility_name
from contract_tests.client import Seen
from contract_tests.driver import Driver
from contract_tests.flag import Flag
from contract_tests.link import Ending, Link, Topic
from contract_tests.model import DIRECT, Broken, Item, Said, TopicLog, Unheard, came, healed
from contract_tests.wire import BINARY, TEXT
from shim import Audience, Everyone, Group, History, Position, Session, User, realtime
from shim.api import sync_bus
from shim.conf import conf
from shim.core.names import Topic as Named

type Kept = tuple[int, float] | None
"""A history to publish with: size and seconds; None is what the facility says."""

SHAKEN_SECONDS: Final = 30.0
"""After a process or its connection to Redis was hurt, it may refuse for so long."""

_HOWS: Final = ("sync", "async", "many", "amany")
_LOOK: Final = 0.002  # seconds between two looks at a file that another process writes

_runner = asyncio.Runner()  # one event loop for all async publishes, as an ASGI process has


@dataclass(slots=True)
class Outage:
    """Servers hear nothing of Redis: what was published meanwhile, and whether a topic's history was lost before."""

    bases: dict[Topic, int] = field(default_factory=dict)
    published: dict[Topic, list[Unheard]] = field(default_factory=dict)


class Life:
    """What happens from a driver's point of view; the state machine's rules call it.

    Attributes:
        name: no other life has it; names of people and groups begin with it. facilities: a sync and an async one.
        links: all connections, the ended ones too. logs: what Redis should remember.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.number = driver.lives
        driver.lives += 1
        self.name = f"{os.getpid()}-{self.number}"
        self.facilities = tuple(facility_name(self.number, is_async=each) for each in (False, True))
        self.links: list[Link] = []
        self.logs: dict[Topic, TopicLog] = {}
        self.flag = Flag(conf().flag, driver.everyone)
        self.outage: Outage | None = None
        self._fences = 0
        for facility in self.facilities:
            self.forget(Topic(facility, "e"))

    @property
    def shaken(self) -> bool:
        """Whether Redis or a process was hurt lately: coming in may be refused (503, contract 1.1)."""
        return self.driver.now() < self.driver.shaken_until

    def shake(self) -> None:
        """Redis or a process is hurt now."""
        self.driver.shaken_until = self.driver.now() + SHAKEN_SECONDS

    # Topics

    def log(self, topic: Topic) -> TopicLog:
        """What Redis should remember of a topic."""
        return self.logs.setdefault(topic, TopicLog())

    def echoes(self, facility: str) -> bool:
        """Whether a facility gives everybody their own messages, too (contract 6.5)."""
        return facility_echo(self.number, is_async=facility == self.facilities[1])

    def history_of(self, facility: str) -> tuple[int, float]:
        """What a facility keeps by itself."""
        return facility_history(self.number, is_async=facility == self.facilities[1])

    def forget(self, topic: Topic) -> None:
        """Redis loses a topic's history."""
        stem = channel_of(topic)
        sync_bus().execute("DEL", f"{stem}:meta", f"{stem}:log")

    # Publishing

    def publish(
        self,
        messages: Sequence[tuple[Topic, Any]],
        *,
        kept: Kept = None,
        how: str = "sync",
        sender: str | None = None,
    ) -> None:
        """Publish, and say what every connection may get of it; `settle` sees to it that it comes."""
        history = None if kept is None else History(*kept)
        triples = [(topic.facility, audience_of(topic), value) for topic, value in messages]
        before = self.driver.now()
        match how:
            case "sync":
                receipts = [realtime.publish(*triple, history=history, sender=sender) for triple in triples]
            case "async":
                receipts = [self.run(realtime.apublish(*each, history=history, sender=sender)) for each in triples]
            case "many":
                receipts = realtime.publish_many(triples, history=history, sender=sender)
            case "amany":
                receipts = self.run(realtime.apublish_many(triples, history=history, sender=sender))
            case _:
                raise ValueError(f"how is one of {_HOWS}, not {how!r}")
        after = self.driver.now()
        for (topic, value), receipt in zip(messages, receipts, strict=True):
            self.published(topic, value, kept, before, after, receipt.position, sender)

    def published(
        self,
        topic: Topic,
        value: Any,
        kept: Kept,
        before: float,
        after: float,
        receipt: Position | None = None,
        sender: str | None = None,
    ) -> None:
        """Something was published between two moments, by whomever."""
        log, said = self.log(topic), Said.of(value)
        size, ttl = self.history_of(topic.facility) if kept is None else kept
        base = log.seq
        margin = self.driver.margin
        seq = log.publish(said, size, ttl, before - margin, after + margin, sender)
        if (receipt is not None) is not (seq is not None) and receipt is not None:
            raise Broken("5.1", f"a message without history has the position {receipt}")
        if receipt is not None and (receipt.seq != seq or not log.is_epoch(log.era, receipt.epoch)):
            raise Broken("3.2", f"the receipt is {receipt}, seq should be {seq} in epoch {log.epochs.get(log.era)}")
        what = Unheard(seq, said, log.kept[0].seq if log.kept else log.seq + 1, sender)
        if self.outage is not None:
            self.outage.bases.setdefault(topic, base)
            self.outage.published.setdefault(topic, []).append(what)
            return
        for link in self.listeners(topic):
            hidden = link.hides(sender)
            link.allowed.expect(*came(log, topic.label, "3.1", what, v1=link.v1, hidden=hidden))

    def listeners(self, topic: Topic) -> list[Link]:
        """Open connections that listen to a topic."""
        return [link for link in self.links if link.closed is None and link.topics.get(topic.label) == topic]

    def fence(self, links: Iterable[Link] | None = None) -> None:
        """Publish something to every topic that somebody listens to: whatever should not come has come by then."""
        topics = {topic: None for link in links or self.links if link.closed is None for topic in link.topics.values()}
        for topic in topics:
            self._fences += 1
            self.publish([(topic, f"fence {self.name} {self._fences}")], kept=(100, 300.0))
        self.settle()

    def heal(self, outage: Outage, lost: frozenset[Topic] = frozenset()) -> None:
        """The outage is over: fences show when each topic is whole again, and what came of it is held against 7.4."""
        for topic in {topic: None for link in self.links if link.is_open for topic in link.topics.values()}:
            self._fences += 1
            self.publish([(topic, f"fence {self.name} {self._fences}")], kept=(100, 300.0))
        self.outage = None
        for topic, published in outage.published.items():
            for link in self.listeners(topic):
                choices = healed(
                    self.log(topic),
                    topic.label,
                    published,
                    base=0 if topic in lost else outage.bases[topic],
                    v1=link.v1,
                    new_era=topic in lost,
                    hides=link.hides,
                )
                link.allowed.choose(topic.label, choices)
        self.settle()
        for link in self.links:
            if link.is_open:
                link.allowed.settle()
        self.hold("7.4")

    # Observing

    def settle(self) -> None:
        """Read until every connection has what it must get.

        Raises:
            Broken: something came that must not, or did not come in time.
        """
        deadline = self.driver.now() + self.driver.patience
        while True:
            for link in self.links:
                self._read(link)
            waiting = [link for link in self.links if not link.is_settled]
            if not waiting:
                return
            if self.driver.now() > deadline:
                raise waiting[0].missing(f"within {self.driver.patience:g} s")
            self.driver.wait([link.client for link in waiting], 1.0)

    def _read(self, link: Link) -> None:
        if link.reads and not link.client.over:
            link.unseen.extend(link.read())
        while link.unseen and link.closed is None:
            link.judge(link.unseen.popleft(), self.logs)

    def hold(self, *clauses: str) -> None:
        """These clauses were looked at, and hold."""
        self.driver.held.update(clauses)

    # Connections

    def open_links(self, *, v1: bool | None = None) -> list[Link]:
        """Connections that are not about to end; with `v1` of one protocol only."""
        return [link for link in self.links if link.is_open and link.reads and v1 in (None, link.v1)]

    def say(self, link: Link, value: Any) -> None:
        """A client sends a message as its protocol has it."""
        link.client.say(*message_payload(link.v1, value))

    def await_reply(self, link: Link, topic: Topic, value: Any, before: float, *, own: bool, handled: int) -> None:
        """A handler was told to publish, and answers when it has: only then the model knows where the message stands.

        What comes before the answer waits unjudged. Where the connection ends first, it may have been handled, or not:
        what the handler wrote down says which, once it has written that the connection is gone.

        Args:
            handled: so many messages of this connection its handler had finished with before.
        """
        reply = Said("text", "done")
        held: list[Seen] = []
        deadline = self.driver.now() + self.driver.patience
        while not any(reply.is_in(seen) for seen in held):
            if self.driver.now() > deadline:
                raise Broken("6.1", f"{link} got no answer within {self.driver.patience:g} s", link.place)
            link.client.wait()
            held += link.read()
            if held and held[-1].op == "closed":
                break
        link.unseen.extend(held)
        if not any(reply.is_in(seen) for seen in held):
            while not self.driver.notes.read(link.note, "disconnected") and self.driver.now() < deadline:
                self.driver.wait([], 0.01)
            if len(self.driver.notes.read(link.note, "received")) == handled:
                return
        self.published(topic, value, None, before, self.driver.now(), sender=link.id if own else None)

    def may_end(self, link: Link, ending: Ending) -> None:
        """A connection ends now, or may; what it might have ended with before, it still may."""
        old = link.ending
        if old is not None:
            told = None if old.told is None or ending.told is None else old.told | ending.told
            early, untold = old.early or ending.early, old.untold or ending.untold
            ending = replace(ending, codes=old.codes | ending.codes, told=told, early=early, untold=untold)
        link.ending = ending

    def must_end(self, link: Link, ending: Ending) -> None:
        """A connection must end now, if it reads; what it might have ended with before, it still may."""
        self.may_end(link, ending if link.ending is None else replace(ending, must=link.reads))

    def must_end_all(self, going: Iterable[Link], ending: Ending, *, gone: Iterable[Link] = ()) -> None:
        """Connections must end now. Of those that are `gone` for their client the server may not know it yet."""
        for link in going:
            self.must_end(link, ending)
        for link in gone:
            told = None if link.ending is None else link.ending.told
            if link.ending is not None and told and not self.driver.notes.read(link.note, "disconnected"):
                link.ending = replace(link.ending, told=told | (ending.told or told))

    def leave(self, link: Link, how: str, code: int | None = 1000) -> None:
        """A client leaves: `clean` with a close frame, `abrupt` without, `half` so that nobody is told for now."""
        ended_otherwise: frozenset[int] = frozenset()
        may_be_untold = False  # its process was killed, and it has not read that
        if link.ending is not None:
            may_be_untold, ended_otherwise = link.ending.told is None, link.ending.told or frozenset()
        match how:
            case "clean":
                told = 1005 if code is None else code
                codes = frozenset({told, *ended_otherwise})
                link.ending = Ending(codes, "6.4", codes)
                link.client.leave(code)
                self.settle()
            case "abrupt":
                link.ending = Ending(frozenset({None}), "6.4", frozenset({1006, *ended_otherwise}), must=False)
                link.client.end(abrupt=True)
                link.closed = Seen("closed")
            case _:
                link.reads = False
                link.client.stall()
                codes = frozenset({1006, 4001, *ended_otherwise})
                link.ending = Ending(codes, "6.4", codes, must=False, early=True)
        if may_be_untold:
            link.ending = replace(link.ending, told=None)

    def sweep(self) -> None:
        """The end of a life: everybody gets what is due, leaves, and `disconnected` has run once for each."""
        self.fence()
        for link in self.links:
            if link.closed is None:
                self.leave(link, "clean" if link.reads else "abrupt")
        for link in self.links:
            if link.ending is not None and link.ending.told is not None:
                self.see_disconnected(link.note, link.ending.told, str(link), link.place)
        self.hold("3.1", "3.2", "3.3", "6.4")

    def see_disconnected(self, note: str, codes: frozenset[int], who: str, place: str) -> None:
        """`disconnected` has run once, with one of the codes.

        Raises:
            Broken: not so.
        """
        deadline = self.driver.now() + self.driver.patience
        while not (ends := self.driver.notes.read(note, "disconnected")):
            if self.driver.now() > deadline:
                raise Broken("6.4", f"disconnected() has not run for {who} within {self.driver.patience:g} s", place)
            self.driver.wait([], _LOOK)
        told = [end["code"] for end in ends]
        if len(told) > 1 or told[0] not in codes:
            raise Broken("6.4", f"disconnected() was told {told} for {who}, one of {sorted(codes)} is right", place)

    def run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run async code of a test."""
        return _runner.run(coroutine)

    def abandon(self) -> None:
        """Let everything go, whatever state it is in. Idempotent."""
        for link in self.links:
            link.client.end(abrupt=True)
        if self.flag != (usual := Flag(self.flag.name, self.driver.everyone)):
            self.driver.turn(usual)


def mirrored(link: Link, value: Any, id: int | None) -> list[Item]:
    """What comes back of a message that is no command: the same, and its `ack`."""
    if not link.v1 and not isinstance(value, (str, bytes)):
        value = json.dumps(value)
    items = [Item("msg", DIRECT, "6.1", Said.of(value))]
    if id is not None:
        items.append(Item("ack", DIRECT, "6.1", id=id))
    return items


def message_payload(v1: bool, value: Any, id: int | None = None) -> tuple[int, bytes]:
    """A client's message as its protocol has it: opcode and payload."""
    if not v1:
        if isinstance(value, bytes):
            return BINARY, value
        return TEXT, (value if isinstance(value, str) else json.dumps(value)).encode()
    fields: dict[str, Any] = {"op": "send"}
    if id is not None:
        fields["id"] = id
    if isinstance(value, bytes):
        fields["b64"] = base64.b64encode(value).decode()
    else:
        fields["text" if isinstance(value, str) else "data"] = value
    return TEXT, json.dumps(fields, ensure_ascii=False).encode()


def audience_of(topic: Topic) -> Audience:
    """The audience of a topic, as the API names it."""
    match topic.kind:
        case "u":
            return User(topic.name)
        case "g":
            return Group(topic.name)
        case "s":
            return Session(topic.name)
        case _:
            return Everyone()


def channel_of(topic: Topic) -> str:
    """A topic's names on Redis begin with this; only to take its history away."""
    return Named(topic.facility, audience_of(topic)).channel(conf().prefix)
