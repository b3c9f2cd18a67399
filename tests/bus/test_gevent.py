"""The sync driver under gevent, as uWSGI runs it with --gevent-monkey-patch."""

import subprocess
import sys
from pathlib import Path

import pytest

from shim.bus.embedded import EmbeddedValkey

pytest.importorskip("gevent")

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = """
from gevent import monkey
monkey.patch_all()
import os, signal, sys, threading, time
import gevent
from shim.bus.embedded import EmbeddedValkey
from shim.bus.sync import SyncBus, SyncSubscription
from shim.core.errors import RealtimeUnavailable
from shim.core.history import History
from shim.core.message import Kind
from shim.core.names import Topic, User

def until(condition, timeout=15):
    with gevent.Timeout(timeout):
        while not condition():
            gevent.sleep(0.002)

topic = Topic("calls", User("ana"))
server = EmbeddedValkey()
server.start()
bus = SyncBus(server.url, prefix="rt", timeout=1.0, max_connections=5)
heard, confirmed, ups, downs = [], [], [], []

def up():
    ups.append(1)
    subscription.subscribe([topic.channel("rt")])

subscription = SyncSubscription(
    server.url, timeout=1.0, idle=0.5, name="s", on_up=up, on_down=downs.append,
    on_message=lambda channel, data: heard.append(data), on_subscribed=confirmed.append,
)
subscription.start()
until(lambda: confirmed)

# a hundred greenlets, five connections
jobs = [gevent.spawn(bus.publish, topic, Kind.TEXT, b"x", History()) for _ in range(100)]
gevent.joinall(jobs, timeout=10, raise_error=True)
assert sorted(job.value.seq for job in jobs) == list(range(1, 101))
until(lambda: len(heard) == 100)

# a killed greenlet does not leave its answer to another
for _ in range(20):
    job = gevent.spawn(bus.execute, "ECHO", "lost")
    gevent.sleep(0)
    job.kill()
    assert bus.execute("ECHO", "mine") == b"mine"

# hung: other greenlets go on, the time-out holds, the subscription finds out
os.kill(server.pid, signal.SIGSTOP)
ticks = []
ticker = gevent.spawn(lambda: [ticks.append(gevent.sleep(0.01)) for _ in range(10_000)])
before = time.monotonic()
try:
    bus.publish(topic, Kind.TEXT, b"x" * 5_000_000, History())
    raise SystemExit("it was published")
except RealtimeUnavailable:
    assert 0.9 < time.monotonic() - before < 2.0
assert len(ticks) > 20
until(lambda: downs)
ticker.kill()
os.kill(server.pid, signal.SIGCONT)
until(lambda: len(confirmed) == 2)

server.stop()
until(lambda: len(downs) == 2)
server.start()
until(lambda: len(confirmed) == 3)
assert bus.publish(topic, Kind.TEXT, b"back", History()) is not None
until(lambda: heard[-1].endswith(b"back"))
before = time.monotonic()
subscription.close()
assert time.monotonic() - before < 0.9, "closing needs no time-out"
assert not subscription.connected
bus.close()
server.stop()
print("good")
"""


def test_the_sync_driver_under_gevent(embedded: EmbeddedValkey) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCENARIO], cwd=ROOT, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "good", done.stdout + done.stderr
