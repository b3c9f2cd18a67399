"""Whoever writes rubbish to Redis must not fill a disk with log lines."""

import pytest

from shim import complaints
from shim.complaints import QUIET, Complaints


def test_each_kind_is_let_through_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(complaints, "monotonic", lambda: now)
    log = Complaints()
    assert log.allow("message")
    assert not any(log.allow("message") for _ in range(1_000))
    assert log.allow("control")
    now += QUIET - 0.1
    assert not log.allow("message")
    now += 0.1
    assert log.allow("message")
