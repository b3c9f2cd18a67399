"""For a uWSGI of its own that serves WebSockets alone, behind a proxy that sends it what begins with /ws/."""

import os

import gevent.socket
import redis.connection

redis.connection.socket = gevent.socket
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "newsroom.settings")

from ws4redis.uwsgi_runserver import uWSGIWebsocketServer

application = uWSGIWebsocketServer()
