"""`ws4redis.settings`: each setting with its default, read when asked for."""

from typing import Any

from django.conf import settings

from shim.ws4redis.settings import DEFAULTS


def __getattr__(name: str) -> Any:
    if name in DEFAULTS:
        return getattr(settings, name, DEFAULTS[name])
    raise AttributeError(f"ws4redis has no setting {name!r}; it has {', '.join(DEFAULTS)}")


def __dir__() -> list[str]:
    return sorted(DEFAULTS)
