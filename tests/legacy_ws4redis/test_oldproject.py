"""A project of ws4redis's time runs unchanged, on both backends and on `runserver`, on this Django."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.legacy_ws4redis.newsroom import COMMANDS, PROJECT, Browser, Newsroom, ended, fresh, messages

pytestmark = pytest.mark.servers

WIRE = "subscribe-broadcast&publish-broadcast&echo"
"""What the page asks for."""


@pytest.fixture(scope="module")
def newsroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newsroom]:
    with Newsroom(tmp_path_factory.mktemp("newsroom")) as newsroom:
        yield newsroom
        errors = newsroom.errors()
    assert {error for error in errors if "unable to open database file" not in error} == set()


@pytest.fixture(params=COMMANDS)
def port(request: pytest.FixtureRequest, newsroom: Newsroom) -> int:
    """Each server."""
    return newsroom.ports[request.param]


@pytest.fixture
def other(port: int, newsroom: Newsroom) -> int:
    """A server of the other backend."""
    return newsroom.ports["uwsgi" if port == newsroom.ports["channels"] else "channels"]


def test_nothing_of_ours_is_in_its_code() -> None:
    added = {PROJECT / "newsroom" / "swapped.py", PROJECT / "newsroom" / "asgi.py"}
    for path in {*PROJECT.rglob("*.py"), *PROJECT.rglob("*.html")} - added:
        assert not re.search(r"shim|realtime|channels_impl|legacy_ws4redis", path.read_text(), re.IGNORECASE), path


def test_its_page_opens_its_socket(port: int) -> None:
    browser = Browser(port)
    status, page = browser.get("/wire/")
    assert status == 200
    assert 'heartbeat_msg: "--heartbeat--",' in page
    text = fresh("<headline> & “quotes”")
    with browser.socket(uri(browser)) as one:
        assert browser.post("/wire/", text=text) == (200, "on the wire")
        while messages(one, 1) != [text]:  # the last one of another test may come first
            pass


def test_readers_and_writers(port: int, other: int) -> None:
    # contract 3.1, 6.5: on two backends at once
    ana, ben, reader = Browser(port).signed_in("ana"), Browser(other).signed_in("ben"), Browser(other)
    facility = fresh("talk")
    words = "subscribe-broadcast&publish-broadcast"
    with (
        ana.socket(f"{facility}?{words}") as quiet,
        ben.socket(f"{facility}?{words}&echo") as echoed,
        reader.socket(f"{facility}?{words}") as listening,
    ):
        for n in range(5):
            quiet.send(f"ana {n}")
            assert messages(echoed, 1) == messages(listening, 1) == [f"ana {n}"]
            echoed.send(f"ben {n}")
            assert messages(quiet, 1) == messages(echoed, 1) == messages(listening, 1) == [f"ben {n}"]
        listening.send("nobody may say this")  # desk.channels.allowed_channels
        echoed.send(b"\x00\xff")
        assert messages(quiet, 1) == messages(listening, 1) == [b"\x00\xff"]  # contract 4.1


def test_notes_for_users_groups_and_browsers(port: int, other: int) -> None:
    # contract 3.3, 5.2
    ana, again, ben = Browser(port).signed_in("ana"), Browser(other).signed_in("ana"), Browser(other).signed_in("ben")
    text = fresh("note")
    words = "notes?subscribe-user&subscribe-group&subscribe-session"
    with ana.socket(words) as one, again.socket(words) as two, ben.socket(words) as three:
        assert ana.post("/tell/", user="ben", text=f"{text} for ben") == (200, "told")
        assert ben.post("/tell/", group="desk", text=f"{text} for the desk") == (200, "told")
        assert ana.post("/remind/", text=text) == (200, "reminded")
        last = f"you: {text}"
        got: dict[str, list[str | bytes]] = {}
        for name, socket in (("one", one), ("two", two)):
            got[name] = []
            while got[name].count(last) < 2:  # as a user, and as a member of the desk
                got[name] += [message for message in messages(socket, 1) if text in str(message)]
        assert sorted(map(str, got["one"])) == [f"{text} for the desk", f"this browser: {text}", last, last]
        assert sorted(map(str, got["two"])) == [f"{text} for the desk", last, last]
        while f"{text} for ben" not in messages(three, 1):
            pass
    with ben.socket("notes?subscribe-user", port=port) as late, ana.socket(words, port=other) as later:
        assert messages(late, 1) == [f"{text} for ben"]
        assert messages(later, 1) == [f"{text} for the desk"]  # reminders were sent with expire=0


@pytest.mark.parametrize("name", ["places", "a/b", "of%20reporters", "%C3%A9%F0%9F%98%80", "50%25", "a%2Fb%3Fc%23"])
def test_a_place_that_a_client_sends_is_fetched_by_a_view(port: int, other: int, name: str) -> None:
    # contract 3.3: slashes, escapes and any Unicode are part of a facility's name
    ana, path = Browser(port).signed_in("ana"), f"{fresh('places')}/{name}"
    assert ana.get(f"/latest/{path}/") == (404, "nothing")
    with ana.socket(f"{path}?publish-user", port=other) as one:
        one.send("38.7,-9.1")
        one.ping().wait(10)
    for audience in ("any", "user"):
        assert ana.get(f"/latest/{path}/?audience={audience}") == (200, "38.7,-9.1")
    assert ana.get(f"/latest/{path}/?audience=broadcast") == (404, "nothing")
    assert ana.get(f"/latest/{path}x/") == (404, "nothing")
    assert Browser(other).get(f"/latest/{path}/") == (404, "nothing")


def test_its_own_subscriber_signs(port: int) -> None:
    ana = Browser(port).signed_in("ana")
    with ana.socket("signed?subscribe-user&publish-user&echo") as one:
        text = fresh("hello")
        one.send(text)
        while json.loads(messages(one, 1)[0]) != {"by": "ana", "text": text}:
            pass


def test_refusals(port: int) -> None:
    # contract 1.1
    browser = Browser(port)
    for path, status, reason in (("archive?subscribe-broadcast", 403, b"The archive is closed"), ("", 404, b"")):
        with pytest.raises(InvalidStatus) as refused, browser.socket(path):
            pass
        assert refused.value.response.status_code == status
        assert reason in bytes(refused.value.response.body or b"")
    assert browser.get("/ws/wire")[0] == 426


def test_a_subprotocol_is_agreed_to(port: int) -> None:
    # browsers break off where none of theirs is
    with Browser(port).socket("wire", subprotocols=[Subprotocol("newsroom"), Subprotocol("other")]) as one:
        assert one.subprotocol == "newsroom"
    with Browser(port).socket("wire", subprotocols=[Subprotocol("newsroom"), Subprotocol("realtime.v1")]) as one:
        assert one.subprotocol == "realtime.v1"


def test_the_heartbeat_keeps_old_clients(newsroom: Newsroom) -> None:
    # contract 7.1: within 4 s and one look of the timer
    with ExitStack() as stack:
        sockets = [stack.enter_context(Browser(newsroom.ports[name]).socket("quiet")) for name in COMMANDS]
        for one in sockets:
            one.send("--heartbeat--")
        for one in sockets:
            assert one.recv(6.0) == "--heartbeat--"


def test_a_server_for_sockets_alone(newsroom: Newsroom) -> None:
    port, ana = newsroom.sockets(), Browser(newsroom.ports["uwsgi"]).signed_in("ana")
    with ana.socket("notes?subscribe-user&publish-user&echo", port=port) as one:
        text = fresh("alone")
        one.send(text)
        while messages(one, 1) != [text]:
            pass
        assert ana.post("/tell/", user="ana", text=f"{text} from a page") == (200, "told")
        assert messages(one, 1) == [f"{text} from a page"]


def test_the_flag_moves_them(newsroom: Newsroom) -> None:
    # contract 8.1, 8.4, 5.2
    turn = "from waffle.models import Flag; f = Flag.objects.get(); f.everyone = %s; f.save()"
    ana = {name: Browser(newsroom.ports[name]).signed_in("ana") for name in ("uwsgi", "channels")}
    text, address = fresh("moved"), uri(ana["uwsgi"])
    try:
        for everyone, server in ((True, "channels"), (None, "uwsgi")):
            with ana["uwsgi"].socket(address) as one:
                newsroom.python(turn % everyone)
                assert ended(one) == 1012
            ana["uwsgi"].post("/wire/", text=text)
            addresses = {uri(each) for each in ana.values()}
            assert addresses == {f"ws://127.0.0.1:{newsroom.ports[server]}/ws/wire?{WIRE}"}
            (address,) = addresses
            with ana["uwsgi"].socket(address) as one:
                assert messages(one, 1) == [text]
    finally:
        newsroom.python(turn % None)


def uri(browser: Browser) -> str:
    """Where the page leads."""
    found = re.search(r"uri: '(.*)'", page := browser.get("/wire/")[1])
    assert found, page
    return found[1]


def test_a_session_store_that_is_down_is_not_an_anonymous_user(newsroom: Newsroom) -> None:
    # contract 1.1
    ana = {name: Browser(newsroom.ports[name]).signed_in("ana") for name in COMMANDS}
    with newsroom.without_database():
        for browser in ana.values():
            with pytest.raises(InvalidStatus) as refused, browser.socket("wire?subscribe-broadcast"):
                pass
            assert refused.value.response.status_code == 503
            assert int(refused.value.response.headers["Retry-After"]) > 0
            with Browser(browser.port).socket("wire?subscribe-broadcast"):  # who has no session needs none
                pass
    for browser in ana.values():
        browser.socket("wire?subscribe-user").__enter__().close()


def test_its_settings_are_found_right(newsroom: Newsroom) -> None:
    said = newsroom.manage("check", "--deploy", "--tag", "realtime", "--fail-level", "ERROR")
    assert set(re.findall(r"realtime\.\w+", said)) == {"realtime.W008"}, said
