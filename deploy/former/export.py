"""Every document of every user, from a database of the schema before: JSON Lines on stdout.

Runs in a checkout of the version that made the database (`make former-export` makes one), on that version's code and
keys: `{"user_id": ..., "document": {...}}` a line, the document as POST /memory/index takes it. Plain text.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

FORMER = Path(os.environ["R1_FORMER"]).resolve()
sys.path[0] = str(FORMER)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "r1site.settings.dev")


def main() -> int:
    os.chdir(FORMER)
    from r1site.launch import prepared

    with prepared(Path(os.environ["R1_VAR_DIR"])):
        import django

        django.setup()
        from django.db import connections

        from memory.rls import bind_tenant
        from memory.sealing.keyring import Purpose, existing_keys, user_id_aad
        from memory.security import open_sealed
        from memory.services.export import export_documents

        with connections["maint"].cursor() as cursor:
            cursor.execute("SELECT user_hash, user_id_cipher, state FROM memory_tenants ORDER BY 1")
            tenants = cursor.fetchall()
        users = documents = left_out = 0
        for user_hash, cipher, state in tenants:
            if state != "active":
                print(f"left out {user_hash}, who is {state}", file=sys.stderr)
                left_out += 1
                continue
            keys = existing_keys(user_hash)
            aad = user_id_aad(user_hash, keys.generation)
            user_id = open_sealed(bytes(cipher), aad, keys.cipher(Purpose.META)).decode()
            with bind_tenant(user_hash):
                export = export_documents()
                if export.degraded:
                    print(f"left out quarantined documents of {user_hash}", file=sys.stderr)
                    left_out += 1
                for stored in export.documents:
                    document = {
                        "doc_id": stored.doc_id,
                        "source": stored.source,
                        "thread_id": stored.thread_id,
                        "text": stored.text,
                        "metadata": stored.metadata,
                        "created_at": stored.created_at.isoformat(),
                    }
                    print(json.dumps({"user_id": user_id, "document": document}, ensure_ascii=False))
                    documents += 1
            users += 1
        connections["default"].close_pool()
        print(f"exported {documents} documents of {users} users; left out: {left_out}", file=sys.stderr)
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
