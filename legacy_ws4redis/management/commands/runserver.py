"""`runserver`, with sockets for WebSockets.

Django takes the command of the application that stands first in INSTALLED_APPS, so `legacy_ws4redis` must stand before
`django.contrib.staticfiles`; static files are then served as that application's own `runserver` does.
"""

from typing import TYPE_CHECKING

from django.apps import apps

from legacy_ws4redis.django_runserver import WSGIServer

if TYPE_CHECKING or not apps.is_installed("django.contrib.staticfiles"):
    from django.core.management.commands.runserver import Command as Runserver
else:
    from django.contrib.staticfiles.management.commands.runserver import Command as Runserver


class Command(Runserver):
    """Django's `runserver` on a server that offers its sockets."""

    server_cls = WSGIServer
