"""The client is for plain services too: no Django settings, nothing of the server (architecture, "Folders")."""

import inspect
import subprocess
import sys
from pathlib import Path

import shim.client
from shim.client import AsyncClient, Client


def test_it_needs_no_settings() -> None:
    code = "import shim.client, django.conf; assert not django.conf.settings.configured"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_it_imports_nothing_but_the_core() -> None:
    for path in Path(shim.client.__file__).parent.glob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] == ["from"] or words[:1] == ["import"]:
                package = words[1]
                assert not package.startswith(("django", "redis")), f"{path.name}: {line}"
                if package.startswith("shim"):
                    assert package.startswith(("shim.client", "shim.core")), f"{path.name}: {line}"


def test_the_twins_have_the_same_face() -> None:
    """Same names in the same order, same arguments, same words (style 8, 9)."""
    rename = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__"}

    def face(kind: type) -> list[tuple[str, str]]:
        return [
            (rename.get(name, name), str(inspect.signature(member)).split(" -> ")[0])
            for name, member in vars(kind).items()
            if inspect.isfunction(member) and (not name.startswith("_") or name.startswith("__"))
        ]

    assert face(AsyncClient) == face(Client)
    for name in ("open", "close", "receive", "send"):
        sync, twin = inspect.getdoc(getattr(Client, name)), inspect.getdoc(getattr(AsyncClient, name))
        assert sync is not None
        assert twin is not None
        assert sync.replace("thread", "task") == twin


def test_what_is_exported_exists() -> None:
    for name in shim.client.__all__:
        assert getattr(shim.client, name).__doc__
