"""Every rule once, in a fixed order: so that each run looks at every clause, whatever chance does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from contract_tests.outages import YES
from contract_tests.values import LIMIT, DeepList, filled

NAMES: Final = ("a:b", "{*}\n", "É\0")
CROWD: Final = ((0, 0, True, 0), (0, 1, False, 3), (1, 0, False, 0), (1, 1, True, 3), (4, 0, True, 0))

TOUR: Final[Sequence[tuple[str, Mapping[str, Any]]]] = (
    ("publish", {"to": 1, "value": "one", "kept": None, "how": "sync"}),
    ("publish", {"to": 2, "value": b"\xff", "kept": (0, 300.0), "how": "async"}),
    ("publish", {"to": 4, "value": DeepList(1_000), "kept": (2, 300.0), "how": "many"}),
    ("publish_several", {"messages": [(1, None), (2, ""), (1, {"a": "\0"})], "kept": None, "how": "amany"}),
    ("publish_big", {"to": 1, "value": filled("x", LIMIT), "dice": 0}),
    ("publish_nonsense", {"to": 1, "refused": ("InvalidPayload", "\ud800")}),
    ("publish_on_commit", {"to": 1, "value": "committed", "commits": True}),
    ("publish_on_commit", {"to": 2, "value": "rolled back", "commits": False}),
    ("publish_for", {"pick": 0, "to": 1, "values": ["mine", 3], "kept": None, "how": "sync"}),
    ("publish_for", {"pick": 1, "to": 1, "values": ["mine", 3], "kept": (0, 300.0), "how": "sync"}),
    ("publish_from_handler", {"pick": 0, "to": 1, "value": "mine", "own": True}),
    ("publish_from_handler", {"pick": 3, "to": 1, "value": "mine", "own": True}),
    ("connect", {"who": 0, "place": 0, "v1": False, "facility": 0, "narrow": ["user"], "listen": [], "echo": True}),
    ("connect", {"who": 4, "place": 1, "v1": True, "facility": 1, "narrow": [], "listen": [("g", 1)], "echo": False}),
    (
        "connect_in_the_middle",
        {"who": 1, "place": 1, "v1": False, "facility": 0, "before": [(0, "b", None)], "after": [(0, "a", None)]},
    ),
    ("resume", {"pick": 0, "back": 2, "forged": None, "was": "own", "meanwhile": [(0, "m", (100, 300.0))]}),
    ("resume", {"pick": 1, "back": 0, "forged": "epoch", "was": "nobody's", "meanwhile": []}),
    ("resume", {"pick": 0, "back": 0, "forged": "foreign", "was": "own", "meanwhile": []}),
    ("send", {"pick": 0, "values": ["", "\0", b"\0", [1]], "ids": True}),
    ("send", {"pick": 2, "values": ["", "\0", b"\0", [1]], "ids": True}),
    ("send_big", {"pick": 1, "value": filled(b"\x80", LIMIT), "dice": 0}),
    ("send_in_parts", {"pick": 0, "values": ["é" * 20], "cuts": 3, "pings": True, "bytewise": True}),
    ("redis_forgets", {"to": 1, "messages": [(1, "forgotten", None)]}),
    ("redis_hangs_up", {"messages": [(1, "unheard", None), (2, "of", (1, 300.0))], "pick": 0, "own": True}),
    ("ask_where", {"who": 0, "place": 1}),
    ("flip", {"everyone": True, "percent": 0, "listed": set(), "messages": [(1, "on the way", None)]}),
    ("flip", {"everyone": False, "percent": 0, "listed": set(), "messages": [(1, "and back", None)]}),
    ("flip", {"everyone": None, "percent": 50, "listed": {0}, "messages": []}),
    ("begin_badly", {"who": 4, "place": 0, "what": "no hello", "number": 0}),
    ("speak_unasked", {"who": 0, "place": 0, "v1": True}),
    ("speak_unasked", {"who": 0, "place": 1, "v1": False}),
    ("knock_in_vain", {"who": 0, "place": 0, "what": "origin", "v1": True}),
    ("send_not_v1", {"pick": 0, "what": "unknown op"}),
    ("send_forbidden", {"pick": 0, "what": "bad UTF-8 over frames", "before": ["heard"]}),
    ("handler_ends_it", {"pick": 0, "what": "raise", "code": 1000}),
    ("connect", {"who": 0, "place": 0, "v1": True, "facility": 0, "narrow": [], "listen": [], "echo": False}),
    ("connect", {"who": 1, "place": 1, "v1": False, "facility": 1, "narrow": [], "listen": [], "echo": False}),
    ("send_too_much", {"pick": 0, "more": 1}),
    ("send_too_often", {"pick": 0, "dice": 0}),
    ("stop_reading", {"who": 4, "place": 0, "v1": True, "dice": YES}),
    ("stop_reading", {"who": 0, "place": 1, "v1": False, "dice": YES}),
    ("connect", {"who": 0, "place": 0, "v1": True, "facility": 0, "narrow": [], "listen": [], "echo": False}),
    ("connect", {"who": 1, "place": 1, "v1": False, "facility": 1, "narrow": [], "listen": [], "echo": False}),
    ("leave", {"pick": 0, "how": "half", "code": None}),
    ("kill", {"pick": 0, "dice": YES}),
    ("throw_out", {"who": 1, "how": "disconnect"}),
    ("throw_out", {"who": 0, "how": "sign out"}),
)
"""Rules and their arguments; what a driver's machine has not is passed over."""


def go(machine: Callable[[], Any]) -> None:
    """Make the tour; what breaks is the driver's failure."""
    state = machine()
    try:
        state.begin(names=list(NAMES), crowd=list(CROWD))
        for name, arguments in TOUR:
            if (rule := getattr(state, name, None)) is not None:
                rule(**arguments)
    finally:
        state.teardown()
