"""`python -m demo.publisher`: publishes at a steady rate, and says what it published. Started by `demo.show`.

Two threads: one uses the dispatch room as people do, through its views over HTTP, on both servers in turn; the other
publishes by itself, as a management command or a worker would. Line by line on stdout: each message with its id, topic
and position. On stdin: first what to do (`Plan` as JSON); then "stop", upon which a last message, the fence, goes to
each topic, and the program ends. When stdin ends without it, whoever started us is gone, and so are we.
"""

import http.client
import json
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any, Final, NamedTuple

import django

from demo.browser import Answered, Browser
from demo.people import LANGUAGES, PEOPLE
from shim import Audience, Everyone, Group, RealtimeUnavailable, Session, User, realtime
from shim.core.names import Topic

MOST_RINGING: Final = 4


class Plan(NamedTuple):
    """What to do: ports of the servers, session keys by person, actions and direct messages a second."""

    ports: list[int]
    sessions: dict[str, str]
    actions: float
    direct: float


def audiences(plan: Plan) -> list[tuple[str, Audience]]:
    """Every topic that there is traffic on."""
    groups = {group for person in PEOPLE for group in person.groups}
    everybody: list[Audience] = [
        Everyone(),
        *(Group(group) for group in sorted(groups)),
        *(User(name) for name in plan.sessions),
        *(Session(key) for key in plan.sessions.values()),
    ]
    return [(facility, audience) for facility in ("calls", "lobby") for audience in everybody]


class Publisher:
    """The two threads and what they say."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._ringing: list[int] = []
        self._taken: list[tuple[int, str]] = []  # with the interpreter
        self._browsers = {
            name: [Browser(port, session) for port in plan.ports] for name, session in plan.sessions.items()
        }
        self._interpreters = [p.name for p in PEOPLE if any(g in LANGUAGES for g in p.groups)]
        self._callers = [p.name for p in PEOPLE if p.name not in self._interpreters]
        self._messages = self._kinds()

    def run(self) -> None:
        """Publish until told to stop, then the fences."""
        threads = [
            threading.Thread(target=self._steadily, args=(self._plan.actions, self._act)),
            threading.Thread(target=self._steadily, args=(self._plan.direct, self._publish)),
        ]
        for thread in threads:
            thread.start()
        self._stopping.wait()
        for thread in threads:
            thread.join()
        self._send([(*where, {"id": secrets.token_hex(6), "event": "fence"}) for where in audiences(self._plan)])
        self._say({"fenced": True})

    def listen(self) -> None:
        """Wait for "stop"; anything else is the end."""
        if sys.stdin.readline().strip() != "stop":
            os._exit(1)
        self._stopping.set()

    # Threads

    def _steadily(self, rate: float, work: Callable[[], None]) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / rate, time.monotonic() - 1)  # catches up on a pause of a second, not of more
            try:
                work()
            except (Answered, OSError, http.client.HTTPException, RealtimeUnavailable) as error:
                self._say({"failed": f"{type(error).__name__}: {error}", "at": time.monotonic()})

    def _act(self) -> None:
        """One thing that people do in the room."""
        at = time.monotonic()
        answer = self._action()
        for id, topic, epoch, seq in answer["sent"]:
            self._say({"id": id, "topic": topic, "position": [epoch, seq], "at": at})

    def _action(self) -> dict[str, Any]:
        dice = random.random()
        if dice < 0.3:
            to = random.choice(["", "", *self._callers])
            return self._as(random.choice(list(self._browsers)), "/chat", text="hello from the room", to=to)
        if dice < 0.4:
            return self._as(random.choice(list(self._browsers)), "/note", text="for this session")
        if dice < 0.55 and self._taken:
            call, name = self._taken.pop(0)
            return self._as(name, f"/calls/{call}/hang-up")
        if self._ringing and (dice < 0.75 or len(self._ringing) >= MOST_RINGING):
            call, name = self._ringing.pop(0), random.choice(self._interpreters)
            answer = self._as(name, f"/calls/{call}/take")
            self._taken.append((call, name))
            return answer
        answer = self._as(random.choice(self._callers), "/calls/ring", language=random.choice(LANGUAGES))
        self._ringing.append(answer["call"])
        return answer

    def _as(self, name: str, path: str, **fields: str) -> dict[str, Any]:
        return random.choice(self._browsers[name]).post(path, **fields)

    def _publish(self) -> None:
        """Now and then several at once, else one, each of another kind than the last (contract 4.1)."""
        some = random.choices(audiences(self._plan), k=random.choice([1, 1, 1, 4]))
        some[0] = random.choice([("lobby", Everyone()), some[0]])
        self._send([(*where, next(self._messages)) for where in some])

    def _send(self, messages: list[tuple[str, Audience, Any]]) -> None:
        at = time.monotonic()
        if len(messages) == 1:
            receipts = [realtime.publish(*messages[0])]
        else:
            receipts = realtime.publish_many(messages)
        for (facility, audience, value), receipt in zip(messages, receipts, strict=True):
            if receipt.position is not None:
                topic = Topic(facility, audience).tag
                self._say({"id": _id(value), "topic": topic, "position": list(receipt.position), "at": at})

    def _kinds(self) -> Iterator[Any]:
        for kind in cycle(range(3)):
            id = secrets.token_hex(6)
            yield ({"id": id, "event": "news"}, f"{id} text ✓", f"{id} ".encode() + b"\x00\xff")[kind]

    def _say(self, line: dict[str, Any]) -> None:
        with self._lock:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


def _id(value: Any) -> str:
    if isinstance(value, dict):
        return str(value["id"])
    return (value if isinstance(value, str) else value.decode(errors="replace"))[:12]


def main() -> None:
    django.setup()
    publisher = Publisher(Plan(**json.loads(sys.stdin.readline())))
    threading.Thread(target=publisher.listen, daemon=True).start()
    publisher.run()


if __name__ == "__main__":
    main()
