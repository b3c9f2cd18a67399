"""The commands and programs in docs/ are run as shown, on fresh projects outside the checkout."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from websockets.exceptions import InvalidStatus

from shim.bus.embedded import EmbeddedValkey
from tests.project.pages import DOCS, README, Block, block, blocks
from tests.project.site import PATIENCE, Site, get, hello, message, until

TUTORIAL = DOCS / "tutorial" / "first-facility.md"
DEPLOY = DOCS / "how-to" / "deploy.md"
ROLL_OUT = DOCS / "how-to" / "roll-out-and-back.md"
CLIENT = DOCS / "how-to" / "write-a-client.md"
FROM_WS4REDIS = DOCS / "how-to" / "from-ws4redis.md"

pytestmark = pytest.mark.servers


def lines(page: Path, mark: str) -> list[str]:
    """All lines of all blocks with a mark."""
    return [line for each in blocks(page) if each.mark == mark for line in each.lines]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """README's project, not served."""
    with Site(tmp_path_factory.mktemp("docs") / "project") as made:
        made.run("python -m django startproject mysite .")
        made.run("python manage.py startapp calls")
        made.write([each for each in blocks(README) if each.language == "python"])
        made.run("python manage.py migrate")
        yield made


@pytest.fixture
def site(quickstart: Site) -> Iterator[Site]:
    yield quickstart
    quickstart.stop()


# docs/how-to


@pytest.mark.parametrize("command", lines(DEPLOY, "serve"))
def test_a_server_that_is_shown_serves(site: Site, command: str) -> None:
    address = site.legacy if "8000" in command else site.channels
    site.start(command)
    site.wait_for(address, "calls")
    with site.client(address, "calls", subprotocols=["realtime.v1"]) as client:
        hello(client)
        position = json.loads(get(f"http://{address}/ring/"))["position"]
        assert message(client)["pos"] == position
    assert [get(f"http://{address}/realtime/{probe}") for probe in ("livez", "readyz")] == ["alive", "ready"]
    with pytest.raises(InvalidStatus, match="404"), site.client(address, "nothing"):
        pass


def test_the_roll_out_is_done_as_shown(site: Site) -> None:
    cookies = {"Cookie": f"sessionid={site.session('ana')}"}
    site.start(block(README, "servers").lines[0])
    site.wait_for(site.legacy, "calls")

    def backend(headers: dict[str, str]) -> str:
        told: str = json.loads(get(f"http://{site.legacy}/realtime/endpoint?facility=calls", headers))["backend"]
        return told

    def until_backend(headers: dict[str, str], wanted: str, why: str) -> None:
        until(lambda: backend(headers) == wanted, lambda: f"{why}: still {backend(headers)}")

    stranger = {"Cookie": "realtime_anonymous=nobody-in-particular"}
    assert (backend(cookies), backend(stranger)) == ("legacy", "legacy")
    first, *rest, back = lines(ROLL_OUT, "ops")
    site.run(first)
    until_backend(cookies, "channels", first)
    assert backend(stranger) == "legacy"
    for step in rest:
        site.run(step)
        assert backend(cookies) == "channels"  # the list stays, and a higher percentage only adds people
    until_backend(stranger, "channels", rest[-1])
    site.run(back)
    until_backend(stranger, "legacy", back)
    assert backend(cookies) == "legacy"  # a listed user too
    (hurry,) = lines(ROLL_OUT, "hurry")
    site.run("python manage.py waffle_flag realtime_channels --everyone")
    until_backend(stranger, "channels", "--everyone")
    site.run(hurry)
    until_backend(stranger, "legacy", hurry)


def test_the_python_client_prints_what_comes(site: Site) -> None:
    site.start(block(README, "servers").lines[0])
    site.wait_for(site.legacy, "calls")
    code = Block("python", f"# client.py\nsession_key = {site.session('ana')!r}\n{block(CLIENT, 'client').text}", "")
    site.write([code])
    log = site.start("python client.py")
    until(lambda: bool(get(f"http://{site.legacy}/ring/")) and "ring" in log.read_text(), site.logs)
    assert "everyone {'event': 'ring', 'call': 42}" in log.read_text()
    bye = 'from shim import User, realtime; realtime.publish("calls", User("ana"), {"event": "bye"})'
    site.run(f"python manage.py shell -c '{bye}'")
    until(lambda: site.running == 1, site.logs)  # the server
    assert "user {'event': 'bye'}" in log.read_text()


def test_the_way_from_ws4redis_is_gone_as_shown(tmp_path: Path) -> None:
    with EmbeddedValkey() as valkey, Site(tmp_path / "project") as site, Redis.from_url(valkey.url) as redis:
        _swap(site, valkey)
        (serve,), (serve_channels,) = lines(FROM_WS4REDIS, "serve"), lines(FROM_WS4REDIS, "serve-channels")
        (doctor,) = lines(FROM_WS4REDIS, "doctor")
        assert "0 errors" in site.run(doctor)
        site.start(serve)
        _hears(site)
        assert redis.get("site:broadcast:foobar") == b"hello"  # where the old containers look
        redis.delete("site:broadcast:foobar")
        site.stop()
        site.write(_code("switch", "channels"))
        for command in (serve, serve_channels):
            site.start(command)
        site.wait_for(site.channels, EVERYBODY)
        _hears(site)
        assert redis.get("site:broadcast:foobar") is None
        _up_and_back(site)
        site.stop()
        site.write([*_code("away"), _settings(f'REALTIME_REDIS_URL = "{valkey.url}"'), *_code("last")])
        said = site.run(doctor)
        assert "0 errors" in said
        assert "realtime.D004" in said  # settings of ws4redis that are left


EVERYBODY = "foobar?subscribe-broadcast"


def _code(*marks: str) -> list[Block]:
    return [each for mark in marks for each in blocks(FROM_WS4REDIS) if (each.mark, each.language) == (mark, "python")]


def _settings(text: str) -> Block:
    return Block("python", f"# mysite/settings.py\n{text}\n", "")


def _swap(site: Site, valkey: EmbeddedValkey) -> None:
    site.run("python -m django startproject mysite .")
    place = {"host": "127.0.0.1", "port": valkey.port}
    was = f'INSTALLED_APPS += ["ws4redis"]\nWS4REDIS_CONNECTION = {place}\nWS4REDIS_PREFIX = "site"'
    endpoint = 'from django.urls import include\nurlpatterns += [path("realtime/", include("shim.urls"))]'
    site.write([_settings(was), *_code("swap"), Block("python", f"# mysite/urls.py\n{endpoint}\n", "")])
    for command in lines(FROM_WS4REDIS, "swap-run"):
        site.run(command)


def _hears(site: Site) -> None:
    site.wait_for(site.legacy, EVERYBODY)
    (publish,) = lines(FROM_WS4REDIS, "publish")
    with site.client(site.legacy, EVERYBODY) as client:
        site.run(publish)
        assert client.recv(PATIENCE) == "hello"


def _up_and_back(site: Site) -> None:
    ana = {"Cookie": f"sessionid={site.session('ana')}"}

    def until_backend(wanted: str) -> None:
        def backend() -> str:
            told: str = json.loads(get(f"http://{site.legacy}/realtime/endpoint?facility=foobar", ana))["backend"]
            return told

        until(lambda: backend() == wanted, lambda: f"still {backend()}")

    (back,) = lines(FROM_WS4REDIS, "back")
    for command in lines(FROM_WS4REDIS, "up"):
        site.run(command)
        until_backend("channels")
    site.run(back)
    until_backend("legacy")


# docs/tutorial


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    with Site(tmp_path / "project") as site:
        for line in lines(TUTORIAL, "make"):
            site.run(line)
        site.write([each for each in blocks(TUTORIAL) if each.language in ("python", "html")])
        for line in lines(TUTORIAL, "migrate"):
            site.run(line)
        ana, ben = ({"Cookie": f"sessionid={site.session(name)}"} for name in ("ana", "ben"))
        (runserver,), (gunicorn,) = lines(TUTORIAL, "legacy"), lines(TUTORIAL, "channels")
        site.start(f"{runserver} --noreload {site.legacy}")  # a free port; and no reload while somebody edits `shim`
        site.start(gunicorn)
        site.wait_for(site.legacy, "room", additional_headers=ana)
        site.wait_for(site.channels, "room", additional_headers=ana)
        _talk(site, ana, ben)
        _flip(site, ben)


def _talk(site: Site, ana: dict[str, str], ben: dict[str, str]) -> None:
    page = get(f"http://{site.legacy}/", ana)
    assert "<b>ana</b>" in page
    assert "/realtime/endpoint?facility=room" in page
    with (
        site.client(site.legacy, "room", additional_headers=ana) as one,
        site.client(site.channels, "room", additional_headers=ben) as two,
    ):
        one.send("hello")
        for client in (one, two):
            assert json.loads(client.recv(PATIENCE)) == {"from": "ana", "text": "hello"}
        get(f"http://{site.legacy}/ring/ben", ana)
        two.send("I heard it")  # comes after it, on another topic, so what comes first here was for ben alone
        heard = [json.loads(two.recv(PATIENCE)) for _ in range(2)]
        assert {"from": "ana", "text": "rings you"} in heard
        assert json.loads(one.recv(PATIENCE)) == {"from": "ben", "text": "I heard it"}
    with pytest.raises(InvalidStatus, match="403"), site.client(site.legacy, "room"):
        pass


def _flip(site: Site, ben: dict[str, str]) -> None:
    def backend() -> str:
        told: str = json.loads(get(f"http://{site.legacy}/realtime/endpoint?facility=room", ben))["backend"]
        return told

    only_ben, everyone, back = lines(TUTORIAL, "flip")
    site.run(only_ben)
    until(lambda: backend() == "channels", lambda: "ben was not moved")
    site.run(everyone)
    assert backend() == "channels"
    site.run(back)
    until(lambda: backend() == "legacy", lambda: "ben was not brought back")
