"""`ws4redis.publisher`, as application code imports it."""

from shim.ws4redis.publisher import RedisPublisher
from shim.ws4redis.store import RedisStore

__all__ = ["RedisPublisher", "RedisStore"]
