"""Orders of events that a random life found (contract 3.2)."""

from time import process_time

import pytest

from shim.core.feed import PENDING_BYTES, RECORD_BYTES
from shim.core.history import ReadResult
from shim.core.hub import CHECK_CALLS, Hub, Read
from shim.core.message import Kind
from shim.core.names import control_channel
from shim.core.protocol import Protocol
from shim.core.wire import Position, Record, encode
from tests.core.test_hub import TOPICS, Member

TOPIC = TOPICS[2]
CHANNEL = TOPIC.channel("rt")


def record(body: str, position: Position | None) -> Record:
    return Record(Kind.TEXT, body.encode(), position)


def test_what_expires_while_it_waits_is_not_lost() -> None:
    # contract 3.1, 7.4: a topic is looked at, a message with a short life comes, and is gone when Redis answers.
    hub = Hub("rt")
    members = [Member("raw", Protocol.RAW), Member("v1", Protocol.V1)]
    hub.connected()
    for member in members:
        hub.subscribe(member, [TOPIC])
    hub.confirmed(CHANNEL)
    for member in members:
        hub.begin(member)
        hub.attach(member, [ReadResult(CHANNEL, Position("e1", 7))])
    assert not hub.check()  # it may have been handed something on just now
    assert [type(effect) for _ in range(CHECK_CALLS) for effect in hub.check()] == [Read]  # once in so many
    assert not hub.message(CHANNEL, encode(record("brief", Position("e1", 8))))
    assert not hub.healed(ReadResult(CHANNEL, Position("e1", 8)))
    assert members[0].texts() == ["brief"]
    assert [(frame["op"], frame.get("text")) for frame in members[1].heard()] == [("msg", "brief")]


def test_what_has_no_history_keeps_its_place_while_a_topic_heals() -> None:
    # contract 3.2: the epoch is new, so the first message starts a read; the others come before its answer does.
    hub, member = Hub("rt"), Member("one", Protocol.RAW)
    hub.connected()
    hub.subscribe(member, [TOPIC])
    hub.confirmed(CHANNEL)
    hub.begin(member)
    hub.attach(member, [ReadResult(CHANNEL, Position("e1", 0))])
    first, third = record("first", Position("e2", 1)), record("third", Position("e2", 2))
    asked = hub.message(CHANNEL, encode(first))
    assert [type(effect) for effect in asked] == [Read]
    for body in (record("second", None), third, record("fourth", None)):
        assert not hub.message(CHANNEL, encode(body))
    assert not hub.healed(ReadResult(CHANNEL, Position("e2", 2), (first, third)))
    assert member.texts() == ["first", "second", "third", "fourth"]


def test_what_has_no_history_is_forgotten_rather_than_handed_on_too_late() -> None:
    # contract 3.2, 5.1: the read is ahead of the subscription, so nobody knows any more which of the two came first.
    hub, member = Hub("rt"), Member("one", Protocol.RAW)
    hub.connected()
    hub.subscribe(member, [TOPIC])
    hub.confirmed(CHANNEL)
    hub.begin(member)
    hub.attach(member, [ReadResult(CHANNEL, Position("e1", 0))])
    hub.disconnected()
    hub.connected()
    assert [type(effect) for effect in hub.confirmed(CHANNEL)] == [Read]
    assert not hub.message(CHANNEL, encode(record("first", None)))
    second = record("second", Position("e1", 1))
    assert not hub.healed(ReadResult(CHANNEL, Position("e1", 1), (second,)))
    assert not hub.message(CHANNEL, encode(second))
    assert member.texts() == ["second"]


@pytest.mark.parametrize("comes", [False, True])
def test_what_history_has_lost_may_still_be_on_its_way(comes: bool) -> None:
    # contract 7.4: of the topic history keeps one message; the read's answer is faster than three live ones.
    hub, member = Hub("rt"), Member("one", Protocol.V1)
    hub.connected()
    hub.subscribe(member, [TOPIC])
    hub.confirmed(CHANNEL)
    hub.begin(member)
    hub.attach(member, [ReadResult(CHANNEL, Position("e1", 1))])
    assert not hub.check()
    assert [type(effect) for _ in range(CHECK_CALLS) for effect in hub.check()] == [Read]  # once in so many
    second, third, fourth = (record(str(n), Position("e1", n)) for n in (2, 3, 4))
    again = hub.healed(ReadResult(CHANNEL, Position("e1", 4), (fourth,)))
    assert [type(effect) for effect in again] == [Read]
    assert member.heard() == []
    for live in (second, third, fourth) if comes else ():
        assert not hub.message(CHANNEL, encode(live))
    assert not hub.healed(ReadResult(CHANNEL, Position("e1", 4), (fourth,)))
    ops = [(fields["op"], fields["pos"][1]) for fields in member.heard()]
    assert ops == ([("msg", 2), ("msg", 3), ("msg", 4)] if comes else [("gap", 3), ("msg", 4)])


@pytest.mark.parametrize("somebody_else", [False, True])
@pytest.mark.parametrize("has_come", [False, True])
def test_what_came_before_the_last_message_does_not_come_after_it(somebody_else: bool, has_come: bool) -> None:
    # contract 3.2, 5.2: the past is read while others publish; it holds the second message, and never the first.
    if not somebody_else and not has_come:
        return  # nobody can tell then which of the two was first
    hub, other, member = Hub("rt"), Member("other", Protocol.RAW), Member("one", Protocol.RAW)
    hub.connected()
    hub.subscribe(member, [TOPIC])
    if somebody_else:
        hub.subscribe(other, [TOPIC])
    hub.confirmed(CHANNEL)
    if somebody_else:
        hub.begin(other)
        hub.attach(other, [ReadResult(CHANNEL, Position("e1", 0))])
    hub.begin(member)
    first, second = encode(record("first", None)), record("second", Position("e1", 1))
    hub.message(CHANNEL, first)
    if has_come:
        hub.message(CHANNEL, encode(second))
    hub.attach(member, [ReadResult(CHANNEL, Position("e1", 1), (second,))])
    if not has_come:
        hub.message(CHANNEL, encode(second))
    for body in ("third", "fourth"):
        hub.message(CHANNEL, encode(record(body, None)))
    assert member.texts() == ["second", "third", "fourth"]
    assert other.texts() == (["first", "second", "third", "fourth"] if somebody_else else [])


def test_who_is_where_its_topic_comes_to_stand_gets_what_has_no_history() -> None:
    # contract 3.1: it joined in a new epoch before its topic knew of that; the healing brings nothing more.
    hub, old, new = Hub("rt"), Member("old", Protocol.RAW), Member("new", Protocol.RAW)
    hub.connected()
    hub.subscribe(old, [TOPIC])
    hub.confirmed(CHANNEL)
    hub.begin(old)
    hub.attach(old, [ReadResult(CHANNEL, Position("e1", 3))])
    hub.subscribe(new, [TOPIC])
    hub.begin(new)
    asked = hub.attach(new, [ReadResult(CHANNEL, Position("e2", 0))])
    assert [type(effect) for effect in asked] == [Read]
    assert not hub.healed(ReadResult(CHANNEL, Position("e2", 0)))
    assert not hub.message(CHANNEL, encode(record("at most once", None)))
    assert old.texts() == new.texts() == ["at most once"]


def test_a_read_from_before_the_confirmation_does_not_count_for_what_came_between() -> None:
    # contract 7.4: the line breaks again while the history is being read, and comes back before the answer does.
    hub, member = Hub("rt"), Member("one", Protocol.RAW)
    hub.connected()
    hub.subscribe(member, [TOPIC])
    hub.confirmed(CHANNEL)
    hub.begin(member)
    hub.attach(member, [ReadResult(CHANNEL, Position("e1", 0))])
    hub.disconnected()
    hub.connected()
    assert [type(effect) for effect in hub.confirmed(CHANNEL)] == [Read]
    hub.disconnected()
    asked_too_early = hub.healed(ReadResult(CHANNEL, Position("e1", 0)))
    assert [type(effect) for effect in asked_too_early] == [Read]
    hub.connected()
    missed = record("missed", Position("e1", 1))  # published after Redis has read, before it has subscribed
    assert not hub.confirmed(CHANNEL)
    again = hub.healed(ReadResult(CHANNEL, Position("e1", 0)))
    assert [type(effect) for effect in again] == [Read]
    assert not hub.healed(ReadResult(CHANNEL, Position("e1", 1), (missed,)))
    assert member.texts() == ["missed"]


def test_many_that_wait_cost_no_more_than_one_walk_through_them() -> None:
    # contract 7.2: a busy topic heals while nobody else of the process is served. By squares this took half a minute.
    hub, member = Hub("rt"), Member("one", Protocol.RAW)
    hub.connected()
    hub.subscribe(member, [TOPIC])
    hub.confirmed(CHANNEL)
    hub.begin(member)
    hub.attach(member, [ReadResult(CHANNEL, Position("e1", 1))])
    count = PENDING_BYTES // (RECORD_BYTES + 10)
    missed, waiting = record("2", Position("e1", 2)), [record(str(n), Position("e1", n)) for n in range(3, count)]
    for each in waiting:
        hub.message(CHANNEL, encode(each))
    began = process_time()
    assert not hub.healed(ReadResult(CHANNEL, Position("e1", count - 1), (missed, *waiting[-99:])))
    assert process_time() - began < 4
    assert member.texts() == [str(n) for n in range(2, count)]


def test_empty_messages_that_wait_have_a_limit_too() -> None:
    # contract 7.2: they take room beside their bodies; over the limit they are read from history again.
    hub, member = Hub("rt"), Member("one", Protocol.RAW)
    hub.connected()
    hub.subscribe(member, [TOPIC])
    hub.confirmed(CHANNEL)
    hub.begin(member)
    hub.attach(member, [ReadResult(CHANNEL, Position("e1", 1))])
    count = PENDING_BYTES // RECORD_BYTES + 4
    for n in range(3, count):
        hub.message(CHANNEL, encode(record("", Position("e1", n))))
    again = hub.healed(ReadResult(CHANNEL, Position("e1", 2), (record("2", Position("e1", 2)),)))
    assert [type(effect) for effect in again] == [Read]  # not all of them were at hand
    assert member.texts() == ["2"]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_a_flip_waits_for_no_history_and_is_never_forgotten(is_ahead: bool) -> None:
    # contract 8.2: it has no position, so between two sign-outs (7.5) its place could be lost; that does not matter.
    said: list[bytes] = []
    hub, channel = Hub("rt", control=said.append), control_channel("rt")
    hub.connected()
    (asked,) = hub.confirmed(channel)
    assert isinstance(asked, Read)
    hub.message(channel, encode(record("first flip", None)))
    assert said == [b"first flip"]
    hub.healed(ReadResult(channel, Position("e1", 1)))
    hub.disconnected()
    hub.connected()
    assert [type(effect) for effect in hub.confirmed(channel)] == [Read]
    hub.message(channel, encode(record("flip", None)))
    sign_out = record("sign-out", Position("e1", 2))
    if not is_ahead:
        hub.message(channel, encode(sign_out))
    hub.healed(ReadResult(channel, Position("e1", 2), (sign_out,)))
    hub.message(channel, encode(sign_out))
    assert said == [b"first flip", b"flip", b"sign-out"]


@pytest.mark.parametrize("broke", [False, True])
def test_what_comes_behind_its_own_history_has_lost_its_place(broke: bool) -> None:
    # contract 3.2: history gave the third message before the line brought the second, which has no history. Where the
    # line is whole it brings the third yet, and all before that is late; where it broke, nobody can tell.
    hub, member = Hub("rt"), Member("one", Protocol.RAW)
    hub.connected()
    hub.subscribe(member, [TOPIC])
    hub.confirmed(CHANNEL)
    hub.begin(member)
    hub.attach(member, [ReadResult(CHANNEL, Position("e1", 4))])
    first, second, third = record("1", Position("e2", 1)), record("2", None), record("3", Position("e2", 2))
    if broke:
        hub.disconnected()
        hub.connected()
        assert hub.confirmed(CHANNEL)
    else:
        assert hub.message(CHANNEL, encode(first))
    assert not hub.healed(ReadResult(CHANNEL, Position("e2", 2), (first, third)))
    hub.message(CHANNEL, encode(second))
    if not broke:
        hub.message(CHANNEL, encode(third))
    hub.message(CHANNEL, encode(record("4", None)))
    assert member.texts() == (["1", "3", "2", "4"] if broke else ["1", "3", "4"])
