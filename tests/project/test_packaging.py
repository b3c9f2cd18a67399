"""What a project gets that installs realtime shim: the four packages with their data, and no name besides."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"shim", "legacy_ws4redis", "channels_impl", "contract_tests"}
PATH_FILE = "realtime_shim_ws4redis.pth"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that the checkout stays as it is; no network takes part."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "var", "build", "dist", "__pycache__", "*.egg-info")
    )
    target = source / "dist"
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target), str(source))
    (built,) = target.iterdir()
    return built


def pip(*arguments: str) -> None:
    command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def names(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        return archive.namelist()


def metadata(wheel: Path) -> str:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def test_the_wheel_is_pure_and_named(wheel: Path) -> None:
    assert wheel.name == "realtime_shim-0.1.0-py3-none-any.whl"


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in names(wheel)}
    assert tops - {"realtime_shim-0.1.0.dist-info", PATH_FILE} == PACKAGES


def test_the_path_file_names_a_folder_and_runs_nothing(wheel: Path) -> None:
    # legacy_ws4redis/alias.py
    with ZipFile(wheel) as archive:
        (folder,) = archive.read(PATH_FILE).decode().splitlines()
    assert f"{folder}/ws4redis/__init__.py" in names(wheel)


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    expected = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert expected - set(names(wheel)) == set()
    assert {f"{package}/py.typed" for package in PACKAGES} <= expected


def test_the_metadata_is_complete(wheel: Path) -> None:
    lines = metadata(wheel).splitlines()
    assert {"Name: realtime-shim", "Requires-Python: >=3.12", "License-Expression: MIT"} <= set(lines)
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")}
    assert {"legacy", "channels", "embedded", "client"} <= extras


def test_an_installed_copy_can_be_imported_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip("install", "--no-deps", "--no-index", "--quiet", "--target", str(site), str(wheel))
    script = (
        "import sys; from pathlib import Path; site = Path(sys.argv[1]); sys.path.insert(0, str(site));"
        # Without the checkout's own path, which .venv adds.
        "sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(sys.argv[2])];"
        "import shim, shim.core.wire, legacy_ws4redis, channels_impl, contract_tests as suite;"
        "assert all(Path(m.__file__).is_relative_to(site) for m in (shim, legacy_ws4redis, channels_impl, suite));"
        "from importlib.util import find_spec;"
        "print([name for name in ('settings', 'tests', 'demo', 'benchmarks', 'manage') if find_spec(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", script, str(site), str(ROOT)],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
