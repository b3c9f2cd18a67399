"""The demo's facilities: discovered by `shim`, served by both backends."""

from collections.abc import Iterable

from django.core.exceptions import PermissionDenied

from shim import Audience, Connection, Facility, Message


class Calls(Facility):
    """The dispatch room: for people who are signed in; what happens there is published by the views."""

    name = "calls"

    def audiences(self, connection: Connection) -> Iterable[Audience]:
        if not connection.user.is_authenticated:
            raise PermissionDenied("sign in first")
        return connection.usual_audiences()


class Lobby(Facility):
    """Open to anyone; clients publish nothing. Everyone, the user, the user's groups and the session: the default."""

    name = "lobby"


class Echo(Facility):
    """What a client sends comes back to it alone, as the same kind. Open to anyone."""

    name = "echo"

    def audiences(self, connection: Connection) -> Iterable[Audience]:  # noqa: ARG002
        return ()

    def receive(self, connection: Connection, message: Message) -> None:
        connection.send(message)
