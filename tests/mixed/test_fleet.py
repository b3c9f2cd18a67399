"""Un-upgraded processes, with the real django-websocket-redis 0.6.0, beside ours (`REALTIME_WIRE = "ws4redis"`)."""

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import pytest
import redis
from django.test import override_settings

from legacy_ws4redis.publisher import RedisPublisher
from legacy_ws4redis.redis_store import RedisMessage
from shim import Everyone, Group, History, Session, User, realtime
from shim.client import Client, Gap, Moving, ProtocolError
from shim.core.names import Audience
from tests.js.bundle import BUNDLE
from tests.js.chromium import Chromium
from tests.js.tools import CHROMIUM
from tests.mixed.fleet import PREFIX, Fleet, Socket, wait_until
from tests.mixed.old import CannotBeHad, environment

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]  # the environment may have to be made first

MESSAGES: Final = 1_000
NUDGE: Final = "nudge"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    try:
        environment()
    except CannotBeHad as error:
        pytest.skip(f"the original package cannot be had: {error}")
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def publishing(fleet: Fleet) -> Iterator[None]:
    """This process is one more of the upgraded ones: it publishes."""
    with override_settings(
        REALTIME_REDIS_URL=fleet.new.redis_url,
        REALTIME_PREFIX=fleet.new.env["REALTIME_PREFIX"],
        REALTIME_WIRE="ws4redis",
        WS4REDIS_PREFIX=PREFIX,
    ):
        yield


@pytest.fixture
def on_redis(fleet: Fleet) -> Iterator[Any]:
    with redis.Redis.from_url(fleet.new.redis_url) as client:
        yield client
        client.delete(*client.keys(f"{PREFIX}:*"), "nothing")


def listens(fleet: Fleet, client: Socket) -> Socket:
    """Wait until an old server has subscribed for a client; it has answered the handshake before."""

    def is_heard() -> bool:
        fleet.old.publish(NUDGE, expire=0, broadcast=True)
        return NUDGE in client.texts

    wait_until(is_heard, "the old server does not listen")
    return client


def everybody(fleet: Fleet, stack: ExitStack) -> dict[str, Socket]:
    """A client of each kind, at each kind of server."""
    servers = {"old": fleet.old.ws, **fleet.new.ws}
    kinds = [(name, v1) for name in servers for v1 in (False, True) if not (v1 and name == "old")]
    clients = {
        f"{name} {'v1' if v1 else 'raw'} {n}": stack.enter_context(fleet.client(servers[name], v1=v1))
        for name, v1 in kinds
        for n in range(2)
    }
    for name, client in clients.items():
        if name.startswith("old"):
            listens(fleet, client)
    return clients


def whom(fleet: Fleet) -> Mapping[str, tuple[Audience, dict[str, Any]]]:
    """Each audience, as we name it and as the old publisher does."""
    return {
        "everyone": (Everyone(), {"broadcast": True}),
        "user": (User("ana"), {"users": ["ana"]}),
        "group": (Group("team"), {"groups": ["team"]}),
        "session": (Session(fleet.session_key), {"sessions": [fleet.session_key]}),
    }


def publish_old(fleet: Fleet, texts: Mapping[str, list[str]]) -> None:
    for batch in range(0, max(map(len, texts.values())), 5):
        for audience, (_, told) in whom(fleet).items():
            fleet.old.publish(*texts[audience][batch : batch + 5], **told)


def publish_sync(fleet: Fleet, texts: Mapping[str, list[str]]) -> None:
    for batch in zip(*texts.values(), strict=True):
        for audience, text in zip(texts, batch, strict=True):
            realtime.publish("chat", whom(fleet)[audience][0], text)


def publish_async(fleet: Fleet, texts: Mapping[str, list[str]]) -> None:
    async def publish() -> None:
        for batch in zip(*texts.values(), strict=True):
            for audience, text in zip(texts, batch, strict=True):
                await realtime.apublish("chat", whom(fleet)[audience][0], text)

    asyncio.run(publish())


def until_all_have(fleet: Fleet, clients: Mapping[str, Socket], count: int) -> None:
    """Wait for so many messages at each client.

    The old server hands on one message each time that its socket to Redis has something to read. What came together
    with it waits in a buffer for the next one, so the last of a burst need a nudge.
    """

    def is_complete() -> bool:
        done = all(len(news(client)) >= count for client in clients.values())
        if not done:
            fleet.old.publish(NUDGE, expire=0, users=["ana"])
        return done

    wait_until(is_complete, f"{ {name: len(news(client)) for name, client in clients.items()} } of {count} came")


def news(client: Socket) -> list[str]:
    return [text for text in client.texts if text != NUDGE]


def test_a_thousand_messages_in_both_directions(fleet: Fleet, on_redis: Any) -> None:
    # contract 3.1, 3.2: each once, and those of one publisher and topic in order
    publishers = {"old": publish_old, "sync": publish_sync, "async": publish_async}
    shares = {"old": 500, "sync": 252, "async": 252}
    texts = {
        name: {audience: [f"{name} {audience} {n}" for n in range(share // 4)] for audience in whom(fleet)}
        for name, share in shares.items()
    }
    with ExitStack() as stack:
        clients = everybody(fleet, stack)
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(publish, fleet, texts[name]) for name, publish in publishers.items()]:
                done.result(60)
        expected = Counter(text for of in texts.values() for some in of.values() for text in some)
        assert expected.total() >= MESSAGES
        until_all_have(fleet, clients, expected.total())
        for name, client in clients.items():
            assert Counter(news(client)) == expected, name
            for of in texts.values():
                for in_order in of.values():
                    mine = frozenset(in_order)
                    assert [text for text in client.texts if text in mine] == in_order, name


def test_clients_hear_each_other_across_the_fleet(fleet: Fleet, on_redis: Any) -> None:
    with ExitStack() as stack:
        clients = everybody(fleet, stack)
        words = "publish-broadcast&subscribe-broadcast&echo"
        speaker = listens(fleet, stack.enter_context(fleet.client(fleet.old.ws, query=words)))
        speakers = {"from old": speaker, **{f"from {name}": clients[f"{name} raw 0"] for name in fleet.new.ws}}
        for text, client in speakers.items():
            client.send(text)
        until_all_have(fleet, clients, len(speakers))
        for name, client in clients.items():
            assert Counter(news(client)) == Counter(speakers.keys()), name


class TestTheLastMessage:
    """contract 5.2"""

    def test_of_a_new_publisher_is_found_by_the_old_ones(self, fleet: Fleet, on_redis: Any) -> None:
        realtime.publish("chat", Everyone(), "kept", history=History(100, 30.0))
        realtime.publish("chat", Everyone(), "not kept", history=History(0))
        assert on_redis.get(f"{PREFIX}:broadcast:chat") == b"kept"
        assert 25 < on_redis.ttl(f"{PREFIX}:broadcast:chat") <= 30
        assert fleet.old.fetch() == "kept"
        with fleet.client(fleet.old.ws) as client:
            wait_until(lambda: client.texts == ["kept"], "it did not come")

    def test_by_the_old_names_in_a_new_process(self, fleet: Fleet, on_redis: Any) -> None:
        fleet.old.publish("from old", expire=30, broadcast=True)
        assert RedisPublisher().fetch_message(None, "chat", "broadcast") == b"from old"
        with fleet.client(fleet.old.ws) as client:
            listens(fleet, client)
            message = RedisMessage("from new")
            assert message is not None
            RedisPublisher(facility="chat", broadcast=True, users=["ana"]).publish_message(message, 30)
            until_all_have(fleet, {"old": client}, 3)
            assert news(client) == ["from old", "from new", "from new"]
        assert fleet.old.fetch() == "from new"

    @pytest.mark.parametrize("name", ["legacy", "channels"])
    def test_of_an_old_publisher_comes_first_and_once(self, fleet: Fleet, on_redis: Any, name: str) -> None:
        fleet.old.publish("kept", expire=30, broadcast=True)
        fleet.old.publish("not kept", expire=0, broadcast=True)
        with fleet.client(fleet.new.ws[name]) as raw, fleet.client(fleet.new.ws[name], v1=True) as v1:
            fleet.old.publish("live", expire=0, broadcast=True)
            wait_until(lambda: raw.texts == ["kept", "live"], f"{raw.texts}")
            wait_until(lambda: v1.texts == ["live"], f"{v1.texts}")
            assert v1.ready is not None
            assert v1.ready["topics"] == dict.fromkeys(("everyone", "user", "group:team", "session"))

    @pytest.mark.parametrize("name", ["legacy", "channels"])
    def test_while_an_old_publisher_goes_on_whoever_comes_gets_nothing_twice(
        self, fleet: Fleet, on_redis: Any, name: str
    ) -> None:
        seen: list[list[int]] = []
        enough = threading.Event()

        def publish() -> None:
            for n in itertools.count():
                fleet.old.publish(str(n), broadcast=True)
                if enough.is_set():
                    return

        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(publish)
            try:
                for _ in range(10):
                    with fleet.client(fleet.new.ws[name]) as client:
                        wait_until(lambda: len(client.texts) >= 5, "nothing came")
                        seen.append([int(text) for text in client.texts])
            finally:
                enough.set()
            publishing.result()
        for kept, *live in seen:
            assert live == list(range(live[0], live[0] + len(live)))
            assert kept < live[0]


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not there: no page has met an old process")
def test_our_script_in_a_browser(fleet: Fleet, on_redis: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    # docs/reference/ws4redis.md: v1 with ours, raw with the original, and nobody is sent a `hello` as a message
    words = "chat?subscribe-broadcast&publish-broadcast&echo"
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium, fleet.client(fleet.new.ws["legacy"]) as other:
        page = chromium.page(f"{fleet.new.http['legacy']}/health")
        page.evaluate(BUNDLE.read_text())
        for name, base in (("old", fleet.old.ws), ("new", fleet.new.ws["channels"])):
            other.texts.clear()
            page.evaluate(f"""
              window.got = [];
              window.mine = WS4Redis({{ uri: "{base}{words}", receive_message: text => got.push(text) }});
            """)
            page.wait_until("mine.is_connected()")
            while not page.evaluate(f"got.includes({NUDGE!r})"):  # the original answers before it has subscribed
                fleet.old.publish(NUDGE, expire=0, broadcast=True)
                time.sleep(0.1)
            fleet.old.publish(f"from an old process to {name}", expire=0, broadcast=True)
            realtime.publish("chat", Everyone(), f"from a new process to {name}")
            said = [f"from an old process to {name}", f"from a new process to {name}"]
            while not page.evaluate(f"got.includes({said[-1]!r})"):  # of three quick messages the original sends one
                fleet.old.publish(NUDGE, expire=0, broadcast=True)
                time.sleep(0.1)
            if name == "old":  # ours take messages only where a facility says so, and `chat` here is a class
                page.evaluate("mine.send_message('from the page')")
                page.wait_until("got.includes('from the page')")
                said.append("from the page")
            kept = ["from the page"] if name == "new" else []  # the last message comes first (contract 5.2)
            assert [text for text in page.evaluate("got") if text != NUDGE] == kept + said
            wait_until(lambda said=said: set(said) <= set(other.texts), f"{other.texts}")  # type: ignore[misc]
            assert [text for text in other.texts if text != NUDGE] == said
            page.evaluate("mine.close()")


# Behind the others: for ten seconds after a flip, who comes to the wrong backend is sent away at once (`stale`).


def test_a_flip_and_a_rollback_between_old_processes(fleet: Fleet, on_redis: Any) -> None:
    # contract 8: with two connections nobody could tell what comes twice, so moves are closes (docs/reference/wire.md)
    flip(fleet, "--everyone", here="legacy", there="channels")
    flip(fleet, "--deactivate", here="channels", there="legacy")


def flip(fleet: Fleet, flag: str, *, here: str, there: str) -> None:
    with ExitStack() as stack:
        raw, v1, old = (
            stack.enter_context(fleet.client(base, v1=is_v1))
            for base, is_v1 in ((fleet.new.ws[here], False), (fleet.new.ws[here], True), (fleet.old.ws, False))
        )
        listens(fleet, old)
        fleet.flag(flag)
        wait_until(lambda: (raw.code, v1.code) == (1012, 1012), f"{raw.code}, {v1.code}")
        moved = [stack.enter_context(fleet.client(fleet.new.ws[there], v1=is_v1)) for is_v1 in (False, True)]
        fleet.old.publish(flag, expire=0, broadcast=True)
        everybody = {"raw": moved[0], "v1": moved[1], "old": old}  # the old server's clients stay where they are
        until_all_have(fleet, everybody, 1)
        assert [(news(client), client.code) for client in everybody.values()] == [([flag], None)] * 3


def is_at(backend: str, client: Client) -> bool:
    return client.connected and client.backend == backend


def test_our_own_client_finds_its_way_without_positions(fleet: Fleet, on_redis: Any) -> None:
    events: list[Any] = []
    with Client(
        f"{fleet.new.http['legacy']}/realtime/endpoint",
        facility="chat",
        cookies={"sessionid": fleet.session_key},
        on_event=events.append,
    ) as client:
        for flag, backend in (("--everyone", "channels"), ("--deactivate", "legacy")):
            fleet.flag(flag)
            client.wait_until(partial(is_at, backend), 20)
            fleet.old.publish(flag, expire=0, users=["ana"])
            received = client.receive(timeout=10)
            assert (received.value, received.position, received.topic) == (flag, None, "user")
        assert client.positions == {}
        assert (client.counters.gaps, client.counters.holes, client.counters.duplicates_dropped) == (0, 0, 0)
        assert not [each for each in events if isinstance(each, (Gap, Moving, ProtocolError))]
