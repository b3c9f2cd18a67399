"""ws4redis's modules and names, and the alias that makes `import ws4redis` mean them."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory, override_settings

from shim.ws4redis.settings import DEFAULTS
from tests.legacy_ws4redis.servers import ROOT

NAMES = {
    "publisher": ["RedisPublisher"],
    "redis_store": ["RedisMessage", "RedisStore", "SELF"],
    "subscriber": ["RedisSubscriber"],
    "wsgi_server": ["WebsocketWSGIServer"],
    "uwsgi_runserver": ["uWSGIWebsocketServer"],
    "django_runserver": ["application"],
    "context_processors": ["default"],
    "exceptions": ["WebSocketError", "FrameTooLargeException", "HandshakeError", "UpgradeRequiredError"],
    "models": ["store_groups_in_session"],
    "settings": [
        "WEBSOCKET_URL",
        "WS4REDIS_CONNECTION",
        "WS4REDIS_PREFIX",
        "WS4REDIS_EXPIRE",
        "WS4REDIS_SUBSCRIBER",
        "WS4REDIS_HEARTBEAT",
        "WS4REDIS_ALLOWED_CHANNELS",
        "WS4REDIS_PROCESS_REQUEST",
    ],
}
"""The public names of ws4redis 0.6.0, by module."""


@pytest.fixture
def on() -> Iterator[None]:
    """The mode on, and no module of the alias left behind."""
    importlib.import_module("legacy_ws4redis")
    with override_settings(REALTIME_WS4REDIS=True):
        yield
    for name in [name for name in sys.modules if name == "ws4redis" or name.startswith("ws4redis.")]:
        del sys.modules[name]


@pytest.mark.parametrize("module", NAMES)
@pytest.mark.usefixtures("on")
def test_each_name_is_there_under_both_names_of_the_package(module: str) -> None:
    old = importlib.import_module(f"ws4redis.{module}")
    ours = importlib.import_module(f"legacy_ws4redis.{module}")
    assert old is ours
    assert ours.__name__ == f"legacy_ws4redis.{module}"
    assert ours.__spec__ is not None
    assert ours.__spec__.name == f"legacy_ws4redis.{module}"
    for name in NAMES[module]:
        assert getattr(ours, name, "") is not ""  # noqa: F632  # None is a value of some settings


def test_it_is_nobody_outside_of_the_mode() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ws4redis.publisher")


@pytest.mark.usefixtures("on")
def test_what_is_not_there_is_not_there() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"ws4redis\.websocket"):
        importlib.import_module("ws4redis.websocket")
    with pytest.raises(AttributeError, match="WS4REDIS_STORE"):
        importlib.import_module("ws4redis.settings").WS4REDIS_STORE  # noqa: B018


def test_the_page_has_them_all() -> None:
    # docs/reference/ws4redis.md
    page = (ROOT / "docs/reference/ws4redis.md").read_text()
    rows = dict(re.findall(r"^\| `(W\w+)` \| `(.*?)` \|", page, re.MULTILINE))
    assert {name: value.strip('"') for name, value in rows.items()} == {
        name: str(value) for name, value in DEFAULTS.items()
    }
    assert list(DEFAULTS) == NAMES["settings"]
    table = page.partition("## Names")[2].partition("## Settings")[0]
    for module, names in NAMES.items():
        assert f"`{module}." in table
        for name in names:
            assert name in table or module in ("exceptions", "settings"), name


def test_settings_are_read_when_asked_for() -> None:
    settings = importlib.import_module("legacy_ws4redis.settings")
    assert (settings.WS4REDIS_EXPIRE, settings.WEBSOCKET_URL) == (3_600, "/ws/")
    with override_settings(WS4REDIS_EXPIRE=7):
        assert settings.WS4REDIS_EXPIRE == 7


# In a process of its own, as imports happen once


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program in a folder with a `mysettings` module."""

    def run(settings: str, code: str, *, installed: bool = False) -> subprocess.CompletedProcess[str]:
        usual = """
            SECRET_KEY = "not-a-secret"
            REALTIME = {"legacy": {"BACKEND": "legacy_ws4redis.backend.LegacyBackend"}}
            REALTIME_FORCE_BACKEND = "legacy"
            AUTH = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "waffle"]
        """
        (tmp_path / "mysettings.py").write_text(dedent(usual) + dedent(settings))
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", dedent(code)],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": f"{tmp_path}:{ROOT}" + (f":{ROOT}/legacy_ws4redis/names" if installed else ""),
                "DJANGO_SETTINGS_MODULE": "mysettings",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


SETUP = """
    import django
    django.setup()
    from django.apps import apps
    print(sorted(each.name for each in apps.get_app_configs() if "ws4redis" in each.name))
    from ws4redis.publisher import RedisPublisher
    import legacy_ws4redis.publisher
    print(RedisPublisher is legacy_ws4redis.publisher.RedisPublisher)
"""


@pytest.mark.parametrize(
    "apps", ['[*AUTH, "shim", "ws4redis"]', '["shim", "ws4redis", *AUTH]', '[*AUTH, "shim", "legacy_ws4redis"]']
)
def test_the_app_is_installed_by_either_name(run: Callable[..., Any], apps: str) -> None:
    done = run(f"REALTIME_WS4REDIS = True\nINSTALLED_APPS = {apps}", SETUP)
    assert (done.stdout.splitlines(), done.stderr) == (["['legacy_ws4redis']", "True"], "")


def test_settings_may_make_it_possible_themselves(run: Callable[..., Any]) -> None:
    # Where `shim` comes later, and for a WSGI file that imports ws4redis before anything else
    settings = 'import legacy_ws4redis\nREALTIME_WS4REDIS = True\nINSTALLED_APPS = ["ws4redis", *AUTH, "shim"]'
    done = run(settings, SETUP)
    assert (done.stdout.splitlines(), done.stderr) == (["['legacy_ws4redis']", "True"], "")
    done = run(
        settings, "from django.conf import settings\nsettings.DEBUG\nimport ws4redis.uwsgi_runserver as it\nprint(it)"
    )
    assert "legacy_ws4redis/uwsgi_runserver.py" in done.stdout, done.stderr


def test_the_original_package_beside_ours(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "ws4redis").mkdir()
    (tmp_path / "ws4redis" / "__init__.py").touch()
    settings = "REALTIME_WS4REDIS = %s\nINSTALLED_APPS = [*AUTH, 'shim']"
    code = "import django; django.setup()\nimport ws4redis\nprint(ws4redis.__file__)"
    done = run(settings % True, code)
    assert "pip uninstall django-websocket-redis" in done.stderr
    assert str(tmp_path / "ws4redis") in done.stderr
    assert str(tmp_path / "ws4redis") in run(settings % False, code).stdout  # theirs, and none of our business


WSGI = """
    from django.core.wsgi import get_wsgi_application
    from ws4redis.uwsgi_runserver import uWSGIWebsocketServer
    print(uWSGIWebsocketServer.__module__, __import__("ws4redis").__name__)
    get_wsgi_application()
"""


@pytest.mark.parametrize("apps", ['["ws4redis", *AUTH, "shim"]', '[*AUTH, "shim", "legacy_ws4redis"]'])
def test_a_wsgi_file_may_import_it_before_all_else(run: Callable[..., Any], apps: str) -> None:
    # with what a path file puts on sys.path; the wheel has it (tests/project/test_packaging.py), .venv too
    done = run(f"REALTIME_WS4REDIS = True\nINSTALLED_APPS = {apps}", WSGI, installed=True)
    assert (done.stdout, done.stderr) == ("legacy_ws4redis.uwsgi_runserver legacy_ws4redis\n", "")


def test_an_installed_copy_says_no_without_the_setting(run: Callable[..., Any]) -> None:
    done = run("INSTALLED_APPS = [*AUTH, 'shim']", WSGI, installed=True)
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: No module named 'ws4redis'")
    assert "REALTIME_WS4REDIS" in done.stderr


def test_the_original_package_imported_first(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "ws4redis").mkdir()
    (tmp_path / "ws4redis" / "__init__.py").touch()
    settings = "REALTIME_WS4REDIS = True\nINSTALLED_APPS = [*AUTH, 'shim', 'legacy_ws4redis']"
    done = run(settings, "import ws4redis, django\ndjango.setup()", installed=True)
    assert "ImproperlyConfigured" in done.stderr
    assert "pip uninstall django-websocket-redis" in done.stderr


# WSGI


def test_what_a_subclass_overrides_in_vain_is_said() -> None:
    from legacy_ws4redis.uwsgi_runserver import uWSGIWebsocketServer  # noqa: PLC0415

    class Mine(uWSGIWebsocketServer):
        def process_request(self, request: object) -> None:
            """Authenticate."""

    with pytest.raises(ImproperlyConfigured, match="WS4REDIS_PROCESS_REQUEST"):
        Mine()
    assert uWSGIWebsocketServer(redis_connection=object()).possible_channels[0] == "subscribe-session"


def test_a_server_for_websockets_alone_has_nothing_else() -> None:
    from legacy_ws4redis.wsgi_server import WebsocketWSGIServer  # noqa: PLC0415

    server = WebsocketWSGIServer()
    said: list[str] = []

    def start_response(status: str, *_: object) -> Any:
        said.append(status)

    environ = RequestFactory().get("/chat/").environ
    assert list(server(environ, start_response)) == [b"this address serves WebSockets alone"]
    assert said == ["404 Not Found"]


# Templates


class TestContextProcessor:
    @pytest.fixture(autouse=True)
    def default(self) -> None:
        self.default = importlib.import_module("legacy_ws4redis.context_processors").default

    def test_the_address(self) -> None:
        request = RequestFactory().get("/")
        assert str(self.default(request)["WEBSOCKET_URI"]) == "ws://testserver/ws/"
        with override_settings(REALTIME_WS4REDIS=True, WEBSOCKET_URL="/w/"):
            secure = RequestFactory().get("/", secure=True)
            assert str(self.default(secure)["WEBSOCKET_URI"]) == "wss://testserver/w/"

    @pytest.mark.parametrize("force", ["legacy", "channels"])
    def test_the_address_of_the_visitors_backend(self, force: str) -> None:
        entries = {
            name: {"BACKEND": "shim.backends.BaseBackend", "URL": f"ws://{name}.example.com/ws/"}
            for name in ("legacy", "channels")
        }
        with override_settings(REALTIME=entries, REALTIME_FORCE_BACKEND=force, REALTIME_REDIS_URL="memory://names"):
            assert str(self.default(RequestFactory().get("/"))["WEBSOCKET_URI"]) == f"ws://{force}.example.com/ws/"

    @pytest.mark.parametrize(
        ("heartbeat", "expected"),
        [(None, "null"), ("--beat--", '"--beat--"'), ('"</script>&', '"\\"\\u003C/script\\u003E\\u0026"')],
    )
    def test_the_heartbeat_is_javascript(self, heartbeat: str | None, expected: str) -> None:
        with override_settings(WS4REDIS_HEARTBEAT=heartbeat):
            assert self.default(RequestFactory().get("/"))["WS4REDIS_HEARTBEAT"] == expected
