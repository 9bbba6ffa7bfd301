"""manage.py prune_expired [--dry-run]"""

import json

from django.core.management.base import CommandError
from django.db import DatabaseError

from memory.maintenance.advisory_lock import Busy
from memory.maintenance.command import ServiceCommand
from memory.maintenance.expiry import prune_expired


class Command(ServiceCommand):
    help = (
        "Remove every user's expired answers to Idempotency-Keys, and rate buckets that are full again; then rewrite "
        "the tables of keys, so that nothing of a destroyed one is left in their files. Requests wait for that "
        "moment, and before PostgreSQL 17 it needs the owner's connection. Run it daily; it may be killed and run "
        "again at any time. Exit 3 when another run is under way."
    )
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("--dry-run", action="store_true", help="only count")

    def handle(self, *, dry_run, **options):
        try:
            found = prune_expired(dry_run=dry_run, progress=self.stderr.write)
        except Busy as exc:
            raise CommandError(str(exc), returncode=3) from None
        except DatabaseError as exc:
            detail = f"the database failed ({type(exc).__name__}); what was removed before that is removed"
            raise CommandError(detail, returncode=4) from None
        self.stdout.write(json.dumps({"dry_run": dry_run, **found}))
