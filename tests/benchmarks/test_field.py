"""What is measured is what the contract is run on: nothing that it promises may be traded for speed."""

import ast
from collections.abc import Sequence
from pathlib import Path

from benchmarks.field import CHANNELS, LEGACY, command
from contract_tests.project.servers import ContractServers

ROOT = Path(__file__).resolve().parents[2]

WHO_COMES_AND_WHEN = {"REALTIME_REDIS_URL", "REALTIME_PACE", "REALTIME_LIMITS"}
"""Which Redis, how many are let in at a time, and heartbeats, which a crowd that only counts bytes would not answer."""


def test_the_servers_run_as_the_contracts_do(tmp_path: Path) -> None:
    contract = ContractServers(20_000, directory=tmp_path)
    asgi = contract._gunicorn(), command(CHANNELS, contract.redis_url)
    wsgi = contract._uwsgi(), command(LEGACY, contract.redis_url)
    assert len({_after(words, "--worker-class") for words in asgi}) == 1
    for option in ("--gevent", "--gevent-early-monkey-patch", "--http-socket"):
        assert all(option in words for words in wsgi)


def test_their_settings_differ_in_who_comes_and_when() -> None:
    tree = ast.parse((ROOT / "benchmarks" / "settings.py").read_text())
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    assert {name for name in names if name.startswith("REALTIME")} == WHO_COMES_AND_WHEN


def _after(words: Sequence[str], option: str) -> str:
    return words[words.index(option) + 1]
