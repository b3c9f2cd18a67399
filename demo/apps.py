"""The Django app."""

from django.apps import AppConfig


class DemoConfig(AppConfig):
    name = "demo"
    verbose_name = "dispatch room"
    default_auto_field = "django.db.models.BigAutoField"
