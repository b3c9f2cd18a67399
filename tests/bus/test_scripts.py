"""The two scripts, run by a real server. What they say about topics' pasts is contract 5."""

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.bus.scripts import PUBLISH, READ
from shim.bus.sync import SyncBus
from shim.core.history import History, ReadRequest, ReadResult, Want
from shim.core.message import Kind
from shim.core.names import Everyone, Group, Topic, User
from shim.core.wire import MAX_SEQ, Position, Record, decode, encode
from tests.bus.waiting import until

LONG = History(100, 300.0)
BRIEF = History(100, 0.05)


class Subject:
    """One topic on one Redis."""

    def __init__(self, url: str, prefix: str, client: Any, topic: Topic) -> None:
        self.bus = SyncBus(url, prefix=prefix)
        self.client = client
        self.topic = topic
        self.channel = topic.channel(prefix)
        self.meta = f"{self.channel}:meta"
        self.log = f"{self.channel}:log"

    def publish(self, body: bytes = b"x", history: History = LONG) -> Position:
        position = self.bus.publish(self.topic, Kind.BINARY, body, history)
        assert position is not None
        return position

    def read(self, want: Want, after: Position | None = None) -> ReadResult:
        (result,) = self.bus.read_many([ReadRequest(self.channel, want, after)])
        return result

    def bodies(self, want: Want, after: Position | None = None) -> list[bytes]:
        return [record.body for record in self.read(want, after).records]

    def in_log(self) -> list[tuple[int, bytes]]:
        entries: Any = self.client.xrange(self.log)
        return [(int(entry.split(b"-")[0]), decode(fields[b"r"]).body) for entry, fields in entries]


@pytest.fixture
def topic(url: str, prefix: str, client: Any) -> Any:
    subject = Subject(url, prefix, client, Topic("calls", User("ana")))
    yield subject
    subject.bus.close()


# Publishing


def test_seq_is_dense_from_one_and_the_epoch_stays(topic: Subject) -> None:
    positions = [topic.publish() for _ in range(5)]
    assert [position.seq for position in positions] == [1, 2, 3, 4, 5]
    assert len({position.epoch for position in positions}) == 1


def test_the_record_on_the_channel_and_in_the_log_is_the_wire_form(topic: Subject) -> None:
    listener = topic.client.pubsub()
    listener.subscribe(topic.channel)
    assert listener.get_message(timeout=5)
    for body in (b"", b"\x00", b"\n \n", b"a\r\nb", bytes(range(256)), b"x" * 1_048_576):
        position = topic.bus.publish(topic.topic, Kind.JSON, body, LONG, "c-1")
        expected = encode(Record(Kind.JSON, body, position, "c-1"))
        heard: Any = listener.get_message(timeout=5)
        assert heard["data"] == expected
        ((_, fields),) = topic.client.xrevrange(topic.log, count=1)
        assert fields == {b"r": expected}
    listener.close()


def test_the_log_keeps_exactly_size_messages(topic: Subject) -> None:  # contract 5.1
    for i in range(250):
        topic.publish(b"%d" % i, History(7, 300.0))
    assert topic.in_log() == [(i + 1, b"%d" % i) for i in range(243, 250)]


def test_a_smaller_size_forgets_at_once(topic: Subject) -> None:
    for i in range(10):
        topic.publish(b"%d" % i)
    topic.publish(b"new", History(2, 300.0))
    assert [body for _, body in topic.in_log()] == [b"9", b"new"]


def test_keys_do_not_live_for_ever_and_meta_lives_longer(topic: Subject) -> None:
    topic.publish(history=History(5, 60.0))
    log, meta = topic.client.pttl(topic.log), topic.client.pttl(topic.meta)
    assert 60_000 <= log <= 75_000
    assert 86_400_000 - 1000 <= meta <= 108_000_000
    topic.publish(history=History(5, 7 * 86_400.0))
    log, meta = topic.client.pttl(topic.log), topic.client.pttl(topic.meta)
    assert 7 * 86_400_000 - 1000 <= log <= meta
    topic.publish(history=History(5, 1.0))
    assert topic.client.pttl(topic.log) > 6 * 86_400_000, "an older message lives longer than the newest"
    assert topic.client.pttl(topic.meta) >= topic.client.pttl(topic.log)


def test_a_log_that_was_evicted_gets_its_end_again(topic: Subject) -> None:
    topic.publish()
    topic.client.delete(topic.log)
    topic.publish()
    assert topic.client.pttl(topic.log) > 0


def test_reading_keeps_meta_alive(url: str, prefix: str, client: Any) -> None:
    topic = Subject(url, prefix, client, Topic("calls", Everyone()))
    topic.bus = SyncBus(url, prefix=prefix, meta_ttl=0.4)
    epoch = topic.publish(history=History(5, 0.05)).epoch
    until(lambda: client.pttl(topic.meta) < 400)
    assert topic.read(Want.POSITION).position.epoch == epoch
    assert client.pttl(topic.meta) > 400
    until(lambda: not client.exists(topic.meta))
    assert topic.read(Want.POSITION).position.epoch != epoch
    topic.bus.close()


def test_eight_publishers_at_once_leave_no_hole(topic: Subject, url: str, prefix: str) -> None:
    each = 60
    positions: list[Position | None] = []
    listener = topic.client.pubsub()
    listener.subscribe(topic.channel)
    assert listener.get_message(timeout=5)

    def publish() -> None:
        bus = SyncBus(url, prefix=prefix)
        positions.extend(bus.publish(topic.topic, Kind.TEXT, b"x", LONG) for _ in range(each))
        bus.close()

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(position.seq for position in positions if position) == list(range(1, 8 * each + 1))
    heard: list[Any] = [listener.get_message(timeout=5) for _ in range(8 * each)]
    order = [decode(message["data"]).position for message in heard]
    assert [position.seq for position in order if position] == list(range(1, 8 * each + 1))  # contract 3.2
    listener.close()


# Epochs


def test_lost_meta_begins_a_new_epoch_and_forgets_the_log(topic: Subject) -> None:
    old = topic.publish(b"old")
    topic.client.delete(topic.meta)
    new = topic.publish(b"new")
    assert new.epoch != old.epoch
    assert new.seq == 1
    assert topic.in_log() == [(1, b"new")]
    assert topic.bodies(Want.AFTER, old) == []


@pytest.mark.parametrize("fields", [{"e": "x"}, {"s": "5"}, {"e": "x", "s": "many"}, {"e": "x", "s": str(2**60)}])
def test_spoilt_meta_begins_a_new_epoch(topic: Subject, fields: dict[str, str]) -> None:
    topic.publish(b"old")
    topic.client.delete(topic.meta)
    topic.client.hset(topic.meta, mapping=fields)
    position = topic.publish(b"new")
    assert len(position.epoch) == 16
    assert topic.in_log() == [(position.seq, b"new")]
    assert topic.client.pttl(topic.meta) > 0


def test_seq_never_leaves_what_lua_can_count(topic: Subject) -> None:
    epoch = topic.publish(b"old").epoch
    topic.client.hset(topic.meta, "s", str(MAX_SEQ - 1))
    last = topic.publish(b"last")
    assert last == (epoch, MAX_SEQ)
    assert topic.read(Want.LAST).position == last
    first = topic.publish(b"first")
    assert first.seq == 1
    assert first.epoch != epoch


def test_a_lost_log_keeps_the_epoch_and_nothing_is_recovered_in_part(topic: Subject) -> None:  # contract 5.3
    first = topic.publish(b"1")
    topic.publish(b"2")
    topic.client.delete(topic.log)
    topic.publish(b"3")
    assert topic.read(Want.POSITION).position == (first.epoch, 3)
    assert topic.bodies(Want.AFTER, first) == []
    assert topic.bodies(Want.AFTER, Position(first.epoch, 2)) == [b"3"]
    assert topic.bodies(Want.HEAL, first) == [b"3"]


# Reading


@pytest.mark.parametrize("want", Want)
def test_a_topic_that_nobody_has_used_gets_a_position_that_stays(topic: Subject, want: Want) -> None:
    result = topic.read(want, Position("a" * 16, 5))
    assert result.records == ()
    assert result.position.seq == 0
    assert topic.read(Want.POSITION).position == result.position
    assert topic.publish() == (result.position.epoch, 1)
    assert topic.bodies(Want.AFTER, result.position) == [b"x"]


def test_last_is_the_last(topic: Subject) -> None:  # contract 5.2
    assert topic.bodies(Want.LAST) == []
    for i in range(3):
        topic.publish(b"%d" % i)
    assert topic.bodies(Want.LAST) == [b"2"]


def test_an_expired_message_is_never_given(topic: Subject) -> None:
    position = topic.read(Want.POSITION).position
    topic.publish(b"brief", BRIEF)
    until(lambda: topic.bodies(Want.LAST) == [])
    assert topic.bodies(Want.AFTER, position) == []
    assert topic.bodies(Want.HEAL, position) == []
    assert topic.read(Want.POSITION).position == (position.epoch, 1)


def test_last_finds_the_message_that_lives_behind_expired_ones(topic: Subject) -> None:
    topic.publish(b"lasting")
    for _ in range(40):
        topic.publish(b"brief", BRIEF)
    until(lambda: topic.bodies(Want.LAST) == [b"lasting"])
    assert topic.in_log() == [(1, b"lasting")], "the walk over expired messages is paid for once"
    assert topic.publish(b"next").seq == 42


def test_after_is_all_or_nothing(topic: Subject) -> None:  # contract 5.3
    start = topic.read(Want.POSITION).position
    history = History(5, 300.0)
    positions = [topic.publish(b"%d" % i, history) for i in range(8)]
    assert topic.bodies(Want.AFTER, positions[2]) == [b"3", b"4", b"5", b"6", b"7"]
    assert topic.bodies(Want.AFTER, positions[6]) == [b"7"]
    assert topic.bodies(Want.AFTER, positions[7]) == []
    assert topic.bodies(Want.AFTER, positions[1]) == []
    assert topic.bodies(Want.AFTER, start) == []
    assert topic.bodies(Want.AFTER, Position("0" * 16, 7)) == []
    assert topic.bodies(Want.AFTER, Position(start.epoch, 9)) == []
    assert topic.read(Want.AFTER, positions[2]).completes(positions[2])
    assert not topic.read(Want.AFTER, positions[1]).completes(positions[1])


def test_after_gives_nothing_when_one_in_the_middle_has_expired(topic: Subject) -> None:
    start = topic.read(Want.POSITION).position
    topic.publish(b"1")
    topic.publish(b"brief", BRIEF)
    topic.publish(b"3")
    until(lambda: topic.bodies(Want.AFTER, start) == [])
    assert topic.bodies(Want.HEAL, start) == [b"3"]


def test_heal_is_the_unbroken_run_at_the_end(topic: Subject) -> None:  # contract 7.4
    history = History(50, 300.0)
    positions = [topic.publish(b"%d" % i, history) for i in range(120)]
    assert topic.bodies(Want.HEAL, positions[117]) == [b"118", b"119"]
    assert topic.bodies(Want.HEAL, positions[119]) == []
    assert topic.bodies(Want.HEAL, positions[0]) == [b"%d" % i for i in range(70, 120)]
    hole = topic.client.xrange(topic.log, min="100", max="+", count=1)
    topic.client.xdel(topic.log, hole[0][0])
    assert topic.bodies(Want.HEAL, positions[80]) == [b"%d" % i for i in range(100, 120)]


def test_heal_in_another_epoch_gives_all_that_nobody_here_has_seen(topic: Subject) -> None:
    old = topic.publish(b"old")
    topic.client.delete(topic.meta)
    new = [topic.publish(b"%d" % i) for i in range(3)]
    result = topic.read(Want.HEAL, old)
    assert result.position == new[-1]
    assert [record.body for record in result.records] == [b"0", b"1", b"2"]


def test_heal_of_a_redis_that_lost_messages_goes_on_in_a_new_epoch(topic: Subject) -> None:
    """A fail-over to a replica that was behind: numbers must not be given out twice in one epoch."""
    seen = Position(topic.publish(b"1").epoch, 9)
    result = topic.read(Want.HEAL, seen)
    assert result.position.epoch != seen.epoch
    assert result.position.seq == 9
    assert result.records == ()
    assert topic.in_log() == []
    assert topic.publish(b"next") == (result.position.epoch, 10)
    assert topic.bodies(Want.HEAL, seen) == [b"next"]


def test_a_client_cannot_do_that(topic: Subject) -> None:
    position = topic.publish(b"1")
    forged = [MAX_SEQ, MAX_SEQ - 1, 2**63, -1, 10**30, True]
    for seq in forged:
        assert topic.bodies(Want.AFTER, Position(position.epoch, seq)) in ([], [b"1"])
        topic.read(Want.LAST, Position(position.epoch, seq))
        topic.read(Want.POSITION, Position(position.epoch, seq))
    for epoch in ("x" * 10_000, "", "\x00", "é", "'); redis.call('FLUSHALL') --"):
        assert topic.bodies(Want.AFTER, Position(epoch, 0)) == []
    assert topic.read(Want.POSITION).position == position
    assert topic.bodies(Want.LAST) == [b"1"]


def test_heal_survives_the_greatest_position(topic: Subject) -> None:
    epoch = topic.publish(b"1").epoch
    result = topic.read(Want.HEAL, Position(epoch, MAX_SEQ - 1))
    assert result.position.seq == MAX_SEQ - 1
    assert topic.publish().seq == MAX_SEQ
    assert topic.publish().seq == 1


@pytest.mark.parametrize("name", ["n" * 10_000, "a}{b", "\x00\n", "*?[x]", "ü"])
def test_any_name_is_a_topic_of_its_own(  # contract 3.3
    url: str, prefix: str, client: Any, name: str
) -> None:
    topics = [Subject(url, prefix, client, Topic("calls", make(name))) for make in (User, Group)]
    for topic in topics:
        body = type(topic.topic.audience).__name__.encode()
        topic.publish(body)
        assert topic.bodies(Want.LAST) == [body]
        assert topic.read(Want.POSITION).position.seq == 1
        topic.bus.close()


def test_the_scripts_are_what_the_cache_calls_them(client: Any) -> None:
    assert [client.script_load(script.text) for script in (PUBLISH, READ)] == [PUBLISH.sha, READ.sha]


# Against a model: a list of what is in the log

_step = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 6)),
    st.tuples(st.just("plain"), st.none()),
    st.tuples(st.just("lose meta"), st.none()),
    st.tuples(st.just("lose log"), st.none()),
    st.tuples(st.just("delete"), st.integers(0, 30)),
    st.tuples(st.just("read"), st.tuples(st.sampled_from(sorted(Want)), st.integers(-3, 12), st.integers(0, 2))),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_step, max_size=40))
def test_any_history_is_what_a_list_would_be(topic: Subject, steps: list[tuple[str, Any]]) -> None:
    topic.client.delete(topic.meta, topic.log)
    epochs = ["f" * 16]  # those that were; the last is the present one
    known = False
    seq, log = 0, dict[int, bytes]()
    for number, (step, what) in enumerate(steps):
        if step in {"publish", "read"} and not known:
            known, seq, log = True, 0, {}
            epochs.append(topic.read(Want.POSITION).position.epoch)
        if step == "publish":
            seq += 1
            log[seq] = b"%d" % number
            log = {place: log[place] for place in sorted(log)[-what:]}
            assert topic.publish(log[seq], History(what, 300.0)) == (epochs[-1], seq)
        elif step == "plain":
            assert topic.bus.publish(topic.topic, Kind.TEXT, b"plain", History(0)) is None
        elif step == "lose meta":
            topic.client.delete(topic.meta)
            known = False
        elif step == "lose log":
            topic.client.delete(topic.log)
            log = {}
        elif step == "delete" and what in log:
            for entry, _ in topic.client.xrange(topic.log, str(what), str(what)):
                topic.client.xdel(topic.log, entry)
            del log[what]
        elif step == "read":
            want, distance, age = what
            after = Position(epochs[max(0, len(epochs) - 1 - age)], max(0, seq - distance))
            result = topic.read(want, after)
            is_same = after.epoch == epochs[-1]
            if want is Want.HEAL and is_same and after.seq > seq:
                assert result.position.seq == after.seq
                assert result.position.epoch not in epochs
                epochs.append(result.position.epoch)
                seq, log = after.seq, {}
            assert result.position == (epochs[-1], seq)
            assert [record.body for record in result.records] == _expected(want, after.seq, is_same, seq, log)


def _expected(want: Want, after: int, is_same: bool, seq: int, log: dict[int, bytes]) -> list[bytes]:
    match want:
        case Want.LAST:
            return [log[max(log)]] if log else []
        case Want.AFTER:
            wanted = range(after + 1, seq + 1)
            return [log[place] for place in wanted] if is_same and all(place in log for place in wanted) else []
        case Want.HEAL:
            run: list[bytes] = []
            place = seq
            while place in log and place > (after if is_same else 0):
                run.insert(0, log[place])
                place -= 1
            return run
        case Want.POSITION | Want.MARK:  # the latter is for another wire
            return []
