"""manage.py audit anchor"""

from memory.audit.log import head
from memory.maintenance.command import ServiceCommand


class Command(ServiceCommand):
    help = (
        "The log of who changed what: `anchor` prints its newest line's id and hash, to be kept elsewhere; "
        "`verify_audit --anchor` says later whether the log still holds it."
    )

    def add_arguments(self, parser):
        parser.add_subparsers(dest="action", metavar="anchor", required=True).add_parser("anchor")

    def handle(self, *, action, **options):
        newest = head()
        self.conclude({"anchor": None if newest is None else f"{newest.id}:{newest.hash}"})
