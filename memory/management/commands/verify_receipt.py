"""manage.py verify_receipt [--user U] [FILE|-]"""

import json
import sys
from pathlib import Path

from memory.erasure.receipts import is_valid, public_keys
from memory.errors import InvalidUserId
from memory.maintenance.command import Exit, ServiceCommand, usage


class Command(ServiceCommand):
    help = (
        "Check the receipt of an erasure, as POST /memory/erase answered it: exit 0 when it is one of ours, unchanged "
        "and, with --user, that user's; else 1. Needs no database."
    )

    def add_arguments(self, parser):
        parser.add_argument("file", nargs="?", default="-", help="the receipt as JSON; default and -: standard input")
        parser.add_argument("--user", help="the user id that the receipt must be for")
        parser.add_argument(
            "--public-key", action="store_true", help="print the keys that verify receipts: key id and PEM, as JSON"
        )

    def handle(self, *, file, user, public_key, **options):
        if public_key:
            self.conclude(public_keys(), indent=2)
            return
        receipt = _receipt(file)
        try:
            valid = is_valid(receipt, user)
        except InvalidUserId as exc:
            raise usage(exc.detail) from None
        key_id = receipt["key_id"] if valid else None
        self.conclude({"valid": valid, "key_id": key_id}, Exit.DONE if valid else Exit.FINDINGS)


def _receipt(file: str):
    try:
        return json.loads(sys.stdin.read() if file == "-" else Path(file).read_text("utf-8"))
    except OSError:
        raise usage("the receipt's file cannot be read") from None
    except (ValueError, RecursionError):
        return None
