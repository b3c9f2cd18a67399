"""Users with sessions, in the database that the servers read."""

from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.db import transaction


def signed_in(count: int) -> list[tuple[str, str]]:
    """So many users: name and `Cookie` header of each."""
    users = get_user_model()
    found = []
    with transaction.atomic():
        for number in range(count):
            user, _ = users.objects.get_or_create(username=f"u{number}")
            store = SessionStore()
            store[SESSION_KEY] = str(user.pk)
            store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
            store[HASH_SESSION_KEY] = user.get_session_auth_hash()
            store.save()
            found.append((user.get_username(), f"sessionid={store.session_key}"))
    return found
