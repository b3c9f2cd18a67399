"""`make demo`: live clients, steady traffic, and the flag turned up and back under way; then the count."""

import asyncio
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

from contract_tests.part import StackError
from demo.browser import Answered, Browser
from demo.crowd import RAW, V1, Crowd, newcomer
from demo.faults import GRACE, strike
from demo.ledger import Count, Ledger, Published
from demo.people import PEOPLE
from demo.plot import plot
from demo.publisher import Plan
from demo.screen import FRAMES_A_SECOND, Screen, View, summary
from demo.script import Cue, Fault, Flip, Kill, Restart, Turn, script
from demo.serve import Ended, end_on_signals
from demo.stack import CHANNELS, LEGACY, ROOT, Stack
from shim.client import ClientError
from shim.core.errors import RealtimeUnavailable
from shim.core.wire import Position

SAMPLES_A_SECOND: Final = 4  # for the picture, where nobody looks at a screen
A_SECOND: Final = 20.0  # things that people do, and as many messages of the publisher's own
DELIVERIES: Final = 4_000  # so that a crowd is kept busy by what it does, not by what it hears
LEAST_SECONDS: Final = 8
LEAST_SECONDS_WITH_FAULTS: Final = 15
OPERATOR_PATIENCE: Final = 20.0  # seconds; what one worker takes to its grave is asked of the next
MOVE_TIMEOUT: Final = 75.0  # seconds for everybody to be back; a late arrival at the wrong backend stays a minute
SETTLE_TIMEOUT: Final = 20.0  # seconds for the last message to have come to everybody
RAW_SETTLE_TIMEOUT: Final = 2.0  # raw clients may have lost some for good, so this one usually passes


class Show:
    """One run of the demo on a stack that is up.

    Args:
        stack: where it runs. duration: seconds of traffic. screen: where it shows.
        faults: break things meanwhile. v1, raw: how many clients.

    Attributes:
        clean: nothing was lost, doubled or out of order for v1 clients, and everything that should happen has.
    """

    def __init__(
        self, stack: Stack, duration: float, screen: Screen, *, faults: bool = False, v1: int = V1, raw: int = RAW
    ) -> None:
        self._stack = stack
        self._duration = duration
        self._screen = screen
        self._script = script(duration, faults=faults)
        self._faults = faults
        self._views: list[View] = []
        self._strikes: list[asyncio.Task[None]] = []
        self._ledger = Ledger()
        self._failed: list[str] = []
        self._phase = "connecting"
        self._percent = 0
        self._started = time.monotonic()
        self._newcomer_ms: int | None = None
        self._is_back = False
        self.clean = False
        self._sessions = self._sign_in()
        self._crowd = Crowd(stack, self._sessions, v1=v1, raw=raw)

    def _sign_in(self) -> dict[str, str]:
        def one(name: str) -> str:
            return Browser(self._stack.ports[LEGACY]).sign_in(name)

        names = [person.name for person in PEOPLE]
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(names, pool.map(one, names), strict=True))

    async def run(self) -> None:
        """Run it.

        Raises:
            StackError: the demo could not be run to its end.
        """
        drawing = asyncio.create_task(self._draw())
        try:
            await self._crowd.open()
            await self._traffic()
            self._phase = "done"
            self._screen.show(self._view())
        except* ClientError as errors:
            raise StackError(f"A client could not connect: {errors.exceptions[0]}") from None
        finally:
            drawing.cancel()
            await self._crowd.close()

    async def _traffic(self) -> None:
        self._started = time.monotonic()
        publisher = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "demo.publisher",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**self._stack.process_env, "PYTHONUNBUFFERED": "1"},
        )
        orders, lines = cast("asyncio.StreamWriter", publisher.stdin), cast("asyncio.StreamReader", publisher.stdout)
        try:
            rate = min(A_SECOND, DELIVERIES / len(self._crowd.members))
            plan = Plan(list(self._stack.ports.values()), self._sessions, rate, rate)
            orders.write(json.dumps(plan._asdict()).encode() + b"\n")
            log = asyncio.create_task(self._log(lines))
            self._phase = "traffic"
            self._started = time.monotonic()
            for cue in self._script:
                await self._sleep_until(cue.at)
                await self._act(cue)
            await self._sleep_until(self._duration)
            await asyncio.gather(*self._strikes)
            self._phase = "moving back"
            self._is_back = await self._until(lambda: self._crowd.moved_back, MOVE_TIMEOUT)
            self._phase = "settling"
            orders.write(b"stop\n")
            if not await asyncio.wait_for(log, SETTLE_TIMEOUT):
                self._failed.append("the publisher ended early")
            await self._until(lambda: self._crowd.settled(self._ledger, "v1"), SETTLE_TIMEOUT)
            await self._until(lambda: self._crowd.settled(self._ledger, "raw"), RAW_SETTLE_TIMEOUT)
        finally:
            if publisher.returncode is None:
                orders.close()  # it ends at that
                await publisher.wait()

    async def _log(self, lines: asyncio.StreamReader) -> bool:
        """Enter what the publisher says into the ledger; whether it came to its end."""
        fenced = False
        async for text in lines:
            said = json.loads(text)
            match said:
                case {"id": str(id), "topic": str(topic), "position": [str(epoch), int(seq)], "at": float(at)}:
                    self._ledger.add(Published(id, topic, Position(epoch, seq), at))
                case {"fenced": True}:
                    fenced = True
                case {"failed": str(what), "at": float(at)}:
                    self._refused(what, at)
                case _:
                    self._failed.append(str(said))
        return fenced

    def _refused(self, what: str, at: float) -> None:
        """A publish, or a request that would have published, has raised: it counts as not sent."""
        for fault in reversed(self._crowd.faults):
            if at >= fault.at - GRACE and at <= (fault.until or at) + GRACE:
                fault.refused += 1
                return
        self._failed.append(what)

    async def _act(self, cue: Cue) -> None:
        if isinstance(cue.act, Turn):
            await self._flip(cue.act.percent, is_last=cue is self._script[-1])
        else:
            fault = Fault(cue.act, time.monotonic())
            self._crowd.faults.append(fault)
            self._strikes.append(asyncio.create_task(self._strike(fault)))

    async def _strike(self, fault: Fault) -> None:
        try:
            await strike(self._stack, fault)
        except (RealtimeUnavailable, OSError, http.client.HTTPException, ValueError) as error:
            self._failed.append(f"{fault.name}: {error}")

    async def _flip(self, percent: int, *, is_last: bool) -> None:
        """As an operator does it: by a view, which saves the flag."""
        browser = Browser(self._stack.ports[CHANNELS])
        flip = Flip(self._percent, percent, time.monotonic())
        self._crowd.flips.append(flip)
        while True:
            try:
                await asyncio.to_thread(browser.post, "/flag/set", percent=percent)
                break
            except (Answered, OSError, http.client.HTTPException) as error:
                if not self._faults or time.monotonic() > flip.at + OPERATOR_PATIENCE:
                    raise StackError(f"The flag could not be turned to {percent} %: {error}") from None
        self._percent = percent
        if is_last:
            endpoint = f"{self._stack.http[LEGACY]}/realtime/endpoint"
            first = await asyncio.wait_for(newcomer(endpoint, LEGACY), MOVE_TIMEOUT)
            self._newcomer_ms = round((first - flip.at) * 1000)

    async def _sleep_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, self._started + at - time.monotonic()))

    async def _until(self, condition: Callable[[], bool], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    async def _draw(self) -> None:
        while True:
            view = self._view()
            if view.phase != "connecting":
                self._views.append(view)
            self._screen.show(view)
            await asyncio.sleep(1 / (FRAMES_A_SECOND if self._screen.is_live else SAMPLES_A_SECOND))

    def _view(self) -> View:
        members = self._crowd.members
        v1 = [member for member in members if member.protocol == "v1"]
        wrong = [member.wrong() for member in v1]
        return View(
            phase=self._phase,
            elapsed=time.monotonic() - self._started,
            duration=self._duration,
            percent=self._percent,
            members=len(members),
            clients={name: (self._crowd.on(name, "v1"), self._crowd.on(name, "raw")) for name in (LEGACY, CHANNELS)},
            published=len(self._ledger),
            received=sum(member.account.received for member in members),
            lost=sum(member.client.holes + member.client.counters.gaps for member in v1),
            doubled=sum(count.duplicated for count in wrong),
            out_of_order=sum(count.out_of_order for count in wrong),
            flips=list(self._crowd.flips),
        )

    def result(self) -> dict[str, Any]:
        """Count, show the tables, and return the fields of the DEMO line."""
        members = self._crowd.members
        counts: dict[str, tuple[int, Count]] = {}
        for protocol in ("v1", "raw"):
            some = [member for member in members if member.protocol == protocol]
            counts[protocol] = (len(some), sum((member.settle(self._ledger) for member in some), Count()))
        flips, faults = self._crowd.flips, self._crowd.faults
        self._screen.console.print(summary(counts, flips, faults, self._started))
        problems = [member.problem for member in members if member.problem is not None]
        for problem in dict.fromkeys([*problems, *self._failed]):
            self._screen.console.print(f"problem: {problem}", style="red", highlight=False)
        v1 = counts["v1"][1]
        gaps = sum(member.client.counters.gaps for member in members)
        back = flips[-1]
        firsts = [ms for ms in (self._newcomer_ms, back.first_ms) if ms is not None]
        self.clean = (
            not (v1.lost or v1.duplicated or v1.out_of_order or v1.unexpected or gaps or problems or self._failed)
            and v1.expected > 0
            and all(flip.moved for flip in flips)
            and self._is_back
        )
        fields: dict[str, Any] = {
            "clients": len(members),
            "published": len(self._ledger),
            "expected": v1.expected,
            "delivered": v1.delivered,
            "lost": v1.lost,
            "duplicated": v1.duplicated,
            "out_of_order": v1.out_of_order,
            "flips": len(flips),
            "moved": sum(member.moves for member in members),
            "rollback_new_ms": min(firsts, default=None),
            "rollback_all_ms": back.last_ms,
        }
        if self._faults:
            fields |= {
                "killed": sum(isinstance(fault.act, Kill) and fault.until is not None for fault in faults),
                "redis_restarted": sum(isinstance(fault.act, Restart) and fault.until is not None for fault in faults),
                "cut": sum(sum(fault.cut.values()) for fault in faults),
                "refused": sum(fault.refused for fault in faults),
                "gaps": gaps,
            }
        self._draw_plot({name: count for name, (count, _) in counts.items()}, v1)
        return fields

    def _draw_plot(self, clients: dict[str, int], count: Count) -> None:
        flips, faults = self._crowd.flips, self._crowd.faults
        done = [f"{len(flips)} flips"]
        if faults:
            kills = sum(isinstance(fault.act, Kill) for fault in faults)
            done += [f"{kills} workers killed", f"{len(faults) - kills}× Redis restarted"]
        title = f"{clients['v1']} v1 and {clients['raw']} raw clients, {', '.join(done)}, in {self._duration:g} s"
        result = (
            f"v1: {count.delivered:,} of {count.expected:,} messages delivered; lost {count.lost}, "
            f"duplicated {count.duplicated}, out of order {count.out_of_order}"
        )
        file = self._stack.directory / "connections.svg"
        file.write_text(plot(self._views, flips, faults, self._started, title=title, result=result))
        self._screen.console.print(f"who was connected where: {file}", highlight=False, soft_wrap=True)


def show(stack: Stack, *, headless: bool, duration: float, faults: bool = False, v1: int = V1, raw: int = RAW) -> int:
    """Run the demo; not headless, serve the page afterwards until a signal comes. Returns the exit code."""
    end_on_signals()
    code = 130
    try:
        if forced := os.environ.get("REALTIME_FORCE_BACKEND"):
            raise StackError(f"REALTIME_FORCE_BACKEND={forced} is above the flag, which the demo turns: unset it.")
        print(f"starting legacy, channels and Redis; logs are in {stack.directory}", file=sys.stderr, flush=True)
        with stack:
            with Screen(f"{stack.http[LEGACY]}/", live=not headless and sys.stdout.isatty()) as screen:
                run = Show(stack, duration, screen, faults=faults, v1=v1, raw=raw)
                asyncio.run(_until_a_signal(run))
            end_on_signals()  # asyncio had its own
            fields = run.result()
            code = 0 if run.clean else 1
            line = "DEMO " + json.dumps(fields, separators=(",", ":"))
            if not headless:
                print(line, flush=True)
                print(f"The page is at {stack.http[LEGACY]}/ until Ctrl-C.", flush=True)
                stack.watch()
        print(line, flush=True)  # the last one, with nothing left that could say more
    except (Ended, asyncio.CancelledError):
        pass
    except StackError as error:
        print(error, file=sys.stderr, flush=True)
        code = 1
    return code


async def _until_a_signal(run: Show) -> None:
    """A signal that raised inside the loop's own code would be swallowed there, so it cancels instead."""
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(each, task.cancel)
    await run.run()
