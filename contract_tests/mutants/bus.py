"""Mistakes in what is said to Redis: the scripts, the commands, the subscription."""

from typing import Final

from contract_tests.mutants.lives import (
    BEN,
    CAME_LATER,
    EVERYONE,
    NOT_KEPT,
    ONE_OF_EACH,
    begin,
    connect,
    publish,
    resume,
    step,
)
from contract_tests.mutants.mutant import Edit, Mutant

_ASKED: Final = Edit("shim.bus.commands:Commands._question", "want = request.want\n", "want = _mutated(request.want)\n")
_PUBLISHED: Final = Edit(
    "shim.bus.commands:Commands._arguments", "topic.channel(self.prefix)", "_mutated(topic).channel(self.prefix)"
)

BUS: Final = (
    Mutant(
        "publish-pretends",
        "bus",
        "a publish that Redis does not answer looks as if it had been sent",
        ("legacy",),
        (
            Edit(
                "shim.bus.sync:SyncBus._carry",
                "raise self.endpoint.unavailable(what, error, self.timeout) from error",
                'return _mutated(cast("T", None))',
            ),
        ),
        (ONE_OF_EACH, publish(), step("redis_goes", how="silent")),
    ),
    Mutant(
        "history-one-longer",
        "bus",
        "a topic keeps one message more than it should",
        ("legacy",),
        (
            Edit("shim.bus.scripts:PUBLISH", "'MAXLEN', '=', ARGV[3],", "'MAXLEN', '=', tonumber(ARGV[3]) + 1,"),
            _PUBLISHED,
        ),
        (ONE_OF_EACH, publish(), publish(kept=(1, 300.0)), resume(back=2)),
    ),
    Mutant(
        "history-one-shorter",
        "bus",
        "a topic keeps one message less than it should",
        ("channels",),
        (
            Edit(
                "shim.bus.scripts:PUBLISH",
                "'MAXLEN', '=', ARGV[3],",
                "'MAXLEN', '=', math.max(1, tonumber(ARGV[3]) - 1),",
            ),
            _PUBLISHED,
        ),
        (ONE_OF_EACH, publish(), publish(kept=(2, 300.0)), resume(back=2)),
    ),
    Mutant(
        "retained-twice",
        "bus",
        "the last message is handed to a raw client twice",
        ("channels",),
        (
            Edit(
                "shim.bus.scripts:READ",
                "    records[1] = entry[2][2]\n",
                "    records[1], records[2] = entry[2][2], entry[2][2]\n",
            ),
            _ASKED,
        ),
        (ONE_OF_EACH, publish(), CAME_LATER),
    ),
    Mutant(
        "expired-retained",
        "bus",
        "the last message is handed to a raw client though it has expired",
        ("legacy",),
        (
            Edit("shim.bus.scripts:READ", "while entry and not is_alive(entry) do", "while false do"),
            _ASKED,
        ),
        (
            begin((BEN, False)),
            publish("kept"),
            publish("brief", kept=(100, 0.001)),
            *[connect(2, facility=1)] * 12,
            CAME_LATER,
        ),
    ),
    Mutant(
        "oldest-retained",
        "bus",
        "a raw client gets the oldest message of the history, not the last",
        ("channels",),
        (
            Edit(
                "shim.bus.scripts:READ",
                "if want == 'last' then\n  local entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]",
                "if want == 'last' then\n  local entry = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]",
            ),
            _ASKED,
        ),
        (ONE_OF_EACH, publish("first"), publish("last"), CAME_LATER),
    ),
    Mutant(
        "order-by-clock",
        "bus",
        "what was missed comes in the order of its expiry, not of its numbers",
        ("legacy",),
        (
            Edit(
                "shim.bus.commands:_result",
                "tuple(decode(record) for record in records)",
                "tuple(sorted(map(decode, records), key=lambda each: _mutated(-len(each.body))))",
            ),
        ),
        (ONE_OF_EACH, publish("x"), publish("long"), publish("longest"), resume(back=3)),
    ),
    Mutant(
        "seq-starts-at-zero",
        "bus",
        "after a loss the numbers go on, so that nobody sees the new epoch begin",
        ("channels",),
        (
            Edit(
                "shim.bus.scripts:PUBLISH",
                "epoch, seq, lives_until = ARGV[2], 0, 0",
                "epoch, seq, lives_until = 'feedfacefeedface', 0, 0",
            ),
            Edit("shim.bus.commands:new_epoch", "return urandom(8).hex()", 'return _mutated("feedfacefeedface")'),
        ),
        (ONE_OF_EACH, publish(), step("redis_forgets", to=EVERYONE, messages=[(EVERYONE, "x", None)])),
    ),
    Mutant(
        "once-is-kept",
        "bus",
        "a message that should be kept nowhere is kept",
        ("legacy",),
        (
            Edit("shim.bus.commands:Commands.publish", "if not history.size:", "if _mutated(False):"),
            Edit("shim.bus.commands:Commands._scripted", "history.size,", "max(1, history.size),"),
        ),
        (ONE_OF_EACH, publish(kept=NOT_KEPT)),
    ),
    Mutant(
        "position-without-epoch-check",
        "bus",
        "the process that heals trusts Redis's numbers after a loss",
        ("channels",),
        (
            Edit(
                "shim.bus.scripts:READ",
                "local stop = from == epoch and string.format('%.0f', after + 1) or '-'",
                "local stop = string.format('%.0f', after + 1)",
            ),
            _ASKED,
        ),
        (ONE_OF_EACH, publish(), publish(), step("redis_goes", how="lost")),
    ),
    Mutant(
        "one-subscription-a-connection",
        "bus",
        "of several topics only the first is subscribed",
        ("channels",),
        (
            Edit(
                "shim.bus.commands:subscriptions",
                "    names = list(channels)\n",
                "    names = list(channels)\n    if verb == 'SUBSCRIBE':\n        names = _mutated(names[:1])\n",
            ),
        ),
    ),
    Mutant(
        "short-ones-first",
        "bus",
        "of several messages the shorter ones are sent first",
        ("legacy",),
        (
            Edit(
                "shim.bus.commands:Commands._parts",
                "in messages:",
                "in sorted(messages, key=lambda each: _mutated(len(each[2]))):",
            ),
        ),
        (ONE_OF_EACH, step("publish_several", messages=[(EVERYONE, "long"), (EVERYONE, "x")], kept=None, how="many")),
    ),
)
