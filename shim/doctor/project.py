"""What the settings and the installed packages tell that no system check says."""

from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Final

from django.conf import settings

from shim.conf import Conf
from shim.doctor.finding import DEPLOY, GUIDE, SETTINGS, Finding, found
from shim.facility import facilities
from shim.ws4redis.settings import DEFAULTS as OLD_SETTINGS

OLD_PACKAGE: Final = "django-websocket-redis"


def old_stack(conf: Conf) -> Iterator[Finding]:
    """The original package, and what is left of it."""
    try:
        version = metadata.version(OLD_PACKAGE)
    except metadata.PackageNotFoundError:
        version = None
    if version is not None and conf.ws4redis is None:  # else E024
        yield found(
            "warning",
            "D002",
            f"{OLD_PACKAGE} {version} is still installed.",
            "It serves no Django after 3.2, and `import ws4redis` goes on giving it.",
            "Set REALTIME_WS4REDIS = True if your code still imports ws4redis, and "
            f"`pip uninstall {OLD_PACKAGE}`. Processes that still run it have an environment of their own.",
            GUIDE,
        )
    if "ws4redis" in settings.INSTALLED_APPS and conf.ws4redis is None:
        yield found(
            "error",
            "D003",
            "'ws4redis' is in INSTALLED_APPS, and REALTIME_WS4REDIS is not on.",
            "Without it the name stands for the original package alone.",
            "Set REALTIME_WS4REDIS = True, or take the app out.",
            GUIDE,
        )
    if conf.ws4redis is None and conf.wire.has_positions:
        left = [name for name in OLD_SETTINGS if hasattr(settings, name)]
        if left:
            yield found(
                "note",
                "D004",
                f"{', '.join(left)}: settings of ws4redis that nothing of ours reads any more.",
                "Somebody may think that they still mean something.",
                "Take them out, if nothing of yours reads them.",
                GUIDE,
            )


def origins(conf: Conf) -> Iterator[Finding]:
    """Whose pages may open a WebSocket."""
    if conf.origins is None:
        before = "" if conf.ws4redis is None else "ws4redis asked no page where it came from. "
        yield found(
            "note" if conf.ws4redis is None else "warning",
            "D005",
            f"REALTIME_ALLOWED_ORIGINS is not set: pages of ALLOWED_HOSTS ({_shown(settings.ALLOWED_HOSTS)}) may "
            "open WebSockets.",
            f"{before}Pages on other hosts than these are refused with 403.",
            "Name the hosts of all pages that open WebSockets, and of no others.",
            f"{SETTINGS}#for-every-project",
        )


def _shown(hosts: Iterable[str]) -> str:
    return ", ".join(hosts) or ("none; in DEBUG, this machine's" if settings.DEBUG else "none")


def history(conf: Conf) -> Iterator[Finding]:
    """Whether anything is kept."""
    if not conf.history.size:
        yield found(
            "warning",
            "D006",
            "REALTIME_HISTORY_SIZE is 0: nothing is kept of any message.",
            "Whoever reconnects or is moved misses what came meanwhile, and nobody can tell.",
            "Leave the setting out (100 messages), and give at-most-once to single facilities or publishes.",
            f"{SETTINGS}#messages-and-history",
        )
        return
    without = [each.name for each in facilities() if each.history is not None and not each.history.size]
    if without:
        yield found(
            "note",
            "D007",
            f"Facilities that keep nothing of their messages: {', '.join(without)}.",
            "Their clients miss what comes while they reconnect or are moved.",
            "Nothing, where that is meant.",
            "docs/contract.md#5-the-past",
        )


def rollout(conf: Conf) -> Iterator[Finding]:
    """Whether the flag decides."""
    if conf.force_backend is not None and len(conf.backends) > 1:
        yield found(
            "note",
            "D008",
            f"REALTIME_FORCE_BACKEND is {conf.force_backend!r}: everybody is there, whatever the flag says.",
            "It is meant for the day on which the flag's store is down.",
            "Take it out, and restart, when the flag is to decide again.",
            "docs/how-to/roll-out-and-back.md#back",
        )


def front_door(conf: Conf) -> Iterator[Finding]:
    """What a request passes before the endpoint and the pages see it."""
    urls = {entry.url for entry in conf.backends.values()}
    middleware = "shim.middleware.CohortCookieMiddleware"
    if len(conf.backends) > 1 and len(urls) == 1 and conf.cohort_cookie and middleware not in settings.MIDDLEWARE:
        yield found(
            "note",
            "D009",
            f"Both backends have one address, and {middleware} is not in MIDDLEWARE.",
            "After a flip a raw client's first connection goes to the wrong backend, and is closed again.",
            "Put it below AuthenticationMiddleware. Where all clients ask the endpoint (v1), it is not needed.",
            f"{DEPLOY}#raw-clients-behind-one-address",
        )
    for name in (
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ):
        if name not in settings.MIDDLEWARE:
            yield found(
                "warning",
                "D010",
                f"{name} is not in MIDDLEWARE.",
                "The endpoint asks a request who is there: without it everybody is a stranger, and may be sent to "
                "another backend than a handshake decides.",
                "Add it, or your own that sets request.session and request.user before the endpoint is asked.",
                "docs/reference/protocol.md",
            )


def debug(conf: Conf) -> Iterator[Finding]:
    """Whether this is a developer's machine."""
    if settings.DEBUG:
        embedded = conf.redis_url is None
        yield found(
            "warning" if embedded else "note",
            "D011",
            "DEBUG is on" + (", and messages go through the embedded Valkey of this checkout." if embedded else "."),
            "A developer's machine has that. In production it shows settings to visitors, and an embedded Valkey "
            "reaches no other host. Checks that are only about production were left out.",
            "In production DEBUG = False and REALTIME_REDIS_URL: run the doctor there.",
            DEPLOY,
        )
