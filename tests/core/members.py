"""Connections for tests: a sink that keeps what it gets, and a clock that is a number."""

import json
from collections.abc import Sequence
from typing import Any

from shim.core.cohorts import Subject
from shim.core.connection import Connection
from shim.core.limits import Limits
from shim.core.names import Everyone, Topic
from shim.core.node import Pace
from shim.core.protocol import Frame, Protocol


class Sink:
    """`shim.core.member.Sink` that keeps everything."""

    def __init__(self) -> None:
        self.last_heard = 0.0
        self.frames: list[Frame] = []

    def send(self, frame: Frame) -> None:
        self.frames.append(frame)

    def send_batch(self, frames: Sequence[Frame]) -> None:
        self.frames.extend(frames)

    def ping(self) -> None:
        raise AssertionError("pings are effects")

    def close(self, code: int, reason: str) -> None:
        raise AssertionError("closes are effects")

    def subscribed(self) -> None:
        raise AssertionError("there is no hub here")

    @property
    def said(self) -> list[dict[str, Any]]:
        """The v1 frames, decoded."""
        return [json.loads(frame.string) for frame in self.frames]

    def ops(self) -> list[str]:
        """The ops of the v1 frames since the last call."""
        ops = [fields["op"] for fields in self.said]
        self.frames.clear()
        return ops


def connection(
    protocol: Protocol = Protocol.V1,
    *,
    id: str = "c1",
    user: str | None = None,
    subject: Subject | None = None,
    topics: Sequence[Topic] = (Topic("calls", Everyone()),),
    limits: Limits | None = None,
    backend: str = "legacy",
    now: float = 0.0,
    **options: Any,
) -> tuple[Connection, Sink]:
    """A connection about to be accepted, and its sink."""
    sink = Sink()
    made = Connection(
        id=id,
        sink=sink,
        protocol=protocol,
        facility="calls",
        topics=topics,
        subject=subject or Subject(),
        user=user,
        backend=backend,
        limits=limits or Limits(),
        now=now,
        **options,
    )
    return made, sink


def live(protocol: Protocol = Protocol.V1, **options: Any) -> tuple[Connection, Sink]:
    """A connection that has joined, and its sink, emptied."""
    made, sink = connection(protocol, **options)
    now: float = options.get("now", 0.0)
    made.accepted(now)
    if protocol is Protocol.V1:
        made.received('{"op":"hello"}', now)
    made.joined({}, {})
    sink.frames.clear()
    return made, sink


def alone(**fields: Any) -> Pace:
    """The pace of a process that knows of no others: by its own rates alone."""
    return Pace(fleet_moves=None, **fields)
