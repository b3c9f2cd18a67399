"""What both subscriptions promise, each test run with the sync and the async one."""

import logging
import os
import signal
import socket
import threading
import time
from typing import Any

import pytest
import redis

from shim.bus.asyncio import CROWD
from shim.bus.embedded import EmbeddedValkey
from tests.bus.conftest import Driver, SubscriptionFace
from tests.bus.waiting import until


def say(server: EmbeddedValkey, channel: str, *bodies: bytes) -> None:
    with redis.Redis.from_url(server.url) as client:
        for body in bodies:
            client.publish(channel, body)


def kill_subscribers(server: EmbeddedValkey) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def threads(name: str) -> int:
    return [thread.name for thread in threading.enumerate()].count(name)


def test_it_subscribes_hears_and_unsubscribes(driver: Driver, server: EmbeddedValkey) -> None:
    it = driver.subscription(server.url, ["a"])
    before = it.connected
    assert not before
    it.start_and_wait()
    assert it.connected
    assert it.heard.news == [("up", None), ("subscribed", "a")]
    bodies = [b"", b"\x00", b"x" * 1_048_576, "ü".encode(), b"\xff"]
    say(server, "a", *bodies)
    until(lambda: it.heard.messages == bodies)
    it.subscribe(["b", "c"])
    until(lambda: it.heard.confirmed("c"))
    it.unsubscribe(["a", "b"])
    it.subscribe(["d"])
    until(lambda: it.heard.confirmed("d"))  # so the UNSUBSCRIBE before it has been done
    say(server, "a", b"no")
    say(server, "b", b"no")
    say(server, "c", b"yes")
    until(lambda: it.heard.messages == [*bodies, b"yes"])


def test_unsubscribing_from_nothing_is_not_unsubscribing_from_all(driver: Driver, server: EmbeddedValkey) -> None:
    it = driver.subscription(server.url, ["a"])
    it.start_and_wait()
    it.unsubscribe([])
    it.subscribe([])
    say(server, "a", b"still")
    until(lambda: it.heard.messages == [b"still"])


def test_thousands_of_channels(driver: Driver, server: EmbeddedValkey) -> None:
    names = [f"rt:{{calls:u:{'n' * 100}{i}}}" for i in range(5000)]
    it = driver.subscription(server.url, names)
    it.start_and_wait()
    say(server, names[-1], b"last")
    until(lambda: it.heard.messages == [b"last"])


def test_a_restart_of_redis_is_survived(driver: Driver, server: EmbeddedValkey) -> None:  # contract 7.4
    it = driver.subscription(server.url, ["a"])
    it.start_and_wait()
    for body in (b"1", b"2", b"3"):
        server.stop()
        until(lambda: not it.connected)
        it.subscribe(["dropped"])  # silently: on_up will ask for all
        it.unsubscribe(["dropped"])
        it.heard.forget_confirmations()
        server.start()
        until(lambda: it.heard.confirmed("a"))
        say(server, "a", body)
        until(lambda: it.heard.news[-1] == ("message", body))  # noqa: B023  called before the next round
    kinds = [kind for kind, _ in it.heard.news if kind in {"up", "down"}]
    assert kinds == ["up", "down"] * 3 + ["up"]
    assert not it.heard.confirmed("dropped")


def test_killed_connections_come_back(driver: Driver, server: EmbeddedValkey) -> None:
    it = driver.subscription(server.url, ["a"])
    it.start_and_wait()
    for _ in range(4):
        it.heard.forget_confirmations()
        kill_subscribers(server)
        until(lambda: it.heard.confirmed("a"))
    assert it.heard.ups == 5
    assert len(it.heard.downs) == 4


def test_it_can_be_started_before_redis(driver: Driver) -> None:
    server = EmbeddedValkey()
    server.start()
    server.stop()
    it = driver.subscription(server.url, ["a"])
    it.start()
    until(lambda: it.heard.downs)
    assert f":{server.port}/0 cannot be reached" in str(it.heard.downs[0])
    assert it.heard.downs[0].__cause__ is not None
    with server:
        until(lambda: it.heard.confirmed("a"))
        assert [kind for kind, _ in it.heard.news] == ["down", "up", "subscribed"], "once for each outage"


def test_a_hung_redis_is_found_out(driver: Driver, server: EmbeddedValkey) -> None:
    it = driver.subscription(server.url, ["a"], timeout=0.2, idle=0.2)
    it.start_and_wait()
    os.kill(server.pid, signal.SIGSTOP)
    until(lambda: it.heard.downs)
    assert "PING" in str(it.heard.downs[0])
    os.kill(server.pid, signal.SIGCONT)
    until(lambda: it.heard.confirmed("a") == 2)


def test_a_silent_redis_is_not_a_dead_one(driver: Driver, server: EmbeddedValkey) -> None:
    it = driver.subscription(server.url, ["a"], timeout=0.1, idle=0.1)
    it.start_and_wait()
    with redis.Redis.from_url(server.url) as client:

        def pings() -> int:
            stats: Any = client.info("commandstats")
            return int(stats.get("cmdstat_ping", {}).get("calls", 0))

        before = pings()
        until(lambda: pings() >= before + 5)
    assert it.connected
    assert it.heard.ups == 1


def test_a_half_dead_network_is_found_out(driver: Driver) -> None:
    """A server that takes everything and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        it = driver.subscription(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", ["a"], timeout=0.2, idle=0.2)
        it.start()
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                assert b"SETNAME" in connection.recv(1000)
                connection.sendall(b"+OK\r\n")
                while connection.recv(1000):
                    pass  # until it has been found out
        it.close()
    assert it.heard.ups >= 2
    assert "PING" in str(it.heard.downs[0])


def test_a_server_that_does_not_finish_the_handshake(driver: Driver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        it = driver.subscription(f"redis://:pw@127.0.0.1:{listener.getsockname()[1]}/0", ["a"], timeout=0.2)
        it.start()
        until(lambda: it.heard.downs)
        assert "did not answer within 0.2 s" in str(it.heard.downs[0])
        assert not it.heard.ups
        it.close()


def test_a_wrong_password_is_said_and_tried_again(driver: Driver) -> None:
    with EmbeddedValkey(config={"requirepass": "s3cret"}) as server:
        it = driver.subscription(f"redis://:wrong@127.0.0.1:{server.port}/0", ["a"])
        it.start()
        until(lambda: it.heard.downs)
        assert "password in REALTIME_REDIS_URL" in str(it.heard.downs[0])
        assert "wrong@" not in str(it.heard.downs[0])
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "wrong")
        until(lambda: it.heard.confirmed("a"))


def test_a_channel_that_the_acl_forbids_is_said(driver: Driver, server: EmbeddedValkey) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.acl_setuser("limited", enabled=True, passwords="+pw", channels=["ours"], commands=["+@all"])
    it = driver.subscription(f"redis://limited:pw@127.0.0.1:{server.port}/0", ["theirs"])
    it.start()
    until(lambda: it.heard.downs)
    assert "ACL" in str(it.heard.downs[0])


def test_a_stalled_callback_does_not_break_the_connection(driver: Driver, server: EmbeddedValkey) -> None:
    it = driver.subscription(server.url, ["a"], timeout=0.1, idle=0.1)
    go = threading.Event()
    entered = threading.Event()

    def stall(channel: str, data: bytes) -> None:
        it.heard.news.append(("message", data))
        entered.set()
        assert go.wait(20)

    it.subscription._on_message = stall
    it.start_and_wait()
    say(server, "a", b"0")
    assert entered.wait(10)
    say(server, "a", *(b"%d" % i for i in range(1, 2000)))
    before = time.monotonic()
    until(lambda: time.monotonic() - before > 0.5)  # several times what silence is allowed
    go.set()
    until(lambda: it.heard.messages == [b"%d" % i for i in range(2000)])
    assert it.heard.ups == 1


def test_output_that_redis_will_not_keep_is_a_reconnect(driver: Driver) -> None:
    with EmbeddedValkey(config={"client-output-buffer-limit": "pubsub 1mb 1mb 1"}) as server:
        it = driver.subscription(server.url, ["a"])
        go = threading.Event()
        entered = threading.Event()

        def stall(channel: str, data: bytes) -> None:
            entered.set()
            go.wait(20)

        it.subscription._on_message = stall
        it.start_and_wait()
        say(server, "a", b"0")
        assert entered.wait(10)
        with redis.Redis.from_url(server.url) as client:

            def is_cut() -> bool:
                client.publish("a", b"x" * 1_000_000)
                return not client.client_list(_type="pubsub")

            until(is_cut)
        go.set()
        until(lambda: it.heard.confirmed("a") == 2)
        assert it.heard.ups == 2


def test_a_message_callback_that_raises_is_logged_and_skipped(
    driver: Driver, server: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    it = driver.subscription(server.url, ["a"])

    def pick(channel: str, data: bytes) -> None:
        if data == b"bad":
            raise ValueError("what is this")
        it.heard.news.append(("message", data))

    it.subscription._on_message = pick
    it.start_and_wait()
    say(server, "a", b"1", b"bad", b"2")
    until(lambda: it.heard.messages == [b"1", b"2"])
    assert it.heard.ups == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info
    assert "what is this" in str(record.exc_info[1])


@pytest.mark.parametrize("which", ["_on_up", "_on_subscribed"])
def test_a_callback_that_loses_count_makes_the_connection_anew(
    driver: Driver, server: EmbeddedValkey, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    it = driver.subscription(server.url, ["a"])
    right = getattr(it.subscription, which)
    calls: list[object] = []

    def wrong(*args: object) -> None:
        calls.append(args)
        if len(calls) < 3:
            raise ValueError("lost count")
        right(*args)

    setattr(it.subscription, which, wrong)
    it.start()
    until(lambda: it.heard.confirmed("a"))
    assert len(calls) >= 3
    assert sum("lost count" in str(record.exc_info) for record in caplog.records) == 2


def test_a_down_callback_that_raises_is_logged(
    driver: Driver, server: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    it = driver.subscription(server.url, ["a"])

    def wrong(error: object) -> None:
        raise ValueError("down and out")

    it.subscription._on_down = wrong
    it.start_and_wait()
    kill_subscribers(server)
    until(lambda: it.heard.confirmed("a") == 2)
    assert "down and out" in caplog.text


def test_closing_leaves_no_thread_and_calls_nothing(driver: Driver, server: EmbeddedValkey) -> None:
    it = driver.subscription(server.url, ["a"], name="mine")
    it.start_and_wait()
    if driver.kind == "sync":
        assert threads("mine") == 1
    before = time.monotonic()
    it.close()
    it.close()
    assert time.monotonic() - before < 1.0
    assert not it.connected
    assert threads("mine") == 0
    it.subscribe(["b"])
    until(lambda: subscribers(server) == 0)
    assert [kind for kind, _ in it.heard.news] == ["up", "subscribed"]


def subscribers(server: EmbeddedValkey) -> int:
    with redis.Redis.from_url(server.url) as client:
        return len(client.client_list(_type="pubsub"))


@pytest.mark.parametrize("state", ["never started", "no redis", "hung redis"])
def test_closing_is_bounded(driver: Driver, server: EmbeddedValkey, state: str) -> None:
    it = driver.subscription(server.url, ["a"], timeout=0.3, name="mine")
    if state == "no redis":
        server.stop()
        it.start()
        until(lambda: it.heard.downs)
    elif state == "hung redis":
        it.start_and_wait()
        os.kill(server.pid, signal.SIGSTOP)
    before = time.monotonic()
    it.close()
    assert time.monotonic() - before < 1.0
    until(lambda: threads("mine") == 0)


def test_it_can_be_closed_by_a_callback(server: EmbeddedValkey) -> None:
    driver = Driver("sync")
    it = driver.subscription(server.url, ["a"], name="mine")
    it.subscription._on_message = lambda channel, data: it.close()
    it.start_and_wait()
    say(server, "a", b"go")
    until(lambda: threads("mine") == 0)
    driver.close()


def test_it_is_started_once(driver: Driver, server: EmbeddedValkey) -> None:
    it = driver.subscription(server.url, ["a"])
    it.start_and_wait()
    with pytest.raises(RuntimeError, match="started before"):
        it.start()


def test_it_shows_its_name(driver: Driver, server: EmbeddedValkey) -> None:
    it = driver.subscription(server.url, ["a"], name="realtime sub")
    it.start_and_wait()
    with redis.Redis.from_url(server.url) as client:
        assert [each["name"] for each in client.client_list(_type="pubsub")] == ["realtime-sub"]


def test_writers_in_many_threads_do_not_mix_their_commands(server: EmbeddedValkey) -> None:
    driver = Driver("sync")
    it = driver.subscription(server.url)
    it.start()
    until(lambda: it.connected)
    names = [[f"{thread}:{i}" for i in range(300)] for thread in range(6)]

    def write(mine: list[str]) -> None:
        for name in mine:
            it.subscribe([name])

    writers = [threading.Thread(target=write, args=(mine,)) for mine in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(20)
    until(lambda: all(it.heard.confirmed(name) == 1 for mine in names for name in mine[-1:]))
    assert len([1 for kind, _ in it.heard.news if kind == "subscribed"]) == 1800
    assert it.heard.ups == 1
    driver.close()


def test_a_flood_leaves_other_tasks_their_turn(server: EmbeddedValkey) -> None:
    driver = Driver("async")
    it: SubscriptionFace = driver.subscription(server.url, ["a"])
    turns: list[int] = []
    at_turn: list[int] = []

    def hear(channel: str, data: bytes) -> None:
        it.heard.news.append(("message", data))
        at_turn.append(len(turns))

    def turn() -> None:
        turns.append(1)
        driver.loop.call_soon(turn)

    it.subscription._on_message = hear
    it.start_and_wait()
    stop = driver.loop.call_soon_threadsafe
    count = 20 * CROWD
    with redis.Redis.from_url(server.url) as client:
        pipe = client.pipeline(transaction=False)
        for _ in range(count):
            pipe.publish("a", b"x")
        stop(turn)
        pipe.execute()
    until(lambda: len(it.heard.messages) == count)
    longest = max(at_turn.count(turn_number) for turn_number in set(at_turn))
    assert longest <= CROWD
    driver.close()
