"""The documentation is true: links, clauses, signatures, frames, the diagram; its commands run in test_docs_run.py."""

import inspect
import json
import re
import shlex
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement

import shim
from channels_impl.process import GOODBYE_SECONDS
from channels_impl.worker import RealtimeWorker
from shim import conf as conf_module
from shim.core import connection, protocol
from shim.core.cohorts import MAX_LISTED
from shim.core.connection import TRANSITIONS, State
from shim.core.feed import PENDING_BYTES
from shim.core.fleet import PATIENCE_SECONDS
from shim.core.history import MAX_SIZE, MAX_TTL, History
from shim.core.hub import CHECK_CALLS
from shim.core.limits import Limits
from shim.core.message import MAX_MESSAGE_BYTES, Kind
from shim.core.names import MAX_NAME_BYTES
from shim.core.node import Pace
from shim.core.protocol import Close, Delivery, Protocol, Violation, frame_limit
from shim.core.wire import Position, Record, decode
from tests.project.pages import DOCS, README, ROOT, anchors, block, blocks, links, pages, prose, tracked

CONTRACT = DOCS / "contract.md"
API = DOCS / "reference" / "api.md"
PROTOCOL = DOCS / "reference" / "protocol.md"
DESIGN = DOCS / "explanation" / "design.md"
DEPLOY = DOCS / "how-to" / "deploy.md"
PACING = DOCS / "explanation" / "pacing.md"
CLAUSES = re.findall(r"^\*\*(\d\.\d)\*\* ", CONTRACT.read_text(), re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


# Pages


@pytest.mark.parametrize("page", pages(), ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"https?://", target):
            continue
        place, _, anchor = unquote(target).partition("#")
        other = (page.parent / place).resolve() if place else page
        assert other.exists(), f"{target} leads nowhere"
        assert other.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(other), f"{target}: no such heading"


@pytest.mark.parametrize("page", pages(), ids=named)
def test_no_page_knows_the_machine_it_was_written_on(page: Path) -> None:
    assert re.findall(r"(?:/work/|/tmp/|/root/|/home/)\S*", page.read_text()) == []


def test_every_page_can_be_found_from_the_index() -> None:
    index = DOCS / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    assert set(pages()) - {index} <= linked


def test_settings_that_are_named_exist() -> None:
    known = set(re.findall(r"\bREALTIME_[A-Z_]+", Path(conf_module.__file__).read_text()))
    for page in pages():
        assert set(re.findall(r"\bREALTIME_[A-Z_]+", page.read_text())) <= known, page


# The contract


def test_clauses_are_numbered_in_order() -> None:
    assert sorted(set(CLAUSES)) == CLAUSES
    last = {number[0]: int(number[2]) for number in CLAUSES}
    assert [f"{section}.{n}" for section, most in last.items() for n in range(1, most + 1)] == CLAUSES
    assert re.findall(r"^## (\d) ", CONTRACT.read_text(), re.MULTILINE) == list(last)


CITATION = re.compile(r"\b[Cc]ontract,? (\d(?:\.\d+)?(?:(?:, | and | or |/)\d\.\d+)*)")


def test_every_clause_that_is_cited_exists() -> None:
    cited = 0
    for path in tracked():
        if path.suffix not in {".py", ".md", ".html", ".toml", ".lua"}:
            continue
        for citation in CITATION.findall(path.read_text()):
            for number in re.findall(r"\d(?:\.\d+)?", citation):
                cited += 1
                known = number in CLAUSES or any(clause.startswith(f"{number}.") for clause in CLAUSES)
                assert known, f"{named(path)} cites clause {number}, which there is not"
    assert cited > 100


def test_close_codes_are_in_the_table() -> None:
    table = CONTRACT.read_text().partition("## Close codes")[2].partition("## Frames")[0]
    never_sent = {Close.NO_STATUS, Close.ABNORMAL}
    codes = {value for name, value in vars(Close).items() if name.isupper()} - never_sent
    assert codes <= {int(code) for code in re.findall(r"\b\d{4}\b", table)}


def test_limits_are_told_as_they_are() -> None:
    limits, pace, history = Limits(), Pace(), History()
    text = " ".join(CONTRACT.read_text().split())
    for phrase in (
        f"pings every {limits.heartbeat:g} s",
        f"{limits.answer:g} s of silence",
        f"no `hello` within {limits.hello:g} s",
        f"*Repeated* means again within {limits.violations:g} s",
        f"The inbound rate is {limits.inbound_rate:g} messages a second for each connection, "
        f"{limits.inbound_burst:g} at once",
        f"admits {pace.admissions:g} handshakes a second and {pace.admission_burst:g} at once",
        f"`Retry-After` is {pace.retry_after:g} to {2 * pace.retry_after:g} s",
        f"all processes together move {pace.fleet_moves:g} connections a second",
        f"moves {pace.moves:g} connections a second, over {pace.move_least:g} to {pace.move_most:g} s",
        f"Redis has not answered for {PATIENCE_SECONDS:g} s",
        f"both rates are {pace.hurry:g} times as high",
        f"a v1 client has {pace.move_within:g} s from `move`",
        f"moved {pace.arrival:g} to {pace.arrival + pace.arrival_spread:g} s after it came",
        f"the last `size` messages ({history.size}) for `ttl` seconds ({history.ttl:g})",
        f"`size` is 0 to {MAX_SIZE:,} messages, `ttl` up to {MAX_TTL / 86_400:g} days",
        f"at most {MAX_NAME_BYTES:,} bytes",
        f"the drain window is {pace.drain:g} s",
        f"a handler may take {GOODBYE_SECONDS:g} s more",
        f"{MAX_LISTED:,} users",
        f"{PENDING_BYTES // 1_048_576} MiB of messages wait",
        f"compared with Redis every {CHECK_CALLS} s or so",  # `check` is called once a second
    ):
        assert phrase in text, phrase
    assert MAX_MESSAGE_BYTES == 1_048_576  # 1 MiB


# The API


def signatures() -> list[tuple[str, str]]:
    found = []
    for each in blocks(API):
        if each.mark.startswith("signatures-"):
            kind = each.mark.removeprefix("signatures-")
            found += [(kind, line) for line in each.lines]
    return found


@pytest.mark.parametrize(("kind", "line"), signatures())
def test_signatures_are_those_of_the_code(kind: str, line: str) -> None:
    name = line.removeprefix("async ").partition("(")[0]
    method = getattr(getattr(shim, kind), name)
    signature = inspect.signature(method)
    own = signature.replace(parameters=[each for each in signature.parameters.values() if each.name != "self"])
    shown = re.sub(r"\b(?:shim|collections|typing|django)(?:\.\w+)*\.(?=\w)", "", str(own))
    assert ("async " if inspect.iscoroutinefunction(method) else "") + name + shown == line


def test_every_public_name_is_on_the_page() -> None:
    text = API.read_text()
    assert [name for name in shim.__all__ if name not in {"Audience", "__version__"} and f"`{name}" not in text] == []
    documented = {
        name for kind, line in signatures() for name in [f"{kind}.{line.removeprefix('async ').split('(')[0]}"]
    }
    for kind in ("Realtime", "Facility", "Connection"):
        methods = {f"{kind}.{name}" for name, value in vars(getattr(shim, kind)).items() if inspect.isfunction(value)}
        for_backends = {"Connection.open"}
        assert {name for name in methods if "._" not in name} - for_backends == {
            name for name in documented if name.startswith(f"{kind}.")
        }


def test_errors_are_in_the_table() -> None:
    table = API.read_text().partition("## Errors")[2].partition("\n## ")[0]
    errors = {
        name for name in shim.__all__ if inspect.isclass(value := getattr(shim, name)) and issubclass(value, Exception)
    }
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == errors


# The protocol


def test_what_a_client_says_is_understood() -> None:
    frames = [line for each in blocks(PROTOCOL) if each.mark == "from-client" for line in each.lines]
    understood = {type(protocol.parse(frame)).__name__ for frame in frames}
    assert understood == {"Hello", "Send", "Pong"}


def test_what_the_server_says_is_said_so() -> None:
    ready = json.loads(block(PROTOCOL, "ready").text)
    assert list(ready) == list(
        json.loads(
            protocol.ready_frame(
                connection="", backend="", topics={}, recovered={}, heartbeat=25.0, reconnect=Limits().reconnect
            ).data
        )
    )
    assert ready["reconnect"] == Limits().reconnect
    assert ready["heartbeat"] == Limits().heartbeat
    assert block(PROTOCOL, "ack").text.strip().encode() == protocol.ack_frame(7).data
    assert block(PROTOCOL, "ping").text.strip().encode() == protocol.PING_FRAME.data
    own = Record(Kind.TEXT, b"", Position("5f0c2a9b41d7e683", 46), "dGhpcyBpcyBh")
    skip = Delivery(own, protocol.label_json("group:team-a")).skip
    assert skip is not None
    assert block(PROTOCOL, "skip").text.strip().encode() == skip.data
    gap = protocol.gap_frame("user", Position("5f0c2a9b41d7e683", 60))
    assert block(PROTOCOL, "gap").text.strip().encode() == gap.data
    move = protocol.move_frame("channels", "ws://127.0.0.1:8001/ws/calls", Pace().move_within)
    assert block(PROTOCOL, "move").text.strip().encode() == move.data
    error = protocol.error_frame("forbidden", "calls takes nothing from clients", 7)
    assert block(PROTOCOL, "error").text.strip().encode() == error.data


def test_messages_look_as_shown() -> None:
    shown = [line.encode() for line in block(PROTOCOL, "msg").lines]
    records = [
        (b'1j 5f0c2a9b41d7e683 45 -\n{"event":"ring"}', "group:team-a"),
        (b"1t 5f0c2a9b41d7e683 46 -\nhello", "user"),
        (b"1b - 0 -\n\x00\xff", "everyone"),
    ]
    for frame, (record, label) in zip(shown, records, strict=True):
        assert Delivery(decode(record), protocol.label_json(label)).frame(Protocol.V1).data == frame


def test_error_codes_are_in_the_table() -> None:
    sources = [Path(module.__file__ or "").read_text() for module in (protocol, connection)]
    codes = {code for source in sources for code in re.findall(r'Violation\(\s*"(\w+)"', source)}
    assert codes == set(re.findall(r"^\| `(\w+)` \|", PROTOCOL.read_text(), re.MULTILINE)) - {
        "heartbeat",
        "echo",
        "last",
    }
    with pytest.raises(Violation, match="unknown_op"):
        protocol.parse('{"op":"nothing"}')


# The design


def test_the_diagram_is_the_table() -> None:
    lines = ["stateDiagram-v2", f"    [*] --> {State.OPENING.name}"]
    for state, targets in TRANSITIONS.items():
        lines += [f"    {state.name} --> {target.name}" for target in sorted(targets, key=lambda each: each.name)]
    lines.append(f"    {State.CLOSED.name} --> [*]")
    assert block(DESIGN, "states").lines == lines


# Deploying


def test_uvicorn_alone_is_told_what_the_worker_tells_it() -> None:
    (line,) = [line for each in blocks(DEPLOY) for line in each.lines if line.startswith("uvicorn ")]
    words = shlex.split(line)
    told = dict(zip(words[1:-1:2], words[2:-1:2], strict=True))
    for name, value in RealtimeWorker.CONFIG_KWARGS.items():
        if value != "auto":  # uvicorn's own default
            assert told["--" + name.replace("_", "-")] == as_option(value)
    assert told["--ws-max-size"] == str(frame_limit(MAX_MESSAGE_BYTES))


def as_option(value: object) -> str:
    match value:
        case type():
            return f"{value.__module__}:{value.__name__}"
        case float():
            return f"{value:g}"
        case _:
            return str(value).lower()


def test_versions_are_those_that_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    djangos = [each.rpartition(" ")[2] for each in project["classifiers"] if re.match(r".*Django :: \d", each)]
    ranges = {Requirement(each).name: str(Requirement(each).specifier) for each in project["dependencies"]}
    for extra in ("uwsgi", "channels"):
        ranges |= {
            Requirement(each).name: str(Requirement(each).specifier) for each in project["optional-dependencies"][extra]
        }
    text = prose(README)
    assert f"Python {project['requires-python'].removeprefix('>=')}+" in text
    assert f"Django {djangos[0]} to {djangos[-1]}" in text
    assert f"uWSGI {ranges['pyuwsgi'].removeprefix('>=')}+" in text
    assert f"uvicorn {ranges['uvicorn'].removeprefix('>=')}+" in text


# Pacing


def test_the_fleets_in_the_table_are_what_the_formula_makes_of_them() -> None:
    rows = re.findall(r"^\| [^|]+ \| (\d.*) \|$", PACING.read_text(), re.MULTILINE)
    assert len(rows) == 4
    told = [[float(re.sub(r"[^\d.]", "", cell)) for cell in row.split("|")] for row in rows]
    daring = 0.3
    for cpus, busy, handshake, answers, rate, people, seconds, hurried in told:
        assert answers == round(cpus * (1 - busy) / handshake)
        assert rate == round(daring * cpus * (1 - busy) / handshake)
        assert seconds == round(people / rate)
        assert hurried == round(people / (rate * Pace().hurry))
    assert told[0][4] == Pace().fleet_moves
    text = " ".join(PACING.read_text().split())
    spread = Limits().reconnect["spread_ms"] / 1000
    assert f"The default of {spread:g} s is enough for {spread * told[0][4] / daring:,.0f} at the default rate" in text
