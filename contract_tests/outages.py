"""Rules in which something breaks: Redis forgets or hangs up, a process is killed, a client stops reading."""

from dataclasses import replace
from typing import Any, Final

from hypothesis import strategies as st

from contract_tests.arrival import arrive
from contract_tests.driver import PATIENCE
from contract_tests.life import Kept, Outage
from contract_tests.link import Ending
from contract_tests.machine import PICK, Basics, step
from contract_tests.model import Broken
from contract_tests.values import VALUES, filled

WHILE_DEAF: Final = st.lists(
    st.tuples(PICK, VALUES, st.sampled_from([None, None, (0, 300.0), (1, 300.0), (2, 300.0), (100, 300.0)])), max_size=5
)
"""What is published while servers hear nothing."""

RARE: Final = st.integers(0, 59)
"""`YES` does it: for what takes long. Hypothesis likes the ends of a range, so it is in the middle."""

YES: Final = 37

_BLOCK: Final = 262_144
_BLOCKS: Final = 64  # 16 MiB: more than any kernel keeps for one socket, and the backlog


class Outages(Basics):
    """What may happen anywhere: Redis forgets a topic, a client stops reading."""

    @step(to=PICK, messages=WHILE_DEAF)
    def redis_forgets(self, to: int, messages: list[tuple[int, Any, Kept]]) -> None:
        """A topic's history is lost: its epoch changes, and v1 clients are told (Words, 7.4)."""
        topic = self.heard_topic(to)
        outage = self.life.outage = Outage()
        self.life.forget(topic)
        self.life.log(topic).lose()
        for _, value, kept in messages:
            self.life.publish([(topic, value)], kept=kept)
        self.life.heal(outage, frozenset({topic}))

    @step(who=PICK, place=PICK, v1=st.booleans(), dice=RARE)
    def stop_reading(self, who: int, place: int, v1: bool, dice: int) -> None:
        """A client reads no more: it is closed with 4001, and nobody waits for it (contract 7.2)."""
        if dice != YES:
            return
        facility = self.life.facilities[0]
        link = arrive(self.life, self.person(who), self.place(place), v1=v1, facility=facility, receive_buffer=4_096)
        link.reads = False
        link.client.stall()
        self.life.may_end(link, Ending(frozenset({4001, None}), "7.2", frozenset({4001}), must=False, early=True))
        block, topic = filled(b"\x01", _BLOCK), next(iter(link.topics.values()))
        for _ in range(_BLOCKS):
            self.life.publish([(topic, block)], kept=(1, 300.0))
            self.life.settle()
            if self.driver.notes.read(link.note, "disconnected"):
                break
        deadline = self.driver.now() + PATIENCE
        while not self.driver.notes.read(link.note, "disconnected"):
            if self.driver.now() > deadline:
                raise Broken("7.2", f"{link} takes nothing for {PATIENCE:g} s, and is still open", link.place)
            self.driver.wait([], 0.005)
        self.life.hold("7.2")


class Violence(Outages):
    """Faults that need servers of one's own."""

    @step(messages=WHILE_DEAF, pick=PICK, own=st.booleans())
    def redis_hangs_up(self, messages: list[tuple[int, Any, Kept]], pick: int, own: bool) -> None:
        """All servers' subscriptions are cut: what has a history is completed from it, without gap or duplicate."""
        outage = self.life.outage = Outage()
        self.life.shake()
        sender = self.link(pick) if own else None
        self.driver.hang_up()
        for to, value, kept in messages:
            self.life.publish([(self.heard_topic(to), value)], kept=kept, sender=sender.id if sender else None)
        self.life.heal(outage)

    @step(pick=PICK, dice=RARE)
    def kill(self, pick: int, dice: int) -> None:
        """A server process is killed: its connections break, those of others do not notice."""
        link = self.link(pick)
        if dice != YES or link is None:
            return
        process = self.driver.process_of(link)
        self.life.shake()
        for each in self.life.links:
            if self.driver.process_of(each) != process:
                continue
            if each.closed is None:
                self.life.must_end(each, Ending(frozenset({None}), "7.3", None, early=True))
            elif each.ending is not None and not self.driver.notes.read(each.note, "disconnected"):
                each.ending = replace(each.ending, told=None)
        self.driver.kill(process)
        self.life.settle()
        self.life.fence()
