import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from shim.conf import _LIMITS, _PACE, DEFAULTS, conf, read
from shim.core.limits import Limits
from shim.core.node import Pace

PAGE = (Path(__file__).resolve().parents[2] / "docs/reference/settings.md").read_text()


def table(title: str) -> dict[str, list[str]]:
    """The rows of the table under a heading: cells by what the first cell names."""
    (section,) = re.findall(rf"^## [^\n]*{re.escape(title)}[^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows: dict[str, list[str]] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if re.fullmatch(r"`\w+`", cells[0]):
            rows[cells[0].strip("`")] = cells[1:]
        elif rows and not line.startswith("|"):
            break
    return rows


def value(cell: str) -> Any:
    text = cell.strip("`")
    return _PYTHON[text] if text in _PYTHON else json.loads(text)


_PYTHON = {"None": None, "True": True, "False": False}


class TestThePage:
    # docs/reference/settings.md

    def test_names_every_setting_with_its_default(self) -> None:
        rows = {**table("For every project"), **table("Messages and history")}
        assert {name: value(cells[-2]) for name, cells in rows.items()} | {
            "REALTIME_LIMITS": {},
            "REALTIME_PACE": {},
        } == dict(DEFAULTS)
        for name in ("REALTIME_LIMITS", "REALTIME_PACE"):
            assert f"## `{name}`" in PAGE

    @pytest.mark.parametrize(
        ("title", "kind", "bounds"), [("REALTIME_LIMITS", Limits, _LIMITS), ("REALTIME_PACE", Pace, _PACE)]
    )
    def test_names_every_key_with_its_default(self, title: str, kind: Any, bounds: dict[str, object]) -> None:
        made = kind()
        expected = {each.name: getattr(made, each.name) for each in fields(kind) if each.name != "max_message"}
        rows = table(title)
        assert {name: value(cells[1]) for name, cells in rows.items()} == expected
        assert set(expected) - {"reconnect"} == set(bounds)
        assert all(cells[0] for cells in rows.values())  # a unit


class TestConf:
    def test_defaults_are_the_contracts(self) -> None:
        found, faults = read()
        assert not faults
        assert (found.max_message, found.max_backlog) == (1_048_576, 1_048_576)  # contract 4.2, 7.2
        assert (found.history.size, found.history.ttl) == (100, 300.0)  # contract 5.1
        assert found.timeout == 2.0  # contract 7.3
        assert (found.limits.heartbeat, found.limits.answer, found.limits.hello) == (25.0, 8.0, 10.0)  # contract 7.1
        assert found.pace.drain <= 30.0  # contract 9.1

    def test_the_fleets_rate_may_be_none(self) -> None:
        with override_settings(REALTIME_PACE={"fleet_moves": None}):
            assert conf().pace.fleet_moves is None

    def test_is_read_once_and_again_after_a_change(self) -> None:
        before = conf()
        assert conf() is before
        with override_settings(REALTIME_PREFIX="other"):
            assert conf().prefix == "other"
        assert conf() == before

    def test_the_longest_message_is_a_limit_of_each_connection_too(self) -> None:
        with override_settings(REALTIME_MAX_MESSAGE_BYTES=10):
            assert conf().limits.max_message == 10
