"""The gunicorn worker: uvicorn, set up as the contract needs it.

`gunicorn -k channels_impl.worker.RealtimeWorker project.asgi:application`. Who runs uvicorn alone gives the same on its
command line: see docs/how-to/deploy.md.
"""

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from channels_impl.uvicorn_protocol import RealtimeProtocol
from shim.conf import conf
from shim.core.connection import Limits
from shim.core.protocol import frame_limit


class RealtimeWorker(UvicornWorker):
    """uvicorn under gunicorn, with back-pressure, pings and limits."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "auto",
        "http": "auto",
        # Of uvicorn's own, only `websockets-sansio` lets a slow client slow its sender (contract 7.2); this extends it.
        "ws": RealtimeProtocol,
        # For consumers of other paths; ours ping by themselves (contract 7.1).
        "ws_ping_interval": Limits().heartbeat,
        "ws_ping_timeout": Limits().answer,
        # About 300 KiB for each connection (uvicorn #1862).
        "ws_per_message_deflate": False,
        # uvicorn-worker sets none, so that one open socket would hold a stopping worker for ever.
        "timeout_graceful_shutdown": 10,
        "lifespan": "on",
    }

    def load_wsgi(self) -> None:
        """Load the application, and with it the settings: the server below reads no longer frames than they allow."""
        super().load_wsgi()
        # Frames over this close with 1009; the exact limit of a message is the state machine's (contract 6.3).
        self.config.ws_max_size = frame_limit(conf().max_message)
