"""How long the keys in use have been it, as the service itself may know. No key, and no id of one.

`manage.py rotate_keys --status` tells more, as r1_maint: the service sees no other user's keys.
"""

from __future__ import annotations

from psycopg import Connection

# Until a master key is promoted, the one in use has wrapped since the first space was there, before which there is no
# user; and so long has the tenant HMAC key named them.
_AGES = """
SELECT extract(epoch FROM now() - coalesce(max(promoted_at), min(s.created_at)))::float8 / 86400,
       extract(epoch FROM now() - min(s.created_at))::float8 / 86400
FROM memory_spaces s LEFT JOIN memory_master_keys m ON m.retired_at IS NULL"""


def key_ages_days(connection: Connection) -> dict[str, float]:
    """Days by `master` and `hmac`; nothing before the first space. Raises psycopg errors."""
    with connection.cursor() as cursor:
        cursor.execute(_AGES)
        ages = dict(zip(("master", "hmac"), cursor.fetchone() or (), strict=True))
    return {key: days for key, days in ages.items() if days is not None}
