"""The facilities that the state machine uses: each life of it takes two that no recent life has used.

They are `contract_tests.app`'s, and mirror what is no command to them. Names have what breaks names in URLs and keys.
"""

from typing import Final

from contract_tests.app.realtime import AsyncContract, Contract
from shim import Connection, History, Message

LIVES: Final = 64
"""So many lives before a facility is used again; its topics are emptied then."""

_SHAPES: Final = ("life-{}", "life {} ü/:%", "life:{{{}}}*", "life~{}")


def facility_name(life: int, *, is_async: bool) -> str:
    """The name of a facility of a life."""
    number = life % LIVES
    return ("async " if is_async else "") + _SHAPES[number % len(_SHAPES)].format(number)


def facility_history(life: int, *, is_async: bool) -> tuple[int, float]:
    """What a facility keeps where a publish does not say: messages and seconds."""
    return (3, 300.0) if is_async and life % 2 else (100, 300.0)


def facility_echo(life: int, *, is_async: bool) -> bool:
    """Whether a facility is like ours, or compatible with ws4redis (contract 6.5): each life has one of either."""
    return (life % 2 == 0) is is_async


def _is_command(message: Message) -> bool:
    value = message.value
    return value.startswith('{"do":') if isinstance(value, str) else isinstance(value, dict) and "do" in value


def _declare(life: int) -> None:
    class Life(Contract):
        name = facility_name(life, is_async=False)
        history = History(*facility_history(life, is_async=False))
        echo = facility_echo(life, is_async=False)

        def receive(self, connection: Connection, message: Message) -> None:
            if _is_command(message):
                super().receive(connection, message)
            else:
                connection.send(message)

    class AsyncLife(AsyncContract):
        name = facility_name(life, is_async=True)
        history = History(*facility_history(life, is_async=True))
        echo = facility_echo(life, is_async=True)

        async def receive(self, connection: Connection, message: Message) -> None:
            if _is_command(message):
                await super().receive(connection, message)
            else:
                connection.send(message)


for number in range(LIVES):
    _declare(number)
