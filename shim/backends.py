"""What a backend is, beyond carrying bytes: where clients find it, and what it can do.

Differences between backends are declared here as capabilities with a reason, never asked for by name.
"""

from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import quote

from django.core.checks import CheckMessage
from django.http import HttpRequest
from django.utils.module_loading import import_string

from shim.conf import BackendConf, conf


class BaseBackend:
    """One entry of `REALTIME`. Subclasses are named by its `BACKEND`.

    Attributes:
        sees_http_version: a handshake by HTTP/1.0 is refused (400), as RFC 6455 asks for; where this is false, the
            server below says HTTP/1.1 whatever the client said, and it is accepted.
    """

    sees_http_version: ClassVar[bool] = True

    def __init__(self, entry: BackendConf) -> None:
        """Take the settings' entry."""
        self.entry = entry

    def url(self, facility: str, request: HttpRequest) -> str:
        """Where clients of a facility connect to this backend.

        `URL` as set; where it is not, the host that the request came to, which suits a front door that routes.
        """
        base = self.entry.url
        if not base:
            scheme = "wss" if request.is_secure() else "ws"
            base = f"{scheme}://{request.get_host()}{conf().ws_path}"
        return base.rstrip("/") + "/" + quote(facility, safe="/")

    def check(self) -> Sequence[CheckMessage]:
        """System checks of this backend's own settings and packages."""
        return []


def backend(name: str) -> BaseBackend:
    """The configured backend of that name.

    Raises:
        KeyError: `REALTIME` has no such entry.
        ImportError: its `BACKEND` cannot be imported.
    """
    return made(conf().backends[name])


def made(entry: BackendConf) -> BaseBackend:
    """The backend that an entry of `REALTIME` describes.

    Raises:
        ImportError: its `BACKEND` cannot be imported, or is something else.
    """
    kind = import_string(entry.path)
    if not (isinstance(kind, type) and issubclass(kind, BaseBackend)):
        raise ImportError(f"{entry.path} is no shim.backends.BaseBackend")
    return kind(entry)
