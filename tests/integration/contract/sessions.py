"""Django's session store in the database, and one key for which it does not answer."""

from typing import Any, Final

from django.contrib.sessions.backends import db
from django.db import OperationalError

BROKEN: Final = "b" * 32


class SessionStore(db.SessionStore):
    def load(self) -> dict[str, Any]:
        if self.session_key == BROKEN:
            raise OperationalError("the session store is down")
        loaded: dict[str, Any] = super().load()
        return loaded
