import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from shim.core.errors import InvalidAudience, PublishingClosed
from shim.core.history import History
from shim.core.message import Kind, Message
from shim.core.names import Audience, Everyone, Group, Session, User
from shim.facility import Facility, discover, facilities, facility, history_of, topics_of
from tests.shim.people import visitor

ANA = SimpleNamespace(is_authenticated=True, get_username=lambda: "ana")
USUAL: list[Audience] = [Everyone(), User("ana"), Group("a"), Group("b"), Session("s" * 32)]

pytestmark = pytest.mark.usefixtures("facilities")


def make(name: object, *, module: str = __name__, qualname: str = "Made") -> type[Facility]:
    """Declare a facility, as `class Made(Facility)` in a module does."""
    made: type[Facility] = type(qualname, (Facility,), {"name": name, "__module__": module})
    return made


class TestRegistration:
    def test_declaring_one_registers_it(self) -> None:
        class Calls(Facility):
            name = "calls"

        assert isinstance(facility("calls"), Calls)
        assert facility("chat") is None

    def test_they_are_listed_by_name(self) -> None:
        for name in ("b", "a", "é"):
            make(name, qualname=name)
        assert [each.name for each in facilities()] == ["a", "b", "é"]

    def test_one_without_a_name_is_a_base_class(self) -> None:
        class Base(Facility):
            history = History(size=0)

        class Calls(Base):
            name = "calls"

        class Sub(Calls):  # says nothing of a name: not one of its own
            pass

        assert [type(each) for each in facilities()] == [Calls]

    def test_two_of_one_name_are_refused(self) -> None:
        make("calls", qualname="One")
        with pytest.raises(ImproperlyConfigured, match=r"two facilities are named 'calls': .*\.One and .*\.Two"):
            make("calls", qualname="Two")

    def test_a_module_that_is_loaded_again_is_no_other(self) -> None:
        first = make("calls")
        second = make("calls")  # importlib.reload, an autoreloader
        assert first is not second
        assert type(facility("calls")) is second

    @pytest.mark.parametrize("name", ["", None, 7, "a\ud800", "x" * 70_000])
    def test_a_name_that_cannot_be_carried_is_refused(self, name: object) -> None:
        # contract 4.2
        with pytest.raises(ImproperlyConfigured, match=r"Made\.name: a facility name"):
            make(name)
        assert facilities() == ()

    @pytest.fixture
    def app(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        (tmp_path / "discovered_app").mkdir()
        (tmp_path / "discovered_app" / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path / "discovered_app"
        for name in [name for name in sys.modules if name.startswith("discovered_app")]:
            del sys.modules[name]

    def test_is_found_in_each_apps_realtime_module(self, app: Path) -> None:
        (app / "realtime.py").write_text(
            "from shim import Facility\n\nclass Found(Facility):\n    name = 'found-in-an-app'\n"
        )
        with override_settings(INSTALLED_APPS=["discovered_app", "django.contrib.contenttypes"]):
            discover()
            assert type(facility("found-in-an-app")).__module__ == "discovered_app.realtime"

    def test_an_error_in_such_a_module_is_not_hidden(self, app: Path) -> None:
        (app / "realtime.py").write_text("import no_such_module_at_all\n")
        with (
            override_settings(INSTALLED_APPS=["discovered_app"]),
            pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"),
        ):
            discover()

    def test_an_app_without_one_is_passed_over(self, app: Path) -> None:
        with override_settings(INSTALLED_APPS=["discovered_app"]):
            assert apps.is_installed("discovered_app")
            discover()


class TestDefaults:
    def test_publishing_by_clients_is_closed(self) -> None:
        # contract 1.3
        with pytest.raises(PublishingClosed, match="calls takes nothing from clients"):
            make("calls")().receive(visitor(), Message(Kind.TEXT, "hi"))

    def test_audiences_are_the_usual_ones(self) -> None:
        made = make("calls")()
        found = made.audiences(visitor(ANA, groups=("a", "b"), session="s" * 32))
        assert list(found) == USUAL  # type: ignore[arg-type]  # it is no coroutine
        assert list(made.audiences(visitor())) == [Everyone()]  # type: ignore[arg-type]  # as above

    def test_history(self) -> None:
        # contract 5.1
        class Chat(Facility):
            name = "chat"
            history = History(size=3)

        make("calls")
        assert history_of("chat", History()) == History(size=3)
        assert history_of("calls", History(size=7)) == history_of("none", History(size=7)) == History(size=7)


class TestTopics:
    # contract 1.3

    def labels(self, query: str, audiences: list[Audience] | None = None) -> list[str]:
        topics = topics_of(visitor(query=query), USUAL if audiences is None else audiences)
        return [topic.label for topic in topics]

    def test_are_what_the_facility_says(self) -> None:
        assert self.labels("") == ["everyone", "user", "group:a", "group:b", "session"]
        assert self.labels("", []) == []

    def test_belong_to_the_facility(self) -> None:
        (topic,) = topics_of(visitor(facility="chat"), [User("ana")])
        assert (topic.facility, topic.audience) == ("chat", User("ana"))

    @pytest.mark.parametrize(
        ("query", "labels"),
        [
            ("subscribe-user", ["user"]),
            ("subscribe-group&echo", ["group:a", "group:b"]),
            ("subscribe-session=1&subscribe-everyone", ["everyone", "session"]),
            ("subscribe-broadcast", ["everyone"]),  # ws4redis's word
            ("publish-user&other", ["everyone", "user", "group:a", "group:b", "session"]),
            ("subscribe-nonsense", ["everyone", "user", "group:a", "group:b", "session"]),
        ],
    )
    def test_the_client_can_narrow_them(self, query: str, labels: list[str]) -> None:
        assert self.labels(query) == labels

    def test_the_client_cannot_widen_them(self) -> None:
        assert self.labels("subscribe-user&subscribe-group", [Everyone()]) == []

    def test_one_given_twice_is_one(self) -> None:
        assert self.labels("", [Group("a"), Everyone(), Group("a")]) == ["group:a", "everyone"]

    @pytest.mark.parametrize("pair", [(User("ana"), User("bob")), (Session("a"), Session("b"))])
    def test_two_that_a_client_could_not_tell_apart_are_refused(self, pair: tuple[Audience, ...]) -> None:
        with pytest.raises(InvalidAudience, match=r"calls\.audiences\(\) gave two audiences .* use groups"):
            self.labels("subscribe-everyone", [*pair, Everyone()])  # narrowing does not hide it

    @pytest.mark.parametrize("audience", ["ana", None, User])
    def test_what_is_no_audience_is_refused(self, audience: Audience) -> None:
        with pytest.raises(InvalidAudience):
            self.labels("", [audience])
