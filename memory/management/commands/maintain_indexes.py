"""manage.py maintain_indexes [--watch SECONDS] [--dry-run]"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from django.conf import settings
from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.isolation.own_index import own_index_totals
from memory.maintenance.advisory_lock import Busy
from memory.maintenance.command import Exit, ServiceCommand, failed, usage
from memory.maintenance.index_builds import Ending, carried_out, is_outage
from memory.maintenance.own_indexes import ADVISORY_LOCK, PGVECTOR_MIN, Act, is_supported, plan

WATCH_MAX_SECONDS = 86_400


class Command(ServiceCommand):
    help = (
        "Give each big user a vector index of his own, take it away where he is big no more, and clear away what "
        "a killed run has left; one at a time, while the service goes on. It may be killed and run again at any time. "
        "Exit 1 where some users wait since their partition has its most, or pgvector is too old; 3 when another run "
        "is under way; 4 where something failed, run it again: with --watch it goes on by itself."
    )
    lock = ADVISORY_LOCK

    def add_arguments(self, parser):
        parser.add_argument(
            "--watch", type=int, metavar="SECONDS", help="look again so long after each round, for ever"
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

    def handle(self, *, watch, dry_run, **options):
        if settings.MEMORY_OWN_INDEX_DROP_CHUNKS >= settings.MEMORY_OWN_INDEX_CHUNKS:
            raise usage("MEMORY_OWN_INDEX_DROP_CHUNKS must be less than MEMORY_OWN_INDEX_CHUNKS")
        if watch is not None and (dry_run or not 1 <= watch <= WATCH_MAX_SECONDS):
            raise usage(f"--watch takes 1 to {WATCH_MAX_SECONDS} seconds, and no --dry-run")
        self._done: Counter[str] = Counter()
        self._waiting, self._totals = 0, (0, 0)
        has_begun = False
        while True:
            try:
                with self.alone() as maint:
                    if not has_begun:
                        self._begin(maint, dry_run)
                    has_begun = True
                    self._rounds(maint, watch, dry_run)
                break
            except (Error, Busy) as exc:
                # Busy: the server has not yet noticed that the connection which it held the lock for is gone.
                if watch is None or not has_begun or (isinstance(exc, Error) and not is_outage(exc)):
                    raise
                self.progress.end()
                self.stderr.write(f"the database is away ({type(exc).__name__}); trying again in {watch} s")
            if not _slept(watch):
                break
        partly = watch is None and self._done[Ending.FAILED]
        code = Exit.PARTIAL if partly else Exit.FINDINGS if self._waiting else Exit.DONE
        self.conclude(self._summary(dry_run), code)

    def _begin(self, maint: BaseDatabaseWrapper, dry_run: bool) -> None:
        is_enough, version = is_supported(maint)
        if not is_enough:
            wanted = ".".join(map(str, PGVECTOR_MIN))
            raise failed(f"pgvector is {version}; users' own indexes need {wanted}: every search stays exact")
        self._totals = own_index_totals(maint)
        self.work(lambda: self._summary(dry_run))

    def _rounds(self, maint: BaseDatabaseWrapper, watch: int | None, dry_run: bool) -> None:
        self._round(maint, dry_run)
        while watch is not None and _slept(watch):
            self._round(maint, dry_run)

    def _round(self, maint: BaseDatabaseWrapper, dry_run: bool) -> None:
        found = plan(maint)
        self._waiting = found.waiting
        if dry_run:
            self._done.update(task.act for task in found.tasks)
            return
        self.progress("indexes", 0, len(found.tasks))
        for number, (task, ending) in enumerate(carried_out(found.tasks), start=1):
            self._done[task.act if ending is Ending.DONE else ending] += 1
            self.progress("indexes", number, len(found.tasks))
        self.progress.end()
        self._totals = own_index_totals(maint)

    def _summary(self, dry_run: bool) -> dict[str, Any]:
        count, size_bytes = self._totals
        endings = (Ending.FAILED, Ending.INACCURATE, Ending.STALE)
        done = {str(what): self._done[what] for what in (*Act, *endings)}
        return {"dry_run": dry_run, **done, "waiting": self._waiting, "indexes": count, "bytes": size_bytes}


def _slept(seconds: int) -> bool:
    """False where somebody ended the sleep."""
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        return False
    return True
