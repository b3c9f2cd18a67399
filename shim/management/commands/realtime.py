"""`manage.py realtime …`: what an operator of realtime shim does that `waffle_flag` cannot."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import router

from shim.conf import conf
from shim.core.errors import RealtimeUnavailable
from shim.doctor import examine, report
from shim.doctor.finding import Level
from shim.flag import flag_model, flag_rows
from shim.rollout import push


class Command(BaseCommand):
    """One subcommand for each thing to do; see `manage.py realtime --help`."""

    # The doctor says what they say; and a rollback must not be held up by them.
    requires_system_checks = ()

    help = "Operates realtime shim. Whom the flag sends where is changed in the admin, or with waffle_flag."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the subcommands."""
        subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="subcommand")
        for name, work, about in (
            ("rollback", self._roll_back, "brings everybody back to legacy: the flag says No for everyone"),
            ("hurry", self._hurry, "lets moves that are under way go faster, after a change of the flag by any means"),
            ("doctor", self._doctor, "says what is left to do: settings, packages, database, Redis, ws4redis"),
        ):
            added = subcommands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
            added.set_defaults(work=work)
            if name == "rollback":
                added.add_argument("--hurry", action="store_true", help="move faster: see `realtime hurry`")
            if name == "doctor":
                added.add_argument("--json", action="store_true", dest="as_json", help="findings for programs")
                added.add_argument("--uwsgi", type=Path, metavar="FILE", help="the ini file that uWSGI is started with")

    def handle(self, *_args: Any, work: Callable[..., None], **options: Any) -> None:
        """Do what the subcommand stands for."""
        try:
            work(**options)
        except DatabaseError as error:
            raise CommandError(
                f"The database does not answer: {error}\nTo bring people back without it, start the processes again "
                "with REALTIME_FORCE_BACKEND = 'legacy'."
            ) from error

    def _roll_back(self, *, hurry: bool, **_: Any) -> None:
        name, using = conf().flag, router.db_for_write(flag_model())
        flag: Any = flag_rows(name, using).first()
        if flag is None:
            self.stdout.write(f"There is no flag {name!r}: everybody is on legacy already.")
            return
        if flag.everyone is not False:
            flag.everyone = False
            flag.save(using=using)  # its signal tells every process, at the usual pace
        self.stdout.write(f"The flag {name!r} says No for everyone: everybody is brought back to legacy.")
        if hurry:
            self._hurry()

    def _hurry(self, **_: Any) -> None:
        try:
            push(hurry=True)
        except RealtimeUnavailable as error:
            raise CommandError(
                f"Nobody could be told to hurry: {error}\nWhat the flag says is found in the database by every process "
                "within 10 s, and moves go at the usual pace."
            ) from error
        self.stdout.write(f"Moves hurry now: {conf().pace.hurry:g} times as fast.")

    def _doctor(self, *, as_json: bool, uwsgi: Path | None, **_: Any) -> None:
        findings = examine(uwsgi)
        if as_json:
            self.stdout.write(report.to_json(findings))
        else:
            paint: dict[Level, report.Paint] = {
                "error": self.style.ERROR,
                "warning": self.style.WARNING,
                "note": self.style.NOTICE,
            }
            for line in report.to_lines(findings, paint, shutil.get_terminal_size().columns):
                self.stdout.write(line)
        if any(finding.level == "error" for finding in findings):
            raise SystemExit(1)
