"""Programs as text, and back: what a failure prints can be pasted into a file and run.

`python -m pytest --noconftest test_it.py`: Django is set up for the suite's own servers, so in a process of its own.
"""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from contract_tests.drivers import driver_named


@contextlib.contextmanager
def machine(driver: str) -> Iterator[Any]:
    """The state machine of a driver, on servers of its own; at the end everybody gets what is due, and leaves."""
    with tempfile.TemporaryDirectory() as folder, driver_named(driver).servers_in(Path(folder) / "run") as servers:
        from contract_tests.machines import driver_on, machine_for  # noqa: PLC0415  # they need Django to be set up

        state = machine_for(driver_on(driver, servers))()
        try:
            yield state
        except BaseException:
            state.is_broken = True
            raise
        finally:
            state.teardown()


def test_of(driver: str, program: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A test that lives this life again."""
    calls = [
        f"state.{name}({', '.join(f'{key}={source(value)}' for key, value in arguments.items())})"
        for name, arguments in program
    ]
    lines = [
        "from contract_tests.replay import machine",
        "from contract_tests.values import DeepList, Huge, filled, said_as_json",
        "",
        "",
        "def test_shrunk() -> None:",
        f'    with machine("{driver}") as state:',
        *(f"        {call}" for call in calls),
    ]
    return "\n".join(lines) + "\n"


def source(value: Any) -> str:
    """An argument of a rule as Python."""
    from contract_tests.values import DeepList, FilledBytes, FilledText, Huge  # noqa: PLC0415  # they need Django's settings
    from shim import Message  # noqa: PLC0415

    match value:
        case FilledText() | FilledBytes() | DeepList() | Huge():
            return repr(value)
        case Message():
            return f"said_as_json({source(value.value)})"
        case float() if not math.isfinite(value):
            return f'float("{value}")'
        case type():
            return value.__name__
        case dict():
            return "{" + ", ".join(f"{source(key)}: {source(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(source, value)) + "]"
        case tuple():
            return "(" + "".join(f"{source(each)}, " for each in value).rstrip(" ") + ")"
        case set() if value:
            return "{" + ", ".join(sorted(map(source, value))) + "}"
    return ascii(value)
