"""The transport on real servers: opening, messages, and clients that break the rules."""

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.legacy_ws4redis.echo import MAX_MESSAGE
from tests.legacy_ws4redis.rawclient import (
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    RawClient,
    frame,
    length,
    opened,
)
from tests.legacy_ws4redis.servers import Server

pytestmark = pytest.mark.servers


def well_behaved(server: Server, name: str) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}/ws/{name}", compression=None, max_size=None, close_timeout=5)


# Opening


@pytest.mark.usefixtures("old_client")
def test_the_101_has_the_subprotocol_and_every_header(server: Server, name: str) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/ws/{name}", subprotocols=["realtime.v1"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "realtime.v1"
        assert client.response is not None
        assert client.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
        assert client.response.headers.get_all("Upgrade") == ["websocket"]
        assert client.response.headers.get_all("Connection")[0].lower() == "upgrade"
        assert "Sec-WebSocket-Extensions" not in client.response.headers  # no permessage-deflate was negotiated


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Upgrade": "h2c"}, 426),
        ({"Connection": "close"}, 426),
        ({"Sec-WebSocket-Version": "8"}, 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Sec-WebSocket-Key": ""}, 400),
    ],
)
def test_a_bad_handshake_is_refused(server: Server, name: str, change: dict[str, str], status: int) -> None:
    assert server.get(f"/ws/{name}", HANDSHAKE | change)[0] == status  # contract 1.1


def test_a_browser_that_asks_to_keep_the_connection_alive_too(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HANDSHAKE, "Connection", "keep-alive, Upgrade")  # Firefox
    with opened(server, name) as client:
        client.send(frame(CLOSE, b"\x03\xe8"))
        assert client.close_code() == 1000


def test_a_handshake_on_a_connection_that_was_kept_alive(server: Server, name: str) -> None:
    if server.kind == "uwsgi":
        pytest.skip("uWSGI's --http-socket keeps no connection alive")
    with RawClient(server.port) as client:
        client.send(b"GET /control/-/pid HTTP/1.1\r\nHost: x\r\n\r\n")
        size = int(client.head().lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        client.skip(size)
        assert b" 101 " in client.handshake(f"/ws/{name}")
        client.send(frame(TEXT, b"x"))
        assert client.read() == (TEXT, b"x")


def test_a_handshake_is_a_get(server: Server, name: str) -> None:
    assert server.get(f"/ws/{name}", HANDSHAKE, "POST")[0] == 400


def test_bytes_sent_with_the_handshake_are_never_lost_in_silence(server: Server, name: str) -> None:
    with RawClient(server.port) as client:
        head = client.handshake(f"/ws/{name}", with_it=frame(TEXT, b"early"))
        if server.kind == "uwsgi":  # its parser keeps them to itself (handshake.py), so the client is refused
            assert b" 400 " in head
            return
        client.send(frame(TEXT, b"later"))
        assert [client.read(), client.read()] == [(TEXT, b"early"), (TEXT, b"later")]


def test_half_a_frame_sent_with_the_handshake(server: Server, name: str) -> None:
    whole = frame(TEXT, b"cut in two")
    with RawClient(server.port) as client:
        head = client.handshake(f"/ws/{name}", with_it=whole[:5])
        if server.kind == "uwsgi":
            assert b" 400 " in head
            return
        client.send(whole[5:])
        assert client.read() == (TEXT, b"cut in two")


def test_what_is_sent_before_accept_follows_the_101(server: Server, name: str) -> None:
    with RawClient(server.port) as client:
        assert b" 101 " in client.handshake(f"/ws/{name}?greet")
        assert client.read() == (TEXT, b"before the handshake")


# Messages


def test_messages_of_every_kind_and_size(server: Server, name: str) -> None:
    sizes = (0, 1, 125, 126, 65_535, 65_536, MAX_MESSAGE)
    messages = [kind for size in sizes for kind in ("x" * size, b"\0" * size)] + ["a\0b", "żółć 🌍", bytes(range(256))]
    with well_behaved(server, name) as client:
        for message in messages:
            client.send(message)
            assert client.recv(timeout=10) == message  # contract 4.1


def test_many_quick_messages_keep_their_order(server: Server, name: str) -> None:
    with well_behaved(server, name) as client:
        for number in range(200):
            client.send(str(number))
        assert [client.recv(timeout=10) for _ in range(200)] == [str(number) for number in range(200)]  # contract 6.1


def test_replies_to_what_came_before_a_close_frame_in_the_same_segment(server: Server, name: str) -> None:
    with opened(server, name) as client:
        client.send(frame(TEXT, b"one") + frame(TEXT, b"two") + frame(CLOSE, b"\x03\xe8"))
        assert [client.read(), client.read()] == [(TEXT, b"one"), (TEXT, b"two")]
        assert client.close_code() == 1000


def test_a_message_one_byte_at_a_time(server: Server, name: str) -> None:
    with opened(server, name) as client:
        for byte in frame(TEXT, b"slowly", fin=False) + frame(CONT, b" but surely"):
            client.send(bytes([byte]))
        assert client.read() == (TEXT, b"slowly but surely")


def test_fragments_of_two_clients_do_not_mix(server: Server, name: str) -> None:
    # uWSGI PR #1853: its own websocket_recv put one client's fragment into another's message.
    with opened(server, name) as one, opened(server, f"{name}b") as two:
        one.send(frame(TEXT, b"one-", fin=False))
        two.send(frame(BINARY, b"two-", fin=False))
        one.send(frame(CONT, b"one-", fin=False))
        two.send(frame(CONT, b"two"))
        one.send(frame(CONT, b"one"))
        assert one.read() == (TEXT, b"one-one-one")
        assert two.read() == (BINARY, b"two-two")


def test_control_frames_between_fragments(server: Server, name: str) -> None:
    with opened(server, name) as client:
        client.send(frame(TEXT, b"a", fin=False) + frame(PING, b"?") + frame(CONT, b"", fin=False))
        client.send(frame(PONG) + frame(CONT, b"b"))
        assert [client.read(), client.read()] == [(PONG, b"?"), (TEXT, b"ab")]


def test_a_control_frame_is_not_measured_by_what_is_left_of_the_message(server: Server, name: str) -> None:
    with opened(server, name) as client:
        client.send(frame(BINARY, bytes(MAX_MESSAGE - 1), fin=False))
        client.send(frame(PING, b"p" * 125) + frame(CONT, b"\0"))
        assert client.read() == (PONG, b"p" * 125)
        assert client.read() == (BINARY, bytes(MAX_MESSAGE))


def test_a_character_cut_in_two_by_fragments(server: Server, name: str) -> None:
    euro = "€".encode()
    with opened(server, name) as client:
        client.send(frame(TEXT, euro[:1], fin=False) + frame(CONT, euro[1:]))
        assert client.read() == (TEXT, euro)


# Broken rules (contract 6.3)

BROKEN = {
    "orphan continuation": (frame(CONT, b"x"), 1002),  # uWSGI #2225: it killed the worker
    "orphan continuation, not final": (frame(CONT, b"x", fin=False), 1002),
    "new message inside of a message": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "no mask": (frame(TEXT, b"x", masked=False), 1002),
    "reserved bit": (frame(TEXT, b"x", reserved=4), 1002),  # permessage-deflate's, which was not negotiated
    "reserved opcode": (frame(3, b"x"), 1002),
    "reserved control opcode": (frame(0xB, b"x"), 1002),
    "fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "close frame of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close code that must not be sent": (frame(CLOSE, b"\x03\xee"), 1002),
    "close reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "text that is not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "lone surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "bad UTF-8 over fragments": (frame(TEXT, b"\xe2", fin=False) + frame(CONT, b"\x28\xa1"), 1007),
    "text that ends inside of a character": (frame(TEXT, "€".encode()[:2]), 1007),
    "one byte too big": (frame(BINARY, bytes(MAX_MESSAGE + 1)), 1009),
    "too big in fragments": (frame(BINARY, bytes(MAX_MESSAGE), fin=False) + frame(CONT, b"x"), 1009),
    "huge declared length": (b"\x82" + length(2**62), 1009),
    "declared length beyond 63 bits": (b"\x82\xff" + b"\xff" * 8, 1009),
    "garbage": (b"GET / HTTP/1.1\r\n\r\n", 1002),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_ends_that_connection_only(server: Server, name: str, case: str) -> None:
    data, code = BROKEN[case]
    with opened(server, f"{name}b") as bystander, opened(server, name) as client:
        client.send(frame(TEXT, b"fine so far") + data)
        assert client.read() == (TEXT, b"fine so far")
        assert client.close_code() == code
        bystander.send(frame(TEXT, b"still here"))
        assert bystander.read() == (TEXT, b"still here")
    assert server.control(name, "ended")["code"] == code


def test_many_empty_fragments_are_one_empty_message(server: Server, name: str) -> None:
    with opened(server, name) as client:
        client.send(frame(TEXT, fin=False) + frame(CONT, fin=False) * 2_000 + frame(CONT))
        assert client.read() == (TEXT, b"")
