"""Mistakes in the channels backend's shell: ASGI, tasks, uvicorn's WebSocket."""

from typing import Final

from contract_tests.mutants.lives import ANA, BEN, CAME_LATER, NOBODY, NOT_KEPT, ONE_OF_EACH, begin, publish, step
from contract_tests.mutants.mutant import Edit, Mutant

_PROTOCOL: Final = "channels_impl.uvicorn_protocol:RealtimeProtocol."

CHANNELS: Final = (
    Mutant(
        "channels-subscribes-in-the-background",
        "channels",
        "the handshake does not wait for Redis's confirmation",
        ("channels",),
        (
            Edit(
                "channels_impl.process:Process.subscribe",
                "        self._perform(self.hub.subscribe(connection, connection.topics))\n"
                "        try:\n"
                "            await asyncio.wait_for(confirmed.wait(), self.conf.timeout)\n",
                "        effects = self.hub.subscribe(connection, connection.topics)\n"
                "        asyncio.get_running_loop().call_later(_mutated(0.02), self._perform, effects)\n"
                "        try:\n"
                "            await asyncio.sleep(0)\n",
            ),
        ),
        (
            ONE_OF_EACH,
            step(
                "connect_in_the_middle",
                who=ANA,
                place=0,
                v1=True,
                facility=1,
                before=[],
                after=[(0, "at once", NOT_KEPT), (0, "and another", NOT_KEPT)],
            ),
        ),
    ),
    Mutant(
        "channels-refuses-after-accepting",
        "channels",
        "a refusal is a close before acceptance: always 403, without words",
        ("channels",),
        (
            Edit(
                "channels_impl.consumer:_refuse",
                "    body = refusal.reason.encode()\n",
                '    await send({"type": "websocket.close", "code": _mutated(4000), "reason": ""})\n'
                "    return\n"
                "    body = refusal.reason.encode()\n",
            ),
        ),
        (ONE_OF_EACH, step("knock_in_vain", who=ANA, place=0, what="facility", v1=False)),
    ),
    Mutant(
        "channels-empty-not-sent",
        "channels",
        "an empty message is not sent",
        ("channels",),
        (
            Edit(
                "channels_impl.outbox:Outbox.put",
                "if self._closing:",
                "if self._closing or (not frame.data and _mutated()):",
            ),
        ),
        (ONE_OF_EACH, publish("")),
    ),
    Mutant(
        "channels-bytes-as-text",
        "channels",
        "bytes that happen to be UTF-8 are sent as text",
        ("channels",),
        (
            Edit(
                "channels_impl.outbox:Outbox.put",
                "self._line.write(frame.wire)",
                'self._line.write(frame.wire if frame.text else _mutated(b"\\x81" + frame.wire[1:]))',
            ),
        ),
        (ONE_OF_EACH, publish(b"abc")),
    ),
    Mutant(
        "channels-broken-line-1005",
        "channels",
        "a line that broke is told as 1005",
        ("channels",),
        (
            Edit(
                "channels_impl.consumer:_Visit._next",
                "            self._ended = Close.ABNORMAL\n",
                "            self._ended = _mutated(Close.NO_STATUS)\n",
            ),
        ),
        (ONE_OF_EACH, step("leave", pick=0, how="abrupt", code=None)),
    ),
    Mutant(
        "channels-code-forgotten",
        "channels",
        "a client's own close code is not told",
        ("channels",),
        (
            Edit(
                "channels_impl.consumer:_Visit._next",
                'event.get("code") or Close.NO_STATUS',
                "_mutated(Close.NORMAL)",
            ),
        ),
        (ONE_OF_EACH, step("leave", pick=0, how="clean", code=4321)),
    ),
    Mutant(
        "channels-disconnected-never",
        "channels",
        "disconnected() does not run where the server closed",
        ("channels",),
        (
            Edit(
                "channels_impl.consumer:_Visit.serve",
                "            if told is not None:\n",
                "            if told is not None and (sink.close_code is None or _mutated(False)):\n",
            ),
        ),
        (ONE_OF_EACH, step("handler_ends_it", pick=0, what="close", code=4123)),
    ),
    Mutant(
        "channels-too-slow-is-kept",
        "channels",
        "a client that takes nothing is kept",
        ("channels",),
        (
            Edit(
                "channels_impl.outbox:Outbox.put",
                "elif self.backlog + len(frame) > self._allowed and self._queue:",
                "elif _mutated(False):",
            ),
        ),
        (ONE_OF_EACH, step("stop_reading", who=BEN, place=0, v1=True, dice=37)),
    ),
    Mutant(
        "channels-unsubscribes-late",
        "channels",
        "an UNSUBSCRIBE may come after the next SUBSCRIBE of the topic",
        ("channels",),
        (
            Edit(
                "channels_impl.process:Process._perform",
                "self._subscription.unsubscribe(channels)",
                "asyncio.get_running_loop().call_later(_mutated(0.05), self._subscription.unsubscribe, channels)",
            ),
        ),
        (
            begin((NOBODY, False)),
            *[
                step("leave", pick=0, how="clean", code=1000),
                CAME_LATER,
                *[publish(kept=NOT_KEPT)] * 20,  # what has a history is healed
            ]
            * 6,
        ),
    ),
    Mutant(
        "channels-handlers-at-once",
        "channels",
        "messages of one client are handled at the same time",
        ("channels",),
        (
            Edit(
                "channels_impl.consumer:_Visit._perform",
                "                    await self._handle(message, id)\n",
                "                    self._late = asyncio.create_task(_mutated(self)._handle(message, id))\n",
            ),
        ),
    ),
    Mutant(
        "channels-failure-ends-all",
        "channels",
        "a handler that raises ends the process's other connections too",
        ("channels",),
        (
            Edit(
                "channels_impl.consumer:_Visit._handle",
                "            error = raised\n",
                "            error = raised\n"
                '            if type(raised).__name__ == "ToldToFail":\n'
                "                for core in list(self._process.node.connections.values()):\n"
                '                    core.sink.close(_mutated(1011), "")\n',
            ),
        ),
        (begin(*[(NOBODY, False)] * 6), step("handler_ends_it", pick=0, what="raise", code=1000)),
    ),
    Mutant(
        "channels-fragments-forgotten",
        "channels",
        "of a message in fragments the last one counts",
        ("channels",),
        (
            Edit(
                _PROTOCOL + "_take",
                "                self._partial += frame.data\n",
                "                self._partial = _mutated(bytearray(frame.data))\n",
            ),
        ),
        (ONE_OF_EACH, step("send_in_parts", pick=0, values=["abc"], cuts=2, pings=False, bytewise=False)),
    ),
    Mutant(
        "channels-bad-text-1002",
        "channels",
        "text that is no UTF-8 closes with 1002",
        ("channels",),
        (
            Edit(
                _PROTOCOL + "send_receive_event_to_app",
                "CloseCode.INVALID_DATA",
                "_mutated(CloseCode.PROTOCOL_ERROR)",
            ),
        ),
        (ONE_OF_EACH, step("send_forbidden", pick=0, what="bad UTF-8", before=[])),
    ),
    Mutant(
        "channels-answers-too-early",
        "channels",
        "a broken rule is answered before the messages that came before it",
        ("channels",),
        (
            Edit(
                _PROTOCOL + "_end",
                "        self._answer = answer\n",
                "        self._hang_up(_mutated(answer))\n",
            ),
        ),
        (ONE_OF_EACH, step("send_forbidden", pick=0, what="reserved bit", before=["x", "y"])),
    ),
)
