"""`ws4redis.subscriber`, as application code imports it."""

from shim.ws4redis.store import SELF, RedisStore
from shim.ws4redis.subscriber import RedisSubscriber

__all__ = ["SELF", "RedisStore", "RedisSubscriber"]
