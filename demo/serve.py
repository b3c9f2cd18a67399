"""`make serve`: the stack in the foreground, without traffic."""

import json
import signal
import sys
from types import FrameType

from contract_tests.part import StackError
from demo.stack import Stack


class Ended(BaseException):
    """SIGTERM or Ctrl-C: stop everything. No `except Exception` may hold it."""


def end_on_signals() -> None:
    """From now on the first SIGTERM or SIGINT raises `Ended` in the main thread; further ones change nothing."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise Ended

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, handle)


def serve(stack: Stack) -> int:
    """Run the stack until a signal comes. Returns the exit code."""
    end_on_signals()
    try:
        print(f"starting legacy, channels and Redis; logs are in {stack.directory}", file=sys.stderr, flush=True)
        with stack:
            print("READY " + json.dumps(stack.ready(), separators=(",", ":")), flush=True)
            stack.watch()
    except Ended:
        return 0
    except StackError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
