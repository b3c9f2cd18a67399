"""Run in a process of its own by test_handlers.py: many greenlets use the ORM while `async def` handlers run."""

from gevent import monkey

monkey.patch_all()

import asyncio  # noqa: E402
import os  # noqa: E402 - everything after the patch

import django  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.test")
django.setup()

import gevent  # noqa: E402
from asgiref.sync import async_to_sync, sync_to_async  # noqa: E402
from django.contrib.auth.models import Group  # noqa: E402
from django.core.management import call_command  # noqa: E402

from shim.handlers import call  # noqa: E402

ROUNDS = 20
done: list[str] = []


def count() -> int:
    gevent.sleep(0)
    found = Group.objects.count()
    gevent.sleep(0)
    return found


def blocking(number: int) -> None:
    for _ in range(ROUNDS):
        assert call(count) == 3
    done.append(f"def {number}")


async def awaiting(number: int) -> None:
    await asyncio.sleep(0.001 * (number % 3))
    assert await sync_to_async(count)() == 3
    assert await Group.objects.acount() == 3
    gevent.sleep(0)  # blocking code in the middle of a step: a publish, a log handler, a lock
    assert asyncio.get_running_loop() is not None
    assert await sync_to_async(count, thread_sensitive=False)() == 3


async def total() -> int:
    return await Group.objects.acount()


def crossing(number: int) -> None:
    for _ in range(ROUNDS):
        assert call(async_to_sync(total)) == 3  # an event loop of this greenlet's own
    done.append(f"async_to_sync {number}")


def calling(number: int) -> None:
    for _ in range(ROUNDS):
        call(awaiting, number)
    done.append(f"async def {number}")


def main() -> None:
    call_command("migrate", verbosity=0)
    for name in "abc":
        Group.objects.create(name=name)
    greenlets = [gevent.spawn(kind, number) for number in range(8) for kind in (blocking, calling, crossing)]
    gevent.joinall(greenlets, timeout=60, raise_error=True)
    assert len(done) == 24, done
    print("done")  # noqa: T201 - for the test that waits for it


main()
