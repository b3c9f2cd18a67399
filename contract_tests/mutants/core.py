"""Mistakes in the core: names, records, feeds, connections, cohorts. Both backends make them at once."""

from typing import Final

from contract_tests.mutants.lives import (
    ANA,
    BEN,
    EVERYONE,
    NOBODY,
    NOT_KEPT,
    ONE_OF_EACH,
    asked,
    begin,
    flip,
    publish,
    resume,
    step,
)
from contract_tests.mutants.mutant import Edit, Mutant

_FEED: Final = "shim.core.feed:Feed."

FLIPS_AND_QUESTIONS: Final = tuple(
    each
    for percent in range(10, 100, 10)
    for each in (flip(percent=percent), *(step("ask_where", who=who, place=who) for who in (ANA, BEN)))
)

CORE: Final = (
    # Names: who is meant (contract 3.3)
    Mutant(
        "name-collision",
        "core",
        "what needs an escape in a name becomes _",
        ("legacy",),
        (
            Edit(
                "shim.core.names:_encode",
                'lambda match: b"%%%02X" % match[0][0]',
                'lambda match: _mutated(b"_")',
            ),
        ),
        (begin((ANA, True), (BEN, False), names=("a:b", "a/b", "c")), publish(to=3)),
    ),
    Mutant(
        "user-is-group",
        "core",
        "a user and a group of the same name share a topic",
        ("channels",),
        (
            Edit(
                "shim.core.names:Topic.tag",
                "{self.audience.kind}",
                "{_mutated(self.audience.kind.replace('u', 'g'))}",
            ),
        ),
        (begin((ANA, True)), publish(to=1), publish(to=2)),
    ),
    Mutant(
        "case-does-not-count",
        "core",
        "names are compared in lower case",
        ("legacy",),
        (Edit("shim.core.names:_encode", "name.encode())", "_mutated(name.casefold()).encode())"),),
        (begin((ANA, True), (BEN, True), names=("a", "A", "b")), publish(to=3)),
    ),
    # Records and frames: what is carried (contract 4)
    Mutant(
        "newline-splits-record",
        "core",
        "a record's head ends at its last newline",
        ("channels",),
        (Edit("shim.core.wire:decode", 'data.partition(b"\\n")', '_mutated(data).rpartition(b"\\n")'),),
        (ONE_OF_EACH, publish("two\nlines")),
    ),
    Mutant(
        "text-as-binary",
        "core",
        "raw clients get text in binary frames",
        ("legacy",),
        (
            Edit(
                "shim.core.protocol:Delivery.frame",
                "text=self.record.kind is not Kind.BINARY",
                "text=_mutated(self.record.kind is Kind.JSON)",
            ),
        ),
        (ONE_OF_EACH, publish("text")),
    ),
    Mutant(
        "url-safe-base64",
        "core",
        "v1 clients get bytes in another base64",
        ("channels",),
        (
            Edit(
                "shim.core.protocol:_message_frame",
                "b64encode(body)",
                '_mutated(b64encode(body, b"-_"))',
            ),
        ),
        (ONE_OF_EACH, publish(b"\xfb\xff")),
    ),
    Mutant(
        "frame-length-off-by-one",
        "core",
        "65,536 bytes are written with a length of 16 bits",
        ("legacy",),
        (
            Edit(
                "shim.core.protocol:Frame.wire",
                "elif size < 65_536:",
                "elif size <= 65_536 and _mutated():",
            ),
            Edit(
                "shim.core.protocol:Frame.wire",
                "size.to_bytes(2)",
                "(size & 0xFFFF).to_bytes(2)",
            ),
        ),
        (ONE_OF_EACH, step("publish_big", to=EVERYONE, value=b"\0" * 65_536, dice=1)),
    ),
    Mutant(
        "nan-is-json",
        "core",
        "a publish takes NaN",
        ("channels",),
        (Edit("shim.core.message:_dumped", "_encode(value)", "_mutated(json.dumps(value))"),),
        (ONE_OF_EACH, step("publish_nonsense", to=EVERYONE, refused=("InvalidPayload", float("nan")))),
    ),
    Mutant(
        "limit-off-by-one",
        "core",
        "a message may have a byte more than the limit",
        ("legacy",),
        (Edit("shim.core.message:_carried", "if len(body) > limit:", "if _mutated(len(body) - 1) > limit:"),),
        (ONE_OF_EACH, step("publish_nonsense", to=EVERYONE, refused=("MessageTooLarge", "x" * 1_048_577))),
    ),
    # Feeds: exactly once, in order (contract 3.1, 3.2)
    Mutant(
        "drops-every-seventh",
        "core",
        "every seventh message of a topic is not handed on",
        ("legacy",),
        (
            Edit(
                _FEED + "_hand_on",
                "            if members:\n",
                "            if members and _mutated(self.position.seq % 7 != 6):\n",
            ),
        ),
        (ONE_OF_EACH, *[publish()] * 8),
    ),
    Mutant(
        "first-protocol-only",
        "core",
        "v1 clients get nothing while a raw client listens",
        ("channels",),
        (
            Edit(
                _FEED + "_hand_on",
                "        for protocol, members in self._with.items():\n            if members:\n",
                "        for protocol, members in self._with.items():\n"
                "            if members and (protocol is Protocol.RAW or not _mutated(self._with[Protocol.RAW])):\n",
            ),
        ),
        (begin(*[(NOBODY, False)] * 4, *[(NOBODY, True)] * 4), publish()),
    ),
    Mutant(
        "doubles-on-resume",
        "core",
        "the last message of the past comes twice",
        ("legacy",),
        (
            Edit(
                "shim.core.hub:Hub.attach",
                "            past[feed] = result.records\n",
                "            past[feed] = result.records\n"
                "            if resume:\n"
                "                past[feed] += _mutated(result.records[-1:])\n",
            ),
        ),
        (ONE_OF_EACH, publish(), resume(back=1)),
    ),
    Mutant(
        "live-before-past",
        "core",
        "what came while a connection joined is handed over before the past",
        ("channels",),
        (
            Edit(_FEED + "enter", "catch_up + since", "_mutated(since + catch_up)"),
            Edit(  # no mistake: a Redis that answers late
                "channels_impl.process:Process.read_past",
                "        return past\n",
                "        await asyncio.sleep(0.03)\n        return past\n",
            ),
        ),
        (
            begin(*[(NOBODY, True)] * 6),
            *[publish(), resume(back=1, meanwhile=[(EVERYONE, "x", (100, 300.0))] * 4)] * 6,
        ),
    ),
    Mutant(
        "forgets-what-came-meanwhile",
        "core",
        "what is handed on while a connection joins is not kept for it",
        ("legacy",),
        (
            Edit(_FEED + "_hand_on", "            joining.keep(delivery)", "            _mutated(joining)"),
            Edit(  # no mistake: a process that is slow just then
                "legacy_ws4redis.application:_Visit._join",
                "            self._process.attach(",
                "            time.sleep(0.03)\n            self._process.attach(",
            ),
        ),
        (
            begin(*[(NOBODY, False)] * 4),
            *[
                step(
                    "connect_in_the_middle",
                    who=NOBODY,
                    place=0,
                    v1=False,
                    facility=0,
                    before=[],
                    after=[(EVERYONE, "x", NOT_KEPT), (EVERYONE, "y", NOT_KEPT)],
                )
            ]
            * 6,
        ),
    ),
    Mutant(
        "hole-not-noticed",
        "core",
        "a message that leaves a hole before it is handed on as it is",
        ("channels",),
        (
            Edit(
                _FEED + "_advance",
                "elif record.position == (self.position.epoch, self.position.seq + 1):",
                "elif _mutated():",
            ),
        ),
        (ONE_OF_EACH, publish(), step("redis_forgets", to=EVERYONE, messages=[(0, "new", None)])),
    ),
    Mutant(
        "unsubscribes-for-others",
        "core",
        "the last v1 client that leaves takes the subscription with it",
        ("legacy",),
        (
            Edit(
                "shim.core.hub:Hub.unsubscribe",
                "                gone.append(feed.channel)\n",
                "                gone.append(feed.channel)\n"
                "            elif not any(each.protocol is Protocol.V1 for each in feed.wanted_by):\n"
                "                gone.append(_mutated(feed.channel))\n",
            ),
            Edit(
                "shim.core.hub:Hub.unsubscribe",
                "gone: list[str] = []",
                "from shim.core.protocol import Protocol\n        gone: list[str] = []",
            ),
        ),
        (
            begin(*[(NOBODY, False)] * 4, *[(NOBODY, True)] * 4),
            *[step("leave", pick=4, how="clean", code=1000)] * 4,
            publish(kept=NOT_KEPT),  # what has a history is healed
        ),
    ),
    # The echo rule (contract 6.5)
    Mutant(
        "echo-rule-ignored",
        "core",
        "a sender gets its own message back, whatever its facility says",
        ("channels",),
        (Edit(_FEED + "_hand_on", "if record.origin not in member.own:", "if _mutated():"),),
        (ONE_OF_EACH, step("publish_for", pick=0, to=1, values=["x"], kept=None, how="sync")),
    ),
    Mutant(
        "echo-by-equality",
        "core",
        "a sender gets nothing that equals its own message, from whomever",
        ("legacy",),
        (
            Edit(
                _FEED + "_hand_on",
                "if record.origin not in member.own:",
                "if record.origin in member.own:\n"
                '                        vars(member).setdefault("said", set()).add(_mutated(record.body))\n'
                '                    if not member.own or record.body not in vars(member).get("said", ()):',
            ),
            Edit(
                "shim.core.feed:_frame",
                "not in member.own:",
                'not in member.own and delivery.record.body not in vars(member).get("said", ()):',
            ),
        ),
        (ONE_OF_EACH, step("publish_for", pick=0, to=1, values=["x"], kept=None, how="sync")),
    ),
    # The past (contract 5)
    Mutant(
        "epoch-ignored-on-resume",
        "core",
        "a position of another epoch is taken for one of this",
        ("channels",),
        (
            Edit(
                "shim.core.history:ReadResult.completes",
                "after.epoch != self.position.epoch or not",
                "_mutated(False) or not",
            ),
            Edit(
                "shim.bus.scripts:READ",
                "if from == epoch and missing > 0 and",
                "if missing > 0 and",
            ),
        ),
        (ONE_OF_EACH, publish(), resume(back=0, forged="epoch")),
    ),
    Mutant(
        "epoch-ignored-live",
        "core",
        "a message of a new epoch with an old number counts as seen",
        ("legacy",),
        (
            Edit(
                _FEED + "_advance",
                "if record.position.epoch == self.position.epoch and record.position.seq <= self.position.seq:",
                "if _mutated(record.position.seq <= self.position.seq):",
            ),
        ),
        (ONE_OF_EACH, publish(), publish(), step("redis_forgets", to=EVERYONE, messages=[(0, "new", None)])),
    ),
    Mutant(
        "resume-gives-part",
        "core",
        "a client that missed more than there is gets what there is",
        ("channels",),
        (
            Edit(
                "shim.core.hub:Hub.attach",
                "                    past[feed] = ()  # never part of it (contract 5.3)",
                "                    _mutated()",
            ),
            Edit(
                "shim.bus.scripts:READ",
                "if from == epoch and missing > 0 and redis.call('XLEN', log) >= missing then",
                "if from == epoch and missing > 0 then",
            ),
            Edit(
                "shim.bus.scripts:READ",
                "if first and seq_of(first) == after + 1 and is_alive(first) then",
                "if first then",
            ),
            Edit("shim.bus.scripts:READ", "if not complete then", "if false then"),
        ),
        (ONE_OF_EACH, publish(), publish(), publish(kept=(1, 300.0)), resume(back=3)),
    ),
    Mutant(
        "answers-for-topics-of-others",
        "core",
        "a client that names topics it does not listen to is told of them",
        ("legacy",),
        (
            Edit(
                "shim.core.hub:Hub.attach",
                "recovered: dict[str, bool] = {}",
                "recovered: dict[str, bool] = dict.fromkeys(_mutated(resume or {}), True)",
            ),
        ),
        (ONE_OF_EACH, publish(), resume(back=0, forged="foreign")),
    ),
    # Redis away and back (contract 7.4)
    Mutant(
        "subscriptions-forgotten",
        "core",
        "after a reconnect nobody asks for the topics again",
        ("channels",),
        (
            Edit(
                "shim.core.hub:Hub.connected",
                "channels = tuple(self._feeds)",
                "channels = _mutated(tuple(self._feeds)[:1])",
            ),
        ),
        (ONE_OF_EACH, step("redis_hangs_up", messages=[(0, "x", None)], pick=0, own=False)),
    ),
    Mutant(
        "gap-not-told",
        "core",
        "a hole that cannot be filled is passed over in silence",
        ("legacy",),
        (
            Edit(
                _FEED + "_gap",
                "        for member in self._with[Protocol.V1]:\n            member.sink.send(frame)\n",
                "        _mutated(frame)\n",
            ),
        ),
        (ONE_OF_EACH, publish(), step("redis_forgets", to=EVERYONE, messages=[(0, "new", None)])),
    ),
    Mutant(
        "heals-in-part",
        "core",
        "a hole is filled with the last message only",
        ("channels",),
        (
            Edit(
                _FEED + "healed",
                "records = _run_up_to(result, self._pending)",
                "records = _mutated(_run_up_to(result, self._pending)[-1:])",
            ),
        ),
        (ONE_OF_EACH, publish(), step("redis_hangs_up", messages=[(0, "x", None)] * 3, pick=0, own=False)),
    ),
    # One connection (contract 6, 8.3)
    Mutant(
        "ack-zero-forgotten",
        "core",
        "a message with the id 0 is not acknowledged",
        ("legacy",),
        (Edit("shim.core.connection:Connection.handled", "if id is not None and", "if _mutated(id) and"),),
        (ONE_OF_EACH, step("send", pick=1, values=["x"], ids=True)),
    ),
    Mutant(
        "violations-forgiven",
        "core",
        "who breaks the protocol again and again stays",
        ("channels",),
        (
            Edit(
                "shim.core.connection:Connection._violation",
                "if last is not None and now - last < self._limits.violations:",
                "if _mutated(False):",
            ),
        ),
        (ONE_OF_EACH, *[step("send_not_v1", pick=0, what="no op")] * 2),
    ),
    Mutant(
        "handler-failed-is-normal",
        "core",
        "a handler that raises closes with 1000",
        ("legacy",),
        (
            Edit(
                "shim.core.connection:Connection.failed",
                "self.close(Close.HANDLER_FAILED,",
                "self.close(_mutated(Close.NORMAL),",
            ),
        ),
        (ONE_OF_EACH, step("handler_ends_it", pick=0, what="raise", code=1000)),
    ),
    Mutant(
        "direct-looks-published",
        "core",
        "what a handler sends to its own connection carries a topic",
        ("channels",),
        (Edit("shim.core.protocol:direct_frame", 'b"null"', "_mutated(b'\"everyone\"')"),),
        (ONE_OF_EACH, step("send", pick=1, values=["x"], ids=False)),
    ),
    Mutant(
        "too-big-is-policy",
        "core",
        "a message that is too big closes with 1008",
        ("legacy",),
        (
            Edit(
                "shim.core.connection:Connection._handle",
                "self.close(Close.TOO_BIG,",
                "self.close(_mutated(Close.POLICY),",
            ),
        ),
        (ONE_OF_EACH, step("send_too_much", pick=0, more=1)),
    ),
    Mutant(
        "inbound-limit-off",
        "core",
        "a client may send as fast as it likes",
        ("channels",),
        (Edit("shim.core.connection:Connection._handle", "if not self._inbound.take(now):", "if _mutated(False):"),),
        (ONE_OF_EACH, step("send_too_often", pick=0, dice=0)),
    ),
    Mutant(
        "second-hello-taken",
        "core",
        "a second hello is passed over",
        ("legacy",),
        (
            Edit(
                "shim.core.connection:Connection.received",
                'raise Violation("second_hello", "hello is the first frame, once")',
                "return _mutated([])",
            ),
        ),
        (ONE_OF_EACH, step("send_not_v1", pick=0, what="second hello")),
    ),
    # Who goes where (contract 8)
    Mutant(
        "cohort-by-hash",
        "core",
        "the draw uses Python's hash()",
        ("mixed",),
        (
            Edit(
                "shim.core.cohorts:bucket",
                'return int.from_bytes(digest[:8], "big") % BUCKETS',
                "return _mutated(hash(digest)) % BUCKETS",
            ),
        ),
        (ONE_OF_EACH, *FLIPS_AND_QUESTIONS),
    ),
    Mutant(
        "session-before-user",
        "core",
        "the draw is by session, also for who is signed in",
        ("mixed",),
        (Edit("shim.core.cohorts:Subject.key", "if self.user:", "if _mutated(self.user) and not self.session:"),),
        (ONE_OF_EACH, *FLIPS_AND_QUESTIONS),
    ),
    Mutant(
        "no-does-not-beat-lists",
        "core",
        "a flag that says No still sends listed users",
        ("mixed",),
        (Edit("shim.core.cohorts:_chosen", "if flag.everyone is not None:", "if _mutated(flag.everyone):"),),
        (ONE_OF_EACH, flip(everyone=False, percent=75), *asked()),
    ),
    Mutant(
        "flip-not-looked-at",
        "core",
        "a pushed flag counts for newcomers only",
        ("mixed",),
        (Edit("shim.core.node:Node.control", "self.flipped(now, hurry=hurry)", "_mutated(now)"),),
        (begin((ANA, True)), flip(listed=[ANA])),
    ),
    Mutant(
        "flip-moves-everybody",
        "core",
        "a flip moves those too who are where they belong",
        ("mixed",),
        (
            Edit(
                "shim.core.node:Node._is_elsewhere",
                "return cohort is not None and cohort != self.backend",
                "return _mutated(cohort is not None)",
            ),
        ),
        (begin((NOBODY, False), (NOBODY, True), (ANA, True)), flip(listed=[ANA])),
    ),
    Mutant(
        "move-is-a-close",
        "core",
        "v1 clients are closed by a flip, not told",
        ("mixed",),
        (
            Edit(
                "shim.core.connection:Connection.move",
                "if self._elsewhere is None or",
                "if _mutated() or self._elsewhere is None or",
            ),
        ),
        (begin((ANA, True)), flip(listed=[ANA])),
    ),
    Mutant(
        "flip-loses-in-flight",
        "core",
        "who was told to move gets nothing more from the old backend",
        ("mixed",),
        (
            Edit(
                _FEED + "_hand_on",
                "if record.origin not in member.own:",
                'if getattr(member, "state", None) is not None and member.state.name == "MOVING":\n'
                "                        _mutated(member)\n"
                "                    elif record.origin not in member.own:",
            ),
        ),
        (begin((ANA, True)), flip(listed=[ANA])),
    ),
)
