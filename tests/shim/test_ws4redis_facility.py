"""The compatible facilities, as both backends run them; in memory, since nothing of them depends on a backend."""

import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from django.contrib.auth.models import Group as DjangoGroup
from django.contrib.auth.models import User as DjangoUser
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.test import Client, RequestFactory, override_settings

from shim import Everyone, Facility, Group, History, Kind, Message, Session, User, realtime
from shim.conf import conf
from shim.core.names import Audience, Topic
from shim.discovery import endpoint
from shim.facility import facility
from shim.testing import InMemory, Refused, TestConnection, outbox
from shim.testing import connect as connect_as
from shim.ws4redis.channel import CUSTOM
from shim.ws4redis.message import RedisMessage
from shim.ws4redis.publisher import RedisPublisher
from shim.ws4redis.store import SELF, RedisStore
from shim.ws4redis.subscriber import RedisSubscriber

ALL = "subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session"


def connect(facility: str, **options: Any) -> TestConnection:
    """As clients of ws4redis do: without a subprotocol."""
    return connect_as(facility, **{"protocol": "raw", **options})


@pytest.fixture(autouse=True)
def memory() -> Iterator[InMemory]:
    with override_settings(REALTIME_WS4REDIS=True), InMemory() as made:
        yield made


@pytest.fixture
def ana(database: None) -> Client:
    """A browser that ana, an interpreter, has signed in with."""
    user = DjangoUser.objects.create_user("ana")
    user.groups.add(DjangoGroup.objects.create(name="interpreters"))
    client = Client()
    client.force_login(user)
    return client


def key_of(client: Client) -> str:
    return client.cookies["sessionid"].value


class TestWords:
    # contract 1.3

    def test_without_words_nothing_is_subscribed_and_nothing_published(self) -> None:
        with connect("room") as quiet, connect("room", query=ALL) as other:
            realtime.publish("room", Everyone(), "hello")
            quiet.send("into nothing")
            quiet.receive_nothing()
            assert other.receive_all() == ["hello"]
        assert [each.value for each in outbox()] == ["hello"]

    def test_each_word_is_one_audience(self, ana: Client) -> None:
        audiences: dict[str, Audience] = {
            "broadcast": Everyone(),
            "user": User("ana"),
            "group": Group("interpreters"),
            "session": Session(key_of(ana)),
        }
        for word in audiences:
            with connect(word, query=f"subscribe-{word}", client=ana) as one:
                for other, audience in audiences.items():
                    realtime.publish(word, audience, other)
                assert one.receive_all() == [word]

    def test_each_word_publishes_for_one_audience(self, ana: Client) -> None:
        expected = [("broadcast", Everyone()), ("user", User("ana")), ("group", Group("interpreters"))]
        for word, audience in [*expected, ("session", Session(key_of(ana)))]:
            with connect("room", query=f"publish-{word}", client=ana) as one:
                one.send(word)
                assert outbox()[-1].audience == audience
        with connect("room", query="publish-user&publish-broadcast", client=ana) as one:
            one.send("both")
        assert {each.audience for each in outbox()[-2:]} == {User("ana"), Everyone()}

    def test_who_is_nobody_has_no_user_group_or_session(self, database: None) -> None:
        publish = "publish-user&publish-group&publish-session"
        with connect("room", query=f"{ALL}&{publish}") as one:
            one.send("into nothing")
            realtime.publish("room", Everyone(), "hello")
            assert one.receive_all() == ["hello"]
        assert len(outbox()) == 1

    @pytest.mark.parametrize(
        "query", ["SUBSCRIBE-Broadcast", "%20subscribe-broadcast=1&", "subscribe-broadcast&x&y=%FF"]
    )
    def test_words_are_read_as_ws4redis_read_them(self, query: str) -> None:
        with connect("room", query=query + "&subscribe-everything&publish-all") as one:
            realtime.publish("room", Everyone(), "hello")
            assert one.receive_all() == ["hello"]

    def test_the_last_message_comes_first_once(self) -> None:
        # contract 5.2
        RedisPublisher(facility="room", broadcast=True).publish_message(RedisMessage("last"))
        with connect("room", query="subscribe-broadcast") as one:
            realtime.publish("room", Everyone(), "live")
            assert one.receive_all() == ["last", "live"]

    def test_v1_clients_are_served_too(self, ana: Client) -> None:
        with connect("room", query=f"{ALL}&publish-broadcast", client=ana, protocol="v1") as one:
            assert set(one.positions) == {"everyone", "user", "group:interpreters", "session"}
            one.send({"a": 1})
            one.receive_nothing()
        assert outbox()[-1].message == Message(Kind.JSON, {"a": 1})


class TestEcho:
    # contract 6.5

    @pytest.mark.parametrize(("query", "expected"), [("", []), ("&echo", ["mine"]), ("&ECHO=0", ["mine"])])
    def test_a_sender_gets_its_own_back_where_it_asks(self, query: str, expected: list[str]) -> None:
        words = "subscribe-broadcast&publish-broadcast"
        with connect("room", query=words + query) as one, connect("room", query=words) as other:
            one.send("mine")
            assert one.receive_all() == expected
            assert other.receive_all() == ["mine"]

    def test_equal_messages_of_others_arrive(self) -> None:
        # ws4redis swallowed them
        words = "subscribe-broadcast&publish-broadcast"
        with connect("room", query=words) as one, connect("room", query=words) as other:
            one.send("equal")
            other.send("equal")
            realtime.publish("room", Everyone(), "equal")
            assert one.receive_all() == other.receive_all() == ["equal", "equal"]


class TestMessages:
    @pytest.mark.parametrize("value", ["text", "", "\u0000é", b"\x00\xff", b"text", b""])
    def test_kinds_are_kept(self, value: str | bytes) -> None:
        # contract 4.1; under uWSGI ws4redis made every message a text
        with connect("room", query="subscribe-broadcast&publish-broadcast&echo") as one:
            one.send(value)
            assert one.receive() == value

    def test_heartbeats_are_no_messages(self, memory: InMemory) -> None:
        # contract 7.1
        with (
            override_settings(WS4REDIS_HEARTBEAT="--beat--"),
            connect("room", query="subscribe-broadcast&publish-broadcast&echo") as one,
        ):
            for value in ("--beat--", b"--beat--", "message"):
                one.send(value)
            assert one.receive_all() == ["message"]
            memory.advance(13.0)
            assert one.receive_all() == ["--beat--"] * 3
        with connect("room", query="publish-broadcast") as one:
            one.send("--beat--")  # not a heartbeat where none is set
        assert [each.value for each in outbox()] == ["message", "--beat--"]

    def test_what_is_kept_of_a_clients_message(self) -> None:
        for expire, size, ttl in ((3_600, 100, 3_600.0), (60.5, 100, 60.5), (0, 0, None), (10**9, 100, 604_800.0)):
            with override_settings(WS4REDIS_EXPIRE=expire), connect("room", query="publish-broadcast") as one:
                one.send("x")
            history = outbox()[-1].history
            assert history.size == size
            assert ttl is None or history.ttl == ttl


class TestNames:
    # contract 3.3

    @pytest.mark.parametrize("name", ["a/b/c", "a/", "é\U0001f600", "a:b", "50%", "a b", "x" * 500, "{a}", "%2F", "?"])
    def test_any_name_is_a_facility_of_its_own(self, name: str) -> None:
        with connect(name, query=ALL) as one, connect(name + "x", query=ALL) as other:
            RedisPublisher(facility=name, broadcast=True).publish_message(RedisMessage("hello"))
            assert one.receive_all() == ["hello"]
            other.receive_nothing()

    @pytest.mark.parametrize("name", ["", CUSTOM, "x" * 70_000])
    def test_names_that_nobody_can_have(self, name: str) -> None:
        with pytest.raises(Refused) as refused:
            connect(name)
        assert refused.value.status == 404

    def test_a_class_comes_first(self, facilities: dict[str, Facility]) -> None:
        class Room(Facility):
            name = "room"

        assert isinstance(facility("room"), Room)
        with connect("room") as one:
            RedisPublisher(facility="room", broadcast=True).publish_message(RedisMessage("hello"))
            assert one.receive_all() == ["hello"]

    @pytest.mark.parametrize("name", ["room", "a/b", "é", "a b"])
    def test_the_endpoint_knows_it(self, name: str) -> None:
        backends = {"legacy": {"BACKEND": "shim.backends.BaseBackend"}}
        with override_settings(REALTIME=backends, REALTIME_FORCE_BACKEND="legacy"):
            response = endpoint(RequestFactory().get("/", {"facility": name}))
        assert json.loads(response.content)["url"] == f"ws://testserver/ws/{quote(name)}"

    def test_without_the_mode_there_is_none(self) -> None:
        with override_settings(REALTIME_WS4REDIS=False):
            assert facility("room") is None

    def test_the_path_is_ws4redis_own(self) -> None:
        with override_settings(WEBSOCKET_URL="/sockets/"), connect("room", query=ALL) as one:
            realtime.publish("room", Everyone(), "hello")
            assert one.receive_all() == ["hello"]


def only_listening(request: Any, channels: list[str]) -> set[str]:
    return set(channels).intersection(["subscribe-broadcast"])


def refusing(request: Any, channels: list[str]) -> list[str]:
    if not request.user.is_authenticated:
        raise PermissionDenied("sign in first")
    return channels


def granting(request: Any, channels: list[str]) -> list[str]:
    return ["subscribe-user", "publish-broadcast", "publish-nonsense"]


class TestAllowedChannels:
    @pytest.mark.parametrize("callback", [only_listening, f"{__name__}.only_listening"])
    def test_narrows(self, callback: object) -> None:
        with (
            override_settings(WS4REDIS_ALLOWED_CHANNELS=callback),
            connect("room", query=f"{ALL}&publish-broadcast") as one,
        ):
            one.send("into nothing")
            realtime.publish("room", Everyone(), "hello")
            assert one.receive_all() == ["hello"]
        assert len(outbox()) == 1

    def test_what_it_returns_counts_and_not_what_was_asked_for(self, ana: Client) -> None:
        with (
            override_settings(WS4REDIS_ALLOWED_CHANNELS=granting),
            connect("room", query="subscribe-broadcast", client=ana) as one,
        ):
            realtime.publish("room", Everyone(), "not for it")
            realtime.publish("room", User("ana"), "hello")
            assert one.receive_all() == ["hello"]

    def test_refuses(self, ana: Client, database: None) -> None:
        # contract 1.1
        with override_settings(WS4REDIS_ALLOWED_CHANNELS=refusing):
            connect("room", client=ana).close()
            for stranger in ({}, {"session": "expired"}):
                with pytest.raises(Refused) as refused:
                    connect("room", **stranger)
                assert (refused.value.status, refused.value.reason) == (403, "sign in first")

    @pytest.mark.parametrize(
        "callback",
        [
            lambda request, channels: None,  # as in an example of ws4redis's own documentation
            lambda request, channels: "subscribe-broadcast",
            lambda request, channels: 1 / 0,
            list,
            "no.such.module.callback",
            f"{__name__}.ALL",
        ],
    )
    def test_a_failing_one_lets_nobody_in(self, callback: object, caplog: pytest.LogCaptureFixture) -> None:
        # ws4redis let everybody do anything where its callback could not be found
        with (
            override_settings(WS4REDIS_ALLOWED_CHANNELS=callback),
            caplog.at_level(logging.CRITICAL, "realtime"),
            pytest.raises(Exception) as caught,  # noqa: PT011  # a test is shown what a browser sees as 500
        ):
            connect("room", query=ALL)
        assert not isinstance(caught.value, AssertionError)

    def test_sees_the_request(self, ana: Client) -> None:
        seen: list[Any] = []

        def callback(request: Any, channels: list[str]) -> list[str]:
            seen.append(request)
            return channels

        with override_settings(WS4REDIS_ALLOWED_CHANNELS=callback):
            connect("a/b", query="subscribe-user&token=1", client=ana, headers={"X-Token": "2"}).close()
        (request,) = seen
        assert (request.path_info, request.GET["token"], request.headers["X-Token"]) == ("/ws/a/b", "1", "2")
        assert request.user.get_username() == "ana"
        assert request.session.session_key == request.COOKIES["sessionid"] == key_of(ana)

    def test_somebody_without_a_session_is_an_anonymous_user_that_is_false(self, database: None) -> None:
        # ws4redis gave None, and callbacks ask `if not request.user` and `request.user.is_authenticated`
        def callback(request: Any, channels: list[str]) -> list[str]:
            assert not request.user
            assert not request.user.is_authenticated
            assert request.session is None
            return channels

        with override_settings(WS4REDIS_ALLOWED_CHANNELS=callback):
            connect("room").close()


def by_token(request: Any) -> None:
    if (name := request.GET.get("token")) == "bad":
        raise PermissionDenied("a bad token")
    if name == "down":
        raise OperationalError("the database is down")
    request.user = DjangoUser.objects.filter(username=name).first()
    request.session = SimpleNamespace(session_key=f"key-of-{name}", get=lambda name, default=None: ["invented"])


@pytest.mark.usefixtures("ana")
class TestProcessRequest:
    # contract 1.2

    @pytest.mark.parametrize("function", [by_token, f"{__name__}.by_token"])
    def test_says_who_is_there(self, function: object) -> None:
        with (
            override_settings(WS4REDIS_PROCESS_REQUEST=function),
            connect("room", query=f"{ALL}&token=ana") as one,
        ):
            for audience in (User("ana"), Session("key-of-ana"), Group("invented"), Group("interpreters")):
                realtime.publish("room", audience, repr(audience))
            assert one.receive_all() == [repr(User("ana")), repr(Session("key-of-ana")), repr(Group("invented"))]
            realtime.disconnect(User("ana"))
            assert one.closed == 4500

    def test_a_session_that_it_gives_may_have_expired(self, ana: Client) -> None:
        def by_cookie(request: Any) -> None:
            request.session = SessionStore(request.COOKIES["sessionid"])

        for key, expected in ((key_of(ana), ["s"]), ("x" * 32, [])):
            with (
                override_settings(WS4REDIS_PROCESS_REQUEST=by_cookie),
                connect("room", query=ALL, session=key) as one,
            ):
                realtime.publish("room", Session(key), "s", history=History(size=0))
                assert one.receive_all() == expected

    @pytest.mark.parametrize(("token", "status"), [("bad", 403), ("down", 503)])
    def test_refuses_and_fails(self, token: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
        with override_settings(WS4REDIS_PROCESS_REQUEST=by_token), caplog.at_level(logging.CRITICAL, "realtime"):
            with pytest.raises(Refused) as refused:
                connect("room", query=f"token={token}")
            assert refused.value.status == status

    def test_nobody(self) -> None:
        with (
            override_settings(WS4REDIS_PROCESS_REQUEST=lambda request: None),
            connect("room", query=ALL) as one,
        ):
            realtime.publish("room", Everyone(), "hello")
            assert one.receive_all() == ["hello"]


class TestSessions:
    # contract 1.2

    def test_groups_are_those_that_the_session_remembers(self, ana: Client) -> None:
        assert ana.session["ws4redis:memberof"] == ["interpreters"]
        DjangoUser.objects.get().groups.add(DjangoGroup.objects.create(name="new"))
        with connect("room", query="subscribe-group", client=ana) as one:
            realtime.publish("room", Group("new"), "after the next sign-in")
            realtime.publish("room", Group("interpreters"), "now")
            assert one.receive_all() == ["now"]

    def test_and_the_databases_where_it_remembers_none(self, ana: Client) -> None:
        session = ana.session
        del session["ws4redis:memberof"]
        session.save()
        with connect("room", query="subscribe-group", client=ana) as one:
            realtime.publish("room", Group("interpreters"), "now")
            assert one.receive_all() == ["now"]

    def test_nothing_is_remembered_outside_of_the_mode(self, database: None) -> None:
        client = Client()
        with override_settings(REALTIME_WS4REDIS=False):
            client.force_login(DjangoUser.objects.create_user("ben"))
        assert "ws4redis:memberof" not in client.session

    def test_one_that_has_expired_is_nobodys(self, ana: Client) -> None:
        session = SessionStore(key_of(ana))
        session.set_expiry(-1)
        session.save()
        with connect("room", query=ALL, client=ana) as one:
            for audience in (User("ana"), Group("interpreters"), Session(key_of(ana)), Everyone()):
                realtime.publish("room", audience, repr(audience))
            assert one.receive_all() == [repr(Everyone())]

    def test_one_of_an_old_password_is_nobodys(self, ana: Client) -> None:
        user = DjangoUser.objects.get()
        user.set_password("other")
        user.save()
        with connect("room", query=ALL, client=ana) as one:
            for audience in (User("ana"), Group("interpreters"), Session(key_of(ana)), Everyone()):
                realtime.publish("room", audience, repr(audience))
            assert one.receive_all() == [repr(Everyone())]

    def test_a_store_that_is_down_is_not_an_anonymous_user(
        self, ana: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        # contract 1.1
        def load(_: object) -> None:
            raise OperationalError("the session store is down")

        monkeypatch.setattr(SessionStore, "load", load)
        with caplog.at_level(logging.CRITICAL, "realtime"), pytest.raises(Refused) as refused:
            connect("room", query=ALL, client=ana)
        assert refused.value.status == 503
        assert refused.value.retry_after is not None


class Custom(RedisSubscriber):
    """What projects do: a word of their own, a channel of their own, a hook for what comes in, one for the end."""

    subscription_channels: ClassVar[list[str]] = [*RedisSubscriber.subscription_channels, "subscribe-server"]
    seen: ClassVar[list[Any]] = []

    def set_pubsub_channels(self, request: Any, channels: Any) -> None:
        self.request = request
        super().set_pubsub_channels(request, channels)
        if "subscribe-server" in channels:
            assert self._subscription is not None
            self._subscription.subscribe(f"{self.get_prefix()}server:all")

    def publish_message(self, message: RedisMessage, expire: Any = None) -> None:
        self.seen.append((self.request.path_info, bytes(message)))
        super().publish_message(RedisMessage(message.upper()), expire)

    def release(self) -> None:
        super().release()
        self.seen.append("released")


class Twofold(RedisSubscriber):
    """Listens to everyone of a second facility, too."""

    def set_pubsub_channels(self, request: Any, channels: Any) -> None:
        super().set_pubsub_channels(request, channels)
        assert self._subscription is not None
        self._subscription.subscribe(f"{self.get_prefix()}broadcast:news")


class Denying(RedisSubscriber):
    def set_pubsub_channels(self, request: Any, channels: Any) -> None:
        raise PermissionDenied("no such room")


class ServerStore(RedisStore):
    def _get_message_channels(self, *args: Any, server: bool = False, **kwargs: Any) -> list[str]:
        channels = super()._get_message_channels(*args, **kwargs)
        if server:
            channels.append(f"{self.get_prefix()}server:{kwargs['facility']}")
        return channels


class ServerPublisher(RedisPublisher, ServerStore):
    pass


class ServerSubscriber(RedisSubscriber, ServerStore):
    subscription_channels: ClassVar[list[str]] = [*RedisSubscriber.subscription_channels, "subscribe-server"]
    publish_channels: ClassVar[list[str]] = [*RedisSubscriber.publish_channels, "publish-server"]

    def set_pubsub_channels(self, request: Any, channels: Any) -> None:
        facility = request.path_info.replace(conf().ws_path, "", 1)
        for verb in ("publish", "subscribe"):
            keys = self._get_message_channels(
                request=request,
                facility=facility,
                users=(f"{verb}-user" in channels and [SELF]) or [],
                broadcast=f"{verb}-broadcast" in channels,
                server=f"{verb}-server" in channels,
            )
            if verb == "publish":
                self._publishers = set(keys)
                self._subscription = self._connection.pubsub()
            else:
                assert self._subscription is not None
                for key in keys:
                    self._subscription.subscribe(key)


class TestSubscriber:
    @pytest.fixture(autouse=True)
    def custom(self) -> Iterator[None]:
        Custom.seen.clear()
        with override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Custom"):
            yield

    def test_a_projects_own_is_asked(self) -> None:
        query = "subscribe-broadcast&publish-broadcast&subscribe-server&echo"
        with connect("room", query=query) as one:
            one.send("hello")
            assert one.receive_all() == ["HELLO"]
            store = RedisPublisher()
            store._publishers.add("server:all")
            store.publish_message(RedisMessage("to all"))
            assert one.receive_all() == ["to all"]
            assert Custom.seen == [("/ws/room", b"hello")]
        assert Custom.seen[-1:] == ["released"]
        assert Custom.seen.count("released") == 1  # contract 6.4

    def test_a_channel_of_its_own_is_nobody_elses(self, ana: Client) -> None:
        # contract 3.3: no group and no facility of the name gets it
        with connect(CUSTOM + "x", query=ALL, client=ana) as one, connect("all", query=ALL) as other:
            store = RedisPublisher()
            store._publishers.add("server:all")
            store.publish_message(RedisMessage("to all"))
            one.receive_nothing()
            other.receive_nothing()
        assert Topic(outbox()[-1].facility, outbox()[-1].audience) == Topic(CUSTOM, Group("server:all"))

    def test_another_base_adds_an_audience_to_publishers_and_subscribers(self) -> None:
        # as projects did where the four were not enough
        with (
            override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.ServerSubscriber"),
            connect("room", query="subscribe-server&publish-server") as one,
            connect("room", query="subscribe-broadcast") as two,
            connect("hall", query="subscribe-server") as three,
        ):
            ServerPublisher(facility="room", server=True, broadcast=True).publish_message(RedisMessage("a"))
            assert (one.receive_all(), two.receive_all()) == (["a"], ["a"])
            three.receive_nothing()
            one.send("to the server")
            assert outbox()[-1].audience == Group("server:room")

    def test_two_channels_of_one_name_are_for_raw_clients_alone(self) -> None:
        # contract, frames: a v1 client would take the second one's positions for the first one's, and break off
        with override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Twofold"):
            with connect("room", query="subscribe-broadcast") as one, connect("news", protocol="v1") as other:
                for name in ("room", "news", "room"):
                    realtime.publish(name, Everyone(), name)
                assert sorted(one.receive_all()) == ["news", "room", "room"]
                assert other.receive_all() == ["news"]
            with pytest.raises(Refused, match=r"everyone.*without a subprotocol") as refused:
                connect("room", query="subscribe-broadcast", protocol="v1")
            assert refused.value.status == 403

    def test_may_refuse(self) -> None:
        with override_settings(WS4REDIS_SUBSCRIBER=f"{__name__}.Denying"), pytest.raises(Refused) as refused:
            connect("room")
        assert refused.value.status == 403

    def test_a_hook_that_fails_ends_its_connection_alone(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        # contract 6.2
        def fail(*_: object) -> None:
            raise RuntimeError("told to")

        monkeypatch.setattr(Custom, "publish_message", fail)
        one: TestConnection = connect("room")
        with caplog.at_level(logging.CRITICAL, "realtime"), pytest.raises(RuntimeError, match="told to"):
            one.send("x")
        assert one.closed == 1011
