"""The peer's gunicorn worker: uvicorn's own, without pings, like all servers here."""

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class StockWorker(UvicornWorker):
    """As uvicorn-worker has it, but that nobody is pinged: clients that only count bytes answer nothing."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"loop": "auto", "http": "auto", "ws_ping_interval": None}
