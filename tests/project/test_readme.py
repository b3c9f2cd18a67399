"""README: its quickstart is done as shown, in a fresh project, and does what it says."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from shim.core.cohorts import Snapshot, Subject, cohort
from tests.project.pages import README, ROOT, block, blocks, prose
from tests.project.site import PATIENCE, Site, get, hello, message, until

FLAG = "realtime_channels"
CODES = [code for code in blocks(README) if code.language == "python"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The project of the quickstart, served by both servers."""
    with Site(tmp_path_factory.mktemp("quickstart") / "project") as made:
        made.run("python -m django startproject mysite .")
        made.run("python manage.py startapp calls")
        made.write(CODES)
        for line in block(README, "migrate").lines:
            made.run(line)
        assert "no issues" in made.run("python manage.py check")
        for line in block(README, "servers").lines:
            made.start(line)
        for address in (made.legacy, made.channels):
            made.wait_for(address, "calls")
        yield made


@pytest.mark.servers
def test_both_clients_hear_what_the_view_publishes(site: Site) -> None:
    *clients, curl = block(README, "talk").lines
    assert [shlex.split(line, comments=True)[:3] for line in clients] == [["python", "-m", "websockets"]] * 2
    logs = [site.start(line) for line in clients]
    for log in logs:
        site.wait_for_text(log, "Connected")
    program, url = shlex.split(site.shown(curl), comments=True)
    assert program == "curl"
    assert json.loads(get(url))["position"][1] == 1
    for log in logs:
        site.wait_for_text(log, '{"event":"ring","call":42}')


@pytest.mark.servers
def test_the_view_may_run_in_either_server(site: Site) -> None:
    v1 = [Subprotocol("realtime.v1")]
    with (
        site.client(site.legacy, "calls", subprotocols=v1) as one,
        site.client(site.channels, "calls", subprotocols=v1) as two,
    ):
        for client in (one, two):
            hello(client)
        for address in (site.legacy, site.channels):
            position = json.loads(get(f"http://{address}/ring/"))["position"]
            for client in (one, two):
                assert message(client) == {
                    "op": "msg",
                    "topic": "everyone",
                    "pos": position,
                    "data": {"event": "ring", "call": 42},
                }


@pytest.mark.servers
def test_the_flag_goes_up_and_comes_back(site: Site) -> None:
    percent, everyone, deactivate = block(README, "flip").lines
    assert answers(site) == dict.fromkeys(SOMEBODY, "legacy")  # no flag yet

    site.run(percent)
    quarter = {name: cohort(a_flag(25), Subject(anonymous=name)) for name in SOMEBODY}
    assert set(quarter.values()) == {"legacy", "channels"}
    until(lambda: answers(site) == quarter, site.logs)  # contract 8.1

    with site.client(site.legacy, "calls") as client:
        site.run(everyone)
        assert _close_code(client) == 1012
    until(lambda: set(answers(site).values()) == {"channels"}, site.logs)
    assert json.loads(get(f"http://{site.legacy}/realtime/endpoint?facility=calls"))["url"].endswith(
        f"{site.channels}/ws/calls"
    )

    with site.client(site.channels, "calls") as client:
        site.run(deactivate)
        assert _close_code(client) == 1012
    until(lambda: set(answers(site).values()) == {"legacy"}, site.logs)


SOMEBODY = [f"visitor-{number}" for number in range(12)]


def a_flag(percent: int) -> Snapshot:
    return Snapshot(FLAG, exists=True, percent=percent * 1000)


def answers(site: Site) -> dict[str, str]:
    """Which backend the endpoint tells each of a few visitors."""
    url = f"http://{site.channels}/realtime/endpoint?facility=calls"
    return {name: json.loads(get(url, {"Cookie": f"realtime_anonymous={name}"}))["backend"] for name in SOMEBODY}


def _close_code(client: ClientConnection) -> int | None:
    try:
        while True:
            client.recv(timeout=PATIENCE)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


def test_every_make_command_exists() -> None:
    shown = set(re.findall(r"(?:^|`)make ([a-z]+)", README.read_text(), re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert {"demo", "test"} <= shown <= set(phony[1].split())


def test_the_extras_that_are_installed_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = re.findall(r"realtime-shim\[([\w,]+)\]", README.read_text())
    assert set(asked.split(",")) <= set(extras)


def test_every_block_is_run() -> None:
    """A block without a test is a promise that nobody keeps."""
    tested = {"migrate", "servers", "talk", "flip"}
    for each in blocks(README):
        if each.language == "sh" and each.mark not in tested:
            assert each.lines[0].startswith(("make ", "pip install ")), each.text
    assert "<!-- test:" not in prose(README).split("## What is guaranteed")[1]
