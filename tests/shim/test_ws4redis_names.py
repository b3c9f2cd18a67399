"""ws4redis's Python names: messages, stores, publishers. Its subscribers are in test_ws4redis_facility.py."""

import copy
import pickle
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.models import Group as DjangoGroup
from django.contrib.auth.models import User as DjangoUser
from django.test import RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from shim import Everyone, Group, Kind, Message, RealtimeUnavailable, Session, User, realtime
from shim.core.errors import InvalidAudience, InvalidPayload
from shim.core.names import Audience, Topic
from shim.testing import InMemory, outbox
from shim.ws4redis.channel import CUSTOM, Channel, topic_of
from shim.ws4redis.connection import history
from shim.ws4redis.message import RedisMessage
from shim.ws4redis.publisher import RedisPublisher
from shim.ws4redis.settings import redis_url, ws4redis
from shim.ws4redis.store import SELF, RedisStore

HELLO = RedisMessage("hello")


@pytest.fixture
def memory() -> Iterator[InMemory]:
    with InMemory() as made:
        yield made


def request_of(user: Any = None, session_key: str | None = None, **session: Any) -> Any:
    request = RequestFactory().get("/")
    request.user = user or AnonymousUser()
    request.session = SimpleNamespace(session_key=session_key, get=session.get)  # type: ignore[assignment]
    return request


class TestRedisMessage:
    @pytest.mark.parametrize(
        ("value", "body", "kind"),
        [
            ("é", "é".encode(), Kind.TEXT),
            ("", b"", Kind.TEXT),
            (b'{"a":1}', b'{"a":1}', Kind.TEXT),
            (b"\xff", b"\xff", Kind.BINARY),
            (bytearray(b"a"), b"a", Kind.TEXT),
            ([b"message", b"channel", b"payload"], b"payload", Kind.TEXT),
            (RedisMessage("a"), b"a", Kind.TEXT),
        ],
    )
    def test_is_its_bytes(self, value: object, body: bytes, kind: Kind) -> None:
        made = RedisMessage(value)
        assert isinstance(made, RedisMessage)
        assert (made, made.kind) == (body, kind)
        assert made.message.kind is kind
        for same in (copy.copy(made), pickle.loads(pickle.dumps(made))):
            assert (same, same.kind, type(same)) == (made, kind, RedisMessage)

    @pytest.mark.parametrize(
        "value", [None, [], [b"message", b"channel"], [b"subscribe", b"channel", 1], 7, {}, [b"message", b"c", 7]]
    )
    def test_what_is_no_message_is_none(self, value: object) -> None:
        assert RedisMessage(value) is None

    def test_a_heartbeat_is_none(self) -> None:
        with override_settings(WS4REDIS_HEARTBEAT="beat"):
            for value in ("beat", b"beat", [b"message", b"c", b"beat"]):
                assert RedisMessage(value) is None
            assert RedisMessage("beats") == b"beats"

    def test_a_lone_surrogate_is_refused(self) -> None:
        with pytest.raises(InvalidPayload, match="lone surrogate"):
            RedisMessage("\ud800")

    def test_keeps_the_kind_of_what_a_client_sent(self) -> None:
        for message in (Message(Kind.BINARY, b"text"), Message(Kind.JSON, {"a": [1]}), Message(Kind.TEXT, "")):
            received = RedisMessage.received(message)
            assert received is not None
            assert RedisMessage(received).message == message

    def test_takes_what_the_project_allows(self) -> None:
        # contract 4.2
        long = Message(Kind.TEXT, "x" * 1_500_000)
        with override_settings(REALTIME_MAX_MESSAGE_BYTES=1_500_000):
            assert RedisMessage.received(long) == b"x" * 1_500_000


class TestAudiences:
    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            ({"broadcast": True}, {Everyone()}),
            ({"broadcast": 1}, set()),
            ({"users": ["ana", "ben", "ana"]}, {User("ana"), User("ben")}),
            ({"groups": ("a", 7)}, {Group("a"), Group("7")}),
            ({"sessions": ["key"], "broadcast": True}, {Session("key"), Everyone()}),
            ({"users": ["a:b"]}, {User("a:b")}),
            ({"users": [None, ""], "groups": (), "sessions": False}, set()),  # ws4redis had a user named "None"
            ({"users": [SELF], "groups": [SELF], "sessions": [SELF]}, set()),
        ],
    )
    def test_each_gets_it_once(self, memory: InMemory, told: dict[str, Any], expected: set[Audience]) -> None:
        RedisPublisher(facility="room", **told).publish_message(HELLO)
        assert {each.audience for each in outbox()} == expected
        assert len(outbox()) == len(expected)
        assert all((each.facility, each.value) == ("room", "hello") for each in outbox())

    def test_self(self, database: None) -> None:
        user = DjangoUser.objects.create_user("ana")
        user.groups.add(DjangoGroup.objects.create(name="of-the-database"))
        told = {"users": [SELF, "ben"], "groups": [SELF], "sessions": [SELF]}
        request = request_of(user, "key", **{"ws4redis:memberof": ["remembered"]})
        publisher = RedisPublisher(facility="room", request=request, **told)
        assert publisher._publishers == {
            "user:ana:room", "user:ben:room", "group:remembered:room", "session:key:room"
        }  # fmt: skip
        publisher = RedisPublisher(facility="room", request=request_of(user, "key"), groups=[SELF])
        assert publisher._publishers == {"group:of-the-database:room"}
        publisher = RedisPublisher(facility="room", request=request_of(), **told)
        assert publisher._publishers == {"user:ben:room"}  # ws4redis: and a session "None"

    @pytest.mark.parametrize(("argument", "value"), [("users", True), ("users", "ana"), ("sessions", True)])
    def test_old_forms_are_deprecated(self, database: None, argument: str, value: Any) -> None:
        request = request_of(DjangoUser.objects.create_user("ana"), "key")
        with pytest.warns(DeprecationWarning, match=argument) as caught:
            publisher = RedisPublisher(facility="room", request=request, **{argument: value})
        assert caught[0].filename == __file__
        assert len(publisher._publishers) == 1

    @pytest.mark.parametrize("told", [{"users": {"ana"}}, {"groups": 7}, {"sessions": None}, {"users": iter(["ana"])}])
    def test_other_types_are_refused(self, told: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="must be a list or tuple"):
            RedisPublisher(facility="room", **told)

    @pytest.mark.parametrize("told", [{"facility": "", "broadcast": True}, {"facility": "a", "users": ["x" * 70_000]}])
    def test_names_that_cannot_be(self, told: dict[str, Any]) -> None:
        # contract 4.2
        with pytest.raises(InvalidAudience):
            RedisPublisher(**told)

    def test_the_prefix_is_in_the_old_names_alone(self, memory: InMemory) -> None:
        with override_settings(WS4REDIS_PREFIX="site"):
            publisher = RedisPublisher(facility="room", broadcast=True)
            assert (publisher.get_prefix(), publisher._publishers) == ("site:", {"site:broadcast:room"})
            publisher.publish_message(HELLO)
        assert outbox()[0].facility == "room"


class TestPublish:
    @pytest.mark.parametrize("value", ["hello", b"hello", None, 7])
    def test_only_messages(self, memory: InMemory, value: Any) -> None:
        for publish in ("publish_message", "pipeline_publish_message"):
            with pytest.raises(ValueError, match="RedisMessage"):
                getattr(RedisPublisher(facility="room", broadcast=True), publish)(value)
        assert outbox() == []

    @pytest.mark.parametrize(
        ("expire", "ttl"), [(None, 3_600.0), (60, 60.0), (timedelta(minutes=2), 120.0), (10**9, 604_800.0), (0, None)]
    )
    def test_expire_is_what_is_kept(self, memory: InMemory, expire: Any, ttl: float | None) -> None:
        # contract 5.1
        RedisPublisher(facility="room", broadcast=True).publish_message(HELLO, expire)
        kept = outbox()[0].history
        assert (kept.ttl if kept.size else None) == ttl

    def test_a_project_without_history_keeps_the_last_one(self) -> None:
        with override_settings(REALTIME_HISTORY_SIZE=0):
            assert history("room", 60).size == 1
            assert history("room", -1).size == 0

    def test_a_default_of_the_settings_and_one_of_a_class(self, memory: InMemory) -> None:
        class Short(RedisPublisher):
            _expire = 5

        with override_settings(WS4REDIS_EXPIRE=7):
            RedisPublisher(facility="room", broadcast=True).publish_message(HELLO)
            Short(facility="room", broadcast=True).pipeline_publish_message(HELLO)
            own = RedisPublisher(facility="room", broadcast=True)
            assert own._expire == 7
            own._expire = 9
            own.publish_message(HELLO)
        assert [each.history.ttl for each in outbox()] == [7.0, 5.0, 9.0]

    def test_all_or_none(self, memory: InMemory) -> None:
        with override_settings(REALTIME_MAX_MESSAGE_BYTES=4), pytest.raises(ValueError, match="over the limit"):
            RedisPublisher(facility="room", users=["ana", "ben"]).publish_message(HELLO)
        assert outbox() == []

    def test_redis_is_away(self, memory: InMemory) -> None:
        # contract 7.3
        memory.redis.stop()
        with pytest.raises(RealtimeUnavailable):
            RedisPublisher(facility="room", broadcast=True).publish_message(HELLO)

    def test_a_connection_of_the_callers_own_is_passed_over(self, memory: InMemory) -> None:
        publisher = RedisPublisher(connection=object(), facility="room", broadcast=True)
        publisher.publish_message(HELLO)
        assert len(outbox()) == 1

    def test_the_connection_says_what_is_left_of_it(self, memory: InMemory) -> None:
        connection = RedisStore()._connection
        assert connection.publish("broadcast:room", b"a") == 0
        assert connection.get("broadcast:room") is None
        RedisPublisher(facility="room", broadcast=True).publish_message(HELLO)
        assert connection.get("broadcast:room") == b"hello"
        with pytest.raises(AttributeError, match="publish, get and pubsub"):
            connection.hgetall("x")


class TestFetch:
    def test_the_first_audience_that_has_one(self, memory: InMemory, database: None) -> None:
        request = request_of(DjangoUser.objects.create_user("ana"), "key", **{"ws4redis:memberof": ["a", "b"]})
        fetch = RedisPublisher().fetch_message
        assert fetch(request, "room") is None
        for word, audience in (
            ("broadcast", Everyone()), ("group", Group("b")), ("user", User("ana")), ("session", Session("key"))
        ):  # fmt: skip
            realtime.publish("room", audience, f"for {word}")
            assert fetch(request, "room") == fetch(request, "room", word) == f"for {word}".encode()
        assert fetch(request_of(), "room") == fetch(None, "room", "any") == b"for broadcast"
        assert fetch(request_of(), "room", "user") is fetch(None, "room", "session") is None
        assert fetch(request, "other") is fetch(request, "room", "nonsense") is None

    def test_what_has_expired_and_what_was_not_kept(self, memory: InMemory) -> None:
        publisher = RedisPublisher(facility="room", broadcast=True)
        publisher.publish_message(HELLO, 60)
        publisher.publish_message(RedisMessage("not kept"), 0)
        assert publisher.fetch_message(None, "room") == b"hello"
        memory.advance(61.0)
        assert publisher.fetch_message(None, "room") is None

    def test_redis_is_away(self, memory: InMemory) -> None:
        memory.redis.stop()
        with pytest.raises(RealtimeUnavailable):
            RedisPublisher().fetch_message(None, "room")


names = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())


class TestChannels:
    # contract 3.3

    @given(facility=names, name=names, prefix=st.sampled_from(["", "site:"]))
    def test_a_channel_knows_its_topic_whatever_its_name_holds(self, facility: str, name: str, prefix: str) -> None:
        for audience in (Everyone(), User(name), Group(name), Session(name)):
            topic = Topic(facility, audience)
            assert topic_of(Channel(topic, prefix), prefix) == topic

    @pytest.mark.parametrize(
        ("channel", "topic"),
        [
            ("site:broadcast:room", Topic("room", Everyone())),
            ("broadcast:a:b", Topic("a:b", Everyone())),
            ("site:user:ana:room", Topic("room", User("ana"))),
            ("group:a:b:c", Topic("b:c", Group("a"))),
            ("session:key:room", Topic("room", Session("key"))),
            ("server:room", Topic(CUSTOM, Group("server:room"))),
            ("site:count", Topic(CUSTOM, Group("site:count"))),
            ("broadcast:", Topic(CUSTOM, Group("broadcast:"))),
            ("user:ana", Topic(CUSTOM, Group("user:ana"))),
            ("user::room", Topic(CUSTOM, Group("user::room"))),
        ],
    )
    def test_names_that_somebody_else_made(self, channel: str, topic: Topic) -> None:
        assert topic_of(channel, "site:") == topic


class TestSettings:
    @pytest.mark.parametrize(
        ("connection", "url"),
        [
            ({}, "redis://localhost:6379/0"),
            ({"host": "redis.example.com", "port": 16_379, "db": 17}, "redis://redis.example.com:16379/17"),
            ({"password": "p@ss/word", "db": None}, "redis://:p%40ss%2Fword@localhost:6379/0"),
            ({"host": "::1", "username": "u", "password": None}, "redis://u:@[::1]:6379/0"),
            ({"unix_socket_path": "/run/redis.sock", "db": 2}, "unix:///run/redis.sock?db=2"),
            ({"host": "r", "ssl": True, "ssl_ca_certs": "/ca"}, "rediss://r:6379/0?ssl_ca_certs=%2Fca"),
            ({"socket_timeout": 5, "decode_responses": True}, "redis://localhost:6379/0"),
        ],
    )
    def test_a_connection_is_a_url(self, connection: dict[str, Any], url: str) -> None:
        with override_settings(WS4REDIS_CONNECTION=connection):
            assert redis_url() == url

    @pytest.mark.parametrize("connection", [None, "redis://localhost", {"connection_pool": object()}])
    def test_one_that_is_none(self, connection: Any) -> None:
        with override_settings(WS4REDIS_CONNECTION=connection), pytest.raises(ValueError, match="WS4REDIS_CONNECTION"):
            redis_url()

    def test_wrong_values_leave_the_default(self) -> None:
        with override_settings(WS4REDIS_EXPIRE="long", WS4REDIS_PREFIX=7, WEBSOCKET_URL="ws"):
            assert (ws4redis().expire, ws4redis().prefix, ws4redis().websocket_url) == (3_600, "", "/ws/")
