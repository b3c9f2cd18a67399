"""A facility that says where one is: raw clients are not told."""

from shim import Connection, Facility, Message


class Where(Facility):
    """Any message is answered with the backend's name."""

    name = "where"

    def receive(self, connection: Connection, message: Message) -> None:
        connection.send(connection.backend)
