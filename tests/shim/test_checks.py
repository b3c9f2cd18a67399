import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command, get_commands
from django.db import connection
from django.test import override_settings
from waffle.models import Flag

import shim.bus.embedded
from shim.backends import BaseBackend
from shim.conf import conf
from shim.core.errors import RealtimeUnavailable

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("shim/checks.py", "shim/conf.py", "shim/packages.py", "shim/ws4redis/checks.py", "shim/ws4redis/wire.py")

LEGACY = {"BACKEND": "legacy_ws4redis.backend.LegacyBackend"}
CHANNELS = {"BACKEND": "channels_impl.backend.ChannelsBackend"}
RIGHT: dict[str, Any] = {
    "REALTIME": {"legacy": LEGACY, "channels": CHANNELS},
    "REALTIME_REDIS_URL": "redis://redis.example.com:6379/0",
    "CACHES": {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}},
}
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
DUMMY = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}


def found(*, deploy: bool = False, databases: list[str] | None = None, **settings: Any) -> list[checks.CheckMessage]:
    """What our checks say under settings that are right but for these."""
    with override_settings(**{**RIGHT, **settings}):
        return checks.run_checks(tags=["realtime"], include_deployment_checks=deploy, databases=databases or [])


def ids(**settings: Any) -> list[str]:
    return [str(message.id).removeprefix("realtime.") for message in found(**settings)]


def the(id: str, **settings: Any) -> checks.CheckMessage:
    """The only message, which has this id, a value and a remedy."""
    messages = found(**settings)
    assert [message.id for message in messages] == [f"realtime.{id}"]
    (message,) = messages
    assert message.hint
    assert isinstance(message, checks.Error if id.startswith("E") else checks.Warning)
    return message


def test_right_settings_have_no_faults() -> None:
    assert found(deploy=True, ALLOWED_HOSTS=["example.com"]) == []


def test_the_reference_lists_every_check() -> None:
    # docs/reference/checks.md
    used = {
        id for source in SOURCES for id in re.findall(r"\"(?:realtime\.)?([EW]\d{3})\"", (ROOT / source).read_text())
    }
    listed = re.findall(
        r"^\| `realtime\.([EW]\d{3})` \|", (ROOT / "docs/reference/checks.md").read_text(), re.MULTILINE
    )
    assert listed == sorted(used)
    for letter in "EW":
        numbers = [int(id[1:]) for id in listed if id[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1))


class TestValues:
    @pytest.mark.parametrize(
        ("id", "settings"),
        [
            ("E001", {"REALTIME": []}),
            ("E001", {"REALTIME": {"legacy": LEGACY, "channels": CHANNELS, "asgi": CHANNELS}}),
            ("E001", {"REALTIME": {"legacy": "legacy_ws4redis.backend.LegacyBackend", "channels": CHANNELS}}),
            ("E001", {"REALTIME": {"legacy": {}, "channels": CHANNELS}}),
            ("E001", {"REALTIME": {"legacy": {"BACKEND": 7}, "channels": CHANNELS}}),
            ("E001", {"REALTIME": {"legacy": {**LEGACY, "URI": "ws://a/ws/"}, "channels": CHANNELS}}),
            ("E001", {"REALTIME": {"legacy": {**LEGACY, "OPTIONS": ["a"]}, "channels": CHANNELS}}),
            ("E002", {"REALTIME_FORCE_BACKEND": "asgi"}),
            ("E002", {"REALTIME_FORCE_BACKEND": True}),
            ("E005", {"REALTIME_REDIS_URL": "http://redis"}),
            ("E005", {"REALTIME_REDIS_URL": "redis://h/0?socket_timeout=5"}),
            ("E005", {"REALTIME_REDIS_URL": 6379}),
            ("E008", {"REALTIME_PREFIX": ""}),
            ("E008", {"REALTIME_PREFIX": "a{b}"}),
            ("E008", {"REALTIME_PREFIX": "é"}),
            ("E008", {"REALTIME_PREFIX": "x" * 65}),
            ("E008", {"REALTIME_PREFIX": None}),
            *(("E009", {"REALTIME_TIMEOUT": value}) for value in (0, -1, "2", True, None, float("nan"), float("inf"))),
            *(("E009", {"REALTIME_MAX_MESSAGE_BYTES": value}) for value in (0, 1.5, "1", True, None, float("inf"))),
            *(("E009", {"REALTIME_MAX_BACKLOG_BYTES": value}) for value in (0, 1.5, "1", True, None)),
            *(("E010", {"REALTIME_FLAG": value}) for value in ("", None, 7, "x" * 101)),
            *(("E012", {"REALTIME_WS_PATH": value}) for value in ("", "ws", "/ws", "ws/", None)),
            *(("E013", {"REALTIME_HISTORY_SIZE": value}) for value in (-1, 10_001, 1.5, "1", None)),
            *(("E013", {"REALTIME_HISTORY_TTL": value}) for value in (0, 604_801, "1", None, float("nan"))),
            ("E014", {"REALTIME_ALLOWED_ORIGINS": "example.com"}),
            ("E014", {"REALTIME_ALLOWED_ORIGINS": ["https://example.com"]}),
            ("E014", {"REALTIME_ALLOWED_ORIGINS": ["example.com:8000"]}),
            ("E014", {"REALTIME_ALLOWED_ORIGINS": ["example.com", ""]}),
            ("E014", {"REALTIME_ALLOWED_ORIGINS": [7]}),
            ("E015", {"REALTIME_LIMITS": []}),
            ("E015", {"REALTIME_LIMITS": {"heartbaet": 25}}),
            ("E015", {"REALTIME_LIMITS": {"max_message": 25}}),
            ("E015", {"REALTIME_LIMITS": {"heartbeat": 0}}),
            ("E015", {"REALTIME_LIMITS": {"heartbeat": "25"}}),
            ("E015", {"REALTIME_LIMITS": {"inbound_rate": 0}}),
            ("E015", {"REALTIME_LIMITS": {"inbound_burst": 0.5}}),
            ("E015", {"REALTIME_LIMITS": {"reconnect": {"base": 1}}}),
            ("E015", {"REALTIME_LIMITS": {"reconnect": {"base_ms": 0.5}}}),
            ("E015", {"REALTIME_LIMITS": {"reconnect": 500}}),
            ("E016", {"REALTIME_PACE": None}),
            ("E016", {"REALTIME_PACE": {"speed": 1}}),
            ("E016", {"REALTIME_PACE": {"admissions": 0}}),
            ("E016", {"REALTIME_PACE": {"admissions": float("nan")}}),
            ("E016", {"REALTIME_PACE": {"admission_burst": 0}}),
            ("E016", {"REALTIME_PACE": {"moves": True}}),
            ("E016", {"REALTIME_PACE": {"moves": None}}),
            ("E016", {"REALTIME_PACE": {"fleet_moves": 0}}),
            ("E016", {"REALTIME_PACE": {"fleet_moves": "fast"}}),
            ("E016", {"REALTIME_PACE": {"hurry": 0.5}}),
            ("E016", {"REALTIME_PACE": {"move_least": 31}}),
            ("E016", {"REALTIME_PACE": {"drain": 31}}),  # contract 9.1
            *(
                ("E021", {"REALTIME_COHORT_COOKIE": value})
                for value in (7, True, "a-b", "é", "a b", "x" * 65, "sessionid", "csrftoken", "realtime_anonymous")
            ),
        ],
        ids=str,
    )
    def test_each_wrong_one_is_an_error_and_refused(self, id: str, settings: dict[str, Any]) -> None:
        message = the(id, **settings)
        assert next(iter(settings)) in message.msg
        assert len(message.msg) < 400
        with override_settings(**{**RIGHT, **settings}), pytest.raises(ImproperlyConfigured) as caught:
            conf()
        assert message.msg in str(caught.value)

    @pytest.mark.parametrize(
        "url", ["http://a/ws/", "ws://", "ws:///ws/", "ws://a:b/ws/", "/ws/", "ws://a/ws/?x=1", 7, b"ws://a/"]
    )
    def test_a_backends_url(self, url: object) -> None:
        assert (
            "REALTIME['legacy']['URL']"
            in the("E004", REALTIME={"legacy": {**LEGACY, "URL": url}, "channels": CHANNELS}).msg
        )

    @pytest.mark.parametrize("url", ["ws://127.0.0.1:8000/ws/", "wss://[::1]/rt", "wss://example.com", "", None])
    def test_backends_urls_that_are_right(self, url: object) -> None:
        assert found(REALTIME={"legacy": {**LEGACY, "URL": url}, "channels": CHANNELS}) == []

    def test_all_are_reported_not_only_the_first(self) -> None:
        wrong = {"REALTIME_FLAG": "", "REALTIME_PACE": {"moves": 0, "speed": 1}, "REALTIME_TIMEOUT": 0}
        assert sorted(ids(**wrong)) == ["E009", "E010", "E016", "E016"]
        with override_settings(**{**RIGHT, **wrong}), pytest.raises(ImproperlyConfigured, match=r"\(3 more: see"):
            conf()

    @pytest.mark.parametrize(
        "settings",
        [
            {"REALTIME_ALLOWED_ORIGINS": ["example.com", ".example.org", "[::1]", "*"]},
            {"REALTIME_ALLOWED_ORIGINS": ()},
            {"REALTIME_FORCE_BACKEND": ""},
            {"REALTIME_PACE": {"moves": 5, "move_least": 0, "drain": 30}},
            {"REALTIME_WS_PATH": "/"},
        ],
        ids=str,
    )
    def test_right_ones(self, settings: dict[str, Any]) -> None:
        assert found(**settings) == []

    def test_part_of_reconnect_keeps_the_rest(self) -> None:
        with override_settings(REALTIME_LIMITS={"reconnect": {"spread_ms": 9}}):
            assert conf().limits.reconnect == {"base_ms": 500, "cap_ms": 30_000, "spread_ms": 9}

    def test_a_password_is_never_shown(self) -> None:
        assert "secret" not in the("E005", REALTIME_REDIS_URL="rediz://user:secret@redis:6379/0").msg

    def test_a_misspelt_setting(self) -> None:
        assert the("W007", REALTIME_HISTROY_SIZE=5).hint == "Is REALTIME_HISTORY_SIZE meant?"
        assert "settings.md" in str(the("W007", REALTIME_BUTTONS=5).hint)


class NoBackend:
    pass


class BrokenBackend(BaseBackend):
    def __init__(self, entry: Any) -> None:
        raise RuntimeError("no such option")


class TestBackends:
    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("legacy_ws4redis.backend.Legacy", "ImportError"),
            ("no.such.module.Backend", "ModuleNotFoundError"),
            ("Backend", "ImportError"),
            ("tests.shim.test_checks.NoBackend", "is no shim.backends.BaseBackend"),
            ("tests.shim.test_checks.found", "is no shim.backends.BaseBackend"),
            ("tests.shim.test_checks.BrokenBackend", "RuntimeError: no such option"),
        ],
    )
    def test_what_cannot_be_used(self, path: str, reason: str) -> None:
        assert reason in the("E003", REALTIME={"legacy": LEGACY, "channels": {"BACKEND": path}}).msg

    def test_a_missing_entry(self) -> None:
        message = the("W001", REALTIME={"legacy": LEGACY})
        assert "'channels'" in message.msg
        assert "REALTIME_FORCE_BACKEND = 'legacy'" in str(message.hint)
        assert ids(REALTIME={}) == ["W001", "W001"]

    def test_one_backend_is_enough_where_it_is_forced(self) -> None:
        assert ids(REALTIME={"legacy": LEGACY}, REALTIME_FORCE_BACKEND="legacy") == []
        assert ids(REALTIME={"legacy": LEGACY}, REALTIME_FORCE_BACKEND="channels") == ["E002"]

    @pytest.mark.parametrize("version", ["0.52.0", "0.34", "0.52rc1", "0"])
    def test_a_uvicorn_without_back_pressure(self, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        # contract 7.2
        installed = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: version if name == "uvicorn" else installed(name))
        assert f"uvicorn {version} is too old" in the("E019").msg

    @pytest.mark.parametrize("version", ["0.52.1", "0.53", "1.0a1", "0.100.0"])
    def test_a_uvicorn_with_it(self, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        installed = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: version if name == "uvicorn" else installed(name))
        assert found() == []

    def test_packages_of_a_backend_that_another_image_serves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def version(name: str) -> str:
            if name == "websockets":
                raise metadata.PackageNotFoundError(name)
            return "99"

        monkeypatch.setattr(metadata, "version", version)
        messages = found()
        assert [message.id for message in messages] == ["realtime.W009", "realtime.W009"]
        assert "realtime-shim[legacy]" in str(messages[0].hint)
        assert "realtime-shim[channels]" in str(messages[1].hint)


class TestRedis:
    @pytest.mark.parametrize("url", [None, ""])
    def test_none_outside_debug(self, url: str | None) -> None:
        the("E006", REALTIME_REDIS_URL=url)

    def test_none_in_debug_is_the_embedded_one(self) -> None:
        assert ids(REALTIME_REDIS_URL=None, DEBUG=True) == []

    def test_none_in_debug_without_the_wheel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing() -> None:
            raise RealtimeUnavailable("there is no embedded Valkey")

        monkeypatch.setattr(shim.bus.embedded, "_server", missing)
        the("E007", REALTIME_REDIS_URL=None, DEBUG=True)

    def test_a_wrong_one_is_reported_once(self) -> None:
        the("E005", REALTIME_REDIS_URL="redis", DEBUG=True)

    def test_one_in_memory_is_for_tests(self) -> None:
        assert ids(REALTIME_REDIS_URL="memory://") == []
        the("E020", REALTIME_REDIS_URL="memory://", ALLOWED_HOSTS=["example.com"], deploy=True)


class TestWaffle:
    @pytest.mark.parametrize("model", ["no.Such", "waffle.Nothing", "nonsense"])
    def test_no_model_of_flags(self, model: str) -> None:
        assert ids(WAFFLE_FLAG_MODEL=model) == ["E011"]

    def test_a_cache_of_the_process_alone(self) -> None:
        message = the("W003", CACHES={"default": LOCMEM})
        assert "Realtime shim is not affected" in str(message.hint)
        assert ids(CACHES={"default": LOCMEM}, DEBUG=True) == []

    def test_the_cache_that_waffle_uses_is_meant(self) -> None:
        caches = {"default": LOCMEM, "flags": DUMMY}
        assert ids(CACHES=caches, WAFFLE_CACHE_NAME="flags") == []
        assert ids(CACHES={"default": DUMMY, "flags": LOCMEM}, WAFFLE_CACHE_NAME="flags") == ["W003"]
        assert ids(WAFFLE_CACHE_NAME="no such cache") == []  # waffle says so itself


class TestSessions:
    # contract 1.2

    @pytest.mark.parametrize(
        ("engine", "cache", "expected"),
        [
            ("cache", LOCMEM, ["W004"]),
            ("cache", DUMMY, ["W004"]),
            ("cached_db", LOCMEM, ["W004"]),
            ("cached_db", DUMMY, []),
            ("db", LOCMEM, []),
            ("file", LOCMEM, []),
            ("signed_cookies", LOCMEM, ["W005"]),
        ],
    )
    def test_are_shared_by_all_processes(self, engine: str, cache: dict[str, str], expected: list[str]) -> None:
        settings = {
            "SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}",
            "CACHES": {"default": DUMMY, "sessions": cache},
            "SESSION_CACHE_ALIAS": "sessions",
        }
        assert ids(**settings) == expected

    def test_a_shared_cache_will_do(self) -> None:
        shared = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://redis.example.com"}
        engine = "django.contrib.sessions.backends.cache"
        assert ids(SESSION_ENGINE=engine, CACHES={"default": shared}) == []

    @pytest.mark.parametrize("engine", ["no.such.engine", "json"])
    def test_an_engine_that_is_none(self, engine: str) -> None:
        the("E018", SESSION_ENGINE=engine)

    def test_database_sessions_without_their_app(self) -> None:
        with apps("django.contrib.auth", "django.contrib.contenttypes", "waffle", "shim"):
            assert ids() == ["E018"]
            assert ids(SESSION_ENGINE="django.contrib.sessions.backends.file") == []

    def test_without_users(self) -> None:
        with apps("django.contrib.contenttypes", "django.contrib.sessions", "shim"):
            assert sorted(ids()) == ["E011", "E017"]  # Django keeps checks in a set


class TestRunserver:
    def test_legacy_ws4redis_comes_first(self) -> None:
        with apps("legacy_ws4redis", "django.contrib.staticfiles", *USUAL):
            assert ids() == []

    def test_staticfiles_before_it(self) -> None:
        with apps("django.contrib.staticfiles", "legacy_ws4redis", *USUAL):
            message = the("W006", STATIC_URL="static/")
        assert message.hint == "Put 'legacy_ws4redis' before 'django.contrib.staticfiles' in INSTALLED_APPS."

    def test_it_is_not_asked_for_where_it_is_not_installed(self) -> None:
        with apps("django.contrib.staticfiles", *USUAL):
            assert ids(STATIC_URL="static/") == []


class TestMiddleware:
    # contract 8.4

    AUTH = "django.contrib.auth.middleware.AuthenticationMiddleware"
    OURS = "shim.middleware.CohortCookieMiddleware"

    def test_stands_below_who_knows_who_is_there(self) -> None:
        for wrong in ([self.OURS], [self.OURS, self.AUTH], ["nowhere.Middleware", self.OURS, self.AUTH]):
            assert "AuthenticationMiddleware" in the("W012", MIDDLEWARE=wrong).msg
        derived = "django.contrib.auth.middleware.RemoteUserMiddleware"  # is no authentication of its own
        assert ids(MIDDLEWARE=[derived, self.OURS]) == ["W012"]
        for right in ([], [self.AUTH, self.OURS], [f"{__name__}.OwnAuthentication", self.OURS]):
            assert ids(MIDDLEWARE=right) == []


class OwnAuthentication(AuthenticationMiddleware):
    """A project's own."""


class TestOrigins:
    # contract 1.1

    @pytest.mark.parametrize(
        ("hosts", "origins", "expected"),
        [
            (["*"], None, ["W008"]),
            (["example.com", "*"], None, ["W008"]),
            (["*"], ["example.com"], []),
            (["example.com"], ["*"], ["W008"]),
            (["example.com"], None, []),
        ],
    )
    def test_any_page_on_the_web(self, hosts: list[str], origins: list[str] | None, expected: list[str]) -> None:
        settings = {"ALLOWED_HOSTS": hosts, "REALTIME_ALLOWED_ORIGINS": origins}
        assert ids(deploy=True, **settings) == expected
        assert ids(**settings) == []  # a developer's machine


class TestPace:
    @pytest.mark.parametrize(
        ("pace", "expected"),
        [
            ({}, []),
            ({"fleet_moves": 50.0}, ["W015"]),
            ({"moves": 201.0}, ["W015"]),
            ({"fleet_moves": 50.0, "moves": 10.0}, []),
            ({"fleet_moves": None, "moves": 1_000.0}, []),
        ],
    )
    def test_one_process_is_not_faster_than_all_together(self, pace: dict[str, Any], expected: list[str]) -> None:
        assert ids(REALTIME_PACE=pace) == expected

    def test_it_says_both_numbers(self) -> None:
        message = the("W015", REALTIME_PACE={"fleet_moves": 20})
        assert "(200)" in message.msg
        assert "(20)" in message.msg


class TestFlag:
    def test_that_is_not_there(self, database: None) -> None:
        message = the("W002", databases=["default"])
        assert "'realtime_channels'" in message.msg
        assert "legacy" in message.msg

    def test_the_remedy_works(self, database: None) -> None:
        hint = str(the("W002", databases=["default"]).hint)
        (command,) = re.findall(r"`manage.py (.*?)`", hint)
        with override_settings(**RIGHT), quiet():
            call_command(*command.split(), verbosity=0)
        assert ids(databases=["default"]) == []
        flag = Flag.objects.get(name="realtime_channels")
        assert (flag.everyone, flag.percent, flag.superusers) == (None, None, False)

    def test_the_database_is_asked_only_where_django_says_so(self, database: None) -> None:
        assert ids() == ids(databases=["other"]) == []
        with override_settings(**RIGHT):
            assert "realtime.W002" not in [message.id for message in checks.run_checks()]

    def test_before_its_table_is_made(self, database: None) -> None:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE waffle_flag RENAME TO waffle_flag_away")
        try:
            assert ids(databases=["default"]) == []
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE waffle_flag_away RENAME TO waffle_flag")


USUAL = ("django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "waffle", "shim")


@contextmanager
def apps(*names: str) -> Iterator[None]:
    """With these apps installed alone."""
    get_commands.cache_clear()  # type: ignore[attr-defined]  # an lru_cache
    try:
        with override_settings(INSTALLED_APPS=names):
            yield
    finally:
        get_commands.cache_clear()  # type: ignore[attr-defined]  # an lru_cache


@contextmanager
def quiet() -> Iterator[None]:
    """Without a push: there is no Redis behind these settings."""
    from shim import rollout  # noqa: PLC0415  # needs the app registry

    ask = rollout._pending.ask
    rollout._pending.ask = lambda using: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        rollout._pending.ask = ask  # type: ignore[method-assign]
