"""Django with a real database, and a real Redis."""

from collections.abc import Iterator

import django
import pytest
import redis
from django.core.management.color import no_style
from django.db import connection
from django.test import override_settings
from django.test.utils import setup_databases, setup_test_environment, teardown_databases, teardown_test_environment

django.setup()

from shim import facility  # noqa: E402 - everything of Django's and ours needs the settings
from shim.bus.embedded import EmbeddedValkey  # noqa: E402
from shim.facility import Facility  # noqa: E402

_KEPT = {"django_content_type", "auth_permission", "django_migrations"}  # as migrate has filled them


@pytest.fixture(scope="session")
def _databases() -> Iterator[None]:
    setup_test_environment(debug=False)
    made = setup_databases(verbosity=0, interactive=False)
    yield
    teardown_databases(made, verbosity=0)
    teardown_test_environment()


@pytest.fixture
def database(_databases: None) -> Iterator[None]:
    """An empty database; what a test writes is really committed."""
    yield
    tables = [name for name in connection.introspection.django_table_names(only_existing=True) if name not in _KEPT]
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables, allow_cascade=True))
    connection.close()


@pytest.fixture(scope="session")
def _valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as valkey:
        yield valkey


@pytest.fixture
def bus_settings(_valkey: EmbeddedValkey) -> Iterator[str]:
    """An empty Redis, and settings that name it; its URL."""
    with redis.Redis.from_url(_valkey.url) as client:
        client.flushall()
    with override_settings(REALTIME_REDIS_URL=_valkey.url):
        yield _valkey.url


@pytest.fixture
def facilities(monkeypatch: pytest.MonkeyPatch) -> dict[str, Facility]:
    """No facilities, and none of a test's own after it."""
    fresh: dict[str, Facility] = {}
    monkeypatch.setattr(facility, "_facilities", fresh)
    return fresh
