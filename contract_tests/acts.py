"""What is done a few times in a run, and not in each life, because it takes seconds: Redis goes, servers stop.

An *act* is a step that no chance chooses: `play` has it follow some random ones, so that it finds people, connections
and histories there. What an act says of connections is held against the model like everything else.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Final

from contract_tests.arrival import arrive
from contract_tests.driver import PATIENCE, Driver
from contract_tests.flag import Flag
from contract_tests.life import Outage, audience_of
from contract_tests.link import HEARTBEAT, Ending, Link, Topic
from contract_tests.machine import MOST_LINKS, noted
from contract_tests.model import Broken, Said, Unheard
from contract_tests.outages import YES, Violence
from contract_tests.tour import NAMES
from shim import History, RealtimeUnavailable, realtime
from shim.conf import conf

SHORT: Final[Mapping[str, Mapping[str, float]]] = {
    "REALTIME_LIMITS": {"heartbeat": 0.5, "answer": 4.0},
    "REALTIME_PACE": {"arrival": 0.2, "move_within": 0.5, "move_least": 1.0, "move_most": 1.0},
}
"""Settings with which seconds of silence, and of being in the wrong place, are short."""

LATE: Final = 3.0
"""Seconds that a busy machine may add to a time-out."""

_VALUES: Final = ("one", b"\xff", {"three": [None]}, "", "--", 6)
_HISTORIES: Final = (None, None, (2, 300.0), (0, 300.0))
_WARM_UP: Final = 8  # messages before the first act


class Acts(Violence):
    """Each act leaves everybody where they belong."""

    # Redis

    @noted
    def redis_goes(self, how: str) -> None:
        """Redis is away for longer than a reconnect takes: everybody stays, publishing fails in time (7.3, 7.4).

        Args:
            how: `silent`: it answers nothing; `saved`: it ends, and comes back with its data; `lost`: without.
        """
        outage = self.life.outage = Outage()
        self.driver.stop_redis(how)
        for number, topic in enumerate(_heard(self.life.open_links())[:2]):
            self._publish_in_vain(topic, is_async=bool(number))
            # What timed out may or may not have been sent (3.4, as built).
            log = self.life.log(topic)
            outage.bases[topic] = log.seq
            outage.published[topic] = [Unheard(None, Said.of("in vain"), log.seq + 1)]
        for place in self.driver.places:
            self._see_refusal(place)
        self.life.settle()
        lost = frozenset(self.life.logs) if how == "lost" else frozenset[Topic]()
        for topic in lost:
            self.life.log(topic).lose()
        self.driver.start_redis(how)
        self.life.shake()
        self.life.heal(outage, lost)
        self.life.hold("1.1", "7.3", "7.4")

    def _publish_in_vain(self, topic: Topic, *, is_async: bool) -> None:
        before = time.monotonic()
        message, kept = (topic.facility, audience_of(topic), "in vain"), History(size=0)
        try:
            if is_async:
                self.life.run(realtime.apublish(*message, history=kept))
            else:
                realtime.publish(*message, history=kept)
        except RealtimeUnavailable:
            if (took := time.monotonic() - before) > conf().timeout + LATE:
                raise Broken("7.3", f"a publish without Redis took {took:.1f} s to fail") from None
        else:
            raise Broken("7.3", "a publish succeeded though Redis is away")

    def _see_refusal(self, place: str) -> None:
        head, _ = self.driver.knock(place, "/ws/contract", v1=False, headers={}).open(PATIENCE)
        if head.status != 503 or not head.headers.get("retry-after", "").isdigit() or not head.body:
            raise Broken("1.1", f"without Redis a handshake is answered with {head}", place)

    # Servers

    @noted
    def servers_stop(self, settings: Mapping[str, Any]) -> None:
        """All servers stop, and come back: who is there goes, comes again and resumes (9.1, 5.3).

        Args:
            settings: what they run with then, beside their own.
        """
        there = self.life.open_links()
        busy = self._keep_busy(there[-1]) if there and "handlers that wait" not in self.driver.missing else None
        topics = _heard(there)
        open_ones = [link for link in self.life.links if link.closed is None]
        gone = [link for link in self.life.links if link.closed is not None]
        stop = replace(Ending.by(1012, "9.1", early=True), moves=False, untold=True)
        self.life.must_end_all(open_ones, stop, gone=gone)
        self.driver.stop_servers()
        for topic in topics:
            self.life.publish([(topic, "while they stop")])
        self._see_nobody_come_in()
        self.life.settle()
        if busy is not None:
            self._let_go(busy)
        for link in open_ones:
            if link.closed is None:  # it does not read
                self.life.leave(link, "abrupt")
        self.driver.start_servers(settings)
        self.life.shake()
        for link in there:
            if link.person in self.people:
                self._come_back(link)
        self.life.hold("9.1")

    def _keep_busy(self, link: Link) -> Link:
        """A handler works while its server stops."""
        self.life.say(link, {"do": "wait", "gate": link.note})
        before = len(self.driver.notes.read(link.note, "received"))
        runs = lambda: len(self.driver.notes.read(link.note, "receive")) > before  # noqa: E731  # a condition
        self._until(runs, "6.1", f"no handler runs for {link}")
        return link

    def _let_go(self, link: Link) -> None:
        """The handler that was kept busy finishes."""
        self.driver.notes.open_gate(link.note)
        begun = len(self.driver.notes.read(link.note, "receive"))
        ends = lambda: len(self.driver.notes.read(link.note, "received")) == begun  # noqa: E731  # a condition
        self._until(ends, "9.1", f"the handler of {link} did not finish")

    def _see_nobody_come_in(self) -> None:
        for place in self.driver.places:
            self._until(partial(self._is_refused, place), "9.1", f"{place} lets in though it stops")

    def _is_refused(self, place: str) -> bool:
        try:
            client = self.driver.knock(place, "/ws/contract", v1=False, headers={})
            head, _ = client.open(PATIENCE)
        except OSError:
            return True  # it does not listen any more
        client.end(abrupt=True)
        if head.status not in (101, 503) or (head.status == 503 and not head.headers.get("retry-after")):
            raise Broken("9.1", f"a stopping server answers with {head}", place)
        return head.status == 503

    def _come_back(self, old: Link) -> None:
        right = "channels" if old.person.is_on_channels(self.life.flag) else "legacy"
        arrive(
            self.life,
            old.person,
            right if right in self.driver.places else self.driver.places[0],
            v1=old.v1,
            facility=old.facility,
            narrow=[word.removeprefix("subscribe-") for word in old.query if word.startswith("subscribe-")],
            listen=old.listen,
            resume={label: list(position) for label, position in old.positions.items()} if old.v1 else None,
            was=old.id if old.v1 else None,
            more={"echo": ""} if "echo" in old.query else None,
        )

    # With short patience

    @noted
    def go_wrong(self) -> None:
        """Some come to the backend of the other cohort: taken in, and moved a little later. With `SHORT` (1.4)."""
        self._leave_all()
        for place in self.driver.places:
            self._turn(Flag(self.life.flag.name, place != "channels"))
            self._be_moved(place)
        self._turn(Flag(self.life.flag.name, self.driver.everyone))
        self.life.hold("1.4")

    def _be_moved(self, place: str) -> None:
        facilities = self.life.facilities
        moving = [arrive(self.life, self.people[v1], place, v1=v1, facility=facilities[v1]) for v1 in (False, True)]
        for link in moving:
            self.life.must_end(link, Ending.by(1012, "1.4", early=True))
        self._until(lambda: all(link.closed for link in moving), "1.4", f"{place} keeps who belongs elsewhere")
        if not moving[1].told_move:
            raise Broken("8.3", f"{moving[1]} was sent away, and not told to move before", place)

    @noted
    def flip_a_crowd(self) -> None:
        """Many have to go at once: they go one after the other, spread over `SHORT`'s window (8.5)."""
        self._leave_all()
        place, who = self.driver.places[0], self.people[4]
        self._turn(Flag(self.life.flag.name, place == "channels"))
        facility = self.life.facilities[0]
        crowd = [arrive(self.life, who, place, v1=False, facility=facility) for _ in range(MOST_LINKS)]
        before, window = self.driver.now(), SHORT["REALTIME_PACE"]["move_least"]
        self.life.must_end_all(crowd, Ending.by(1012, "8.5", early=True))
        self._turn(Flag(self.life.flag.name, place != "channels"))
        self._until(lambda: all(link.closed for link in crowd), "8.5", f"{place} keeps who belongs elsewhere")
        took = self.driver.now() - before
        if took < window / 2:  # each process has its own window, and one has half of them
            raise Broken("8.5", f"{len(crowd)} were moved in {took:.2f} s, though the window is {window:g} s", place)
        self._turn(Flag(self.life.flag.name, self.driver.everyone))
        self.life.hold("8.5")

    @noted
    def fall_silent(self) -> None:
        """Some say nothing any more, and another answers: 4002 for those alone. With `SHORT` (7.1)."""
        self._leave_all()
        listed = self.people[0]
        self._turn(Flag(self.life.flag.name, users=frozenset({listed.name or ""})))
        facility = self.life.facilities[0]
        here = {place: listed if place == "channels" else self.people[4] for place in self.driver.places}
        pairs = [(place, v1) for place in here for v1 in (True, False)]
        silent = [arrive(self.life, here[place], place, v1=v1, facility=facility) for place, v1 in pairs]
        for link in silent:
            self.life.leave(link, "half")
            link.ending = Ending(frozenset({4002}), "7.1", frozenset({4002}), must=False, early=True)
        beating = [
            arrive(self.life, who, place, v1=False, facility=facility, more={"heartbeat": ""})
            for place, who in here.items()
        ]
        over = lambda: all(self.driver.notes.read(link.note, "disconnected") for link in silent)  # noqa: E731
        self._until(over, "7.1", f"{silent[0]} says nothing, and is still there")
        before = {link: link.heartbeats for link in beating}
        for link in beating:
            self.life.say(link, HEARTBEAT.body)
        beat = lambda: all(link.heartbeats > before[link] for link in beating)  # noqa: E731  # a condition
        self._until(beat, "7.1", "a connection gets no heartbeat")
        for link in beating:
            if self.driver.notes.read(link.note, "receive"):
                raise Broken("7.1", f"a heartbeat of {link} reached the handler", link.place)
        self._leave_all()
        self._turn(Flag(self.life.flag.name, self.driver.everyone))
        self.life.hold("7.1")

    @noted
    def force(self) -> None:
        """REALTIME_FORCE_BACKEND is above the flag: everybody belongs there, whatever the flag says (8.6)."""
        self._leave_all()
        forced = self.driver.places[0]
        self.driver.turn(Flag(self.life.flag.name, forced != "channels"))
        self.life.flag = Flag(self.life.flag.name, forced == "channels")  # what is in force
        _plain(Acts.servers_stop)(self, {**SHORT, "REALTIME_FORCE_BACKEND": forced})
        for place in self.driver.places:
            told = self.driver.where(place, self.people[0].cookie)
            if told != forced:
                raise Broken("8.6", f"{forced} is forced, and {place} tells people to go to {told}", place)
            if place != forced:
                self._be_moved(place)
        who, facility = self.people[1], self.life.facilities[0]
        staying = [arrive(self.life, who, forced, v1=v1, facility=facility) for v1 in (False, True)]
        until = self.driver.now() + 4 * SHORT["REALTIME_PACE"]["arrival"]
        self._until(lambda: self.driver.now() > until, "8.6", "")
        self.life.fence(staying)
        self._turn(Flag(self.life.flag.name, self.driver.everyone))  # for servers that are not forced any more
        self.life.hold("8.6")

    # Inside

    def _leave_all(self) -> None:
        for link in self.life.links:
            if link.closed is None:
                self.life.leave(link, "clean" if link.reads else "abrupt")

    def _turn(self, flag: Flag) -> None:
        self.life.flag = flag
        self.driver.turn(flag)

    def _until(self, condition: Callable[[], bool], clause: str, what: str) -> None:
        """Wait for something, while everybody reads."""
        deadline = self.driver.now() + PATIENCE
        while not condition():
            if self.driver.now() > deadline:
                raise Broken(clause, f"{what}, within {PATIENCE:g} s")
            self.driver.wait([link.client for link in self.life.links if link.reads], 0.1)
            self.life.settle()


def _plain(rule: Any) -> Callable[..., None]:
    """A step that is not written down as one, being part of another."""
    plain: Callable[..., None] = rule.__wrapped__
    return plain


def _heard(links: Sequence[Link]) -> list[Topic]:
    return list({topic: None for link in links for topic in link.topics.values()})


def play(driver: Driver, machine: Callable[[], Acts], seed: int) -> None:
    """Two lives of acts, each after some random steps; what breaks is the driver's failure."""
    chance = Random(seed)
    if driver.overrides:  # of an earlier time
        driver.stop_servers()
        driver.start_servers({})
    hurt: list[Callable[[Acts], None]] = [
        lambda state: state.kill(pick=0, dice=YES),
    ]
    if driver.can_stop_redis:
        hurt += [partial(Acts.redis_goes, how=how) for how in ("silent", "saved", "lost")]
    chance.shuffle(hurt)
    stopped: list[Callable[[Acts], None]] = [
        lambda state: state.servers_stop(settings=SHORT),
        lambda state: state.go_wrong(),
        lambda state: state.fall_silent(),
        lambda state: state.flip_a_crowd(),
        lambda state: state.force(),
    ]
    for program in (hurt, stopped):
        if not driver.has_failed:
            _live(machine(), chance, program)


def _live(state: Acts, chance: Random, program: Sequence[Callable[[Acts], None]]) -> None:
    try:
        crowd = [(who, chance.randrange(2), chance.random() < 0.5, chance.randrange(4)) for who in range(5)]
        state.begin(names=list(NAMES), crowd=crowd)
        for act in program:
            for _ in range(_WARM_UP):
                kept, how = chance.choice(_HISTORIES), chance.choice(["sync", "async", "many", "amany"])
                state.publish(to=chance.randrange(12), value=chance.choice(_VALUES), kept=kept, how=how)
            act(state)
    finally:
        state.teardown()
