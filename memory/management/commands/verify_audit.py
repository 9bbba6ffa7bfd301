"""manage.py verify_audit [--anchor ID:HASH]"""

from memory.audit.log import Anchor, first_break, lines
from memory.maintenance.command import Exit, ServiceCommand, usage

HASH_DIGITS = 64


class Command(ServiceCommand):
    help = (
        "Walk the log of who changed what and name the first line that was changed, taken out or put in; with --anchor "
        "also whether the line that was kept is still as it was. Exit 1 where the log is not whole."
    )

    def add_arguments(self, parser):
        parser.add_argument("--anchor", metavar="ID:HASH", help="as `audit anchor` printed it")

    def handle(self, *, anchor, **options):
        broken = first_break(_parsed(anchor))
        summary = {"whole": broken is None, "lines": lines(), "first_break": broken}
        self.conclude(summary, Exit.DONE if broken is None else Exit.FINDINGS)


def _parsed(anchor: str | None) -> Anchor | None:
    if anchor is None:
        return None
    number, _, digest = anchor.partition(":")
    if not number.isdecimal() or len(digest) != HASH_DIGITS:
        raise usage("--anchor is ID:HASH, as `audit anchor` prints it")
    return Anchor(int(number), digest.lower())
