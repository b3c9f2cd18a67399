"""Rules in which somebody does what they must not: clients, handlers, strangers at the door (contract 1.1, 1.3, 6)."""

import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from hypothesis import strategies as st

from contract_tests.client import Seen
from contract_tests.driver import PATIENCE
from contract_tests.life import message_payload
from contract_tests.link import Ending, Link
from contract_tests.machine import PICK, Basics, step
from contract_tests.model import DIRECT, Broken, Item
from contract_tests.people import Person, signed_out
from contract_tests.values import LIMIT
from contract_tests.wire import BINARY, TEXT
from shim import User, realtime

NOT_V1: Final[dict[str, tuple[object, int, bytes]]] = {
    "no JSON": (None, TEXT, b"nonsense"),
    "nothing": (None, TEXT, b""),
    "no object": (None, TEXT, b"[]"),
    "NaN": (None, TEXT, b'{"op":"send","data":NaN}'),
    "unknown op": (7, TEXT, b'{"op":"subscribe","id":7}'),
    "no op": (None, TEXT, b"{}"),
    "second hello": (None, TEXT, b'{"op":"hello"}'),
    "no payload": (8, TEXT, b'{"op":"send","id":8}'),
    "two payloads": ("x", TEXT, b'{"op":"send","id":"x","data":1,"text":"a"}'),
    "no base64": (9, TEXT, b'{"op":"send","id":9,"b64":"!"}'),
    "text is no text": (None, TEXT, b'{"op":"send","text":1}'),
    "bad id": (None, TEXT, b'{"op":"send","id":1.5,"data":1}'),
    "huge id": (None, TEXT, b'{"op":"send","id":1' + b"0" * 400 + b',"data":1}'),
    "lone surrogate": (1, TEXT, b'{"op":"send","id":1,"text":"\\ud800"}'),
    "binary": (None, BINARY, b'{"op":"pong"}'),
    "deep": (None, TEXT, b"[" * 1_000 + b"]" * 1_000),
    "very deep": (None, TEXT, b'{"op":' + b"[" * 100_000),
    "huge number": (None, TEXT, b"1" * 10_000),
    "huge data": (None, TEXT, b'{"op":"send","id":3,"data":1' + b"0" * 5_000 + b"}"),
    "infinite": (None, TEXT, b'{"op":"send","id":3,"data":1e400}'),
}
"""What `realtime.v1` does not allow, and the id that its `error` names (6.3)."""

BAD_START: Final[dict[str, object]] = {
    "no hello": {"op": "send", "data": 1},
    "positions in a list": {"op": "hello", "resume": [["everyone", "0", 1]]},
    "half a position": {"op": "hello", "resume": {"everyone": ["0123456789abcdef"]}},
    "no seq": {"op": "hello", "resume": {"everyone": ["0123456789abcdef", "1"]}},
    "no epoch": {"op": "hello", "resume": {"everyone": [1, 1]}},
    "a fraction": {"op": "hello", "resume": {"everyone": ["0123456789abcdef", 0.5]}},
    "too many topics": {"op": "hello", "resume": {f"group:{number}": ["0", 1] for number in range(1_001)}},
    "was nobody": {"op": "hello", "was": ["x"]},
    "was too long": {"op": "hello", "was": "x" * 10_000},
}
"""What no v1 client may begin with (6.3)."""

_VIOLATIONS_SECONDS: Final = 10.0
_FLOOD: Final = 1_500  # messages: the burst, and those of more seconds than it takes to handle so many


class Misbehaviour(Basics):
    """Clients and handlers that break rules, each at the expense of their own connection alone."""

    def __init__(self) -> None:
        super().__init__()
        self.violated: dict[Link, float] = {}

    @step(pick=PICK, more=st.sampled_from([1, LIMIT]))
    def send_too_much(self, pick: int, more: int) -> None:
        """A client sends a message that is too big, by a byte or by so much that no protocol's frame carries it."""
        link = self.link(pick)
        if link is None:
            return
        self.life.must_end(link, Ending.by(1009, "6.3"))
        self.life.say(link, bytes(LIMIT + more))
        self.life.settle()
        self.life.hold("6.3")

    @step(pick=PICK, dice=st.integers(0, 3))
    def send_too_often(self, pick: int, dice: int) -> None:
        """A client sends more than one client may."""
        link = self.link(pick)
        if link is None or dice:
            return
        self.life.must_end(link, Ending.by(1008, "6.3", early=True))
        for _ in range(_FLOOD):
            self.life.say(link, {"do": "nothing"})
        self.life.settle()
        self.life.hold("6.3")

    @step(pick=PICK, what=st.sampled_from(sorted(NOT_V1)))
    def send_not_v1(self, pick: int, what: str) -> None:
        """A v1 client sends what v1 does not allow: an `error`, and 1008 when repeated."""
        link = self.link(pick, v1=True)
        if link is None or not self._may_violate(link):
            return
        id, opcode, payload = NOT_V1[what]
        link.client.say(opcode, payload)
        self._violates(link, id)

    @step(
        pick=PICK, what=st.sampled_from(["raise", "raise", "deny", "close"]), code=st.sampled_from([1000, 4123, 4999])
    )
    def handler_ends_it(self, pick: int, what: str, code: int) -> None:
        """A handler raises, says no, or closes."""
        link = self.link(pick)
        if link is None or (what == "deny" and link.v1 and not self._may_violate(link)):
            return
        self.life.say(link, {"do": what, "code": code, "reason": "as told"})
        if what == "deny" and link.v1:
            self._violates(link, None)
            return
        codes = {"raise": 1011, "deny": 1008, "close": code}
        self.life.must_end(link, Ending.by(codes[what], "6.2"))
        self.life.settle()
        self.life.hold("6.2")

    @step(who=PICK, place=PICK, what=st.sampled_from(["facility", "origin", "no", "upgrade", "args"]), v1=st.booleans())
    def knock_in_vain(self, who: int, place: int, what: str, v1: bool) -> None:
        """Somebody is refused before acceptance, with a status and a reason."""
        status, path, headers, body = {
            "facility": (404, "/ws/nobody-knows", {}, None),
            "origin": (403, "/ws/contract", {"Origin": "http://evil.example"}, None),
            "no": (403, "/ws/contract?refuse=not+today", {}, b"not today"),
            "upgrade": (426, "/ws/contract", {"Upgrade": "h2c"}, None),
            "args": (400, f"/ws/contract?{'a&' * 2_000}", {}, None),
        }[what]
        where = self.place(place)
        try:
            client = self.driver.knock(where, path, v1=v1, headers={**self.person(who).cookie, **headers})
            head, _ = client.open(PATIENCE)
        except OSError:
            if self.life.shaken:
                return
            raise
        finally:
            if "client" in locals():
                client.end()
        if head.status == 503 and self.life.shaken:
            return
        if head.status != status or not head.body or (body is not None and head.body != body):
            raise Broken("1.1", f"{what}: refused with {head.status} {head.body!r}, not with {status} {body!r}", where)
        self.life.hold("1.1")

    @step(who=PICK, place=PICK, what=st.sampled_from(sorted(BAD_START)), number=st.integers(0, 1))
    def begin_badly(self, who: int, place: int, what: str, number: int) -> None:
        """A v1 client begins with what it must not, twice: an `error`, and 1008; it has not been told of anything."""
        where, note = self.place(place), f"{self.life.name}-bad-{len(self.program)}"
        path = f"/ws/{quote(self.life.facilities[number], safe='')}?note={note}"
        first = (TEXT, json.dumps(BAD_START[what]).encode())
        seen = self._answers(where, path, self.person(who), [first, first], v1=True)
        if seen is None:
            return
        if [each.op for each in seen] != ["error", "error", "closed"] or seen[-1].code != 1008:
            raise Broken("6.3", f"{what}, twice, and a v1 client got {[str(each) for each in seen]}", where)
        self.life.see_disconnected(note, frozenset({1008}), f"a client that began badly ({what})", where)
        self.life.hold("6.3", "6.4")

    @step(who=PICK, place=PICK, v1=st.booleans())
    def speak_unasked(self, who: int, place: int, v1: bool) -> None:
        """A client says something where the facility says nothing of clients: that is closed by default (1.3)."""
        where = self.place(place)
        messages = [message_payload(v1, "psst")] * (2 if v1 else 1)
        if v1:
            messages.insert(0, (TEXT, b'{"op":"hello"}'))
        seen = self._answers(where, "/ws/contract-closed?subscribe-group", self.person(who), messages, v1=v1)
        if seen is None:
            return
        ops = [(each.op, (each.fields or {}).get("code") or each.code) for each in seen]
        refused = [("ready", None), ("error", "forbidden"), ("error", "forbidden")] if v1 else []
        if ops != [*refused, ("closed", 1008)]:
            raise Broken("1.3", f"a client said something unasked, and got {[str(each) for each in seen]}", where)
        self.life.hold("1.3")

    def _answers(
        self, where: str, path: str, person: Person, messages: Sequence[tuple[int, bytes]], *, v1: bool
    ) -> list[Seen] | None:
        """What a client gets for its messages until it is sent away; None: it was not let in, and need not be."""
        try:
            client = self.driver.knock(where, path, v1=v1, headers=person.cookie)
            head, seen = client.open(PATIENCE)
        except OSError:
            if self.life.shaken:
                return None
            raise
        if head.status == 503 and self.life.shaken:
            return None
        for opcode, payload in messages:
            client.say(opcode, payload)
        deadline = self.driver.now() + self.driver.patience
        while not client.over and self.driver.now() < deadline:
            client.wait()
            seen += client.pump()
        client.end(abrupt=True)
        if person.is_on_channels(self.life.flag) is not (where == "channels"):  # it may be moved at any time
            seen = [each for each in seen if each.op != "move"]
            if seen and seen[-1].code == 1012:
                return None
        return seen

    @step(who=st.integers(0, 1), how=st.sampled_from(["sign out", "disconnect", "adisconnect"]))
    def throw_out(self, who: int, how: str) -> None:
        """A user signs out, or is thrown out: that user's connections end everywhere, and nobody else's."""
        person = self.people[who]
        if person.name is None:
            return
        mine = [link for link in self.life.links if link.person.name == person.name]
        going = [link for link in mine if link.closed is None]
        self.life.must_end_all(going, Ending.by(4500, "7.5"), gone=[link for link in mine if link.closed is not None])
        if how == "sign out":
            self.people[who] = signed_out(person)
        elif how == "disconnect":
            realtime.disconnect(User(person.name))
        else:
            self.life.run(realtime.adisconnect(User(person.name)))
        self.life.settle()
        self.life.hold("7.5")

    def _may_violate(self, link: Link) -> bool:
        """Whether it is sure what follows: the seconds in which a second violation counts are not about to end."""
        last = self.violated.get(link)
        return last is None or self.driver.now() - last < _VIOLATIONS_SECONDS / 2

    def _violates(self, link: Link, id: Any) -> None:
        link.allowed.expect(Item("error", DIRECT, "6.3", id=id))
        if link in self.violated:
            self.life.must_end(link, Ending.by(1008, "6.3"))
        self.violated.setdefault(link, self.driver.now())
        self.life.settle()
        self.life.hold("6.3")
