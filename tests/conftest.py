"""What every test starts from: Django with the test settings, and Hypothesis without a stopwatch."""

import os

import django
import hypothesis

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.test")

# A deadline would measure the machine. CI tries the same examples each time, so its verdict is about the commit.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("project"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "project")


def pytest_configure() -> None:
    django.setup()
