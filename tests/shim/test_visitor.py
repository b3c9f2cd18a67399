from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import OperationalError
from django.test import Client, override_settings
from django.utils import timezone

from shim.core.cohorts import Subject
from shim.core.errors import InvalidPayload, MessageTooLarge
from shim.core.protocol import Frame, Protocol
from shim.visitor import ANONYMOUS_COOKIE, Identity, identify
from tests.shim.people import visitor


def signed_in(user: User) -> dict[str, str]:
    """The cookies of a browser that has signed in."""
    client = Client()
    client.force_login(user)
    return {name: morsel.value for name, morsel in client.cookies.items()}


@pytest.fixture
def ana(database: None) -> User:
    return User.objects.create_user("ana", password="secret")


class TestIdentify:
    # contract 1.2

    def test_nobody(self, database: None) -> None:
        found = identify({})
        assert not found.user.is_authenticated
        assert (found.user_name, found.session_key, found.groups, found.subject.key) == (None, None, (), None)

    @pytest.mark.parametrize("key", ["x" * 32, "short", "", "é" * 32, "x" * 4_000, "'; DROP TABLE"])
    def test_a_session_that_does_not_exist_is_nobody(self, key: str, database: None) -> None:
        found = identify({"sessionid": key})
        assert (found.user_name, found.session_key, found.subject.key) == (None, None, None)

    def test_a_session_without_a_user(self, database: None) -> None:
        session = SessionStore()
        session["cart"] = [1]
        session.create()
        found = identify({"sessionid": str(session.session_key)})
        assert (found.user_name, found.session_key) == (None, session.session_key)
        assert found.subject.key == f"session:{session.session_key}"

    def test_an_expired_session_is_nobody(self, ana: User) -> None:
        cookies = signed_in(ana)
        Session.objects.update(expire_date=timezone.now())
        found = identify(cookies)
        assert (found.user_name, found.session_key) == (None, None)

    def test_a_signed_in_user_with_groups(self, ana: User) -> None:
        groups = [Group.objects.create(name=name) for name in ("team b", "team a")]
        ana.groups.set(groups)
        ana.is_staff = True
        ana.save()
        cookies = signed_in(ana)
        found = identify({**cookies, ANONYMOUS_COOKIE: "abc"})
        assert found.user == ana
        assert (found.user_name, found.session_key) == ("ana", cookies["sessionid"])
        assert found.groups == ("team a", "team b")
        subject = found.subject
        assert (subject.user, subject.key, subject.anonymous) == (str(ana.pk), f"user:{ana.pk}", "abc")
        assert (subject.staff, subject.superuser) == (True, False)
        assert subject.groups == {str(group.pk) for group in groups}

    def test_who_was_deleted_or_locked_out_is_nobody(self, ana: User) -> None:
        cookies = signed_in(ana)
        User.objects.update(is_active=False)
        assert identify(cookies).user_name is None
        User.objects.all().delete()
        assert identify(cookies).user_name is None

    def test_a_changed_password_ends_the_session_and_leaves_it_alone(self, ana: User) -> None:
        cookies = signed_in(ana)
        ana.set_password("another")
        ana.save()
        found = identify(cookies)
        assert (found.user_name, found.session_key) == (None, None)
        assert Session.objects.filter(session_key=cookies["sessionid"]).exists()  # a handshake writes nothing

    def test_a_rotated_secret_key_signs_nobody_out(self, ana: User) -> None:
        # get_user() would give the session a new key, which no cookie of this browser's knows.
        with override_settings(SECRET_KEY="before"):
            cookies = signed_in(ana)
        with override_settings(SECRET_KEY="after", SECRET_KEY_FALLBACKS=["before"]):
            for _ in range(2):
                found = identify(cookies)
                assert (found.user_name, found.session_key) == ("ana", cookies["sessionid"])

    @pytest.mark.parametrize(
        ("cookie", "id"),
        [
            ("aZ09_-", "aZ09_-"),
            ("x" * 64, "x" * 64),
            ("x" * 65, None),
            ("", None),
            ("é", None),
            ("a b", None),
            ("a\n", None),
        ],
    )
    def test_the_anonymous_cookie(self, cookie: str, id: str | None, database: None) -> None:
        # contract 8.1
        assert identify({ANONYMOUS_COOKIE: cookie}).subject.anonymous == id

    def test_the_cookies_name_is_the_projects(self, ana: User) -> None:
        cookies = signed_in(ana)
        with override_settings(SESSION_COOKIE_NAME="elsewhere"):
            assert identify(cookies).user_name is None
            assert identify({"elsewhere": cookies["sessionid"]}).user_name == "ana"

    def test_a_session_store_that_is_down_is_an_error_and_nobody_is_taken_for_anonymous(
        self, ana: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def down(self: object) -> None:
            raise OperationalError("the database is away")

        cookies = signed_in(ana)
        monkeypatch.setattr(SessionStore, "load", down)
        with pytest.raises(OperationalError):
            identify(cookies)

    def test_a_user_model_of_the_projects_own(self, database: None) -> None:
        session = SessionStore()
        session["_auth_user_id"] = "7"
        session["_auth_user_backend"] = "tests.shim.test_visitor.Backend"
        session.create()
        with override_settings(AUTHENTICATION_BACKENDS=["tests.shim.test_visitor.Backend"]):
            found = identify({"sessionid": str(session.session_key)})
        assert (found.user_name, found.groups) == ("ana@example.com", ())
        assert (found.subject.user, found.subject.staff, found.subject.superuser) == ("7", False, False)


class Backend:
    def get_user(self, id: int) -> Any:
        """A user as AbstractBaseUser makes them: no groups, no staff, its name is its address."""
        return SimpleNamespace(pk=id, is_authenticated=True, get_username=lambda: "ana@example.com")


def test_an_identity_shows_no_session_key() -> None:
    identity = Identity(None, "0123456789abcdef", (), Subject(session="0123456789abcdef"))
    assert "0123" not in repr(identity)


class TestConnection:
    def test_sends_once_it_is_accepted(self) -> None:
        made = visitor()
        with pytest.raises(RuntimeError, match=r"not inside audiences\(\)"):
            made.send("hi")
        sent: list[Frame] = []
        made.open(sent.append, lambda code, reason: None)
        made.send("hi")
        made.send(b"\0")
        made.send({"a": 1})
        assert [(frame.data, frame.text) for frame in sent] == [(b"hi", True), (b"\0", False), (b'{"a":1}', True)]

    def test_v1_frames_have_no_topic(self) -> None:
        made = visitor(protocol=Protocol.V1)
        sent: list[Frame] = []
        made.open(sent.append, lambda code, reason: None)
        made.send("hi")
        assert sent[0].data == b'{"op":"msg","topic":null,"pos":null,"text":"hi"}'

    def test_what_cannot_be_carried_is_refused(self) -> None:
        # contract 4.2
        made = visitor()
        sent: list[Frame] = []
        made.open(sent.append, lambda code, reason: None)
        with pytest.raises(InvalidPayload):
            made.send({1, 2})
        with pytest.raises(MessageTooLarge):
            made.send("x" * 101)
        assert sent == []

    def test_closes_once_it_is_accepted(self) -> None:
        made = visitor()
        with pytest.raises(RuntimeError, match="PermissionDenied"):
            made.close()
        closed: list[tuple[int, str]] = []
        made.open(lambda frame: None, lambda code, reason: closed.append((code, reason)))
        for code in (1000, 1008, 1011, 1013, 4000, 4999):
            made.close(code, "é" * 61)
        assert len(closed) == 6

    @pytest.mark.parametrize("code", [0, 999, 1001, 1005, 1006, 1012, 1015, 3000, 3999, 5000])
    def test_other_close_codes_are_refused(self, code: int) -> None:
        made = visitor()
        made.open(lambda frame: None, lambda code, reason: None)
        with pytest.raises(ValueError, match="a close code is"):
            made.close(code)

    def test_a_longer_reason_is_refused(self) -> None:
        made = visitor()
        made.open(lambda frame: None, lambda code, reason: None)
        with pytest.raises(ValueError, match="123 bytes"):
            made.close(1000, "é" * 62)
