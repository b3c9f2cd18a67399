"""`./bootstrap`: which Python it takes, what it says where there is none, and how it mends an environment.

Each test has a small checkout of its own whose requirement files name no package, so nothing is downloaded.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "/nonexistent"


class Checkout:
    """A directory with ./bootstrap and requirement files, and a PATH of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root / "checkout with a space"
        self.bin = root / "bin"
        (self.root / "requirements").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / "bootstrap", self.root / "bootstrap")
        self.require("run", "")
        self.require("test", "-r run.txt\n")
        self.require("bench", "-r test.txt\n")
        for tool in ("rm", "sed", "grep", "head"):
            found = shutil.which(tool)
            assert found is not None
            (self.bin / tool).symlink_to(found)

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def require(self, name: str, text: str) -> None:
        (self.root / "requirements" / f"{name}.txt").write_text(text)

    def command(self, name: str, script: str) -> Path:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def run(self, *arguments: str, path: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(self.root / "bootstrap"), *arguments],
            cwd="/",
            env={"PATH": path or str(self.bin), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", **environment},
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            check=False,
            timeout=110,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def real_python() -> str:
    return str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")


def test_no_python_is_one_sentence(checkout: Checkout) -> None:
    done = checkout.run(path=NOWHERE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "bootstrap: no Python 3.12 or newer on PATH, in pyenv or in uv: "
        "install one, or name it with PYTHON=/path/to/python3.\n"
    )
    assert not checkout.venv.exists()


def test_pythons_that_will_not_do_are_named(checkout: Checkout) -> None:
    checkout.command("python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")  # an unselected shim
    checkout.command("python3.13", "echo part 3.13.0 without ensurepip")
    checkout.command("python3", "echo old 3.11.2 -")
    done = checkout.run()
    assert done.returncode == 1
    assert "(python3.13 is 3.13.0 without ensurepip, python3 is 3.11.2)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_named_python_that_will_not_do_is_refused(checkout: Checkout) -> None:
    checkout.command("python3.12", f'exec {real_python()} "$@"')
    old = checkout.command("old", "echo old 3.9.1 -")
    done = checkout.run(PYTHON=str(old))
    assert done.returncode == 1
    assert f"PYTHON={old} is not a usable Python 3.12 or newer ({old} is 3.9.1)" in done.stderr


def test_an_unknown_set_is_refused(checkout: Checkout) -> None:
    done = checkout.run("everything")
    assert (done.returncode, done.stderr) == (1, 'bootstrap: unknown set "everything": say run, test or bench.\n')


def test_pyenv_is_searched(checkout: Checkout, tmp_path: Path) -> None:
    home = tmp_path / "pyenv" / "versions" / "3.12.1" / "bin"
    home.mkdir(parents=True)
    checkout.command("python", f'exec {real_python()} "$@"').rename(home / "python")
    done = checkout.run("run", PYENV_ROOT=str(tmp_path / "pyenv"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (checkout.venv / ".ready-run").exists()


def test_uv_is_asked(checkout: Checkout) -> None:
    checkout.command("uv", f'[ "$1 $2" = "python find" ] && echo {real_python()}')
    done = checkout.run("run")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"using Python {sys.version.split()[0]} ({real_python()})" in done.stdout


def test_a_larger_set_holds_the_smaller_and_is_made_once(checkout: Checkout) -> None:
    first = checkout.run("bench", PYTHON=real_python())
    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith("bootstrap: ready\n")
    for again in ("bench", "test", "run"):
        done = checkout.run(again, path=NOWHERE)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    imported = subprocess.run(
        [checkout.venv / "bin" / "python", "-I", "-c", "import sys; print(sys.path[-1])"],
        text=True,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert imported.stdout == f"{checkout.root}\n"


def test_an_environment_is_mended(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.run("run", PYTHON=real_python()).returncode == 0

    checkout.require("run", "# a changed requirement\n")
    changed = checkout.run("run", PYTHON=real_python())
    assert "installing 0 pinned packages" in changed.stdout
    assert "replacing" not in changed.stdout

    (checkout.venv / "bin" / "python").unlink()
    assert "replacing .venv" in checkout.run("run", PYTHON=real_python()).stdout

    (checkout.venv / ".ready-run").unlink()
    (checkout.venv / ".installing").touch()  # as a run leaves it that was killed while pip worked
    assert "replacing .venv" in checkout.run("run", PYTHON=real_python()).stdout

    checkout.root = checkout.root.rename(tmp_path / "moved")  # its scripts still name the old place
    assert "replacing .venv" in checkout.run("run", PYTHON=real_python()).stdout
    assert checkout.run("run", path=NOWHERE).stdout == ""


def test_a_missing_wheel_is_one_sentence(checkout: Checkout) -> None:
    checkout.require("run", "pyuwsgi==2.0.30\n")
    done = checkout.run("run", PYTHON=real_python())
    assert done.returncode == 1
    assert done.stderr.startswith("bootstrap: pip finds no wheel of pyuwsgi==2.0.30 for Python 3.")
    assert "use Python 3.12 or 3.13" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(checkout.venv.glob(".ready-*"))
