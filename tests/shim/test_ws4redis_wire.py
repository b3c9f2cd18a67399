"""System checks of ws4redis's wire."""

from typing import Any

import pytest

from shim.facility import Facility
from tests.shim.test_checks import ids, the

OLD: dict[str, Any] = {"REALTIME_WIRE": "ws4redis"}


@pytest.fixture(autouse=True)
def _alone(facilities: dict[str, Facility]) -> None:
    """Other tests' facilities have names that this wire cannot carry."""


@pytest.fixture
def colon() -> None:
    class Colon(Facility):
        name = "wire:colon"


def test_what_is_no_wire() -> None:
    for value in ("ws4", None, True):
        assert repr(value) in the("E025", REALTIME_WIRE=value).msg
    assert "WS4REDIS_PREFIX" in the("E022", **OLD, WS4REDIS_PREFIX=3).msg


@pytest.mark.usefixtures("colon")
def test_a_name_that_the_wire_cannot_tell_from_others() -> None:
    assert ids() == []
    message = the("E026", **OLD)
    assert "'wire:colon'" in message.msg


def test_the_old_processes_are_somewhere_else() -> None:
    elsewhere = {"WS4REDIS_CONNECTION": {"host": "other.example.com", "password": "hidden"}}
    assert ids(**elsewhere) == []
    message = the("W014", **OLD, **elsewhere)
    assert "redis://other.example.com:6379/0" in message.msg
    assert "hidden" not in message.msg
    assert ids(**OLD, WS4REDIS_CONNECTION={"host": "redis.example.com"}) == []
    assert ids(**OLD, WS4REDIS_CONNECTION=7) == ["E022"]
    assert ids(**OLD) == []


def test_the_switch_is_still_to_be_made() -> None:
    assert the("W013", **OLD, deploy=True, ALLOWED_HOSTS=["example.com"]).hint
    assert ids(deploy=True, ALLOWED_HOSTS=["example.com"]) == []
