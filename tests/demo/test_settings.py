import os
import stat
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from settings import demo


def test_many_who_start_at_once_have_one_key(tmp_path: Path) -> None:
    file = tmp_path / "var" / "secret-key"
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(demo._secret_key, [file] * 64))
    assert len(keys) == 1
    assert len(keys.pop()) >= 50
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["secret-key"]


@pytest.mark.parametrize("name", ["base", "legacy", "channels", "demo"])
def test_settings_are_complete(name: str) -> None:
    module = import_module(f"settings.{name}")
    assert set(module.REALTIME) == {"legacy", "channels"}
    assert {"shim", "demo", "waffle"} <= set(module.INSTALLED_APPS)
    assert module.INSTALLED_APPS.index("legacy_ws4redis") < module.INSTALLED_APPS.index("django.contrib.staticfiles")
    assert module.DEBUG is (name == "demo")


def test_nothing_secret_is_built_in() -> None:
    assert not os.environ.get("DJANGO_SECRET_KEY")
    assert import_module("settings.legacy").SECRET_KEY == ""
