"""manage.py erasures [--since T]"""

from datetime import UTC, datetime

from memory.erasure.ledger import read_ledger
from memory.maintenance.command import ServiceCommand, usage


class Command(ServiceCommand):
    help = (
        "Print the ledger of erasures as JSON Lines, oldest first, as r1_backup. Keep it apart from the database's "
        "backups: replay_erasures takes it after a restore."
    )

    def add_arguments(self, parser):
        parser.add_argument("--since", help="an ISO 8601 time or date, in UTC unless it says otherwise")

    def handle(self, *, since, **options):
        printed = 0
        for entry in read_ledger(since and _moment(since)):
            self.stdout.write(entry.line())
            printed += 1
        self.stderr.write(f"{printed} erasures")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise usage("--since is a time such as 2026-01-31 or 2026-01-31T09:30:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
