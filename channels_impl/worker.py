"""The gunicorn worker: uvicorn, set up as the contract needs it.

`gunicorn -k channels_impl.worker.RealtimeWorker project.asgi:application`. Who runs uvicorn alone gives the same on its
command line: see docs/how-to/deploy.md.
"""

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from shim.core.connection import Limits
from shim.core.message import MAX_MESSAGE_BYTES
from shim.core.protocol import frame_limit


class RealtimeWorker(UvicornWorker):
    """uvicorn under gunicorn, with back-pressure, pings and limits."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "auto",
        "http": "auto",
        # The one WebSocket implementation of uvicorn that lets a slow client slow its sender (contract 7.2); it speaks
        # with the same parser as the legacy backend.
        "ws": "websockets-sansio",
        # Frames over this close with 1009; the exact limit of a message is the state machine's (contract 6.3).
        "ws_max_size": frame_limit(MAX_MESSAGE_BYTES),
        # ASGI has no ping, so uvicorn sends it to raw clients (contract 7.1).
        "ws_ping_interval": Limits().heartbeat,
        "ws_ping_timeout": Limits().answer,
        # About 300 KiB for each connection (uvicorn #1862).
        "ws_per_message_deflate": False,
        # uvicorn-worker sets none, so that one open socket would hold a stopping worker for ever.
        "timeout_graceful_shutdown": 10,
        "lifespan": "on",
    }
