"""Makes the database that both halves share: user `ana` of the group `team`, signed in. Says the session's key."""

import django
from django.core.management import call_command

django.setup()

from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY  # noqa: E402
from django.contrib.auth.models import Group, User  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402

call_command("migrate", verbosity=0, interactive=False)
ana = User.objects.create_user("ana")
ana.groups.add(Group.objects.create(name="team"))
session = SessionStore()
session[SESSION_KEY] = str(ana.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = ana.get_session_auth_hash()
session["ws4redis:memberof"] = ["team"]  # ws4redis writes it there at login
session.create()
print(session.session_key)  # noqa: T201
