"""The doctor: what a project still has to do, from its settings, its packages, its database and its Redis.

What a system check can say is said by one, and taken over here with the reason behind it. The rest needs a Redis that
answers, a program that is asked what it can do, or is about a migration that is half way: too slow, or too talkative,
for something that runs before every command. Each finding has an id, listed in docs/reference/doctor.md.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from shim.conf import read
from shim.doctor import project, redis, system, uwsgi
from shim.doctor.finding import LEVELS, Finding

__all__ = ["LEVELS", "Finding", "examine"]


def examine(ini: Path | None = None) -> list[Finding]:
    """Look at everything, and say the worst first.

    A part that cannot be looked at is a finding itself. Takes a few `REALTIME_TIMEOUT`s at most.

    Args:
        ini: the file that uWSGI is started with.
    """
    conf, faults = read()
    parts: list[Callable[[], Iterable[Finding]]] = [
        system.system_checks,
        system.database,
        partial(project.old_stack, conf),
        partial(project.origins, conf),
        partial(project.history, conf),
        partial(project.rollout, conf),
        partial(project.front_door, conf),
        partial(project.debug, conf),
        partial(uwsgi.uwsgi, conf, ini),
    ]
    if not faults:  # with wrong settings there is no telling where it would go
        parts.append(partial(redis.redis, conf))
    findings = [finding for part in parts for finding in part()]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))
