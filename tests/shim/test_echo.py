"""ws4redis's echo rule (contract 6.5), as facilities see it; both backends run the code that runs here."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest

from shim import Connection, Everyone, Facility, History, Message, realtime
from shim.testing import InMemory, TestConnection, connect, outbox

type Protocol = Literal["raw", "v1"]


class Talk(Facility):
    """Hands on what it is told, as ws4redis did; `unkept` without history, `unsigned` as nobody's."""

    name = "echo-talk"
    echo = False

    def receive(self, connection: Connection, message: Message) -> None:
        history = History(size=0) if message.value == "unkept" else None
        sender = None if message.value == "unsigned" else connection
        realtime.publish(self.name, Everyone(), message, history=history, sender=sender)


class Open(Facility):
    """The same, and everybody gets it."""

    name = "echo-open"

    def receive(self, connection: Connection, message: Message) -> None:
        realtime.publish(self.name, Everyone(), message, sender=connection)


@pytest.fixture
def memory() -> Iterator[InMemory]:
    with InMemory() as made:
        yield made


@pytest.fixture(params=["raw", "v1"])
def protocol(request: pytest.FixtureRequest) -> Protocol:
    found: Protocol = request.param
    return found


def seqs(connection: TestConnection) -> list[Any]:
    """What a v1 client was told of the topic: positions and what stands there."""
    connection.receive_all()
    return [frame["pos"][1] for frame in connection.told if frame["op"] == "skip"]


@pytest.mark.usefixtures("memory")
class TestRule:
    def test_a_sender_does_not_get_its_own_message_and_others_do(self, protocol: Protocol) -> None:
        with connect("echo-talk", protocol=protocol) as one, connect("echo-talk", protocol=protocol) as other:
            for value in ("a", "unkept", "b"):
                one.send(value)
            assert other.receive_all() == ["a", "unkept", "b"]
            one.receive_nothing()
            other.send("b")  # the same text, of somebody else: what counts is who sent it
            assert one.receive_all() == ["b"]
            other.receive_nothing()

    def test_unless_it_asked(self, protocol: Protocol) -> None:
        with connect("echo-talk", protocol=protocol, query="echo") as one:
            one.send("a")
            assert one.receive_all() == ["a"]

    def test_or_nobody_said_whose_it_is(self, protocol: Protocol) -> None:
        with connect("echo-talk", protocol=protocol) as one:
            one.send("unsigned")
            assert one.receive_all() == ["unsigned"]

    def test_or_the_facility_is_another(self, protocol: Protocol) -> None:
        with connect("echo-open", protocol=protocol) as one:
            one.send("a")
            assert one.receive_all() == ["a"]

    def test_a_connection_of_the_same_user_is_another(self, protocol: Protocol) -> None:
        with connect("echo-talk", protocol=protocol) as one, connect("echo-talk", protocol=protocol) as same:
            one.send("a")
            assert same.receive_all() == ["a"]

    def test_the_outbox_says_whose_it_is(self) -> None:
        with connect("echo-talk") as one:
            one.send("a")
            one.send("unsigned")
            assert [published.sender for published in outbox()] == [one.client.id, None]


@pytest.mark.usefixtures("memory")
class TestPositions:
    """A v1 client's positions have no hole where its own messages are."""

    def test_live(self) -> None:
        with connect("echo-talk") as one, connect("echo-talk") as other:
            for who in (one, other, one, one, other):
                who.send("x")
            assert one.receive_all() == ["x", "x"]
            assert seqs(one) == [1, 3, 4]
            assert one.positions["everyone"].seq == 5

    def test_without_history_there_is_none(self) -> None:
        with connect("echo-talk") as one:
            one.send("unkept")
            assert [frame["op"] for frame in one.told] == ["ack"]

    def test_after_a_resume_own_are_those_of_the_connection_it_was(self) -> None:
        with connect("echo-talk") as one:
            start = dict(one.positions)
            for value in ("a", "unsigned", "b"):
                one.send(value)
            one.cut()
        with connect("echo-talk", resume=start, was=one.client.id) as again:
            assert again.recovered == {"everyone": True}
            assert again.receive_all() == ["unsigned"]
            assert seqs(again) == [1, 3]
            again.send("c")
            again.receive_nothing()
            assert seqs(again) == [1, 3, 4]
            assert again.positions["everyone"].seq == 4

    def test_to_one_that_does_not_say_so_they_are_somebodys(self) -> None:
        with connect("echo-talk") as one:
            start = dict(one.positions)
            one.send("a")
        with connect("echo-talk", resume=start) as again:
            assert again.receive_all() == ["a"]

    def test_a_forged_one_hides_from_the_forger_alone(self) -> None:
        with connect("echo-talk") as victim, connect("echo-talk", was=victim.client.id) as forger:
            victim.send("a")
            forger.receive_nothing()
            forger.send("b")
            assert victim.receive_all() == ["b"]

    def test_while_a_topic_heals(self, memory: InMemory) -> None:
        server = memory.server()
        with connect("echo-talk") as one, connect("echo-talk") as other:
            one.send("a")
            server.cut()
            memory.settle()
            one.send("b")
            realtime.publish("echo-talk", Everyone(), "c")
            server.restore()
            memory.advance(2)
            assert one.receive_all() == ["c"]
            assert seqs(one) == [1, 2]
            assert one.positions["everyone"].seq == 3
            assert other.receive_all() == ["a", "b", "c"]


@pytest.mark.usefixtures("memory")
class TestRaw:
    def test_the_retained_message_is_for_whoever_comes(self) -> None:
        # contract 5.2: a new connection is not the sender, and raw clients cannot say that they are.
        with connect("echo-talk", protocol="raw") as one:
            one.send("a")
        with connect("echo-talk", protocol="raw") as again:
            assert again.receive_all() == ["a"]

    def test_what_is_no_v1_is_no_was(self) -> None:
        with pytest.raises(TypeError, match="v1"):
            connect("echo-talk", protocol="raw", was="c1")


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("was", ["", "a b", 'x"', "x" * 65])
def test_what_cannot_be_an_id_is_a_bad_hello(was: str) -> None:
    with connect("echo-talk", was=was) as one:
        assert [error["code"] for error in one.errors] == ["bad_hello"]
        assert one.ready is None
