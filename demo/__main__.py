"""`python -m demo [serve]`: what `make demo` and `make serve` run.

Variables: PORT_BASE (8000), REDIS_URL (the embedded Valkey), and for the demo HEADLESS, DURATION (seconds), FAULTS and
CLIENTS ("40+24": v1 and raw).
"""

import os
import re
import sys

from contract_tests.part import StackError
from demo.crowd import RAW, V1
from demo.faults import REDIS_THAT_KEEPS
from demo.serve import serve
from demo.show import LEAST_SECONDS, LEAST_SECONDS_WITH_FAULTS, show
from demo.stack import Stack

MOST_CLIENTS = 5_000  # one process serves them all


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit():
        raise StackError(f"{name} is a whole number, not {text[:40]!r}.")
    return int(text)


def _yes(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


def _clients() -> tuple[int, int]:
    text = os.environ.get("CLIENTS") or f"{V1}+{RAW}"
    found = re.fullmatch(r"([0-9]{1,6})\+([0-9]{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= MOST_CLIENTS - int(found[2]):
        raise StackError(
            f"CLIENTS is so many v1 and so many raw clients, as 500+200, {MOST_CLIENTS} at most, not {text[:40]!r}."
        )
    return int(found[1]), int(found[2])


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["serve"]):
        print("usage: python -m demo [serve]", file=sys.stderr)
        return 2
    try:
        port_base, redis_url = _number("PORT_BASE", 8000), os.environ.get("REDIS_URL") or None
        if arguments:
            return serve(Stack(port_base, redis_url=redis_url))
        faults, duration = _yes("FAULTS"), _number("DURATION", 60)
        v1, raw = _clients()
        least = LEAST_SECONDS_WITH_FAULTS if faults else LEAST_SECONDS
        if duration < least:
            raise StackError(f"DURATION is at least {least} seconds: the flag is turned several times.")
        if faults and redis_url:
            raise StackError("FAULTS restarts Redis, and the demo does that to its own only: unset REDIS_URL.")
        stack = Stack(port_base, redis_url=redis_url, redis_config=REDIS_THAT_KEEPS if faults else None)
        return show(stack, headless=_yes("HEADLESS"), duration=duration, faults=faults, v1=v1, raw=raw)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
