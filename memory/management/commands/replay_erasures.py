"""manage.py replay_erasures [FILE|-] [--dry-run]"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from django.core.management.base import CommandError

from memory.erasure.ledger import LedgerEntry, parse_entry, read_ledger, replay
from memory.maintenance.advisory_lock import MAINT, Busy, running_alone
from memory.maintenance.command import ServiceCommand

FINDINGS, USAGE, BUSY, PARTIAL = 1, 2, 3, 4
LOCK = 0x5231_4552  # "R1ER"


class Command(ServiceCommand):
    help = (
        "After a restore: erase again everybody in the ledger who is back. The ledger is FILE, as `erasures` printed "
        "it, or else the database's own. May be run at any time and again. Exit 1 when --dry-run finds somebody, "
        "3 when another replay runs, 4 when somebody could not be erased yet."
    )
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("file", nargs="?", help="JSON Lines, - for standard input; default: the database's own")
        parser.add_argument("--dry-run", action="store_true", help="only count who is back")

    def handle(self, *, file, dry_run, **options):
        try:
            with running_alone(LOCK):
                entries = _entries(file) if file else list(read_ledger(using=MAINT))
                self.stderr.write(f"{len(entries)} erasures in the ledger")
                done = replay(entries, dry_run=dry_run)
        except Busy:
            raise CommandError("another replay is running", returncode=BUSY) from None
        self.stdout.write(json.dumps({"dry_run": dry_run, **asdict(done)}))
        if done.failed:
            sys.exit(PARTIAL)
        if dry_run and done.returned + done.unfinished:
            sys.exit(FINDINGS)


def _entries(file: str) -> list[LedgerEntry]:
    """Every line, before anything is done: half a ledger is a mistake and not a ledger."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise CommandError("the ledger's file cannot be read", returncode=USAGE) from None
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                entries.append(parse_entry(line))
            except ValueError as exc:
                raise CommandError(f"line {number}: {exc}", returncode=USAGE) from None
    return entries
