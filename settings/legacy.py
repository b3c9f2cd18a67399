"""A process of the legacy backend: WSGI, under uWSGI with gevent, gunicorn, or `manage.py runserver`."""

from settings.base import *  # noqa: F403

WSGI_APPLICATION = "demo.wsgi.application"
