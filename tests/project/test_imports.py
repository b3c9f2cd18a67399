"""The import rules bite: each deliberate violation of the architecture's table is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shim", "legacy_ws4redis", "channels_impl", "contract_tests")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code and its rules, in which a test may do wrong."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tests" / "project").mkdir(parents=True)
    for name in ("tests/__init__.py", "tests/project/__init__.py", "tests/project/only_contract.py", ".importlinter"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [tool, "--no-cache", "--no-logo"], cwd=checkout, text=True, capture_output=True, check=False, timeout=60
    )


def test_the_rules_are_kept(checkout: Path) -> None:
    done = lint_imports(checkout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("package", "statement"),
    [
        ("shim.core", "import time"),
        ("shim.core", "import random"),
        ("shim.core", "from datetime import UTC"),
        ("shim.core", "import asyncio.events"),
        ("shim.core", "import threading"),
        ("shim.core", "from os import urandom"),
        ("shim.core", "import django.conf"),
        ("shim.core", "import redis"),
        ("shim.core", "import shim.bus"),
        ("shim.core", "import a_package_that_nobody_thought_of"),
        ("shim.bus", "import django"),
        ("shim.bus", "from shim.client import protocol"),
        ("shim", "import redis"),
        ("shim", "import websockets"),
        ("shim", "import gevent"),
        ("shim", "import legacy_ws4redis"),
        ("shim", "import channels_impl"),
        ("shim", "import contract_tests"),
        ("shim.client", "import django"),
        ("legacy_ws4redis", "import asyncio"),
        ("legacy_ws4redis", "from asyncio import events"),
        ("legacy_ws4redis", "from shim.bus.asyncio import AsyncBus"),
        ("legacy_ws4redis", "import gevent"),
        ("legacy_ws4redis", "import channels.layers"),
        ("legacy_ws4redis", "import channels_impl"),
        ("legacy_ws4redis", "import uvicorn"),
        ("channels_impl", "import legacy_ws4redis"),
        ("channels_impl", "import gevent"),
        ("channels_impl", "import channels_redis"),
    ],
)
def test_a_forbidden_import_is_found(checkout: Path, package: str, statement: str) -> None:
    wrong = checkout.joinpath(*package.split("."), "wrong.py")
    wrong.write_text(statement + "\n")
    try:
        done = lint_imports(checkout)
    finally:
        wrong.unlink()
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{package}.wrong" in done.stdout


def test_an_import_for_types_only_counts_too(checkout: Path) -> None:
    wrong = checkout / "shim" / "core" / "wrong.py"
    wrong.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import redis\n")
    try:
        done = lint_imports(checkout)
    finally:
        wrong.unlink()
    assert "shim.core.wrong may not import redis (line 3)" in done.stdout
