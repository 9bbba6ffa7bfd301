"""manage.py export_schema"""

from __future__ import annotations

from memory.api.schema import document
from memory.api.schema.generate import generate
from memory.maintenance.command import Exit, ServiceCommand


class Command(ServiceCommand):
    """Write memory/api/schema/openapi.json anew; one JSON summary to stdout.

    With --check nothing is written, and the exit code is 1 where the committed document is not what the code says.
    """

    help = "Generate the OpenAPI document, or check the committed one"

    def add_arguments(self, parser):
        parser.add_argument("--check", action="store_true", help="compare only")

    def handle(self, *args, **options):
        generated = generate()
        differs = not document.PATH.exists() or document.PATH.read_bytes() != generated
        if differs and not options["check"]:
            document.PATH.write_bytes(generated)
            self.stderr.write(f"written: {document.PATH.name}")
        code = Exit.DONE
        if differs and options["check"]:
            self.stderr.write("the committed document is not what the code says: run export_schema, commit the result")
            code = Exit.FINDINGS
        self.conclude({"bytes": len(generated), "differs": differs, "checked": options["check"]}, code)
