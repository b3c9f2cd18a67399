"""A process of the channels backend: ASGI, under gunicorn with `channels_impl.worker.RealtimeWorker`, or uvicorn."""

from settings.base import *  # noqa: F403

ASGI_APPLICATION = "demo.asgi.application"
