"""Discovery without sockets: requests, answers, cookies."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.client.discovery import (
    HTTP,
    WEBSOCKET,
    Address,
    Cookies,
    Endpoint,
    is_complete,
    read_answer,
    read_endpoint,
    request_for,
    with_params,
)
from shim.client.errors import DiscoveryError

URL = "http://host:8000/realtime/endpoint"


def answer(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n") -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_the_request() -> None:
    request = request_for(URL + "?a=1", "ü &", {"Cookie": "a=b"}).decode()
    assert request.startswith("GET /realtime/endpoint?a=1&facility=%C3%BC+%26 HTTP/1.1\r\nHost: host:8000\r\n")
    assert "\r\nCookie: a=b\r\n" in request
    assert request.endswith("\r\nConnection: close\r\n\r\n")
    assert request_for("http://host", "f", {}).startswith(b"GET /?facility=f HTTP/1.1\r\nHost: host\r\n")
    assert request_for("http://host/a%20b/ü", "f", {}).startswith(b"GET /a%20b/%C3%BC?facility=f ")


@given(st.data())
def test_an_answer_is_complete_at_its_end_and_not_before(data: st.DataObject) -> None:
    body = data.draw(st.binary(max_size=100))
    whole = answer(body)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert is_complete(whole, URL)
    assert not is_complete(whole[:cut], URL)


def test_chunked_answers() -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    assert [n for n in range(len(whole) + 1) if is_complete(whole[:n], URL)] == [len(whole)]
    assert read_answer(whole, URL).body == "{}"


def test_an_answer_without_a_length_ends_with_the_stream() -> None:
    whole = b"HTTP/1.0 404 Not Found\r\n\r\nno"
    assert not is_complete(whole, URL)
    assert (read_answer(whole, URL).status, read_answer(whole, URL).body) == (404, "no")


@pytest.mark.parametrize(
    ("data", "match", "foreign"),
    [
        (b"", "closed without an answer", False),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not an HTTP answer", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "cut off", False),
    ],
)
def test_what_is_no_answer(data: bytes, match: str, foreign: bool) -> None:
    with pytest.raises(DiscoveryError, match=match) as raised:
        read_answer(data, URL)
    assert raised.value.foreign is foreign


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    for received in (data, b"HTTP/1.1 200 OK\r\n" + data, answer(data)):
        with suppress(DiscoveryError):
            is_complete(received, URL)
            read_endpoint(read_answer(received, URL), URL, tls=False, v1=True)


def test_an_endpoint() -> None:
    told = {"backend": "legacy", "url": "ws://h/ws/calls", "protocol": "realtime.v1", "reconnect": {"base_ms": 1}}
    read = read_answer(answer(json.dumps(told).encode()), URL)
    assert read_endpoint(read, URL, tls=False, v1=True) == Endpoint("legacy", "ws://h/ws/calls", {"base_ms": 1})
    with pytest.raises(DiscoveryError, match="has to name a wss URL"):
        read_endpoint(read, URL, tls=True, v1=True)
    other = read_answer(answer(json.dumps({**told, "protocol": "realtime.v2"}).encode()), URL)
    with pytest.raises(DiscoveryError, match=r"speaks 'realtime\.v2'"):
        read_endpoint(other, URL, tls=False, v1=True)
    assert read_endpoint(other, URL, tls=False, v1=False).backend == "legacy"


def test_an_error_shows_status_url_and_body() -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n"
    with pytest.raises(DiscoveryError) as raised:
        read_endpoint(read_answer(answer(b"draining" + b"x" * 1000, head), URL), URL, tls=False, v1=True)
    error = raised.value
    assert (error.status, error.url, error.retry_after, error.foreign) == (503, URL, "7", False)
    assert error.body.startswith("drainingxx")
    assert str(error).startswith(f"{URL} answered HTTP 503 'drainingxx")
    assert len(str(error)) < 300


def test_addresses() -> None:
    assert Address.of("http://Host/x", HTTP) == Address("host", 80, False)
    assert Address.of("https://[::1]:8443/x", HTTP) == Address("::1", 8443, True)
    assert Address.of("wss://h/x", WEBSOCKET) == Address("h", 443, True)
    with pytest.raises(DiscoveryError, match=r"looks like ws://host\[:port\]/… or wss://"):
        Address.of("http://h/", WEBSOCKET)
    with pytest.raises(DiscoveryError):
        Address.of("http://" + "a" * 64 + "/", HTTP)


def test_params() -> None:
    assert with_params("ws://h/ws/a", ()) == "ws://h/ws/a"
    assert with_params("ws://h/ws/a", ("subscribe-user", "n=ü&")) == "ws://h/ws/a?subscribe-user&n=%C3%BC%26"
    assert with_params("ws://h/ws/a?x", ("echo",)) == "ws://h/ws/a?x&echo"


def test_cookies() -> None:
    cookies = Cookies({"sessionid": "s"})
    cookies.learn(["a=1; Path=/", "b=x=y", "a=2; Max-Age=60; Secure", "c=3", "c=; expires=Thu, 01 Jan 1970", "d", "=1"])
    assert cookies.headers() == {"Cookie": "sessionid=s; a=2; b=x=y"}
    cookies.learn(["sessionid=gone; Max-Age=0", "b=gone; max-age=-1"])
    assert cookies.headers() == {"Cookie": "a=2"}
    assert "a" in cookies
    assert cookies["a"] == "2"
    cookies.learn([f"c{n}=1" for n in range(1000)] + ["long=" + "x" * 5000])
    assert len(cookies.headers()["Cookie"].split("; ")) == 50
    assert Cookies().headers() == {}
    for name, value in (("", "x"), ("a b", "x"), ("a", "x;y"), ("a", "x\r\ny"), ("a", "ü")):
        with pytest.raises(ValueError, match="not a cookie"):
            Cookies({name: value})


@given(st.lists(st.text()))
def test_any_set_cookie_leaves_a_header_that_can_be_sent(headers: list[str]) -> None:
    cookies = Cookies()
    cookies.learn(headers)
    for value in cookies.headers().values():
        value.encode("latin-1")
        assert "\r" not in value
        assert "\n" not in value
