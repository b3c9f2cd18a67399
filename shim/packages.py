"""Packages that a backend needs in the processes that it serves: system checks for `BaseBackend.check`."""

import re
from collections.abc import Mapping
from importlib import metadata

from django.core import checks


def check_packages(backend: str, extra: str, least: Mapping[str, str]) -> list[checks.CheckMessage]:
    """Look for packages of at least these versions.

    One that is missing is a warning: an image that serves the other backend, or only publishes, need not have it. One
    that is too old is an error.

    Args:
        backend: the entry of `REALTIME`. extra: the extra of realtime shim that installs them. least: versions by name.
    """
    found: list[checks.CheckMessage] = []
    remedy = f"pip install 'realtime-shim[{extra}]'"
    for name, version in least.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(
                checks.Warning(
                    f"{name} is not installed, so this installation cannot serve REALTIME[{backend!r}].",
                    hint=f"{remedy}; where another installation serves it, silence this check.",
                    id="realtime.W009",
                )
            )
            continue
        if _numbers(installed) < _numbers(version):
            found.append(
                checks.Error(
                    f"{name} {installed} is too old for REALTIME[{backend!r}], which needs {version} or later.",
                    hint=f"{remedy}. The reason is in docs/reference/dependencies.md.",
                    id="realtime.E019",
                )
            )
    return found


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers, padded: 0.52rc1 counts as 0.52.0."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    return (*numbers, 0, 0, 0)[: max(3, len(numbers))]
