"""Python's collector of cycles, in a process that holds thousands of connections.

A full collection walks all containers of a process, and nobody is served meanwhile. That takes about 0.6 µs for each:
Django with an application has 75,000 of them, and each connection 50. Python does one whenever there is a quarter more
than at the last, so a process that takes over 2,500 connections stops for 50 to 150 ms several times, just when nobody
should have to wait; and it finds nothing, since connections are freed without it.

So what a process has loaded when it begins to serve is left out from then on, and full collections are ten times as
rare: one for 700,000 new containers, which are 14,000 connections. Young garbage is collected as before. What grows old
as garbage waits longer, and takes 100 MiB at most; were they a hundred times as rare, it would be 1 GiB.
"""

import gc
from typing import Final

RARER: Final = 10
"""A full collection after so many times as many of the lesser ones."""

_USUAL: Final = 10  # what Python begins with; an application that has set something else knows why


def settle() -> None:
    """What is loaded stays: call it when a process begins to serve. Does nothing the second time.

    A process whose application has set the collector's thresholds itself, or has switched it off, is left as it is.
    """
    youngest, younger, full = gc.get_threshold()
    if not gc.isenabled() or not youngest or full != _USUAL:
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(youngest, younger, full * RARER)
