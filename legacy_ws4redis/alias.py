"""`import ws4redis` means this package, where `REALTIME_WS4REDIS` says so.

Theory of operation. A finder at the front of `sys.meta_path` answers for `ws4redis` and all that is below it. It looks
at the setting when somebody asks, and not before, so that it can be installed before Django's settings are known; it
gives the very modules of this package, so that a class is the same under both names.

It is installed with the first import of this package: by `shim.apps`, when Django begins with INSTALLED_APPS; by a
settings module that imports it; or by the package `ws4redis` in `legacy_ws4redis/names`, which a path file puts at the
end of `sys.path`, for who imports ws4redis before all that.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

OLD: Final = "ws4redis"
NEW: Final = "legacy_ws4redis"


class _Names(MetaPathFinder, Loader):
    """Finds `ws4redis.x`, and loads `legacy_ws4redis.x` for it."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002  # the base class's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Answer where the name is ours, and leave it to the others where it is not."""
        if fullname != OLD and not fullname.startswith(f"{OLD}."):
            return None
        if not _is_wanted():
            return None
        if fullname == OLD and (original := original_package()) is not None:
            raise ImportError(_BOTH.format(original), name=fullname)
        found = find_spec(_ours(fullname))
        return None if found is None else ModuleSpec(fullname, self, is_package=bool(found.submodule_search_locations))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Give our module."""
        module = importlib.import_module(_ours(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it has been run. The import system has put the alias's spec into it, and this takes it out again."""
        if module.__spec__ is not None and module.__spec__.loader_state is not None:
            module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Put the finder where imports look first. Idempotent."""
    if not any(isinstance(finder, _Names) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Names())


def adopt(name: str) -> None:
    """Put this package in the place of a module that is being imported.

    Raises:
        ModuleNotFoundError: the setting says no.
    """
    if not _is_wanted():
        raise ModuleNotFoundError(
            "No module named 'ws4redis': django-websocket-redis is not installed, and REALTIME_WS4REDIS, with which "
            "realtime shim takes its place, is not True",
            name=name,
        )
    sys.modules[name] = importlib.import_module(NEW)


def original_package() -> str | None:
    """Where django-websocket-redis is installed, or None."""
    found = PathFinder.find_spec(OLD)
    if found is None or (found.origin is not None and Path(found.origin).is_relative_to(_HERE)):
        return None
    return found.origin or next(iter(found.submodule_search_locations or ()), "a namespace package")


def check_who_it_is() -> None:
    """Look whether somebody has imported the original package before this one could say anything.

    Raises:
        ImproperlyConfigured: so it is.
    """
    found = sys.modules.get(OLD)
    if found is not None and found is not sys.modules[NEW] and _is_wanted():
        raise ImproperlyConfigured(_BOTH.format(getattr(found, "__file__", None)))


_HERE: Final = Path(__file__).parent
_BOTH: Final = (
    "REALTIME_WS4REDIS is on, and the original ws4redis is installed as well ({}): "
    "pip uninstall django-websocket-redis, so that nobody can get hold of the wrong one"
)


def _is_wanted() -> bool:
    try:
        return getattr(settings, "REALTIME_WS4REDIS", False) is True
    except ImproperlyConfigured:  # no settings at all
        return False


def _ours(name: str) -> str:
    return NEW + name.removeprefix(OLD)
