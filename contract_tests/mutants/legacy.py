"""Mistakes in the legacy backend's shell: WSGI, threads, its own WebSocket over a borrowed socket."""

from typing import Final

from contract_tests.mutants.lives import ANA, BEN, NOT_KEPT, ONE_OF_EACH, begin, publish, resume, step
from contract_tests.mutants.mutant import Edit, Mutant

LEGACY: Final = (
    Mutant(
        "legacy-subscribes-after-accepting",
        "legacy",
        "the handshake is answered, and then the topics are subscribed",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.process:Process.subscribe",
                "            self._perform(self.hub.subscribe(connection, connection.topics))\n"
                "        if not confirmed.wait(self.conf.timeout):\n",
                "            effects = self.hub.subscribe(connection, connection.topics)\n"
                "        threading.Timer(_mutated(0.03), self._perform, (effects,)).start()\n"
                "        if False:\n",
            ),
        ),
        (
            ONE_OF_EACH,
            step(
                "connect_in_the_middle",
                who=ANA,
                place=0,
                v1=False,
                facility=1,
                before=[],
                after=[(0, "at once", NOT_KEPT), (0, "and another", NOT_KEPT)],
            ),
        ),
    ),
    Mutant(
        "legacy-empty-swallowed",
        "legacy",
        "an empty message is no message",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.transport:Transport._take",
                "        elif frame.fin:\n",
                "        elif frame.fin and _mutated(self._partial):\n",
            ),
        ),
        (ONE_OF_EACH, step("send", pick=0, values=[""], ids=False)),
    ),
    Mutant(
        "legacy-ping-unanswered",
        "legacy",
        "a ping is read and forgotten",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.transport:Transport._feed",
                "            if answer:\n",
                "            if answer and _mutated(False):\n",
            ),
        ),
        (ONE_OF_EACH, step("send_in_parts", pick=0, values=["abc"], cuts=2, pings=True, bytewise=False)),
    ),
    Mutant(
        "legacy-last-first",
        "legacy",
        "of several messages that came together the last is handled first",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.transport:Transport.receive",
                "self._messages.popleft()",
                "_mutated(self._messages).pop()",
            ),
        ),
        (ONE_OF_EACH, *[step("send", pick=0, values=["a", "b", "c", "d"], ids=False)] * 5),
    ),
    Mutant(
        "legacy-ping-spoils-message",
        "legacy",
        "a ping between two fragments throws the first away",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.transport:Transport._take",
                "        elif frame.opcode is not Opcode.CONT:\n",
                "        elif frame.opcode is not Opcode.CONT:\n            self._partial = _mutated(bytearray())\n",
            ),
        ),
        (ONE_OF_EACH, step("send_in_parts", pick=0, values=["abc"], cuts=2, pings=True, bytewise=False)),
    ),
    Mutant(
        "legacy-bad-text-mended",
        "legacy",
        "bytes that are no UTF-8 are replaced",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.transport:Transport._deliver",
                "payload.decode()",
                'payload.decode(errors=_mutated("replace"))',
            ),
        ),
        (ONE_OF_EACH, step("send_forbidden", pick=0, what="bad UTF-8", before=[])),
    ),
    Mutant(
        "legacy-close-cuts",
        "legacy",
        "a close cuts the line before its frame is read",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.transport:Transport.close",
                "self._outbox.end(_close_frame(code, reason), code, reason)",
                "self._outbox.end(_mutated(None), code, reason)\n        self._outbox.abort()",
            ),
        ),
        (ONE_OF_EACH, step("handler_ends_it", pick=0, what="close", code=4123)),
    ),
    Mutant(
        "legacy-disconnected-twice",
        "legacy",
        "disconnected() runs twice where the line broke",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.application:_Visit.serve",
                "                self._disconnected(code)\n",
                "                self._disconnected(code)\n"
                "                if code == Close.ABNORMAL:\n"
                "                    _mutated(self)._disconnected(code)\n",
            ),
        ),
        (ONE_OF_EACH, step("leave", pick=0, how="abrupt", code=None)),
    ),
    Mutant(
        "legacy-one-worker-told",
        "legacy",
        "only the first worker hears of flips and sign-outs",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.process:Process._told",
                "        try:\n",
                '        if __import__("uwsgi").worker_id() != 1:\n            return _mutated(None)\n        try:\n',
            ),
        ),
        (begin(*[(ANA, True)] * 6), step("throw_out", who=ANA, how="disconnect")),
    ),
    Mutant(
        "legacy-slow-client-blocks",
        "legacy",
        "whoever sends to a client waits until it takes it",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.descriptor:Descriptor.write_now",
                "return os.write(self._fd, frame)",
                "self._socket.settimeout(_mutated(60))\n        return self._socket.send(frame)",
            ),
        ),
        (ONE_OF_EACH, step("stop_reading", who=BEN, place=0, v1=False, dice=37)),
    ),
    Mutant(
        "legacy-stops-at-once",
        "legacy",
        "a process that stops sends nobody away before",
        ("legacy",),
        (Edit("legacy_ws4redis.process:Process.drain", "self.node.drain(now)", "_mutated(now)"),),
        (ONE_OF_EACH, step("servers_stop", settings={})),
    ),
    Mutant(
        "legacy-batch-counts",
        "legacy",
        "history after a resume is cut at the backlog limit",
        ("legacy",),
        (
            Edit(
                "legacy_ws4redis.application:_Sink.send_batch",
                "self._transport.send_batch([frame.wire for frame in frames])",
                "self._transport.send_batch(_mutated([frame.wire for frame in frames][:2]))",
            ),
        ),
        (ONE_OF_EACH, *[publish()] * 4, resume(back=4)),
    ),
)
