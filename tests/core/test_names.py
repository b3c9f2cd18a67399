import re
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shim.core.errors import InvalidAudience
from shim.core.names import MAX_NAME_BYTES, Audience, Everyone, Group, Session, Topic, User

# What a name could break out with: every separator of ours, of Redis's patterns and hash tags, of lines and of paths.
HOSTILE = ":{}~%*?[]\\^/ \n\r\0\t'\"$é\u2028\U0001f600"
plain = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
hostile = st.text(st.sampled_from(HOSTILE + "abAB09_-.@"), min_size=1, max_size=12)
long = st.builds(lambda part, n: (part * n)[:10_000], plain, st.integers(20, 10_000))
names = st.one_of(plain, hostile, long)
audiences: st.SearchStrategy[Audience] = st.one_of(
    st.just(Everyone()), st.builds(User, names), st.builds(Group, names), st.builds(Session, names)
)
topics = st.builds(Topic, names, audiences)

CHANNEL = re.compile(r"rt:\{[A-Za-z0-9_.@%~-]{1,120}:[eugs]:[A-Za-z0-9_.@%~-]{0,120}\}")
OF_ONE_NAME: tuple[Callable[[str], object], ...] = (User, Group, Session, lambda name: Topic(name, Everyone()))


class TestNobodyElse:
    # contract 3.3

    @given(topics, topics)
    @example(Topic("a", User("b")), Topic("a:u", User("b")))
    @example(Topic("a", User("%41")), Topic("a", User("A")))
    @example(Topic("a", User("x" * 121)), Topic("a", User("~" + sha256(b"x" * 121).hexdigest())))
    @example(Topic("a", User("é")), Topic("a", User("e\u0301")))
    @example(Topic("a", User("b}")), Topic("a", User("b")))
    @example(Topic("a", User("b:meta")), Topic("a", User("b")))
    @example(Topic("a", Everyone()), Topic("a", User("e")))
    @example(Topic("a", Group("b")), Topic("a", User("b")))
    @example(Topic("a", User("B")), Topic("a", User("b")))
    def test_two_topics_never_share_a_channel_and_one_topic_has_one(self, a: Topic, b: Topic) -> None:
        assert (a.channel("rt") == b.channel("rt")) == (a == b)

    @given(st.lists(topics, min_size=2, max_size=12, unique=True))
    def test_nor_any_key(self, found: list[Topic]) -> None:
        channels = [topic.channel("rt") for topic in found]
        keys = [channel + end for channel in channels for end in ("", ":meta", ":log")]
        assert len(set(keys)) == len(keys)
        assert "rt:control" not in keys
        assert "rt:flag" not in keys

    @given(topics)
    def test_a_channel_holds_nothing_that_redis_reads_as_something_else(self, topic: Topic) -> None:
        # One pair of braces with something in it: one cluster slot for the channel and its keys.
        assert CHANNEL.fullmatch(topic.channel("rt"))

    @given(names, names)
    def test_a_session_key_is_never_readable(self, facility: str, key: str) -> None:
        tag = Topic(facility, Session(key)).tag
        assert tag.endswith(f":s:~{sha256(key.encode()).hexdigest()}")

    def test_a_session_key_is_not_shown_whole(self) -> None:
        key = "0123456789abcdefghijklmnopqrstuv"
        shown = repr(Topic("calls", Session(key)))
        assert key[:4] in shown
        assert key[4:8] not in shown

    def test_ordinary_names_stay_readable(self) -> None:
        assert Topic("calls", User("ana@example.com")).channel("rt") == "rt:{calls:u:ana@example.com}"
        assert Topic("calls", Group("team a")).tag == "calls:g:team%20a"
        assert Topic("calls", Everyone()).tag == "calls:e:"

    def test_a_name_of_64_kib_gets_a_short_key(self) -> None:
        name = "é" * (MAX_NAME_BYTES // 2)
        assert len(Topic(name, User(name)).channel("rt")) < 150


class TestLabels:
    def test_are_told_from_the_clients_side(self) -> None:
        # contract: realtime.v1 frames
        audiences = (Everyone(), User("ana"), Session("k" * 32), Group("team:a"))
        assert [Topic("f", audience).label for audience in audiences] == ["everyone", "user", "session", "group:team:a"]

    @given(names, names)
    def test_two_groups_never_share_one(self, a: str, b: str) -> None:
        assert (Group(a).label == Group(b).label) == (a == b)


class TestBadNames:
    # contract 4.2

    @pytest.mark.parametrize("make", OF_ONE_NAME)
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("", "is empty"),
            ("a\ud800", "lone surrogate"),
            ("x" * (MAX_NAME_BYTES + 1), "65537 bytes long"),
            ("é" * (MAX_NAME_BYTES // 2 + 1), "65538 bytes long"),
            (None, "is a str, not NoneType: None"),
            (7, "is a str, not int: 7"),
            (b"ana", "is a str, not bytes: b'ana'"),
        ],
    )
    def test_are_refused_with_the_value(self, make: Callable[[object], object], name: object, reason: str) -> None:
        with pytest.raises(InvalidAudience, match=reason) as caught:
            make(name)
        assert len(str(caught.value)) < 250  # cut

    @pytest.mark.parametrize("make", OF_ONE_NAME)
    def test_the_longest_is_taken(self, make: Callable[[str], object]) -> None:
        make("x" * MAX_NAME_BYTES)

    @pytest.mark.parametrize("audience", ["ana", None, User, 3])
    def test_what_is_no_audience_is_refused(self, audience: object) -> None:
        with pytest.raises(InvalidAudience, match="an audience is Everyone"):
            Topic("calls", audience)  # type: ignore[arg-type]  # that is the point

    def test_an_object_that_cannot_be_shown_is_refused_all_the_same(self) -> None:
        class Odd:
            def __repr__(self) -> str:
                raise RuntimeError("no")

        with pytest.raises(InvalidAudience, match="whose repr"):
            Topic("calls", Odd())  # type: ignore[arg-type]  # that is the point
