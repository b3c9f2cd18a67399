"""Rules in which somebody does what they must not: clients, handlers, strangers at the door (contract 1.1, 1.3, 6)."""

import time
from typing import Any, Final

from hypothesis import strategies as st

from contract_tests.client import Client
from contract_tests.drivers import PATIENCE
from contract_tests.link import Ending, Link
from contract_tests.machine import PICK, Basics, step
from contract_tests.model import DIRECT, Broken, Item
from contract_tests.people import signed_out
from contract_tests.values import LIMIT
from contract_tests.wire import BINARY, CLOSE, CONTINUATION, PING, TEXT, close_frame, frame
from shim import User, realtime

FORBIDDEN: Final[dict[str, tuple[int, bytes]]] = {
    "compressed": (1002, frame(TEXT, b"x", rsv=4)),
    "reserved bit": (1002, frame(BINARY, b"x", rsv=1)),
    "reserved opcode": (1002, frame(3, b"x")),
    "reserved control": (1002, frame(11, b"x")),
    "orphan continuation": (1002, frame(CONTINUATION, b"x")),
    "message in a message": (1002, frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")),
    "unmasked": (1002, frame(TEXT, b"x", masked=False)),
    "long ping": (1002, frame(PING, b"x" * 126)),
    "ping in parts": (1002, frame(PING, b"x", fin=False)),
    "half a close code": (1002, frame(CLOSE, b"\x03")),
    "reserved close code": (1002, close_frame(1005)),
    "unknown close code": (1002, close_frame(999)),
    "bad UTF-8": (1007, frame(TEXT, b"\xff\xfe")),
    "surrogate": (1007, frame(TEXT, b"\xed\xa0\x80")),
    "overlong": (1007, frame(TEXT, b"\xc0\x80")),
    "bad UTF-8 over frames": (1007, frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"x")),
    "half a character": (1007, frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"")),
    "bad UTF-8 in a close": (1007, close_frame(1000, b"\xff")),
    "far too big": (1009, b"\x82\xff" + (1 << 40).to_bytes(8) + b"\0\0\0\0"),
    "too big in parts": (1009, frame(BINARY, bytes(LIMIT), fin=False) + frame(CONTINUATION, bytes(LIMIT))),
}
"""Bytes that RFC 6455 or the contract forbids on any connection, and the close code that answers them (6.3)."""

NOT_V1: Final[dict[str, tuple[object, bytes]]] = {
    "no JSON": (None, frame(TEXT, b"nonsense")),
    "nothing": (None, frame(TEXT, b"")),
    "no object": (None, frame(TEXT, b"[]")),
    "NaN": (None, frame(TEXT, b'{"op":"send","data":NaN}')),
    "unknown op": (7, frame(TEXT, b'{"op":"subscribe","id":7}')),
    "no op": (None, frame(TEXT, b"{}")),
    "second hello": (None, frame(TEXT, b'{"op":"hello"}')),
    "no payload": (8, frame(TEXT, b'{"op":"send","id":8}')),
    "two payloads": ("x", frame(TEXT, b'{"op":"send","id":"x","data":1,"text":"a"}')),
    "no base64": (9, frame(TEXT, b'{"op":"send","id":9,"b64":"!"}')),
    "text is no text": (None, frame(TEXT, b'{"op":"send","text":1}')),
    "bad id": (None, frame(TEXT, b'{"op":"send","id":1.5,"data":1}')),
    "huge id": (None, frame(TEXT, b'{"op":"send","id":1' + b"0" * 400 + b',"data":1}')),
    "lone surrogate": (1, frame(TEXT, b'{"op":"send","id":1,"text":"\\ud800"}')),
    "binary": (None, frame(BINARY, b'{"op":"pong"}')),
    "deep": (None, frame(TEXT, b"[" * 1_000 + b"]" * 1_000)),
    "very deep": (None, frame(TEXT, b'{"op":' + b"[" * 100_000)),
    "huge number": (None, frame(TEXT, b"1" * 10_000)),
}
"""What `realtime.v1` does not allow, and the id that its `error` names (6.3)."""

_VIOLATIONS_SECONDS: Final = 10.0


class Misbehaviour(Basics):
    """Clients and handlers that break rules, each at the expense of their own connection alone."""

    def __init__(self) -> None:
        super().__init__()
        self.violated: dict[Link, float] = {}

    @step(pick=PICK, what=st.sampled_from(sorted(FORBIDDEN)))
    def send_forbidden(self, pick: int, what: str) -> None:
        """A client sends what no client may."""
        link = self.link(pick)
        if link is None:
            return
        code, data = FORBIDDEN[what]
        self.life.must_end(link, Ending.by(code, "6.3"))
        link.client.send(data)
        self.life.settle()
        self.life.hold("6.3")

    @step(pick=PICK, what=st.sampled_from(sorted(NOT_V1)))
    def send_not_v1(self, pick: int, what: str) -> None:
        """A v1 client sends what v1 does not allow: an `error`, and 1008 when repeated."""
        link = self.link(pick, v1=True)
        if link is None or not self._may_violate(link):
            return
        id, data = NOT_V1[what]
        link.client.send(data)
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

    @step(who=PICK, place=PICK, what=st.sampled_from(["facility", "origin", "no", "upgrade"]), v1=st.booleans())
    def knock_in_vain(self, who: int, place: int, what: str, v1: bool) -> None:
        """Somebody is refused before acceptance, with a status and a reason."""
        status, path, headers, body = {
            "facility": (404, "/ws/nobody-knows", {}, None),
            "origin": (403, "/ws/contract", {"Origin": "http://evil.example"}, None),
            "no": (403, "/ws/contract?refuse=not+today", {}, b"not today"),
            "upgrade": (426, "/ws/contract", {"Upgrade": "h2c"}, None),
        }[what]
        where = self.place(place)
        try:
            client = Client(self.driver.address(where), path, v1=v1, headers={**self.person(who).cookie, **headers})
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
        return last is None or time.monotonic() - last < _VIOLATIONS_SECONDS / 2

    def _violates(self, link: Link, id: Any) -> None:
        link.allowed.expect(Item("error", DIRECT, "6.3", id=id))
        if link in self.violated:
            self.life.must_end(link, Ending.by(1008, "6.3"))
        self.violated.setdefault(link, time.monotonic())
        self.life.settle()
        self.life.hold("6.3")
