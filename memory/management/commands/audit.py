"""manage.py audit anchor | verify [--anchor ID:HASH]"""

from memory.audit.log import Anchor, first_break, head, lines
from memory.maintenance.command import Exit, ServiceCommand, usage


class Command(ServiceCommand):
    help = (
        "The log of who changed what: `anchor` prints its newest line's id and hash, to be kept elsewhere; `verify` "
        "walks the chain and names the first line that was changed, taken out or put in; with --anchor also whether "
        "the line that was kept is still as it was. Exit 1 where the log is not whole."
    )

    def add_arguments(self, parser):
        actions = parser.add_subparsers(dest="action", metavar="anchor|verify", required=True)
        actions.add_parser("anchor")
        actions.add_parser("verify").add_argument("--anchor", metavar="ID:HASH", help="as `audit anchor` printed it")

    def handle(self, *, action, anchor=None, **options):
        if action == "anchor":
            newest = head()
            self.conclude({"anchor": None if newest is None else f"{newest.id}:{newest.hash}"})
            return
        broken = first_break(_parsed(anchor))
        summary = {"whole": broken is None, "lines": lines(), "first_break": broken}
        self.conclude(summary, Exit.DONE if broken is None else Exit.FINDINGS)


def _parsed(anchor: str | None) -> Anchor | None:
    if anchor is None:
        return None
    number, _, digest = anchor.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        raise usage("--anchor is ID:HASH, as `audit anchor` prints it")
    return Anchor(int(number), digest.lower())
