"""asyncio's running loop, kept apart for each greenlet.

Under gevent all greenlets of a process share one thread, and "the running loop" belongs to the thread: whenever a
greenlet that runs an event loop waits for something, all others seem to run inside that loop. Django then refuses them
the ORM (`SynchronousOnlyOperation`) and asgiref refuses `async_to_sync`. A loop waits in its selector, but a coroutine
may also wait in the middle of a step: for a lock, in `Thread.start()`, in a socket that blocking code reads. So the
switch itself is the only place where this can be put right.
"""

import sys
from asyncio import AbstractEventLoop, _get_running_loop, _set_running_loop  # exported for those who implement loops
from typing import Any
from weakref import WeakKeyDictionary


def keep_apart() -> None:
    """From now on the running loop belongs to the greenlet, in the thread that calls this from inside a greenlet.

    Does nothing where there are no greenlets. Costs a call at each switch, about half a microsecond; whatever else
    traces switches goes on doing so. Calling it again costs as much again: call it once.
    """
    greenlet: Any = sys.modules.get("greenlet")  # there if anything uses it, and then without an import of ours
    if greenlet is None or greenlet.getcurrent().parent is None:
        return
    loops: WeakKeyDictionary[Any, AbstractEventLoop] = WeakKeyDictionary()
    others = greenlet.gettrace()

    def switched(event: str, args: tuple[Any, Any]) -> None:
        if event in ("switch", "throw"):
            origin, target = args
            running = _get_running_loop()
            if running is not None:
                loops[origin] = running
            theirs = loops.pop(target, None) if loops else None
            if theirs is not running:
                _set_running_loop(theirs)
        if others is not None:
            others(event, args)

    greenlet.settrace(switched)
