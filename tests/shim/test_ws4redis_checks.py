"""The compatible mode's settings: what they are taken for, and what the system checks say about them."""

import importlib.machinery
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from shim.conf import conf
from shim.ws4redis.subscriber import RedisSubscriber
from tests.shim.test_checks import RIGHT, found, ids, the

ON: dict[str, Any] = {"REALTIME_WS4REDIS": True}


def allowed(request: Any, channels: list[str]) -> list[str]:
    return channels


class Overriding(RedisSubscriber):
    def parse_response(self) -> Any:
        return [b"message", b"channel", b"changed"]


class TestInherited:
    """Settings of ours that a project does not have are taken from ws4redis's."""

    @pytest.mark.parametrize("absent", [{}, {"REALTIME_REDIS_URL": None}])
    def test_where_there_are_none(self, absent: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        with override_settings(
            **ON, **absent, WS4REDIS_CONNECTION={"host": "r"}, WS4REDIS_PREFIX="site", WEBSOCKET_URL="/w/"
        ):
            assert (conf().redis_url, conf().prefix, conf().ws_path) == ("redis://r:6379/0", "rt:site", "/w/")
            values = conf().ws4redis
            assert values is not None
            assert (values.prefix, values.heartbeat, values.expire) == ("site", None, 3_600)
        with override_settings(**ON):
            assert (conf().redis_url, conf().prefix, conf().ws_path) == ("redis://localhost:6379/0", "rt", "/ws/")

    def test_and_not_where_there_are(self) -> None:
        own = {"REALTIME_REDIS_URL": "redis://own:1/2", "REALTIME_PREFIX": "own", "REALTIME_WS_PATH": "/own/"}
        old = {"WS4REDIS_CONNECTION": {"host": "r"}, "WS4REDIS_PREFIX": "site", "WEBSOCKET_URL": "/w/"}
        with override_settings(**ON, **own, **old):
            assert (conf().redis_url, conf().prefix, conf().ws_path) == tuple(own.values())

    def test_and_not_outside_of_the_mode(self) -> None:
        with override_settings(WS4REDIS_CONNECTION={"host": "r"}, WS4REDIS_PREFIX="site", WEBSOCKET_URL="/w/"):
            assert (conf().redis_url, conf().prefix, conf().ws_path) == (None, "rt", "/ws/")
            assert conf().ws4redis is None


class TestChecks:
    def test_right_settings(self) -> None:
        callbacks: dict[str, Any] = {
            "WS4REDIS_ALLOWED_CHANNELS": f"{__name__}.allowed",
            "WS4REDIS_PROCESS_REQUEST": allowed,
        }
        assert found(deploy=True, ALLOWED_HOSTS=["example.com"], **ON, **callbacks) == []

    @pytest.mark.parametrize(
        "settings",
        [
            {"REALTIME_WS4REDIS": 1},
            {"WEBSOCKET_URL": "ws", **ON},
            {"WS4REDIS_CONNECTION": {"connection_pool": 1}, **ON},
            {"WS4REDIS_PREFIX": 7, **ON},
            {"WS4REDIS_HEARTBEAT": b"beat", **ON},
            {"WS4REDIS_SUBSCRIBER": RedisSubscriber, **ON},
            *({"WS4REDIS_EXPIRE": value, **ON} for value in (-1, "7", None, True, float("inf"))),
            {"WS4REDIS_ALLOWED_CHANNELS": "callback", **ON},
            {"WS4REDIS_ALLOWED_CHANNELS": ["callback"], **ON},
            {"WS4REDIS_PROCESS_REQUEST": False, **ON},
        ],
        ids=str,
    )
    def test_wrong_values(self, settings: dict[str, Any]) -> None:
        message = the("E022", **settings)
        assert next(iter(settings)) in message.msg
        with override_settings(**{**RIGHT, **settings}), pytest.raises(ImproperlyConfigured) as caught:
            conf()
        assert message.msg in str(caught.value)

    def test_a_password_is_never_shown(self) -> None:
        told = {"password": "secret", "connection_pool": 1}
        assert "secret" not in the("E022", **ON, WS4REDIS_CONNECTION=told).msg

    def test_a_prefix_that_ours_cannot_have(self) -> None:
        settings = {key: value for key, value in RIGHT.items() if key != "REALTIME_PREFIX"}
        with override_settings(**settings):
            assert ids(**ON, WS4REDIS_PREFIX="a{b}") == ["E008"]

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("WS4REDIS_ALLOWED_CHANNELS", "no.such.module.function"),
            ("WS4REDIS_ALLOWED_CHANNELS", f"{__name__}.missing"),  # ws4redis let everybody in
            ("WS4REDIS_PROCESS_REQUEST", f"{__name__}.ON"),
            ("WS4REDIS_SUBSCRIBER", f"{__name__}.allowed"),
            ("WS4REDIS_SUBSCRIBER", f"{__name__}.TestChecks"),
        ],
    )
    def test_what_cannot_be_used(self, setting: str, value: str) -> None:
        message = the("E023", **ON, **{setting: value})
        assert setting in message.msg
        assert value.rpartition(".")[2] in message.msg

    def test_a_subscriber_whose_methods_nothing_calls(self) -> None:
        message = the("W011", **ON, WS4REDIS_SUBSCRIBER=f"{__name__}.Overriding")
        assert "Overriding overrides parse_response" in message.msg

    def test_the_original_package_beside_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ws4redis").mkdir()
        (tmp_path / "ws4redis" / "__init__.py").touch()
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        importlib.invalidate_caches()
        assert str(tmp_path) in the("E024", **ON).msg
        assert ids() == []  # somebody who uses it, and not us

    @pytest.mark.parametrize(("callback", "expected"), [(None, ["W010"]), (allowed, []), (f"{__name__}.allowed", [])])
    def test_publishing_that_is_open_to_all(
        self, callback: Callable[..., Any] | str | None, expected: list[str]
    ) -> None:
        # contract 1.3
        settings = {**ON, "WS4REDIS_ALLOWED_CHANNELS": callback, "ALLOWED_HOSTS": ["example.com"]}
        assert ids(deploy=True, **settings) == expected
        assert ids(**settings) == []
        assert ids(deploy=True, ALLOWED_HOSTS=["example.com"]) == []
