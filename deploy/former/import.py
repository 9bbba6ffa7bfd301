"""Take in what `export.py` gave: JSON Lines on stdin, stored through the service's own write path.

May be repeated: a document replaces what has its id. Ends at the first line that is refused, and says which.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[0] = str(PROJECT)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "r1site.settings.dev")


def main() -> int:
    os.chdir(PROJECT)
    var = Path(os.environ.setdefault("R1_VAR_DIR", str(PROJECT / "var")))
    # Each document is stored whatever it counts to.
    os.environ["MEMORY_RATE_CHUNKS"] = "off"
    from r1site.launch import prepared

    with prepared(var):
        import django

        django.setup()
        from django.db import connections

        from memory.errors import MemoryServiceError
        from memory.indexing.seal import DocumentDraft
        from memory.rls import bind_tenant
        from memory.security import hmac_user
        from memory.services.index import index_document

        number = 0
        for number, line in enumerate(sys.stdin, 1):
            entry = json.loads(line)
            document = entry["document"] | {"created_at": datetime.fromisoformat(entry["document"]["created_at"])}
            try:
                with bind_tenant(hmac_user(entry["user_id"])):
                    index_document(entry["user_id"], DocumentDraft(**document))
            except MemoryServiceError as exc:
                print(f"line {number} is refused: {exc.detail}", file=sys.stderr)
                return 1
        connections["default"].close_pool()
        print(f"took in {number} documents", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
