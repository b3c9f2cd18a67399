"""`python -m demo [serve]`: what `make demo` and `make serve` run.

Variables: PORT_BASE (8000), REDIS_URL (the embedded Valkey), and for the demo HEADLESS, DURATION (seconds).
"""

import os
import sys

from contract_tests.part import StackError
from demo.serve import serve
from demo.show import LEAST_SECONDS, show
from demo.stack import Stack


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit():
        raise StackError(f"{name} is a whole number, not {text[:40]!r}.")
    return int(text)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["serve"]):
        print("usage: python -m demo [serve]", file=sys.stderr)
        return 2
    try:
        stack = Stack(_number("PORT_BASE", 8000), redis_url=os.environ.get("REDIS_URL") or None)
        if arguments:
            return serve(stack)
        duration = _number("DURATION", 60)
        if duration < LEAST_SECONDS:
            raise StackError(f"DURATION is at least {LEAST_SECONDS} seconds: the flag is turned three times.")
        headless = os.environ.get("HEADLESS", "0") not in ("", "0")
        return show(stack, headless=headless, duration=duration)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
