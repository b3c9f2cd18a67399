"""Facilities that do as their clients say: `contract` with `def`, `contract-async` with `async def` (contract 6.1).

`contract-quiet` and `contract-quiet-async` are the same with `echo = False`: ws4redis's echo rule (contract 6.5).
`contract-closed` takes nothing from clients (contract 1.3).

In the query string of a handshake:

* `note=<name>`: write down under this name what happens to the connection;
* `listen=[["g","team-a"],["u","ana"],…]`: listen to these audiences instead of the usual ones;
* `refuse=<reason>`: refuse it; `fail`: `audiences` raises; `hold=<gate>`: `audiences` waits for a gate;
* `keep-at-the-end=<value>`: `disconnected` sets the connection's state (contract 8.3); `fail-at-the-end`: it raises.

A message `{"do":…}`, as JSON or as text, is obeyed; every message is written down:

* `{"do":"echo","value":…}` sends something back; `{"do":"publish","to":["g","team-a"],"value":…}` publishes it as the
  connection's own message, with `"own":false` as nobody's;
* `{"do":"wait","gate":…}` waits for a gate; `{"do":"raise"}` raises; `{"do":"deny","reason":…}` is not allowed;
* `{"do":"keep","value":…}` sets the connection's state, and `{"do":"kept"}` sends it;
* `{"do":"close","code":4123,"reason":…}` closes the connection; `{"do":"query"}` asks the database something.
"""

import asyncio
import json
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied

from contract_tests.app.notes import notes
from shim import Audience, Connection, Everyone, Facility, Group, Kind, Message, Session, User, realtime

PATIENCE: Final = 30.0  # seconds at a gate
_LOOK: Final = 0.01

AUDIENCES: Final[dict[str, Callable[[str], Audience]]] = {
    "e": lambda _: Everyone(),
    "u": User,
    "g": Group,
    "s": Session,
}


class ToldToFail(Exception):
    """A client asked a handler to raise."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on when a gate is open."""

    gate: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish something to an audience of the connection's facility, as somebody's own message or nobody's."""

    facility: str
    audience: Audience
    value: object
    sender: Connection | None


@dataclass(frozen=True, slots=True)
class Query:
    """Ask the database something, and send the answer to the connection."""

    connection: Connection

    def run(self) -> None:
        """Count the users."""
        self.connection.send({"users": get_user_model().objects.count()})


type Step = Wait | Publish | Query


class _Told(Facility):
    """What the two facilities share: everything but the waiting."""

    def _audiences(self, connection: Connection) -> Generator[Step, None, Iterable[Audience]]:
        query = connection.query
        _note(connection, "audiences", id=connection.id, user=connection.identity.user_name)
        if "hold" in query:
            yield Wait(_asked(connection, "hold"))
            _note(connection, "held")
        if "refuse" in query:
            raise PermissionDenied(query["refuse"])
        if "fail" in query:
            raise ToldToFail("in audiences")
        if "listen" not in query:
            return connection.usual_audiences()
        return [AUDIENCES[kind](name) for kind, name in json.loads(_asked(connection, "listen"))]

    def _receive(self, connection: Connection, message: Message) -> Generator[Step]:
        value = message.value.hex() if isinstance(message.value, bytes) else message.value
        _note(connection, "receive", kind=message.kind.name.lower(), value=value)
        told = _command(message)
        match told:
            case {"do": "echo", "value": value}:
                connection.send(value)
            case {"do": "publish", "to": [kind, name], "value": value}:
                sender = connection if told.get("own", True) else None
                yield Publish(connection.facility, AUDIENCES[kind](name), value, sender)
            case {"do": "wait", "gate": gate}:
                yield Wait(gate)
            case {"do": "query"}:
                yield Query(connection)
            case {"do": "raise"}:
                raise ToldToFail("in receive")
            case {"do": "deny"}:
                raise PermissionDenied(told.get("reason", ""))
            case {"do": "keep", "value": value}:
                connection.state = value
            case {"do": "kept"}:
                connection.send({"kept": connection.state})
            case {"do": "close"}:
                connection.close(told.get("code", 1000), told.get("reason", ""))
        _note(connection, "received")

    def _disconnected(self, connection: Connection, code: int) -> None:
        _note(connection, "disconnected", code=code, state=connection.state)
        if "keep-at-the-end" in connection.query:
            connection.state = connection.query["keep-at-the-end"]
        if "fail-at-the-end" in connection.query:
            raise ToldToFail("in disconnected")


class Contract(_Told):
    """Handlers with `def`."""

    name = "contract"

    def audiences(self, connection: Connection) -> Iterable[Audience]:
        """See the module."""
        return _run(self._audiences(connection))

    def receive(self, connection: Connection, message: Message) -> None:
        """See the module."""
        _run(self._receive(connection, message))

    def disconnected(self, connection: Connection, code: int) -> None:
        """See the module."""
        self._disconnected(connection, code)


class AsyncContract(_Told):
    """Handlers with `async def`."""

    name = "contract-async"

    async def audiences(self, connection: Connection) -> Iterable[Audience]:
        """See the module."""
        return await _arun(self._audiences(connection))

    async def receive(self, connection: Connection, message: Message) -> None:
        """See the module."""
        await _arun(self._receive(connection, message))

    async def disconnected(self, connection: Connection, code: int) -> None:
        """See the module."""
        await asyncio.sleep(0)
        self._disconnected(connection, code)


class ClosedContract(Facility):
    """What a facility is that says nothing about what clients send (contract 1.3)."""

    name = "contract-closed"


class QuietContract(Contract):
    """Who publishes does not get it back."""

    name = "contract-quiet"
    echo = False


class AsyncQuietContract(AsyncContract):
    """The same with `async def`."""

    name = "contract-quiet-async"
    echo = False


def _run[T](steps: Generator[Step, None, T]) -> T:
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        match step:
            case Wait(gate):
                deadline = time.monotonic() + PATIENCE
                while not notes().is_open(gate) and time.monotonic() < deadline:
                    time.sleep(_LOOK)
            case Publish(facility, audience, value, sender):
                realtime.publish(facility, audience, value, sender=sender)
            case Query():
                step.run()


async def _arun[T](steps: Generator[Step, None, T]) -> T:
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        match step:
            case Wait(gate):
                deadline = time.monotonic() + PATIENCE
                while not notes().is_open(gate) and time.monotonic() < deadline:  # noqa: ASYNC110  # it is a file
                    await asyncio.sleep(_LOOK)
            case Publish(facility, audience, value, sender):
                await realtime.apublish(facility, audience, value, sender=sender)
            case Query():
                await sync_to_async(step.run)()


def _command(message: Message) -> dict[str, Any]:
    value = message.value
    if message.kind is Kind.TEXT and isinstance(value, str) and value.startswith('{"do":'):
        value = json.loads(value)
    return value if isinstance(value, dict) and "do" in value else {}


def _note(connection: Connection, event: str, **what: object) -> None:
    if "note" in connection.query:
        notes().add(_asked(connection, "note"), event=event, **what)


def _asked(connection: Connection, name: str) -> str:
    return str(connection.query[name])


from contract_tests.app import lives  # noqa: E402, F401  # its facilities are made of those above
