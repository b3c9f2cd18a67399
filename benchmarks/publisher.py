"""A publisher in a process of its own: `python -m benchmarks.publisher KIND REDIS_URL RATE RECEIVERS`.

For each line of its input, a number, it publishes so many messages, one after the other to each receiver in turn, at so
many a second, and says `done`. Each text begins with the moment at which it was given to `publish`, in nanoseconds of
CLOCK_MONOTONIC, which is the same clock in every process. KIND is `ours` or `stock`.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

import django
from channels_redis.pubsub import RedisPubSubChannelLayer

TEXT: Final = '{"event":"ring","call":42,"from":"ana","room":"ward 7"}'
STAMP: Final = 20  # characters


def text() -> str:
    """A message, stamped now."""
    return f"{time.monotonic_ns():0{STAMP}d}{TEXT}"


def _sender(kind: str, redis_url: str) -> Callable[[int], Awaitable[object]]:
    if kind == "stock":
        layer = RedisPubSubChannelLayer(hosts=[redis_url])
        return lambda number: layer.group_send(f"bench.{number}", {"type": "bench", "text": text()})
    django.setup()
    from shim import History, User, realtime  # noqa: PLC0415  # it needs Django's settings

    none = History(size=0)
    return lambda number: realtime.apublish("bench", User(f"u{number}"), text(), history=none)


async def _serve(kind: str, redis_url: str, rate: float, receivers: int) -> None:
    send = _sender(kind, redis_url)
    while line := await asyncio.to_thread(sys.stdin.readline):
        began = time.monotonic()
        for number in range(int(line)):
            early = began + number / rate - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            await send(number % receivers)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
