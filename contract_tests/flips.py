"""Rules in which the flag changes while connections are open: each goes where it belongs, and loses nothing."""

import time
from typing import Any, Final

from hypothesis import strategies as st

from contract_tests.arrival import arrive
from contract_tests.driver import PATIENCE
from contract_tests.flag import Flag
from contract_tests.life import Kept
from contract_tests.link import Ending, Link
from contract_tests.machine import PICK, Basics, step
from contract_tests.model import Broken
from contract_tests.outages import WHILE_DEAF

_LOOK: Final = 0.01  # seconds


class Flips(Basics):
    """The cohort of one, some, all."""

    @step(
        everyone=st.sampled_from([None, None, None, True, False]),
        percent=st.sampled_from([0, 0, 25, 50, 75]),
        listed=st.sets(st.integers(0, 1)),
        messages=WHILE_DEAF,
    )
    def flip(
        self,
        everyone: bool | None,
        percent: int,
        listed: set[int],
        messages: list[tuple[int, Any, Kept]],
    ) -> None:
        """The flag changes, others publish meanwhile, and whoever belongs elsewhere goes there."""
        users = frozenset(str(person.name) for number in listed if (person := self.people[number]).name is not None)
        old, flag = self.life.flag, Flag(self.life.flag.name, everyone, percent, users)
        self.life.flag = flag
        going = [
            link
            for link in self.life.links
            if link.closed is None
            and link.person.is_on_channels(old) is not link.person.is_on_channels(flag)
            and link.person.is_on_channels(flag) is not (link.place == "channels")
        ]
        for link in self.life.open_links():  # it may have been on its way when the flag came back
            if link.ending is None and link.person.is_on_channels(old) is not (link.place == "channels"):
                link.ending = Ending.by(1012, "8.2", must=False, early=True)
        staying = [link for link in self.life.open_links() if link not in going]
        gone = [link for link in self.life.links if link.closed is not None]
        self.life.must_end_all(going, Ending.by(1012, "8.2", early=True), gone=gone)
        self.driver.turn(flag)
        for to, value, kept in messages:
            self.life.publish([(self.heard_topic(to), value)], kept=kept)
        self.life.settle()
        self._see_served([link for link in going if link.reads and link.told_move])
        for link in going:
            if link.reads and link.person in self.people:
                self._follow(link)
        self.life.fence(staying)
        self.life.hold("8.2")
        if any(link.place == "channels" for link in going):
            self.life.hold("8.6")

    @step(who=PICK, place=PICK)
    def ask_where(self, who: int, place: int) -> None:
        """Whoever asks is told the backend of their cohort, by any process (contract 8.1)."""
        person = self.person(who)
        if not person.cookie:
            return
        right = "channels" if person.is_on_channels(self.life.flag) else "legacy"
        where = self.place(place)
        deadline = time.monotonic() + PATIENCE  # of this machine: a process asks Redis by its own clock
        while (told := self.driver.where(where, person.cookie)) != right:
            self.driver.wait([], _LOOK)
            if time.monotonic() > deadline:
                raise Broken(
                    "8.1", f"{person.name!r} belongs to {right} under {self.life.flag}, and is told {told}", where
                )
        self.life.hold("8.1")

    def _see_served(self, told: list[Link]) -> None:
        """Who was told to move gets everything from the old backend until it leaves (contract 8.3)."""
        for topic in {next(iter(link.topics.values())): None for link in told if link.topics}:
            self.life.publish([(topic, "in flight")], kept=(0, 300.0))
        deadline = self.driver.now() + self.driver.patience
        while waiting := [link for link in told if not link.allowed.is_done]:
            if self.driver.now() > deadline or any(link.closed for link in waiting):
                items = "; ".join(map(str, waiting[0].allowed.missing()))
                raise Broken("8.3", f"{waiting[0]} was told to move, and did not get {items}", waiting[0].place)
            self.driver.wait([link.client for link in waiting], 1.0)
            self.life.settle()

    def _follow(self, link: Link) -> None:
        """A client goes where it belongs; on v1 with its positions, and before it leaves if it was told to move."""
        arrive(
            self.life,
            link.person,
            "channels" if link.person.is_on_channels(self.life.flag) else "legacy",
            v1=link.v1,
            facility=link.facility,
            narrow=[word.removeprefix("subscribe-") for word in link.query if word.startswith("subscribe-")],
            listen=link.listen,
            resume={label: list(position) for label, position in link.positions.items()} if link.v1 else None,
            was=link.id if link.v1 else None,
            more={"echo": ""} if "echo" in link.query else None,
        )
        if link.closed is None:
            self.life.leave(link, "clean")
        self.life.hold("8.3" if link.v1 else "8.4")
