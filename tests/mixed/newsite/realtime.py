from shim import Connection, Everyone, Facility, Message, realtime


class Chat(Facility):
    """What a client sends goes to everyone: as `?publish-broadcast` did."""

    name = "chat"

    def receive(self, connection: Connection, message: Message) -> None:
        realtime.publish(self.name, Everyone(), message)
