from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import BaseCommand, call_command
from waffle.models import Flag

from demo.people import OPERATOR, PEOPLE
from shim.conf import conf


class Command(BaseCommand):
    """`manage.py demo_seed`: can be run again."""

    help = "Makes the demo's database, people and flag."

    def handle(self, *_args: Any, **_options: Any) -> None:
        call_command("migrate", verbosity=0, interactive=False)
        users = get_user_model().objects
        for person in PEOPLE:
            user = users.get_or_create(username=person.name)[0]
            user.groups.set([Group.objects.get_or_create(name=name)[0] for name in person.groups])
        users.get_or_create(username=OPERATOR, defaults={"is_staff": True, "is_superuser": True})
        Flag.objects.update_or_create(
            name=conf().flag,
            defaults={"everyone": None, "percent": 0, "superusers": False, "note": "who is on the channels backend"},
        )
        self.stdout.write("seeded")  # the stack looks for it
