"""Pages of documentation as tests see them: code blocks with their marks, links, headings."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"

_FENCE: Final = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_MARK: Final = re.compile(r"<!-- test: ([\w-]+) -->\s*\Z")
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
_SOURCE: Final = re.compile(r'\b(?:src|srcset|href)="([^"\s]+)"')
_HEADING: Final = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_ANCHOR: Final = re.compile(r'<a (?:id|name)="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `mark` is the name in the comment `<!-- test: name -->` right before it, or empty."""

    language: str
    text: str
    mark: str

    @property
    def lines(self) -> list[str]:
        """Those that hold something; a line that ends in a backslash goes on in the next."""
        return [line for line in re.sub(r"\\\n *", "", self.text).splitlines() if line.strip()]


def pages() -> list[Path]:
    """Every page there is: README, the changelog and all of docs/."""
    return [README, ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        found.append(Block(match[1], dedent(match[2]), mark[1] if mark else ""))
    return found


def block(page: Path, mark: str) -> Block:
    (found,) = [each for each in blocks(page) if each.mark == mark]
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Every target of a link or an image."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    return _LINK.findall(text) + _SOURCE.findall(text)


def anchors(page: Path) -> set[str]:
    """What `#…` can name: headings as GitHub makes ids of them, and explicit anchors."""
    text = prose(page)
    slugs = {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in _HEADING.findall(text)}
    return slugs | set(_ANCHOR.findall(text))


def tracked() -> list[Path]:
    """The files of the repository, or all files where there is no git."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file()]
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]
