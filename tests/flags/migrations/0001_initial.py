"""Tables as the models stand now: most of their fields are waffle's, and follow its version."""

from typing import Any

from django.conf import settings
from django.db import migrations

from tests.flags.models import BareFlag, TeamFlag


def create(_: Any, editor: Any) -> None:
    for model in (BareFlag, TeamFlag):
        editor.create_model(model)


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "__first__"),
        ("waffle", "__first__"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
