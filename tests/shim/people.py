"""Visitors and handshakes for tests."""

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.http import QueryDict

from shim.core.cohorts import Subject
from shim.core.protocol import Protocol
from shim.visitor import Connection, Identity

UPGRADE = {"upgrade": "websocket", "connection": "Upgrade"}


def visitor(
    user: Any = None,
    *,
    groups: tuple[str, ...] = (),
    session: str | None = None,
    query: str = "",
    facility: str = "calls",
    protocol: Protocol = Protocol.RAW,
    cookies: Mapping[str, str] | None = None,
) -> Connection:
    """A connection as a facility sees it, before it is accepted."""
    return Connection(
        id="c1",
        facility=facility,
        identity=Identity(user or AnonymousUser(), session, groups, Subject()),
        protocol=protocol,
        backend="legacy",
        query=QueryDict(query),
        headers=UPGRADE,
        cookies=cookies or {},
        max_message=100,
    )
