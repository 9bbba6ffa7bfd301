"""manage.py maintain_indexes [--watch SECONDS] [--dry-run]"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.isolation.own_index import own_index_totals
from memory.maintenance.command import Exit, ServiceCommand, failed, usage
from memory.maintenance.own_indexes import ADVISORY_LOCK, PGVECTOR_MIN, Act, carried_out, is_supported, plan

WATCH_MAX_SECONDS = 86_400


class Command(ServiceCommand):
    help = (
        "Give each big user a vector index of his own, take it away where he is big no more, and clear away what "
        "a killed run has left; one at a time, while the service goes on. It may be killed and run again at any time. "
        "Exit 1 where some users wait since their partition has its most, or pgvector is too old; 3 when another run "
        "is under way."
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
        with self.alone() as maint:
            is_enough, version = is_supported(maint)
            if not is_enough:
                wanted = ".".join(map(str, PGVECTOR_MIN))
                raise failed(f"pgvector is {version}; users' own indexes need {wanted}: every search stays exact")
            self._done: Counter[str] = Counter()
            self._waiting, self._totals = 0, own_index_totals(maint)
            self.work(lambda: self._summary(dry_run))
            self._round(maint, dry_run)
            while watch is not None:
                try:
                    time.sleep(watch)
                except KeyboardInterrupt:
                    break
                self._round(maint, dry_run)
            self.conclude(self._summary(dry_run), Exit.FINDINGS if self._waiting else Exit.DONE)

    def _round(self, maint: BaseDatabaseWrapper, dry_run: bool) -> None:
        found = plan(maint)
        self._waiting = found.waiting
        if dry_run:
            self._done.update(task.act for task in found.tasks)
            return
        self.progress("indexes", 0, len(found.tasks))
        for number, task in enumerate(carried_out(found.tasks), start=1):
            self._done[task.act] += 1
            self.progress("indexes", number, len(found.tasks))
        self.progress.end()
        self._totals = own_index_totals(maint)

    def _summary(self, dry_run: bool) -> dict[str, Any]:
        count, size_bytes = self._totals
        done = {str(act): self._done[act] for act in Act}
        return {"dry_run": dry_run, **done, "waiting": self._waiting, "indexes": count, "bytes": size_bytes}
