"""`manage.py realtime doctor`: each finding, and what people and programs see of it."""

import io
import json
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.test import override_settings
from waffle.models import Flag

from shim import Everyone, Facility, History, realtime
from shim.bus.embedded import EmbeddedValkey
from shim.bus.sync import SyncBus, SyncSubscription
from shim.conf import read
from shim.doctor import Finding, examine, finding, report, system, uwsgi
from shim.doctor import redis as redis_part
from shim.doctor.finding import LEVELS
from shim.facility import _facilities
from tests.bus.waiting import until
from tests.project.pages import DOCS, anchors
from tests.shim.test_checks import CHANNELS, LEGACY, LOCMEM, RIGHT

PAGE = DOCS / "reference" / "doctor.md"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
FINE: dict[str, Any] = {
    **RIGHT,
    "REALTIME": {"legacy": {**LEGACY, "URL": "wss://a.example.com/ws/"}, "channels": {**CHANNELS, "URL": ""}},
    "REALTIME_ALLOWED_ORIGINS": ["example.com"],
    "REALTIME_TIMEOUT": 1.0,
    "MIDDLEWARE": MIDDLEWARE,
}


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as valkey:
        yield valkey


@pytest.fixture(autouse=True)
def _flag(database: None) -> None:
    Flag.objects.create(name="realtime_channels", everyone=False)


@pytest.fixture
def look(valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """Examines a project that is fine but for some settings; the findings by id."""
    monkeypatch.setattr(uwsgi, "_program", lambda: None)

    def look(ini: Path | None = None, **changed: Any) -> dict[str, Finding]:
        with override_settings(**{**FINE, "REALTIME_REDIS_URL": valkey.url, **changed}):
            found = examine(ini)
        assert all(each.level in LEVELS and each.what and each.why and each.remedy and each.doc for each in found)
        assert [each.level for each in found] == sorted((each.level for each in found), key=LEVELS.index)
        return {each.id.removeprefix("realtime."): each for each in found}

    return look


type Look = Callable[..., dict[str, Finding]]


def test_a_project_that_is_fine_has_nothing_left_to_do(look: Look) -> None:
    assert look() == {}


def test_the_reference_lists_every_finding() -> None:
    sources = Path(report.__file__).parent.glob("*.py")
    used = sorted({id for source in sources for id in re.findall(r'"(D\d{3})"', source.read_text())})
    assert re.findall(r"^\| `realtime\.(D\d{3})` \|", PAGE.read_text(), re.MULTILINE) == used
    assert used == [f"D{n:03}" for n in range(1, len(used) + 1)]


def test_every_check_has_its_reason_and_every_page_is_there() -> None:
    listed = re.findall(r"^\| `realtime\.([EW]\d{3})` \|", (DOCS / "reference/checks.md").read_text(), re.MULTILINE)
    assert set(system.WHY) <= set(listed)
    assert {id for id in listed if id.startswith("W")} <= set(system.WHY)
    for source in Path(finding.__file__).parent.glob("*.py"):
        for page, anchor in re.findall(r"(docs/[a-z0-9/-]+\.md)(#[a-z0-9-]+)?", source.read_text()):
            assert (DOCS.parent / page).exists(), page
            assert not anchor or anchor[1:] in anchors(DOCS.parent / page), page + anchor
        for name, anchor in re.findall(r"\{([A-Z]+)\}#([a-z0-9-]+)", source.read_text()):
            assert anchor in anchors(DOCS.parent / getattr(finding, name)), (name, anchor)


class TestSystemChecks:
    def test_are_taken_over_with_a_reason(self, look: Look) -> None:
        found = look(REALTIME_FORCE_BACKEND="asgi", REALTIME_ALLOWED_ORIGINS=["*"], CACHES={"default": LOCMEM})
        assert (found["E002"].level, found["W008"].level, found["W003"].level) == ("error", "warning", "warning")
        assert "hijacking" in found["W008"].why
        assert found["E002"].doc == "docs/reference/checks.md#errors"

    def test_those_about_production_are_not_for_a_developers_machine(self, look: Look) -> None:
        assert "W013" in look(REALTIME_WIRE="ws4redis")
        assert "W013" not in look(REALTIME_WIRE="ws4redis", DEBUG=True)

    def test_silenced_ones_stay_silent(self, look: Look) -> None:
        assert look(REALTIME_ALLOWED_ORIGINS=["*"], SILENCED_SYSTEM_CHECKS=["realtime.W008"]) == {}

    def test_unsafe_publishing_and_missing_flags_are_among_them(self, look: Look) -> None:
        assert {"W010", "W002"} <= look(REALTIME_WS4REDIS=True, REALTIME_FLAG="no_such_flag").keys()


class TestDatabase:
    def test_without_tables(self, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Flag._meta, "db_table", "no_such_table")
        assert "no_such_table" in look()["D001"].what

    def test_that_does_not_answer(self, look: Look) -> None:
        connection.close()
        database = connection.settings_dict
        name, database["NAME"] = database["NAME"], "/no/such/folder/db.sqlite3"
        try:
            found = look()
        finally:
            database["NAME"] = name
            connection.close()
        assert found["D001"].level == "error"


class TestOldStack:
    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        version = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: "0.6.0" if "websocket-redis" in name else version(name))

    @pytest.mark.usefixtures("installed")
    def test_the_original_package(self, look: Look) -> None:
        assert "django-websocket-redis 0.6.0" in look()["D002"].what
        assert "D002" not in look(REALTIME_WS4REDIS=True)  # E024 looks after that

    def test_its_app_without_the_mode(self, look: Look, settings_of_apps: list[str]) -> None:
        assert look(INSTALLED_APPS=settings_of_apps)["D003"].level == "error"

    @pytest.fixture
    def settings_of_apps(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setattr(apps, "set_installed_apps", lambda _: None)  # there is no such app to be loaded
        monkeypatch.setattr(apps, "unset_installed_apps", lambda: None)
        return [*settings.INSTALLED_APPS, "ws4redis"]

    def test_settings_that_are_left(self, look: Look) -> None:
        left = {"WS4REDIS_EXPIRE": 5, "WEBSOCKET_URL": "/ws/"}
        assert "WEBSOCKET_URL, WS4REDIS_EXPIRE" in look(**left)["D004"].what
        assert "D004" not in look(**left, REALTIME_WS4REDIS=True)
        assert "D004" not in look(**left, REALTIME_WIRE="ws4redis")


class TestProject:
    def test_origins(self, look: Look) -> None:
        found = look(REALTIME_ALLOWED_ORIGINS=None, ALLOWED_HOSTS=["example.com"])
        assert (found["D005"].level, "example.com" in found["D005"].what) == ("note", True)
        assert "ws4redis" not in found["D005"].why
        assert look(REALTIME_ALLOWED_ORIGINS=None, REALTIME_WS4REDIS=True)["D005"].level == "warning"

    def test_history(self, look: Look) -> None:
        assert look(REALTIME_HISTORY_SIZE=0).keys() == {"D006"}

        class Forgetful(Facility):
            name = "doctor-forgetful"
            history = History(0)

        try:
            assert "doctor-forgetful" in look()["D007"].what
        finally:
            del _facilities["doctor-forgetful"]

    def test_a_forced_backend(self, look: Look) -> None:
        assert "'legacy'" in look(REALTIME_FORCE_BACKEND="legacy")["D008"].what

    def test_one_address_for_both(self, look: Look) -> None:
        one: dict[str, Any] = {"REALTIME": {"legacy": LEGACY, "channels": CHANNELS}}
        assert look(**one)["D009"].level == "note"
        assert look(**one, MIDDLEWARE=[*MIDDLEWARE, "shim.middleware.CohortCookieMiddleware"]) == {}
        assert look(**one, REALTIME_COHORT_COOKIE=None) == {}

    @pytest.mark.parametrize("missing", MIDDLEWARE)
    def test_middleware(self, look: Look, missing: str) -> None:
        found = look(MIDDLEWARE=[name for name in MIDDLEWARE if name != missing])
        assert missing in found["D010"].what

    def test_debug(self, look: Look) -> None:
        assert look(DEBUG=True)["D011"].level == "note"
        embedded = look(DEBUG=True, REALTIME_REDIS_URL=None)
        assert (embedded["D011"].level, "embedded Valkey" in embedded["D011"].what) == ("warning", True)
        assert "D016" not in embedded  # it is not started for the doctor


class TestUwsgi:
    RIGHT = """\
        [uwsgi]
        # comment = here
        http-socket = 127.0.0.1:8001
        gevent = 1000
        gevent_early_monkey_patch = true
        die-on-term
        [other]
        threads = 4
        """

    @pytest.mark.parametrize(
        ("without", "more", "said"),
        [
            ("", "", []),
            ("gevent = 1000", "", ["no `gevent`"]),
            ("gevent_early_monkey_patch = true", "", ["monkey-patch"]),
            ("gevent_early_monkey_patch = true", "gevent-monkey-patch = 1", []),
            ("", "threads = 4", ["threads beside gevent"]),
            ("http-socket = 127.0.0.1:8001", "socket = /run/app.sock", ["takes no HTTP"]),
            ("http-socket = 127.0.0.1:8001", "http = :8001", ["http-websockets"]),
            ("http-socket = 127.0.0.1:8001", "http = :8001\nhttp-websockets = true", []),
            ("die-on-term", "die-on-term = false", ["die-on-term"]),
            ("", "harakiri = 30", ["harakiri"]),
        ],
    )
    def test_its_file(self, look: Look, tmp_path: Path, without: str, more: str, said: list[str]) -> None:
        ini = tmp_path / "uwsgi.ini"
        ini.write_text(
            self.RIGHT.replace(without, more) if without else self.RIGHT.replace("[other]", f"{more}\n[other]")
        )
        found = look(ini)
        assert found.keys() == ({"D013"} if said else set())
        assert all(word in found["D013"].what for word in said)

    def test_a_file_that_is_not_there(self, look: Look, tmp_path: Path) -> None:
        assert look(tmp_path / "no.ini")["D012"].level == "error"

    def test_what_is_installed_here(self, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        assert uwsgi._program() is not None
        with override_settings(**FINE):
            assert [each.id for each in uwsgi.uwsgi(examine_conf(), None)] == []

    def test_one_without_plugins(self, look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        program = tmp_path / "uwsgi"
        program.write_text("#!/bin/sh\necho '    --http-socket   bind to the specified UNIX/TCP socket'\n")
        program.chmod(0o700)
        monkeypatch.setattr(uwsgi, "_program", lambda: str(program))
        with override_settings(**FINE):
            found = [each.what for each in uwsgi.uwsgi(examine_conf(), None)]
        assert [str(program) in what for what in found] == [True, True]
        assert ["gevent" in found[0], "http" in found[1]] == [True, True]

    def test_one_without_gevent(self, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        def version(name: str) -> str:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.undo()
        monkeypatch.setattr(metadata, "version", version)
        with override_settings(**FINE):
            assert [each.id for each in uwsgi.uwsgi(examine_conf(), None)] == ["realtime.D015"]

    def test_a_project_without_legacy_needs_none(self, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uwsgi, "_program", lambda: pytest.fail("it was looked for"))
        assert "D014" not in look(REALTIME={"channels": CHANNELS}, REALTIME_FORCE_BACKEND="channels")


def examine_conf() -> Any:
    return read()[0]


class TestRedis:
    def test_that_does_not_answer(self, look: Look) -> None:
        found = look(REALTIME_REDIS_URL="redis://:secret@127.0.0.1:9/0")
        assert found["D016"].level == "error"
        assert "127.0.0.1:9" in found["D016"].what
        assert "secret" not in found["D016"].what

    def test_in_memory_is_a_matter_for_a_check(self, look: Look) -> None:
        assert look(REALTIME_REDIS_URL="memory://").keys() == {"E020"}

    @pytest.mark.parametrize(
        ("info", "expected"),
        [
            ("redis_version:6.2.14", "Redis 6.2.14"),
            ("redis_version:7.2.4\r\nvalkey_version:7.2.11", "Valkey 7.2.11"),
            ("redis_version:7.2.4\r\nvalkey_version:8.0.0", None),
            ("redis_version:7.0.15", None),
            ("something:else", None),
        ],
    )
    def test_that_is_too_old(self, info: str, expected: str | None) -> None:
        found = [each.what for each in redis_part._version(lambda *_: info)]
        assert found == ([f"{expected} is too old."] if expected else [])

    def test_that_evicts(self, look: Look, valkey: EmbeddedValkey) -> None:
        with EmbeddedValkey(config={"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"}) as cache:
            assert "allkeys-lru" in look(REALTIME_REDIS_URL=cache.url)["D019"].what

    def test_that_may_not_be_asked(self, look: Look) -> None:
        with EmbeddedValkey() as shy:
            bus = SyncBus(shy.url, prefix="rt")
            bus.execute("ACL", "SETUSER", "default", "-info")
            bus.close()
            assert look(REALTIME_REDIS_URL=shy.url)["D017"].level == "note"

    def test_somebody_listens_by_the_old_names(self, look: Look, valkey: EmbeddedValkey) -> None:
        with listener(valkey, "site:user:ana:chat"):
            assert "site:user:ana:chat" in look(WS4REDIS_PREFIX="site")["D021"].what
            assert "D021" not in look(WS4REDIS_PREFIX="[s]ite")
            assert "D020" not in look(REALTIME_WIRE="ws4redis", WS4REDIS_PREFIX="site")

    def test_a_session_key_is_not_shown(self, look: Look, valkey: EmbeddedValkey) -> None:
        with listener(valkey, "site:session:k3yk3yk3y:chat"):
            assert "'site:session:k3yk…:chat'" in look(WS4REDIS_PREFIX="site")["D021"].what

    def test_nobody_else_listens(self, look: Look, valkey: EmbeddedValkey) -> None:
        with listener(valkey, "rt:control", name="realtime-subscription"):
            assert look(REALTIME_WIRE="ws4redis")["D020"].level == "note"


class listener:  # noqa: N801  # a context manager
    def __init__(self, valkey: EmbeddedValkey, channel: str, *, name: str = "") -> None:
        self._channel = channel
        self._confirmed: list[str] = []
        self._subscription = SyncSubscription(
            valkey.url,
            timeout=2.0,
            on_up=lambda: self._subscription.subscribe([self._channel]),
            on_message=lambda *_: None,
            on_subscribed=self._confirmed.append,
            on_down=lambda _: None,
            name=name,
        )

    def __enter__(self) -> None:
        self._subscription.start()
        until(lambda: self._confirmed)

    def __exit__(self, *_: object) -> None:
        self._subscription.close()


class TestCommand:
    def run(self, *arguments: str, **changed: Any) -> tuple[str, int]:
        out = io.StringIO()
        with override_settings(**{**FINE, **changed}):
            try:
                call_command("realtime", "doctor", *arguments, stdout=out, no_color=True)
            except SystemExit as ended:
                return out.getvalue(), int(str(ended.code))
        return out.getvalue(), 0

    def test_says_each_finding_in_full(self, look: Look, valkey: EmbeddedValkey) -> None:
        said, code = self.run(REALTIME_REDIS_URL=valkey.url, REALTIME_HISTORY_SIZE=0)
        assert code == 0
        assert said.startswith("warning  REALTIME_HISTORY_SIZE is 0")
        for label in ("why", "do", "see", "id"):
            assert re.search(rf"^ {{9}}{label} +\S", said, re.MULTILINE), label
        assert said.endswith("0 errors, 1 warning, 0 notes.\n")
        assert max(map(len, said.splitlines())) <= report.WIDTH

    def test_says_that_there_is_none(self, look: Look, valkey: EmbeddedValkey) -> None:
        assert self.run(REALTIME_REDIS_URL=valkey.url) == ("Nothing is left to do.\n", 0)

    def test_ends_with_1_where_there_is_an_error_which_stops_no_other_command(self, look: Look) -> None:
        said, code = self.run(REALTIME_REDIS_URL=None)
        assert (code, "realtime.E006" in said) == (1, True)

    def test_speaks_to_programs(self, look: Look, valkey: EmbeddedValkey, tmp_path: Path) -> None:
        said, code = self.run("--json", "--uwsgi", str(tmp_path / "no.ini"), REALTIME_REDIS_URL=valkey.url)
        told = json.loads(said)
        assert (code, told["errors"], told["warnings"], told["notes"]) == (1, 1, 0, 0)
        assert told["findings"][0].keys() == {"level", "id", "what", "why", "remedy", "doc"}

    def test_a_narrow_terminal(self) -> None:
        long = Finding("note", "realtime.D000", "word " * 30, "because " * 9, "do " * 40, "docs/x.md")
        lines = list(report.to_lines([long], dict.fromkeys(LEVELS, str), 10))
        assert max(map(len, lines)) <= 40

    def test_changes_nothing(self, look: Look, valkey: EmbeddedValkey) -> None:
        with override_settings(**{**FINE, "REALTIME_REDIS_URL": valkey.url}):
            realtime.publish("doctor", Everyone(), "kept")
        look()
        assert Flag.objects.count() == 1
