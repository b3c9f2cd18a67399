"""The Django app, as `legacy_ws4redis` or, in the compatible mode, as `ws4redis` in INSTALLED_APPS."""

from django.apps import AppConfig

from legacy_ws4redis.alias import check_who_it_is


class LegacyConfig(AppConfig):
    """Brings the command `runserver`, and ws4redis's static files."""

    name = "legacy_ws4redis"
    verbose_name = "WebSockets on WSGI"

    def ready(self) -> None:
        """Called by Django once all apps are loaded."""
        check_who_it_is()
