"""The demo's live clients: people and strangers, v1 and raw, and what each of them gets."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from demo.ledger import Account, Count, Ledger, RawAccount, id_of
from demo.people import PEOPLE
from demo.stack import LEGACY, Stack
from shim.client import AsyncClient, ClientError, Connected, Event, Moved, Received
from shim.core.names import Audience, Everyone, Group, Session, Topic, User

STRANGERS: Final = 16
OPEN_TIMEOUT: Final = 30.0


class Member:
    """One live client.

    Args:
        endpoint: where it asks which backend to go to.
        facility: what it listens to.
        protocol: what it speaks.
        audiences: who it is: what it has to be subscribed to.
        cookies: its session.
        landed: called with the moment, each time that it has come to another backend than before.
    """

    def __init__(
        self,
        endpoint: str,
        facility: str,
        protocol: Literal["v1", "raw"],
        audiences: Iterable[Audience],
        cookies: Mapping[str, str],
        landed: Callable[[float], None],
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
        if not isinstance(event, (Connected, Moved)):
            return
        now = time.monotonic()
        if isinstance(self.account, RawAccount):
            self.account.opened(now)
        else:
            try:
                self.account.ready(event.topics)
            except ValueError as error:
                self.problem = str(error)
        before, self.backend = self.backend, event.backend
        if before not in (None, event.backend):
            self.moves += 1
            self._landed(now)


@dataclass(slots=True)
class Flip:
    """A change of the flag, and who moved after it; moments of the monotonic clock."""

    percent: int
    saved: float
    landings: list[float] = field(default_factory=list)

    @property
    def first_ms(self) -> int | None:
        return round((min(self.landings) - self.saved) * 1000) if self.landings else None

    @property
    def last_ms(self) -> int | None:
        return round((max(self.landings) - self.saved) * 1000) if self.landings else None


class Crowd:
    """All live clients.

    Args:
        stack: where they connect to.
        sessions: session keys by person.
    """

    def __init__(self, stack: Stack, sessions: Mapping[str, str]) -> None:
        self.members: list[Member] = []
        self.flips: list[Flip] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._endpoints = [f"{http}/realtime/endpoint" for http in stack.http.values()]
        for person in PEOPLE:
            session = sessions[person.name]
            audiences: list[Audience] = [
                Everyone(),
                User(person.name),
                *(Group(name) for name in person.groups),
                Session(session),
            ]
            self._add("calls", "v1", audiences, {"sessionid": session})
            self._add("lobby", "v1", audiences, {"sessionid": session})
            self._add("calls", "raw", audiences, {"sessionid": session})
        for number in range(STRANGERS):
            self._add("lobby", "raw" if number % 2 else "v1", [Everyone()], {})

    def _add(
        self, facility: str, protocol: Literal["v1", "raw"], audiences: list[Audience], cookies: dict[str, str]
    ) -> None:
        endpoint = self._endpoints[len(self.members) % len(self._endpoints)]  # either server knows the way
        self.members.append(Member(endpoint, facility, protocol, audiences, cookies, self._on_landing))

    async def open(self) -> None:
        """Connect them all.

        Raises:
            ClientError: one of them cannot.
        """
        async with asyncio.TaskGroup() as group:
            for member in self.members:
                group.create_task(member.client.open())
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

    def _on_landing(self, now: float) -> None:
        if self.flips:
            self.flips[-1].landings.append(now)


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
