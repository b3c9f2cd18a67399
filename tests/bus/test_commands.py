"""The pure side of the bus: what is said, and how answers are read."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, NoScriptError, OutOfMemoryError

from shim.bus.commands import (
    RUN_BYTES,
    RUN_MESSAGES,
    SUBSCRIBE_CHUNK,
    Command,
    Commands,
    Exchange,
    Outgoing,
    heard,
    ms,
    new_epoch,
    subscriptions,
)
from shim.bus.scripts import PUBLISH, READ
from shim.core.history import History, ReadRequest, Want
from shim.core.message import Kind
from shim.core.names import Group, Topic, User
from shim.core.wire import MAX_SEQ, Position, Record, decode, encode

COMMANDS = Commands("rt", epoch=lambda: "0" * 16)
TOPIC = Topic("calls", User("ana"))
CHANNEL = TOPIC.channel("rt")


def message(history: History, body: bytes = b"x") -> Outgoing:
    return TOPIC, Kind.TEXT, body, history, None


def carry[T](exchange: Exchange[T], *rounds: Sequence[object]) -> tuple[list[list[Command]], T]:
    """Play Redis: give answers, round by round, and return what was said and the result."""
    said = []
    try:
        said.append(list(next(exchange)))
        for answers in rounds:
            assert len(answers) == len(said[-1])
            said.append(list(exchange.send(answers)))
    except StopIteration as done:
        return said, done.value
    raise AssertionError(f"it still wants to say {said[-1]}")


def test_without_history_it_is_one_plain_publish() -> None:  # contract 5.1
    said, position = carry(COMMANDS.publish((TOPIC, Kind.JSON, b"{}", History(0), "c1")), [3])
    assert said == [[("PUBLISH", CHANNEL, b"1j - 0 c1\n{}")]]
    assert position is None


def test_a_script_is_called_by_name_and_its_text_is_sent_only_when_redis_does_not_know_it() -> None:
    said, position = carry(
        COMMANDS.publish(message(History(5, 2.5))), [NoScriptError("no")], [[b"00000000000000ff", 7]]
    )
    arguments = (f"{CHANNEL}:meta", f"{CHANNEL}:log", CHANNEL, "0" * 16, 5, 2500, 86_400_000, "t", "-", b"x")
    assert said == [[("EVALSHA", PUBLISH.sha, 2, *arguments)], [("EVAL", PUBLISH.text, 2, *arguments)]]
    assert position == ("00000000000000ff", 7)


RUNS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([TOPIC, Topic("calls", User("ben"))])), min_size=1, max_size=30
)


@given(RUNS, st.data())
def test_many_keep_their_order_and_none_is_sent_twice(sent: list[tuple[bool, Topic]], data: st.DataObject) -> None:
    """Contract 3.1, 3.2: whichever of them Redis did not know the script for."""
    outgoing = [(topic, Kind.TEXT, b"%d" % i, History(9 if kept else 0), None) for i, (kept, topic) in enumerate(sent)]
    exchange = COMMANDS.publish_many(outgoing)
    commands = list(next(exchange))
    redis = FakePublishes()
    refused = [bool(command[0] == "EVALSHA" and data.draw(st.booleans())) for command in commands]
    answers = [NoScriptError("no") if no else redis.run(command) for command, no in zip(commands, refused, strict=True)]
    try:
        again = list(exchange.send(answers))
        assert [command[3:] for command in again] == [c[3:] for c, no in zip(commands, refused, strict=True) if no]
        exchange.send([redis.run(command) for command in again])
        raise AssertionError("it still wants to say something")
    except StopIteration as done:
        positions = done.value
    scripts = [command[0] for command in commands if command[0] != "PUBLISH"]
    assert scripts == ["EVAL", *["EVALSHA"] * (len(scripts) - 1)][: len(scripts)]
    assert sorted(redis.bodies) == sorted(body for _, _, body, _, _ in outgoing)  # each once
    for (topic, _, body, history, _), position in zip(outgoing, positions, strict=True):
        if history.size:
            assert redis.at[topic.channel("rt"), position] == body
        else:
            assert position is None
    if not any(refused):
        assert redis.bodies == [body for _, _, body, _, _ in outgoing]


def test_neighbours_of_one_topic_share_a_call_of_the_script() -> None:
    outgoing = [message(History(9), b"%d" % i) for i in range(RUN_MESSAGES + 1)]
    first, second = next(COMMANDS.publish_many(outgoing))
    assert (len(first), len(second)) == (3 + 7 + 3 * RUN_MESSAGES, 3 + 7 + 3)
    big = [message(History(9), bytes(RUN_BYTES // 2)) for _ in range(3)]
    assert len(next(COMMANDS.publish_many(big))) == 2


class FakePublishes:
    """Runs plain publishes and the script, and keeps what came."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.at: dict[tuple[str, Position], bytes] = {}
        self.seqs: dict[str, int] = {}

    def run(self, command: Sequence[Any]) -> object:
        if command[0] == "PUBLISH":
            self.bodies.append(command[2].partition(b"\n")[2])
            return 0
        channel = command[5]
        for body in command[12::3]:
            seq = self.seqs[channel] = self.seqs.get(channel, 0) + 1
            self.at[channel, Position("a" * 16, seq)] = body
            self.bodies.append(body)
        return [b"a" * 16, self.seqs[channel]]


def test_nothing_to_do_says_nothing() -> None:
    assert carry(COMMANDS.publish_many([])) == ([], [])
    assert carry(COMMANDS.read_many([])) == ([], [])


def test_a_refusal_is_raised_and_never_repeated() -> None:
    for exchange in (COMMANDS.publish(message(History())), COMMANDS.publish_many([message(History())])):
        with pytest.raises(OutOfMemoryError):
            carry(exchange, [OutOfMemoryError("full")])


@pytest.mark.parametrize("reply", [None, 5, b"OK", [], [b"a"], [1, 2, 3], [b"\xff", 1], ["text", 1]])
def test_an_answer_that_is_none(reply: object) -> None:
    with pytest.raises(InvalidResponse):
        carry(COMMANDS.publish(message(History())), [reply])
    with pytest.raises(InvalidResponse):
        carry(COMMANDS.read_many([ReadRequest(CHANNEL, Want.LAST)]), [reply])


@given(
    st.one_of(st.text(), st.just("0123456789abcdef"), st.binary(), st.none(), st.just("a" * 10_000)),
    st.one_of(st.integers(), st.integers(MAX_SEQ - 2, MAX_SEQ + 2), st.floats(), st.text(), st.none()),
)
def test_a_forged_position_cannot_reach_redis(epoch: object, seq: object) -> None:
    """Contract 5.3: clients send any position they like."""
    after = Position(epoch, seq)  # type: ignore[arg-type] # that is what is tested
    exchange = COMMANDS.read_many([ReadRequest(CHANNEL, want, after) for want in Want])
    for command in next(exchange):
        want, _, _, sent_epoch, sent_seq = command[5:]
        if sent_epoch == "":
            assert sent_seq == 0
            assert want in {Want.LAST, Want.POSITION}
        else:
            assert sent_epoch == epoch
            assert isinstance(sent_seq, int)
            assert 0 <= sent_seq < MAX_SEQ


def test_a_record_that_cannot_be_read_makes_its_history_unusable_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = encode(Record(Kind.TEXT, b"x", Position("a" * 16, 1)))
    requests = [ReadRequest(name, Want.LAST) for name in ("one", "two")]
    _, (one, two) = carry(COMMANDS.read_many(requests), [[b"a" * 16, 1, [b"9z what"]], [b"a" * 16, 1, [good]]])
    assert (one.position, one.records) == (("a" * 16, 1), ())
    assert two.records == (decode(good),)
    assert "one" in caplog.text


def test_control_is_json_for_all_processes() -> None:
    said, _ = carry(COMMANDS.control({"op": "disconnect", "user": "ana", "code": 4500}), [[b"a" * 16, 1]])
    ((verb, _, _, meta, log, channel, _, size, *_, body),) = said[0]
    assert (verb, meta, log, channel) == ("EVALSHA", "rt:{control}:meta", "rt:{control}:log", "rt:{control}")
    assert isinstance(body, bytes)
    assert json.loads(body) == {"op": "disconnect", "user": "ana", "code": 4500}
    assert size == 1_000  # contract 7.5: who was not there hears of it afterwards


@given(st.integers(0, 3 * SUBSCRIBE_CHUNK))
def test_channels_go_out_in_pieces_and_none_is_lost(count: int) -> None:
    names = [f"c{i}" for i in range(count)]
    pieces = list(subscriptions("SUBSCRIBE", iter(names)))
    assert [name for verb, *piece in pieces for name in piece] == names
    assert all(piece[0] == "SUBSCRIBE" and 1 < len(piece) <= SUBSCRIBE_CHUNK + 1 for piece in pieces)


def test_what_a_subscription_hears() -> None:
    assert heard([b"message", b"rt:{x}", b"\xff\x00"]) == ("rt:{x}", b"\xff\x00")
    assert heard([b"subscribe", b"rt:{x}", 1]) == ("rt:{x}", None)
    for reply in ([b"unsubscribe", b"rt:{x}", 0], [b"unsubscribe", None, 0], [b"pong", b""], b"PONG", None):
        assert heard(reply) is None
    with pytest.raises(OutOfMemoryError):
        heard(OutOfMemoryError("full"))


@pytest.mark.parametrize("prefix", ["", "a b", "a{b", "é", "x" * 65, "a\n", None])
def test_a_prefix_that_is_none(prefix: str) -> None:
    with pytest.raises(ValueError, match="REALTIME_PREFIX"):
        Commands(prefix)


@pytest.mark.parametrize("origin", ["", "a b", "a\n", "é", "x" * 129])
def test_an_origin_that_would_break_the_record(origin: str) -> None:
    for history in (History(0), History()):
        with pytest.raises(ValueError, match="origin"):
            next(COMMANDS.publish((TOPIC, Kind.TEXT, b"", history, origin)))


def test_names_for_epochs_are_never_the_same() -> None:
    assert len({new_epoch() for _ in range(1000)}) == 1000
    assert len(new_epoch()) == 16


def test_times_are_whole_milliseconds() -> None:
    assert [ms(0.0001), ms(0.001), ms(2.5), ms(604_800.0)] == [1, 1, 2500, 604_800_000]
    with pytest.raises(ValueError, match="meta_ttl"):
        Commands("rt", meta_ttl=0)


def test_topics_of_any_name_share_a_hash_tag() -> None:
    for name in ("ü" * 5000, "a}b{c", "\x00"):
        channel = Topic("calls", Group(name)).channel("rt")
        ((command,),) = [list(next(COMMANDS.read_many([ReadRequest(channel, Want.LAST)])))]
        keys = [str(key) for key in command[3:5]]
        assert {key[key.index("{") : key.index("}")] for key in keys} == {channel[channel.index("{") : -1]}
        assert READ.sha == command[1]
