"""The demo's live clients: people and strangers, v1 and raw, and what each of them gets."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import cycle, islice
from typing import Final, Literal

from demo.ledger import Account, Count, Ledger, RawAccount, id_of
from demo.people import PEOPLE, Person
from demo.script import Fault, Flip, Kill
from demo.stack import LEGACY, Stack
from shim.client import AsyncClient, ClientError, Connected, Event, Lost, Moved, Received
from shim.core.names import Audience, Everyone, Group, Session, Topic, User
from shim.core.protocol import Close

V1: Final = 40
RAW: Final = 24
STRANGERS: Final = 8  # of each protocol, before people open more tabs
OPEN_TIMEOUT: Final = 60.0
OPENING: Final = 50  # at a time: nobody's patience is spent in a queue at the door

type Protocol = Literal["v1", "raw"]


class Member:
    """One live client.

    Args:
        endpoint: where it asks which backend to go to.
        facility: what it listens to.
        protocol: what it speaks.
        audiences: who it is: what it has to be subscribed to.
        cookies: its session.
        landed: called when it has come to another backend than before.
        cut, returned: called when its connection has broken without a close frame, and when it has one again.
    """

    def __init__(
        self,
        endpoint: str,
        facility: str,
        protocol: Protocol,
        audiences: Iterable[Audience],
        cookies: Mapping[str, str],
        *,
        landed: "Callable[[Member], None]",
        cut: "Callable[[Member], None]",
        returned: "Callable[[Member], None]",
    ) -> None:
        self.protocol = protocol
        self.backend: str | None = None
        self.moves = 0
        self.problem: str | None = None
        topics = {audience.label: Topic(facility, audience).tag for audience in audiences}
        self.account: Account | RawAccount = Account(topics) if protocol == "v1" else RawAccount(topics.values())
        self.client = AsyncClient(
            endpoint,
            facility=facility,
            protocol=protocol,
            cookies=cookies,
            open_timeout=OPEN_TIMEOUT,
            on_event=self._on_event,
        )
        self._landed = landed
        self._cut = cut
        self._returned = returned
        self._is_away = False

    async def live(self) -> None:
        """Take messages until the client is closed."""
        try:
            async for message in self.client:
                self._took(message)
        except ClientError as error:
            self.problem = self.problem or str(error)

    def wrong(self) -> Count:
        """What is wrong already, without looking at what was published."""
        if isinstance(self.account, RawAccount):
            return Count()
        # What the client's own filter has held back was sent twice all the same.
        return self.account.wrong + Count(duplicated=self.client.duplicates_dropped)

    def settle(self, ledger: Ledger) -> Count:
        return self.wrong() + self.account.settle(ledger)

    def _took(self, message: Received) -> None:
        if isinstance(self.account, Account):
            self.account.took(message.topic, message.position, id_of(message.value))
        else:
            self.account.took(id_of(message.value))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Lost):
            if event.code == Close.ABNORMAL and not self._is_away:
                self._is_away = True
                self._cut(self)
            return
        if not isinstance(event, (Connected, Moved)):
            return
        if isinstance(self.account, RawAccount):
            self.account.opened(time.monotonic())
        else:
            try:
                self.account.ready(event.topics)
            except ValueError as error:
                self.problem = str(error)
        before, self.backend = self.backend, event.backend
        if self._is_away:
            self._is_away = False
            self._returned(self)
        if before not in (None, event.backend):
            self.moves += 1
            self._landed(self)


class Crowd:
    """All live clients.

    Args:
        stack: where they connect to.
        sessions: session keys by person.
        v1, raw: how many of each protocol.

    Attributes:
        flips, faults: what was done to the system so far, and whom it moved or hit.
    """

    def __init__(self, stack: Stack, sessions: Mapping[str, str], *, v1: int = V1, raw: int = RAW) -> None:
        self.members: list[Member] = []
        self.flips: list[Flip] = []
        self.faults: list[Fault] = []
        self._hit: dict[Member, Fault] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._endpoints = [f"{http}/realtime/endpoint" for http in stack.http.values()]
        for facility, person in islice(_seats(("calls", "lobby")), v1):
            self._add(facility, "v1", person, sessions)
        for facility, person in islice(_seats(("calls",)), raw):
            self._add(facility, "raw", person, sessions)

    def _add(self, facility: str, protocol: Protocol, person: Person | None, sessions: Mapping[str, str]) -> None:
        audiences: list[Audience] = [Everyone()]
        cookies = {}
        if person is not None:
            session = cookies["sessionid"] = sessions[person.name]
            audiences += [User(person.name), *(Group(name) for name in person.groups), Session(session)]
        self.members.append(
            Member(
                self._endpoints[len(self.members) % len(self._endpoints)],  # either server knows the way
                facility,
                protocol,
                audiences,
                cookies,
                landed=self._on_landing,
                cut=self._on_cut,
                returned=self._on_return,
            )
        )

    async def open(self) -> None:
        """Connect them all.

        Raises:
            ClientError: one of them cannot.
        """
        door = asyncio.Semaphore(OPENING)

        async def come(member: Member) -> None:
            async with door:
                await member.client.open()

        async with asyncio.TaskGroup() as group:
            for member in self.members:
                group.create_task(come(member))
        self._tasks = [asyncio.create_task(member.live()) for member in self.members]

    async def close(self) -> None:
        await asyncio.gather(*(member.client.close() for member in self.members))
        await asyncio.gather(*self._tasks)

    def on(self, backend: str, protocol: str | None = None) -> int:
        """How many are connected to a backend just now."""
        return sum(
            member.client.connected and member.backend == backend and protocol in (None, member.protocol)
            for member in self.members
        )

    def settled(self, ledger: Ledger, protocol: str) -> bool:
        """Whether all who speak this have got everything that was published."""
        return not any(member.account.missing(ledger) for member in self.members if member.protocol == protocol)

    @property
    def moved_back(self) -> bool:
        return self.on(LEGACY) == len(self.members)

    def _on_landing(self, member: Member) -> None:
        if self.flips:
            self.flips[-1].landings[member.protocol].append(time.monotonic())

    def _on_cut(self, member: Member) -> None:
        kills = [fault for fault in self.faults if fault.act == Kill(member.backend or "")]
        if kills:
            kills[-1].cut[member.protocol] += 1
            self._hit[member] = kills[-1]

    def _on_return(self, member: Member) -> None:
        if (fault := self._hit.pop(member, None)) is not None:
            fault.returns.append(time.monotonic())


def _seats(facilities: tuple[str, ...]) -> Iterator[tuple[str, Person | None]]:
    """Who connects to what, without end: the people to each facility, strangers, then in turn a stranger and a tab."""
    for person in PEOPLE:
        for facility in facilities:
            yield facility, person
    for _ in range(STRANGERS):
        yield "lobby", None
    for facility, person in zip(cycle(facilities), cycle(PEOPLE), strict=False):
        yield "lobby", None
        yield facility, person


async def newcomer(endpoint: str, backend: str) -> float:
    """Come anew, again and again, as a person who opens the page would, until one lands on this backend: the moment."""
    while True:
        landings: list[float] = []

        def note(event: Event, landings: list[float] = landings) -> None:
            if isinstance(event, Connected) and event.backend == backend:
                landings.append(time.monotonic())

        with suppress(ClientError):
            async with AsyncClient(endpoint, facility="lobby", open_timeout=5.0, on_event=note):
                pass
        if landings:
            return landings[0]
        await asyncio.sleep(0.02)
