import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shim.core import wires
from shim.core.errors import InvalidAudience, InvalidPayload, WireError
from shim.core.message import Kind
from shim.core.names import Audience, Everyone, Group, Session, Topic, User
from shim.core.wires import RealtimeWire, Sent, Ws4redisWire

OLD = Ws4redisWire()
ANA = Topic("chat", User("ana"))

names = st.text(st.sampled_from(":{}%*? /é\0ab") | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
audiences: st.SearchStrategy[Audience] = st.one_of(
    st.just(Everyone()), st.builds(User, names), st.builds(Group, names), st.builds(Session, names)
)


def name_of(topic: Topic, wire: Ws4redisWire = OLD) -> str | None:
    try:
        return wire.channel(topic)
    except InvalidAudience:
        return None


class TestNames:
    @pytest.mark.parametrize(
        ("audience", "channel"),
        [
            (Everyone(), "broadcast:chat"),
            (User("ana"), "user:ana:chat"),
            (Group("team a"), "group:team a:chat"),
            (Session("k" * 32), f"session:{'k' * 32}:chat"),
            (Group("org:5"), "group:org:5:chat"),
            (User("Zoë 🎈"), "user:Zoë 🎈:chat"),
        ],
    )
    def test_are_those_of_ws4redis(self, audience: Audience, channel: str) -> None:
        topic = Topic("chat", audience)
        assert OLD.channel(topic) == channel
        assert Ws4redisWire("site").channel(topic) == f"site:{channel}"

    def test_a_facility_with_slashes_is_taken_as_it_is(self) -> None:
        assert OLD.channel(Topic("rooms/7/chat", User("ana"))) == "user:ana:rooms/7/chat"

    @given(st.builds(Topic, names, audiences), st.builds(Topic, names, audiences))
    @example(Topic("c", User("a:b")), Topic("b:c", User("a")))
    @example(Topic("a:b", Everyone()), Topic("b", User("broadcast")))
    def test_two_topics_never_share_one(self, a: Topic, b: Topic) -> None:  # contract 3.3
        assert name_of(a) is None or (name_of(a) == name_of(b)) == (a == b)

    def test_what_would_be_ambiguous_is_refused_and_said(self) -> None:  # contract 4.2
        with pytest.raises(InvalidAudience, match=r"the facility 'b:c' has Everyone\(\) alone, because of its colon"):
            OLD.channel(Topic("b:c", User("a")))
        assert OLD.channel(Topic("b:c", Everyone())) == "broadcast:b:c"

    def test_our_own_wire_carries_them_all(self) -> None:
        wire = RealtimeWire("rt")
        assert wire.channel(Topic("b:c", User("a"))) == Topic("b:c", User("a")).channel("rt")
        wire.check(ANA, b"")


class TestPayloads:
    @given(st.binary(min_size=1))
    @example(b"\xff")
    @example("Zoë".encode())
    @example(b'{"a":1}')
    def test_valid_utf8_is_text_and_the_rest_binary(self, body: bytes) -> None:
        record = OLD.decode("broadcast:chat", body)
        assert (record.body, record.position, record.origin) == (body, None, None)
        assert (record.kind is Kind.TEXT) == (body.decode(errors="replace").encode() == body)
        assert record.kind is not Kind.JSON  # its text cannot be told from a text

    def test_what_ws4redis_passes_over_is_refused_and_passed_over(self) -> None:
        wire = Ws4redisWire(heartbeat="--heartbeat--")
        for body in (b"", b"--heartbeat--"):
            with pytest.raises(InvalidPayload, match="no empty message and no heartbeat"):
                wire.check(ANA, body)
            with pytest.raises(WireError, match="no empty message and no heartbeat"):
                wire.decode("broadcast:chat", body)
        wire.check(ANA, b"--heartbeat-- ")
        OLD.check(ANA, b"--heartbeat--")  # they have none unless WS4REDIS_HEARTBEAT says so

    def test_a_name_is_checked_with_the_payload(self) -> None:
        with pytest.raises(InvalidAudience):
            OLD.check(Topic("b:c", User("a")), b"x")


class TestSent:
    """contract 6.5"""

    def test_a_message_comes_back_to_its_sender_once(self) -> None:
        wire = Ws4redisWire()
        wire.sent.add("broadcast:chat", b"hi", "c1")
        assert wire.decode("broadcast:news", b"hi").origin is None
        assert wire.decode("broadcast:chat", b"ho").origin is None
        assert wire.kept(b"hi").origin is None  # what is kept may be anybody's
        assert wire.decode("broadcast:chat", b"hi").origin == "c1"
        assert wire.decode("broadcast:chat", b"hi").origin is None
        assert len(wire.sent) == 0

    def test_equal_ones_come_back_in_the_order_sent(self) -> None:
        sent = Sent()
        for origin in ("a", "b", "a"):
            sent.add("c", b"x", origin)
        sent.drop("c", b"x", "b")  # it was not sent after all
        sent.drop("c", b"x", "nobody")
        sent.drop("d", b"x", "a")
        assert [sent.take("c", b"x") for _ in range(3)] == ["a", "a", None]

    def test_what_never_comes_back_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wires, "MAX_SENT", 3)
        sent = Sent()
        for origin in "abcde":
            sent.add("c", b"same", origin)
        assert len(sent) == 3
        assert [sent.take("c", b"same") for _ in range(4)] == ["c", "d", "e", None]
        for n in range(5):
            sent.add("c", b"%d" % n, "a")
        assert [sent.take("c", b"%d" % n) for n in range(5)] == [None, None, "a", "a", "a"]
