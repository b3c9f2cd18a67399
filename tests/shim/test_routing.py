from http.cookies import SimpleCookie
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import QueryDict
from django.test import override_settings

from shim.conf import conf
from shim.core.cohorts import CHANNELS, LEGACY, FlagState, Snapshot, Subject
from shim.core.errors import RealtimeUnavailable
from shim.core.node import Node, Pace
from shim.core.protocol import Protocol
from shim.door import Handshake
from shim.routing import FRONT_DOOR, QUICK_MOVES, QUICK_MOVES_OF_AN_ADDRESS, Reply, reply_to
from shim.visitor import Connection, Identity
from tests.shim.people import UPGRADE

ANA = Subject(user="1")


def node(backend: str = LEGACY, **fields: Any) -> Node:
    flag = FlagState("f")
    if fields:
        flag.pushed(Snapshot("f", exists=True, version=("e", 1), **fields))
    return Node(backend, flag, Pace(), now=0.0, random=lambda: 0.5)


def reply(
    node: Node,
    cookie: str | None = None,
    *,
    subject: Subject = ANA,
    protocol: Protocol = Protocol.RAW,
    secure: bool = False,
    **headers: str,
) -> Reply:
    told = {**UPGRADE, "host": "testserver", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if cookie is not None:
        told["cookie"] = f"a=b; realtime_backend={cookie}"
    handshake = Handshake("/ws/calls", "", told, secure)
    visitor = Connection(
        id="c1",
        facility="calls",
        identity=Identity(AnonymousUser(), None, (), subject),
        protocol=protocol,
        backend=node.backend,
        query=QueryDict(""),
        headers=handshake.headers,
        cookies=handshake.cookies,
        max_message=100,
    )
    return reply_to(handshake, visitor, node, conf())


def cookie_of(reply: Reply) -> Any:
    ((name, value),) = reply.headers
    assert name == "Set-Cookie"
    (morsel,) = SimpleCookie(value).values()
    assert morsel.key == "realtime_backend"
    return morsel


class TestReply:
    # contract 8.4

    @pytest.mark.parametrize("protocol", list(Protocol))
    def test_the_wrong_backend_tells_the_right_one(self, protocol: Protocol) -> None:
        assert cookie_of(reply(node(LEGACY, everyone=True), protocol=protocol)).value == CHANNELS
        assert cookie_of(reply(node(CHANNELS, everyone=False), protocol=protocol)).value == LEGACY
        assert cookie_of(reply(node(CHANNELS, everyone=False), "channels", protocol=protocol)).value == LEGACY

    @pytest.mark.parametrize("cookie", [None, "legacy", "channels", "forged"])
    def test_the_right_one_says_nothing(self, cookie: str | None) -> None:
        for right in (node(LEGACY, everyone=False), node(CHANNELS, everyone=True)):
            assert reply(right, cookie, x_realtime_front_door="cookie") == Reply()

    def test_nobody_is_told_what_nobody_knows(self) -> None:
        assert reply(node(CHANNELS), "legacy") == Reply()  # contract 8.2: the flag was never seen

    def test_nor_what_the_cookie_says_already(self) -> None:
        assert reply(node(LEGACY, everyone=True), "channels", x_realtime_front_door="cookie") == Reply()

    def test_it_can_be_turned_off(self) -> None:
        with override_settings(REALTIME_COHORT_COOKIE=None):
            assert reply(node(LEGACY, everyone=True), "legacy") == Reply()

    def test_the_cookie_goes_where_the_sessions_goes(self) -> None:
        found = cookie_of(reply(node(LEGACY, everyone=True)))
        assert (found["path"], found["samesite"], found["domain"]) == ("/", "Lax", "")
        assert (found["httponly"], found["secure"], found["max-age"]) == (True, "", str(365 * 86_400))
        with override_settings(
            SESSION_COOKIE_PATH="/app/", SESSION_COOKIE_DOMAIN=".example.com", SESSION_COOKIE_SAMESITE="None"
        ):
            found = cookie_of(reply(node(LEGACY, everyone=True), secure=True))
        assert (found["path"], found["domain"], found["samesite"]) == ("/app/", ".example.com", "None")
        assert found["secure"]

    def test_it_is_secure_where_django_says_so(self) -> None:
        with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
            assert cookie_of(reply(node(LEGACY, everyone=True), x_forwarded_proto="https"))["secure"]
            assert not cookie_of(reply(node(LEGACY, everyone=True), x_forwarded_proto="http"))["secure"]
        with override_settings(SESSION_COOKIE_SECURE=True):
            assert cookie_of(reply(node(LEGACY, everyone=True)))["secure"]


class TestQuickMoves:
    # contract 8.4: closed soon only where coming back helps

    @pytest.mark.parametrize(
        ("cookie", "headers", "is_asked"),
        [
            (None, {}, False),  # nothing shows that anybody routes by the cookie
            (None, {FRONT_DOOR: "cookie"}, True),
            ("legacy", {}, True),
            ("", {}, True),
            ("forged", {}, True),
        ],
        ids=str,
    )
    def test_are_for_those_who_can_be_told(self, cookie: str | None, headers: dict[str, Any], is_asked: bool) -> None:
        found = reply(node(LEGACY, everyone=True), cookie, **headers)
        assert found.headers
        assert (found.tally is not None) == is_asked

    def test_are_not_for_v1(self) -> None:
        assert reply(node(LEGACY, everyone=True), "legacy", protocol=Protocol.V1).tally is None  # it is told `move`

    def test_are_counted_for_each_visitor_and_state_of_the_flag(self) -> None:
        def tally(world: Node, cookie: str = "x", **options: Any) -> object:
            found = reply(world, cookie, **options)
            assert found.tally is not None
            return found.tally

        world = node(LEGACY, everyone=True)
        assert tally(world) == tally(world, "y", x_forwarded_for="1.2.3.4")
        others = [Subject(user="2"), Subject(session="1"), Subject(anonymous="1"), Subject()]
        assert len({tally(world), *(tally(world, subject=each) for each in others)}) == 5
        assert tally(world, subject=Subject(), x_forwarded_for="1.2.3.4") != tally(world, subject=Subject())
        before = tally(world)
        world.flag.pushed(Snapshot("f", exists=True, everyone=True, version=("e", 2)))
        assert tally(world) != before

    def test_end(self) -> None:
        ana = reply(node(LEGACY, everyone=True), "legacy")
        assert [n for n in range(1, 200) if ana.is_quick(n)] == list(range(1, QUICK_MOVES + 1))
        nobody = reply(node(LEGACY, everyone=True), "legacy", subject=Subject())
        assert nobody.is_quick(QUICK_MOVES_OF_AN_ADDRESS)
        assert not nobody.is_quick(QUICK_MOVES_OF_AN_ADDRESS + 1)
        with pytest.raises(RealtimeUnavailable):
            ana.is_quick(None)
