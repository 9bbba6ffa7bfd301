"""manage.py erasures [--since T]"""

from datetime import UTC, datetime

from memory.erasure.ledger import read_ledger
from memory.maintenance.command import ServiceCommand, usage
from memory.maintenance.progress import Progress


class Command(ServiceCommand):
    help = (
        "Print the ledger of erasures as JSON Lines, oldest first, as r1_backup. Keep it apart from the database's "
        "backups: replay_erasures takes it after a restore."
    )

    is_summarized = False

    def add_arguments(self, parser):
        parser.add_argument("--since", help="an ISO 8601 time or date, in UTC unless it says otherwise")

    def handle(self, *, since, **options):
        # On a terminal the lines themselves show it.
        progress = Progress(None) if self.stdout.isatty() else self.progress
        printed = 0
        progress("erasures", printed)
        for printed, entry in enumerate(read_ledger(since and _moment(since)), 1):
            self.stdout.write(entry.line())
            progress("erasures", printed)
        progress.end()
        self.stderr.write(f"{printed} erasures")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise usage("--since is a time such as 2026-01-31 or 2026-01-31T09:30:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
