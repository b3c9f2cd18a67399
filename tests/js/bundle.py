"""`python -m tests.js.bundle`: put realtime.js and the compatible interface into one script, as old pages load it.

A page of ws4redis's time says `<script src="{% static 'js/ws4redis.js' %}">` and uses `WS4Redis` in the next line. A
module could not be that; so one plain script holds both files, and a test holds it to them.
"""

import re
from typing import Final

from tests.js.tools import MODULE, ROOT

SOURCE: Final = ROOT / "legacy_ws4redis" / "ws4redis.js"
BUNDLE: Final = ROOT / "legacy_ws4redis" / "static" / "js" / "ws4redis.js"

_HEAD: Final = """\
// ws4redis's script for pages that were written for it, with resume and moves: made of shim/static/realtime/realtime.js
// and legacy_ws4redis/ws4redis.js by `python -m tests.js.bundle`. Change those.

"""


def bundled() -> str:
    """The script."""
    parts = [_unwrapped(path.read_text()) for path in (MODULE, SOURCE)]
    body = "\n".join(parts)
    return f'{_HEAD}var WS4Redis = (() => {{\n"use strict";\n\n{body}\nreturn WS4Redis;\n}})();\n'


def _unwrapped(text: str) -> str:
    """A module's code without what makes it one."""
    text = re.sub(r'^import \{.*\} from ".*";\n\n?', "", text, flags=re.MULTILINE)
    text = re.sub(r"^export (?=class |function |const )", "", text, flags=re.MULTILINE)
    assert not re.search(r"^(?:import|export)\b", text, re.MULTILINE)
    return text


if __name__ == "__main__":
    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    BUNDLE.write_text(bundled())
