"""Who may listen and publish in the newsroom, and what becomes of a message that comes in by a WebSocket."""

import json

from django.core.exceptions import PermissionDenied
from ws4redis.redis_store import RedisMessage
from ws4redis.subscriber import RedisSubscriber

READERS = ["subscribe-broadcast", "subscribe-session"]


def allowed_channels(request, channels):
    """Readers may listen; who is signed in may do anything; nobody enters the archive, or comes from nowhere."""
    if not request.META["REMOTE_ADDR"]:
        raise PermissionDenied("From where?")
    if request.path_info.startswith("/ws/archive"):
        raise PermissionDenied("The archive is closed")
    if not request.user or not request.user.is_authenticated:
        return set(channels).intersection(READERS)
    return channels


class DeskSubscriber(RedisSubscriber):
    """Signs what comes in to the facility `signed` with the name of whoever sent it."""

    def __init__(self, connection):
        self.author = None
        super().__init__(connection)

    def set_pubsub_channels(self, request, channels):
        if request.path_info == "/ws/signed":
            self.author = request.user.get_username()
        super().set_pubsub_channels(request, channels)

    def publish_message(self, message, expire=None):
        if message and self.author is not None:
            message = RedisMessage(json.dumps({"by": self.author, "text": message.decode("utf-8")}))
        super().publish_message(message, expire)
