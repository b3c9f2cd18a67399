from collections.abc import Iterator

import pytest
from django.test import Client, override_settings
from django.urls import include, path

from shim.probes import Answer, answer, readiness

urlpatterns = [path("realtime/", include("shim.urls"))]


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def _stopping() -> Iterator[None]:
    readiness.withdraw()
    yield
    readiness.restore()


def test_a_process_is_alive_and_ready() -> None:
    assert answer("/realtime/livez") == Answer(200, "alive")
    assert answer("/realtime/readyz") == Answer(200, "ready")


# contract 9.1
@pytest.mark.usefixtures("_stopping")
def test_a_stopping_process_is_alive_and_not_ready() -> None:
    assert answer("/realtime/livez") == Answer(200, "alive")
    assert answer("/realtime/readyz") == Answer(503, "stopping")


@pytest.mark.parametrize("other", ["/livez", "/realtime/livez/", "/realtime/endpoint", "", "/realtime/LIVEZ"])
def test_other_paths_are_the_projects(other: str) -> None:
    assert answer(other) is None


def test_without_the_urls_there_are_no_probes() -> None:
    with override_settings(ROOT_URLCONF="tests.urls"):
        assert answer("/realtime/livez") is None


@pytest.mark.usefixtures("_stopping")
def test_the_views_say_the_same() -> None:
    client = Client()
    for name in ("livez", "readyz"):
        expected = answer(f"/realtime/{name}")
        assert expected is not None
        response = client.get(f"/realtime/{name}")
        assert (response.status_code, response.content.decode()) == (expected.status, expected.word)
        assert response["Cache-Control"] == "no-store"
