"""What every test starts from: Django with the test settings."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.test")
