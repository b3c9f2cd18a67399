"""docs/how-to/test-your-facility.md is run as shown, on the tutorial's project."""

import json
from collections.abc import Iterator

import pytest

from tests.project.pages import DOCS, Block, blocks
from tests.project.site import PATIENCE, Site, get

TUTORIAL = DOCS / "tutorial" / "first-facility.md"
TESTING = DOCS / "how-to" / "test-your-facility.md"

pytestmark = pytest.mark.servers

_OPEN = """\
# test_open.py
import django

django.setup()

from shim import Everyone, Facility, realtime
from shim.testing import connect, outbox


class Open(Facility):
    name = "open"


def test_it():
    with connect("open") as connection:
        realtime.publish("open", Everyone(), 1)
        assert connection.receive() == 1


def test_another_begins_with_nothing(realtime_memory):
    assert outbox() == realtime_memory.outbox == []
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("testing") / "project") as site:
        for each in blocks(TUTORIAL):
            if each.mark == "make":
                for line in each.lines:
                    site.run(line)
        site.write([each for each in blocks(TUTORIAL) if each.language in ("python", "html")])
        site.write([each for each in blocks(TESTING) if each.language == "python"])
        yield site


def test_its_tests_pass(project: Site) -> None:
    assert "Ran 11 tests" in project.run("python -W error manage.py test")


def test_its_fixture_serves_pytest(project: Site) -> None:
    project.write([Block("python", _OPEN, "")])
    said = project.run("DJANGO_SETTINGS_MODULE=mysite.settings python -m pytest -q -p no:cacheprovider test_open.py")
    assert "2 passed" in said


def test_runserver_serves_from_memory(project: Site) -> None:
    """Both shells' own subscription, threads and all, on a Redis in memory."""
    project.write([Block("python", '# mysite/settings.py\nREALTIME_REDIS_URL = "memory://"\n', "")])
    project.run("python manage.py migrate")
    ana = {"Cookie": f"sessionid={project.session('ana')}"}
    project.start(f"python manage.py runserver --noreload {project.legacy}")
    project.wait_for(project.legacy, "room", additional_headers=ana)
    with project.client(project.legacy, "room", additional_headers=ana) as client:
        get(f"http://{project.legacy}/ring/ana", ana)
        assert json.loads(client.recv(PATIENCE)) == {"from": "ana", "text": "rings you"}
        client.send("hello")
        assert json.loads(client.recv(PATIENCE)) == {"from": "ana", "text": "hello"}
    project.stop()
    gunicorn = f"gunicorn --bind {project.channels} --worker-class channels_impl.worker.RealtimeWorker mysite.asgi"
    project.start(gunicorn)
    project.wait_for(project.channels, "room", additional_headers=ana)
    with project.client(project.channels, "room", additional_headers=ana) as client:
        client.send("hello")
        assert json.loads(client.recv(PATIENCE)) == {"from": "ana", "text": "hello"}
