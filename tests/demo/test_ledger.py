import pytest

from demo.ledger import Account, Count, Ledger, Published, RawAccount, id_of
from shim.core.wire import Position

TOPICS = {"everyone": "lobby:e:", "user": "lobby:u:ana"}


def at(seq: int, epoch: str = "e1") -> Position:
    return Position(epoch, seq)


def ledger_of(*seqs: int, topic: str = "lobby:e:") -> Ledger:
    ledger = Ledger()
    for seq in seqs:
        ledger.add(Published(f"m{seq}", topic, at(seq), float(seq)))
    return ledger


@pytest.fixture
def account() -> Account:
    account = Account(TOPICS)
    account.ready({"everyone": at(2), "user": at(0)})
    return account


class TestV1:
    def test_what_came_before_it_was_subscribed_is_not_expected(self, account: Account) -> None:
        # contract 2.1
        for seq in (3, 4):
            account.took("everyone", at(seq), f"m{seq}")
        assert account.settle(ledger_of(1, 2, 3, 4)) == Count(expected=2, delivered=2)

    def test_a_loss_shows_whether_or_not_anything_came_after_it(self, account: Account) -> None:
        account.took("everyone", at(4), "m4")
        count = account.settle(ledger_of(3, 4, 5))
        assert (count.expected, count.delivered, count.lost) == (3, 1, 2)
        assert account.missing(ledger_of(3, 4, 5)) == 2

    def test_a_second_ready_does_not_move_the_start(self, account: Account) -> None:
        account.ready({"everyone": at(9), "user": at(0)})
        assert account.settle(ledger_of(3)).lost == 1

    def test_another_epoch_is_expected(self, account: Account) -> None:
        ledger = ledger_of(3)
        ledger.add(Published("n1", "lobby:e:", at(1, "e2"), 4.0))
        assert account.settle(ledger).expected == 2

    def test_twice_and_out_of_order(self, account: Account) -> None:
        # contract 3.1, 3.2
        for seq in (3, 5, 5, 4):
            account.took("everyone", at(seq), f"m{seq}")
        assert account.wrong == Count(duplicated=1, out_of_order=1)
        assert account.settle(ledger_of(3, 4, 5)) == Count(expected=3, delivered=3)
        assert account.received == 3

    def test_what_is_not_its_own(self, account: Account) -> None:
        # contract 3.3
        ledger = ledger_of(1, 3)
        ledger.add(Published("b", "lobby:u:ben", at(1), 1.0))
        account.took("everyone", at(1), "m1")  # from before its subscription
        account.took("user", at(1), "b")  # somebody else's
        account.took("group:x", at(1), "m3")  # under a topic that it has not
        account.took("everyone", at(4), "never logged")  # the publisher's answer was lost: nobody can say
        assert (account.settle(ledger) + account.wrong).unexpected == 3

    def test_other_topics_than_it_should_have(self) -> None:
        with pytest.raises(ValueError, match="everyone"):
            Account(TOPICS).ready({"everyone": at(0)})

    def test_messages_of_others_keep_the_order_and_are_not_counted(self, account: Account) -> None:
        account.took("everyone", at(4), None)
        account.took("everyone", at(3), None)
        assert account.received == 0
        assert account.wrong == Count(out_of_order=1)


class TestRaw:
    def test_by_the_clock(self) -> None:
        account = RawAccount(TOPICS.values())
        account.opened(2.5)
        account.opened(9.0)  # the first one counts
        for id in ("m2", "m4", "m4"):
            account.took(id)
        account.took(None)
        assert account.settle(ledger_of(1, 2, 3, 4)) == Count(expected=2, delivered=1, duplicated=1)
        assert account.missing(ledger_of(3)) == 1


def test_an_id_is_used_once() -> None:
    ledger = ledger_of(1)
    assert (len(ledger), "m1" in ledger) == (1, True)
    with pytest.raises(ValueError, match="m1"):
        ledger.add(Published("m1", "lobby:e:", at(2), 0.0))


@pytest.mark.parametrize(
    ("value", "id"),
    [
        ({"id": "0123456789ab", "event": "news"}, "0123456789ab"),
        ('{"id":"0123456789ab","event":"news"}', "0123456789ab"),
        ("0123456789ab text", "0123456789ab"),
        (b"0123456789ab \x00\xff", "0123456789ab"),
        ("hello", None),
        ("hello there", None),
        ({"id": 7}, None),
        (b"\xff", None),
        (None, None),
    ],
)
def test_the_id_inside_a_message(value: object, id: str | None) -> None:
    assert id_of(value) == id
