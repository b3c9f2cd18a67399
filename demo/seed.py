"""`python -m demo.seed`: makes the database, the people and the flag. Can be run again."""

import django
from django.core.management import call_command


def seed() -> None:
    from django.conf import settings  # noqa: PLC0415 - all of these need Django to be set up
    from django.contrib.auth import get_user_model  # noqa: PLC0415
    from django.contrib.auth.models import Group  # noqa: PLC0415
    from waffle.models import Flag  # noqa: PLC0415

    from demo.people import OPERATOR, PEOPLE  # noqa: PLC0415

    call_command("migrate", verbosity=0, interactive=False)
    users = get_user_model()
    for person in PEOPLE:
        user, _ = users.objects.get_or_create(username=person.name)
        user.groups.set([Group.objects.get_or_create(name=name)[0] for name in person.groups])
    users.objects.get_or_create(username=OPERATOR, defaults={"is_staff": True, "is_superuser": True})
    Flag.objects.update_or_create(
        name=settings.REALTIME_FLAG,
        defaults={"everyone": None, "percent": 0, "superusers": False, "note": "who is on the channels backend"},
    )


if __name__ == "__main__":
    django.setup()
    seed()
    print("seeded")  # the stack looks for it
