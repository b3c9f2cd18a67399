"""The pins are exact, closed, free of addresses, within the ranges we publish, and each has its reason."""

import re
import tomllib
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")


def pins(name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line.startswith("-r "):
            found |= pins(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            assert PIN.fullmatch(line), f"not an exact pin: {line!r}"
            package, _, version = line.partition("==")
            assert canonicalize_name(package) not in found, f"pinned twice: {line!r}"
            found[canonicalize_name(package)] = version
    return found


def published() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for text in [*project["dependencies"], *(text for extra in extras for text in extra)]]


@pytest.mark.parametrize("name", ["run.txt", "test.txt", "bench.txt"])
def test_a_file_pins_all_that_its_packages_need(name: str) -> None:
    pinned = pins(name)
    if name == "bench.txt" and find_spec("channels_redis") is None:
        pytest.skip("the peers are installed for make bench alone")
    missing = [
        f"{package} needs {requirement}"
        for package in pinned
        for requirement in map(Requirement, distribution(package).requires or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if canonicalize_name(requirement.name) not in pinned
    ]
    assert missing == []


def test_the_original_package_is_pinned_exactly_and_apart() -> None:
    pinned = pins("ws4redis.txt")
    assert pinned["django-websocket-redis"] == "0.6.0"
    assert pinned["django"].startswith("3.2.")
    assert "django-websocket-redis" not in pins("test.txt")


def test_the_environment_holds_what_is_pinned() -> None:
    assert {name: distribution(name).version for name in pins("test.txt")} == pins("test.txt")


def test_the_published_ranges_hold_the_pinned_versions() -> None:
    pinned = pins("test.txt")
    outside = [
        str(requirement)
        for requirement in published()
        if requirement.name != "realtime-shim" and not requirement.specifier.contains(pinned[requirement.name])
    ]
    assert outside == []


def test_each_package_has_its_reason() -> None:
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
    explained = {canonicalize_name(name) for name in re.findall(r"`([A-Za-z0-9._-]+)`", page)}
    assert set(pins("bench.txt")) - explained == set()


def test_the_page_says_the_published_ranges() -> None:
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
    for requirement in published():
        if requirement.name != "realtime-shim":
            lower = str(requirement.specifier).removeprefix(">=")
            assert re.search(rf"`{requirement.name}` \| ≥ {re.escape(lower)} \|", page), requirement


def test_no_file_names_a_place_to_download_from() -> None:
    files = [ROOT / name for name in ("bootstrap", "Makefile", ".ci/run", "pyproject.toml")]
    files += (ROOT / "requirements").iterdir()
    for file in files:
        text = file.read_text()
        assert not re.search(r"https?://|index-url|find-links|trusted-host", text), file
