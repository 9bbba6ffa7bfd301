"""manage.py prune_expired [--dry-run]"""

from dataclasses import asdict

from memory.maintenance.command import Exit, ServiceCommand
from memory.maintenance.expiry import ADVISORY_LOCK, Pruned, prune_expired


class Command(ServiceCommand):
    help = (
        "Remove every user's expired documents and answers to Idempotency-Keys, and rate buckets that are full again, "
        "and sessions of staff that have ended; "
        "then rewrite the tables of keys, so that nothing of a destroyed one is left in their files. Requests wait for "
        "that moment, and before PostgreSQL 17 it needs the owner's connection. Run it daily; it may be killed and run "
        "again at any time. Exit 3 when another run is under way, 4 when some user's documents must wait."
    )
    lock = ADVISORY_LOCK

    def add_arguments(self, parser):
        parser.add_argument("--dry-run", action="store_true", help="only count")

    def handle(self, *, dry_run, **options):
        pruned = Pruned(dry_run)
        with self.alone() as connection:
            self.work(lambda: asdict(pruned))
            prune_expired(connection, pruned, progress=self.progress)
        self.conclude(asdict(pruned), Exit.PARTIAL if pruned.users_left else Exit.DONE)
