"""manage.py replay_erasures [FILE|-] [--dry-run]"""

import sys
from dataclasses import asdict
from pathlib import Path

from memory.erasure.ledger import LedgerEntry, Replay, parse_entry, read_ledger, replay
from memory.maintenance.advisory_lock import MAINT
from memory.maintenance.command import Exit, ServiceCommand, usage


class Command(ServiceCommand):
    help = (
        "After a restore: erase again everybody in the ledger who is back. The ledger is FILE, as `erasures` printed "
        "it, or else the database's own. May be run at any time and again. Exit 1 when --dry-run finds somebody, "
        "3 when another replay runs, 4 when somebody could not be erased yet."
    )
    lock = 0x5231_4552  # "R1ER"

    def add_arguments(self, parser):
        parser.add_argument("file", nargs="?", help="JSON Lines, - for standard input; default: the database's own")
        parser.add_argument("--dry-run", action="store_true", help="only count who is back")

    def handle(self, *, file, dry_run, **options):
        done = Replay(dry_run)
        with self.alone():
            self.work(lambda: asdict(done))
            entries = _entries(file) if file else list(read_ledger(using=MAINT))
            self.stderr.write(f"{len(entries)} erasures in the ledger")
            replay(entries, done, progress=self.progress)
        code = Exit.DONE
        if done.failed:
            code = Exit.PARTIAL
        elif dry_run and done.returned + done.unfinished:
            code = Exit.FINDINGS
        self.conclude(asdict(done), code)


def _entries(file: str) -> list[LedgerEntry]:
    """Every line, before anything is done: half a ledger is a mistake and not a ledger."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise usage("the ledger's file cannot be read") from None
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                entries.append(parse_entry(line))
            except ValueError as exc:
                raise usage(f"line {number}: {exc}") from None
    return entries
