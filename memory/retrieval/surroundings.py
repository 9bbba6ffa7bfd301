"""What stands beside a result: the turns around it in its thread, or the chunks around it in its document.

Order in a thread is (created_at, sequence, doc_id, chunk_index), all of it the client's. Filters limit what is found,
not what stands beside it; quarantined and expired rows are in neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from memory.indexing.expired import unexpired
from memory.isolation.connection import array
from memory.retrieval.candidate import Candidate, Neighbour
from memory.retrieval.open import Opening
from memory.rls import TenantTransaction, refuse_cross_tenant
from memory.sealing.profile import TenantProfile

_ROW = """user_hash, id, doc_id, chunk_index, source, thread_id, char_start, char_end, created_at, sequence, generation,
            text_cipher"""

# One index range a side and place, in the index's own order: the limit ends each after so many rows, however long the
# thread or the document is.
_SIDE = f"""
    (SELECT {{is_after}} AS is_after, {_ROW}
     FROM memory_chunks c
     WHERE c.user_hash = %(user_hash)s AND c.space = %(space)s::smallint AND c.{{whole}} = p.{{whole}}
       AND ({{of_c}}) {{beyond}} ({{of_p}})
       AND c.quarantined_at IS NULL AND {unexpired("c")}
     ORDER BY {{ordered}}
     LIMIT %(count)s)"""

_BESIDE = """
SELECT n.user_hash, p.id, n.is_after, n.id, n.doc_id, n.chunk_index, n.source, n.thread_id, n.char_start, n.char_end,
       n.created_at, n.sequence, n.generation, n.text_cipher
FROM unnest(%(ids)s::uuid[], %(thread_ids)s::text[], %(times)s::timestamptz[], %(sequences)s::integer[],
            %(doc_ids)s::text[], %(indexes)s::integer[]) AS p (id, thread_id, created_at, sequence, doc_id, chunk_index)
CROSS JOIN LATERAL ({before}
    UNION ALL{after}
) n
ORDER BY n.created_at, n.sequence, n.doc_id, n.chunk_index"""


def _beside(whole: str, place: tuple[str, ...]) -> str:
    """SQL: what stands beside chunks among those of the same `whole`, which `place` brings into order."""

    def side(beyond: str, order: str) -> str:
        return _SIDE.format(
            is_after=beyond == ">", whole=whole, beyond=beyond,
            of_c=", ".join(f"c.{column}" for column in place),
            of_p=", ".join(f'p.{column} COLLATE "C"' if column == "doc_id" else f"p.{column}" for column in place),
            ordered=", ".join(f"c.{column} {order}" for column in place),
        )  # fmt: skip

    return _BESIDE.format(before=side("<", "DESC"), after=side(">", "ASC"))


_IN_THREAD = _beside("thread_id", ("created_at", "sequence", "doc_id", "chunk_index"))
_IN_DOCUMENT = _beside("doc_id", ("chunk_index",))


class Surroundings:
    """What stands up to `count` places beside each of `candidates`, asked in an open tenant transaction.

    Statements are queued at once; `give` waits for the server. A candidate of a thread stands among its thread's
    chunks, another among those of its document.
    """

    def __init__(self, tx: TenantTransaction, space: int, candidates: Iterable[Candidate], count: int):
        self._user_hash = tx.user_hash
        threaded: list[Candidate] = []
        single: list[Candidate] = []
        for candidate in candidates:
            (single if candidate.thread_id is None else threaded).append(candidate)
        params = {"user_hash": tx.user_hash, "space": space, "count": count}
        self._found = [
            tx.read_partition(sql, params | _places(places), keeps_plan=True)
            for sql, places in ((_IN_THREAD, threaded), (_IN_DOCUMENT, single))
            if places
        ]
        self._rows: list[tuple] | None = None

    def give(self, profile: TenantProfile, results: Sequence[Candidate]) -> None:
        """Set `before` and `after` of each of `results`, which are among the candidates, opened and in order.

        Raises CrossTenantAttempt if the server ever returned another tenant's row, and as `Opening`.
        """
        if self._rows is None:
            self._rows = [row for found in self._found for row in found.fetchall()]
        if any(row[0] != self._user_hash for row in self._rows):
            refuse_cross_tenant()
        sides: dict[tuple[UUID, bool], list[Neighbour]] = defaultdict(list)
        for _, beside, is_after, *columns in self._rows:
            sides[beside, is_after].append(Neighbour(*columns))
        with Opening(profile) as opening:
            for result in results:
                result.before, result.after = sides[result.chunk_id, False], sides[result.chunk_id, True]
                for neighbour in (*result.before, *result.after):
                    neighbour.text = opening.text(neighbour)


def _places(candidates: Sequence[Candidate]) -> dict[str, list | str]:
    return {
        "ids": array(candidate.chunk_id for candidate in candidates),
        "thread_ids": [candidate.thread_id for candidate in candidates],
        "times": [candidate.created_at for candidate in candidates],
        "sequences": array(candidate.sequence for candidate in candidates),
        "doc_ids": [candidate.doc_id for candidate in candidates],
        "indexes": array(candidate.chunk_index for candidate in candidates),
    }
