"""manage.py verify_receipt [--user U] [FILE|-]"""

import json
import sys
from datetime import datetime
from pathlib import Path

from django.core.management.base import CommandError

from memory.erasure.ledger import erased_at
from memory.erasure.receipts import is_valid, public_key_pem
from memory.errors import InvalidUserId
from memory.maintenance.command import ServiceCommand
from memory.security import hmac_user

INVALID, USAGE = 1, 2


class Command(ServiceCommand):
    help = (
        "Check the receipt of an erasure, as POST /memory/erase answered it: exit 0 when it is one of ours for this "
        "user and unchanged, else 1. Without --user, the ledger says whose it may be (as r1_backup)."
    )
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("file", nargs="?", default="-", help="the receipt as JSON; default and -: standard input")
        parser.add_argument("--user", help="the user id that the receipt is for")
        parser.add_argument("--public-key", action="store_true", help="print the key that verifies receipts, as PEM")

    def handle(self, *, file, user, public_key, **options):
        if public_key:
            self.stdout.write(public_key_pem().rstrip())
            return
        receipt = _receipt(file)
        valid_for = [user_hash for user_hash in _candidates(user, receipt) if is_valid(user_hash, receipt)]
        self.stdout.write(json.dumps({"valid": bool(valid_for), "user_hash": valid_for[0] if valid_for else None}))
        if not valid_for:
            sys.exit(INVALID)


def _receipt(file: str):
    try:
        return json.loads(sys.stdin.read() if file == "-" else Path(file).read_text("utf-8"))
    except OSError:
        raise CommandError("the receipt's file cannot be read", returncode=USAGE) from None
    except (ValueError, RecursionError):
        return None


def _candidates(user: str | None, receipt) -> list[str]:
    if user is not None:
        try:
            return [hmac_user(user)]
        except InvalidUserId as exc:
            raise CommandError(exc.detail, returncode=USAGE) from None
    try:
        moment = datetime.fromisoformat(receipt["at"])
        return erased_at(moment) if moment.tzinfo else []
    except (TypeError, ValueError, KeyError):
        return []
