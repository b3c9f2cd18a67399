import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import path

from shim.core.message import Kind
from shim.core.wire import Record, decode, encode

DEADLINE = 5.0  # seconds


@pytest.fixture
def control(bus_settings: str, database: None) -> Iterator[Any]:
    """What processes are told."""
    with redis.Redis.from_url(bus_settings, socket_timeout=DEADLINE) as client:
        pubsub: Any = client.pubsub()
        pubsub.subscribe("rt:{control}")
        assert pubsub.get_message(timeout=DEADLINE)["type"] == "subscribe"

        def heard() -> list[dict[str, Any]]:
            client.publish("rt:{control}", encode(Record(Kind.JSON, b'"end"')))
            found = []
            while (said := json.loads(decode(pubsub.get_message(timeout=DEADLINE)["data"]).body)) != "end":
                found.append(said)
            return found

        yield heard
        pubsub.close()


def signed_in(name: str) -> Client:
    client = Client()
    client.force_login(User.objects.create_user(name))
    return client


class TestSigningOut:
    # contract 7.5

    def test_ends_the_users_connections_everywhere(self, control: Any) -> None:
        client = signed_in("ana é")
        assert control() == []  # signing in tells nobody anything
        client.logout()
        assert control() == [{"op": "disconnect", "user": "ana é", "code": 4500}]

    def test_of_nobody_says_nothing(self, control: Any) -> None:
        Client().logout()
        assert control() == []

    def test_works_without_redis(self, database: None, caplog: pytest.LogCaptureFixture) -> None:
        client = signed_in("ana")
        with override_settings(REALTIME_REDIS_URL="redis://127.0.0.1:1/0"):
            client.logout()
        assert "'ana' signed out" in caplog.text
        assert "sessionid" not in client.cookies or not client.cookies["sessionid"].value

    def test_of_a_name_that_cannot_be_carried_is_logged(
        self, control: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = signed_in("ana")
        monkeypatch.setattr(User, "get_username", lambda self: "")
        client.logout()
        assert "a user name is empty" in caplog.text
        assert control() == []

    def test_reaches_through_the_admin(self, control: Any) -> None:
        from django.contrib import admin  # noqa: PLC0415 - needs the app registry

        with override_settings(ROOT_URLCONF=(path("admin/", admin.site.urls),)):
            user = User.objects.create_superuser("root", password="x")
            client = Client()
            client.force_login(user)
            assert client.post("/admin/logout/").status_code in (200, 302)
        assert [said["user"] for said in control()] == ["root"]
