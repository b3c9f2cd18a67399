"""The state machine: a random life of connections and publishers. Rules only; what they do is in `Life`.

Arguments are small numbers that stand for "one of those that are there", so that no rule depends on what a server did
before, and a shrunk program reads well.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from django.db import transaction
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import shim
from contract_tests.arrival import NARROW, Race, arrive
from contract_tests.driver import Driver
from contract_tests.life import Kept, Life, audience_of, message_payload, mirrored
from contract_tests.link import Link, Topic
from contract_tests.model import DIRECT, Broken, Item, Said
from contract_tests.people import Person, signed_in, with_session
from contract_tests.values import BIG, HISTORIES, NAMES, SENT, UNCARRIABLE, VALUES
from shim import realtime

PICK: Final = st.integers(0, 11)
HOW: Final = st.sampled_from(["sync", "async", "many", "amany"])
MOST_LINKS: Final = 8
_BIG: Final = 100_000  # characters; more takes a while, and needs chance's consent

STEPS: Final[set[str]] = set()
"""The rules of all machines whose modules were imported."""

type Messages = Sequence[tuple[int, Any]]


def step(**arguments: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """A rule that is written down before it is carried out, so that a failure can be shown whatever Hypothesis does."""
    decorate: Callable[[Any], Any] = rule(**arguments)  # type: ignore[call-overload]  # its overloads are for bundles

    def made(function: Any) -> Any:
        STEPS.add(function.__name__)
        return decorate(noted(function))

    return made


def noted(function: Callable[..., None]) -> Callable[..., None]:
    """A step that no chance chooses: written down like a rule."""

    @functools.wraps(function)
    def written(self: "Basics", **arguments: Any) -> None:
        if self.driver.is_tired:
            return
        self.program.append((function.__name__, arguments))
        try:
            function(self, **arguments)
        except BaseException as error:
            self.is_broken = True
            self.driver.failed(self.program, error)
            raise

    return written


class Basics(RuleBasedStateMachine):
    """Connecting, publishing, sending, leaving."""

    driver: ClassVar[Driver]

    def __init__(self) -> None:
        super().__init__()
        self.life = Life(self.driver)
        self.people: list[Person] = []
        self.names: list[str] = []
        self.topics: list[Topic] = []
        self.is_broken = False
        self.program: list[tuple[str, dict[str, Any]]] = []

    def teardown(self) -> None:
        """Everybody gets what is due, and leaves; after a failure everything is just dropped."""
        try:
            if not self.is_broken:
                self.life.sweep()
        except Exception as error:
            self.driver.failed(self.program, error)
            raise
        finally:
            self.driver.steps += len(self.program)
            self.driver.examples += len(self.program) >= self.driver.least
            self.life.abandon()
            self.driver.on_life()

    # Who and what there is

    @initialize(
        names=st.lists(NAMES, min_size=3, max_size=3, unique=True),
        crowd=st.lists(st.tuples(PICK, st.integers(0, 1), st.booleans(), st.integers(0, 3)), min_size=2, max_size=5),
    )
    @noted
    def begin(self, names: list[str], crowd: list[tuple[int, int, bool, int]]) -> None:
        """Some people and groups, with the same names; every kind of audience in two facilities."""
        own = [f"{self.life.name}.{name}" for name in names]
        self.names = own
        self.people = [
            signed_in(own[0], (own[0], own[1])),
            signed_in(own[1], (own[1],)),
            with_session(self.life.name),
            Person(None, anonymous=f"{self.life.name}-cookie"),
            Person(None),
        ]
        for facility in self.life.facilities:
            self.topics.append(Topic(facility, "e"))
            self.topics += [Topic(facility, kind, name) for name in own for kind in "gu"]
            self.topics += [Topic(facility, "s", str(person.session)) for person in self.people if person.session]
        for who, place, v1, half in crowd:
            self._connect(who, place, v1, half // 3, [], [], Race())

    def person(self, number: int) -> Person:
        """One of the people."""
        return self.people[number % len(self.people)]

    def topic(self, number: int) -> Topic:
        """One of the topics."""
        return self.topics[number % len(self.topics)]

    def place(self, number: int) -> str:
        """One of the backends."""
        return self.driver.places[number % len(self.driver.places)]

    def link(self, number: int, *, v1: bool | None = None) -> Link | None:
        """One of the open connections."""
        links = self.life.open_links(v1=v1)
        return links[number % len(links)] if links else None

    def heard_topic(self, number: int) -> Topic:
        """A topic that somebody listens to, if there is one."""
        topics = list({topic: None for link in self.life.open_links() for topic in link.topics.values()})
        return topics[number % len(topics)] if topics and number % 3 else self.topic(number)

    # Coming in

    @step(
        who=PICK,
        place=st.integers(0, 1),
        v1=st.booleans(),
        facility=st.integers(0, 1),
        narrow=st.lists(st.sampled_from(sorted(NARROW)), max_size=2),
        listen=st.lists(st.tuples(st.sampled_from("gggue"), PICK), max_size=3),
        echo=st.booleans(),
    )
    def connect(
        self,
        who: int,
        place: int,
        v1: bool,
        facility: int,
        narrow: list[str],
        listen: list[tuple[str, int]],
        echo: bool,
    ) -> None:
        """Somebody connects; the audiences are the usual ones, or named by the facility, and narrowed by the client."""
        self._connect(who, place, v1, facility, narrow, listen, Race(), echo=echo)

    @step(
        who=PICK,
        place=st.integers(0, 1),
        v1=st.booleans(),
        facility=st.integers(0, 1),
        before=st.lists(st.tuples(PICK, VALUES, HISTORIES), max_size=2),
        after=st.lists(st.tuples(PICK, VALUES, HISTORIES), max_size=3),
    )
    def connect_in_the_middle(
        self,
        who: int,
        place: int,
        v1: bool,
        facility: int,
        before: list[tuple[int, Any, Kept]],
        after: list[tuple[int, Any, Kept]],
    ) -> None:
        """Somebody connects while others publish: before the handshake is answered, and right after."""
        name = self.life.facilities[facility]
        mine = [topic for topic in self.topics if topic.facility == name]
        race = Race(
            [(mine[to % len(mine)], value, _long(kept)) for to, value, kept in before],
            [(mine[to % len(mine)], value, _long(kept)) for to, value, kept in after],
        )
        self._connect(who, place, v1, facility, [], [], race)

    def _connect(
        self,
        who: int,
        place: int,
        v1: bool,
        facility: int,
        narrow: list[str],
        listen: list[tuple[str, int]],
        race: Race,
        *,
        echo: bool = False,
    ) -> None:
        links = self.life.open_links()
        if len(links) >= MOST_LINKS:
            self.life.leave(links[0], "clean")
        arrive(
            self.life,
            self.person(who),
            self.place(place),
            v1=v1,
            facility=self.life.facilities[facility],
            narrow=narrow,
            listen=_audiences(listen, self.names),
            race=race,
            more={"echo": ""} if echo else None,
        )

    @step(
        pick=PICK,
        back=st.integers(0, 5),
        forged=st.sampled_from(
            [None] * 4 + ["epoch", "odd", "long", "future", "huge", "negative", "stranger", "foreign"]
        ),
        was=st.sampled_from(["own", "own", "nobody's", "other's"]),
        meanwhile=st.lists(st.tuples(PICK, VALUES, st.sampled_from([(0, 300.0), (100, 300.0)])), max_size=4),
    )
    def resume(
        self,
        pick: int,
        back: int,
        forged: str | None,
        was: str,
        meanwhile: Sequence[tuple[int, Any, Kept]],
    ) -> None:
        """A v1 client comes back with the positions that it had, some steps earlier, or with made-up ones.

        Others publish while it does.
        """
        came = [link for link in self.life.links if link.v1 and link.positions]
        if not came:
            return
        old = came[pick % len(came)]
        person = next((one for one in self.people if one == old.person), None)
        if person is None:
            return  # signed out since
        if old.is_open and old.reads:
            self.life.leave(old, "clean", 1001)
        positions: dict[str, list[Any]] = {
            label: [epoch, max(0, seq - back)] for label, (epoch, seq) in old.positions.items()
        }
        for position in positions.values():
            match forged:
                case "epoch":
                    position[0] = "0123456789abcdef"
                case "odd":
                    position[0] = "\0*{}\n\N{GRINNING FACE}"
                case "long":
                    position[0] = "0" * 10_000
                case "future":
                    position[1] += 1_000 + back
                case "huge":
                    position[1] = 10**30
                case "negative":
                    position[1] = -1 - back
        mine = list(old.topics.values()) or self.topics
        if forged == "stranger":
            positions["group:nobody's"] = ["0123456789abcdef", 1]
        elif forged == "foreign":
            positions |= self._foreign(old)
        arrive(
            self.life,
            person,
            self.place(pick),
            v1=True,
            facility=old.facility,
            narrow=[word.removeprefix("subscribe-") for word in old.query if word.startswith("subscribe-")],
            listen=old.listen,
            resume=positions,
            was={"own": old.id, "other's": self.life.links[pick % len(self.life.links)].id}.get(was),
            more={"echo": ""} if "echo" in old.query else None,
            race=Race((), [(mine[to % len(mine)], value, kept) for to, value, kept in meanwhile]),
        )

    def _foreign(self, old: Link) -> dict[str, list[Any]]:
        """True positions of topics of the facility that this connection may not see, all of them with a past (3.3)."""
        others = [each for each in self.topics if each.facility == old.facility and each.label not in old.topics]
        for topic in others:
            self.life.publish([(topic, "not for you")], kept=(100, 300.0))
        self.life.settle()
        logs = {topic.label: self.life.log(topic) for topic in others}
        return {label: [log.epochs[log.era], log.seq - 1] for label, log in logs.items()}

    # Publishing

    @step(to=PICK, value=VALUES, kept=HISTORIES, how=HOW)
    def publish(self, to: int, value: Any, kept: Kept, how: str) -> None:
        """Somebody publishes something."""
        self.life.publish([(self.heard_topic(to), value)], kept=kept, how=how)
        self.life.settle()
        self.life.hold("3.4", "4.1", "5.1")

    @step(messages=st.lists(st.tuples(PICK, VALUES), min_size=2, max_size=6), kept=HISTORIES, how=HOW)
    def publish_several(self, messages: Messages, kept: Kept, how: str) -> None:
        """Somebody publishes several things at once; two publishes of one thread keep their order."""
        self.life.publish([(self.heard_topic(to), value) for to, value in messages], kept=kept, how=how)
        self.life.settle()
        self.life.hold("3.2", "3.4")

    @step(to=PICK, value=BIG, dice=st.integers(0, 3))
    def publish_big(self, to: int, value: Any, dice: int) -> None:
        """Somebody publishes something big."""
        if not dice or len(value) < _BIG:
            self.life.publish([(self.heard_topic(to), value)])
            self.life.settle()

    @step(to=PICK, refused=UNCARRIABLE)
    def publish_nonsense(self, to: int, refused: tuple[str, Any]) -> None:
        """What cannot be carried is refused at the call, and nothing is sent."""
        topic, (error, value) = self.heard_topic(to), refused
        _refused(error, lambda: self.life.publish([(topic, "not alone"), (topic, value)], how="many"))
        _refused(error, lambda: self.life.publish([(topic, value)]))
        _refused("InvalidAudience", lambda: realtime.publish(topic.facility, shim.User(""), "nobody"))
        self.life.publish([(topic, "after nonsense")])
        self.life.settle()
        self.life.hold("4.2")

    @step(to=PICK, value=VALUES, commits=st.booleans())
    def publish_on_commit(self, to: int, value: Any, commits: bool) -> None:
        """A publish inside of a transaction waits for its commit, or is never sent."""
        topic = self.heard_topic(to)
        before = self.driver.now()
        try:
            with transaction.atomic():
                realtime.publish(topic.facility, audience_of(topic), value, on_commit=True)
                self.life.publish([(topic, "inside")])
                if not commits:
                    raise _RolledBackError
        except _RolledBackError:
            pass
        if commits:
            self.life.published(topic, value, None, before, self.driver.now())
        self.life.publish([(topic, "after")])
        self.life.settle()
        self.life.hold("4.3")

    # Clients send

    @step(
        pick=PICK,
        values=st.lists(SENT, min_size=1, max_size=4),
        ids=st.booleans(),
    )
    def send(self, pick: int, values: list[Any], ids: bool) -> None:
        """A client sends messages."""
        link = self.link(pick)
        if link is None:
            return
        for number, value in enumerate(values):
            id = number if ids and link.v1 else None
            link.allowed.expect(*mirrored(link, value, id))
            link.client.say(*message_payload(link.v1, value, id))
        self.life.settle()
        self.life.hold("6.1")

    @step(
        pick=PICK,
        to=PICK,
        value=st.one_of(st.text("abc", max_size=5), st.lists(st.integers(), max_size=2)),
        own=st.booleans(),
    )
    def publish_from_handler(self, pick: int, to: int, value: Any, own: bool) -> None:
        """A client has a handler publish something to its facility, perhaps as its own message (contract 6.5)."""
        link = self.link(pick)
        if link is None:
            return
        topic = self._topic_of(link, to)
        before, handled = self.driver.now(), len(self.driver.notes.read(link.note, "received"))
        self.life.say(link, {"do": "publish", "to": [topic.kind, topic.name], "value": value, "own": own})
        self.life.say(link, "done")
        link.allowed.expect(Item("msg", DIRECT, "6.1", Said("text", "done")))
        self.life.await_reply(link, topic, value, before, own=own, handled=handled)
        self.life.settle()
        if own:
            self.life.hold("6.5")

    @step(pick=PICK, to=PICK, values=st.lists(VALUES, min_size=1, max_size=3), kept=HISTORIES, how=HOW)
    def publish_for(self, pick: int, to: int, values: list[Any], kept: Kept, how: str) -> None:
        """Somebody publishes messages that are a connection's own, to what it listens to; others say the same."""
        link = self.link(pick)
        if link is None:
            return
        topic = self._topic_of(link, to)
        self.life.publish([(topic, value) for value in values], kept=kept, how=how, sender=link.id)
        self.life.publish([(topic, values[0])], kept=kept, how=how)
        self.life.settle()
        self.life.hold("6.5")

    def _topic_of(self, link: Link, number: int) -> Topic:
        """A topic of a connection's facility, often one that it listens to."""
        mine = list(link.topics.values()) if number % 3 else []
        topics = mine or [topic for topic in self.topics if topic.facility == link.facility]
        return topics[number % len(topics)]

    @step(pick=PICK, value=BIG, dice=st.integers(0, 3))
    def send_big(self, pick: int, value: Any, dice: int) -> None:
        """A client sends something big."""
        link = self.link(pick)
        if link is None or (dice and len(value) >= _BIG):
            return
        link.allowed.expect(*mirrored(link, value, None))
        self.life.say(link, value)
        self.life.settle()
        self.life.hold("6.1")

    # Leaving

    @step(
        pick=PICK,
        how=st.sampled_from(["clean", "clean", "abrupt", "abrupt", "half"]),
        code=st.sampled_from([1000, 1001, 3000, 4321, 4999, None]),
    )
    def leave(self, pick: int, how: str, code: int | None) -> None:
        """A client leaves: with a close frame, without, or so that nobody is told for now."""
        link = self.link(pick)
        if link is not None:
            self.life.leave(link, how, code)


class _RolledBackError(Exception):
    pass


def _refused(error: str, call: Any) -> None:
    try:
        call()
    except shim.RealtimeError as raised:
        if type(raised).__name__ != error:
            raise Broken("4.2", f"{type(raised).__name__} instead of {error}: {raised}") from None
    else:
        raise Broken("4.2", f"something that cannot be carried was taken; {error} is right")


def _long(kept: Kept) -> Kept:
    """In a race nothing expires: one open question is enough."""
    return kept if kept is None or kept[1] >= 1 else (kept[0], 300.0)


def _audiences(listen: list[tuple[str, int]], names: list[str]) -> list[tuple[str, str]]:
    """Audiences that a client may know apart: one user, any groups."""
    found: dict[str, tuple[str, str]] = {}
    for kind, number in listen:
        name = "" if kind == "e" else names[number % len(names)]
        found.setdefault(kind if kind in "ue" else f"g{name}", (kind, name))
    return list(found.values())
