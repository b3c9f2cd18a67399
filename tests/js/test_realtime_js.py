"""`realtime.js` without a network: its tests in node's own runner, its size, its types, how it is found."""

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders

from tests.js.tools import MODULE, ROOT, node

TESTS = sorted(Path(__file__).parent.glob("*.test.js"))
LIMIT = 10_000  # bytes, minified and gzipped


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_in_node(file: Path) -> None:
    done = subprocess.run(
        [node(), "--test", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^(?:#|ℹ) pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None, done.stdout
    assert int(passed[1]) > 5


def test_it_is_small() -> None:
    text = MODULE.read_text()
    # Without comments and indentation; a real minifier takes names as well, so this bounds it from above.
    stripped = re.sub(r"^\s*//.*$|/\*\*?[^*]*\*/|^\s+", "", text, flags=re.MULTILINE)
    assert len(gzip.compress(stripped.encode(), 9)) < LIMIT
    esbuild = shutil.which("esbuild")  # not fetched: the tests need no network
    if esbuild is not None:
        command = [esbuild, "--minify", "--format=esm", str(MODULE)]
        done = subprocess.run(command, capture_output=True, timeout=20, check=True)
        assert len(gzip.compress(done.stdout, 9)) < LIMIT


def test_it_stands_alone() -> None:
    assert not re.search(
        r"\bimport\b|\brequire\b", re.sub(r"/\*\*?.*?\*/|//.*", "", MODULE.read_text(), flags=re.DOTALL)
    )


def test_it_is_a_static_file() -> None:
    assert finders.find("realtime/realtime.js") == str(MODULE)


def test_its_package_names_what_is_there() -> None:
    package = json.loads((MODULE.parent / "package.json").read_text())
    named = {package["types"], *package["exports"]["."].values()}
    assert {(MODULE.parent / name).resolve() for name in named} == {MODULE, MODULE.with_suffix(".d.ts")}
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{package["version"]}"' in pyproject


def test_its_types_know_its_names() -> None:
    """Each event and counter that the module can tell is typed, and the other way round."""
    module, types = MODULE.read_text(), MODULE.with_suffix(".d.ts").read_text()
    told = set(re.findall(r'#tell\("(\w+)"|#tellGaps\("(\w+)"', module))
    events = {name for pair in told for name in pair if name} | {"closed"}
    assert events == set(re.findall(r'readonly type: "(\w+)"', types))
    (counters,) = re.findall(r"counters = \{(.*?)\}", module, re.DOTALL)
    (typed,) = re.findall(r"interface Counters \{(.*?)\}", types, re.DOTALL)
    assert set(re.findall(r"(\w+): 0", counters)) == set(re.findall(r"(\w+): number", typed))
    (options,) = re.findall(r"interface RealtimeOptions \{(.*?)\n\}", types, re.DOTALL)
    for name in re.findall(r"^  (\w+)\?:", options, re.MULTILINE):
        assert re.search(rf"\b{name}\b", module), name
