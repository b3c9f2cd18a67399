"""`ws4redis.redis_store`, as application code imports it."""

from shim.ws4redis.message import RedisMessage
from shim.ws4redis.store import SELF, RedisStore

__all__ = ["SELF", "RedisMessage", "RedisStore"]
