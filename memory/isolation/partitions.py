"""A tenant's own partition, and statements that name it in its table's place.

To plan a statement on a partitioned table PostgreSQL opens the table and finds the partition anew for each mention, and
a plan for any user would hold all 64. A statement on the partition itself is planned as on any table, and its plan
can be kept (`pipeline.py`). A partition has the policy and the grant for reading that its table has (`audit.py`), so
who is bound to one tenant and names another's partition finds nothing there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from memory.isolation.connection import Cursor, Params

PARTITIONS = 64
PARTITIONED_TABLES = ("memory_chunks", "memory_lexical_blocks", "memory_lexical_chunks")
# Of so many users the partition is remembered in this process, in some 2 MB.
_REMEMBERED = 10_000

# (user_hash, number) of each of the users' hashes that are the parameter. All three are partitioned alike, by them.
PARTITIONS_OF = f"""
SELECT user_hash, number FROM unnest(%s::text[]) user_hash, generate_series(0, {PARTITIONS - 1}) number
WHERE satisfies_hash_partition('memory_chunks'::regclass, {PARTITIONS}, number, user_hash)"""
_NAMED = re.compile(rf"\b({'|'.join(PARTITIONED_TABLES)})\b")

_numbers: dict[str, int] = {}


def partition_of(user_hash: str, execute: Callable[[str, Params], Cursor]) -> int:
    """The number, from 0, of the partition that a user's rows are in.

    `execute` asks the server the first time, and its answer is waited for. Raises database errors.
    """
    number = _numbers.get(user_hash)
    if number is None:
        _, number = execute(PARTITIONS_OF, [[user_hash]]).fetchone()
        if len(_numbers) >= _REMEMBERED:
            _numbers.clear()
        _numbers[user_hash] = number
    return number


def partition_name(table: str, number: int) -> str:
    """As the migrations name it."""
    return f"{table}_p{number:02}"


@lru_cache(maxsize=1024)
def in_partition(sql: str, number: int) -> str:
    """`sql` with the partition in the place of each partitioned table, wherever its name stands."""
    return _NAMED.sub(lambda table: partition_name(table[1], number), sql)
