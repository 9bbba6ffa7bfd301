"""The work of `manage.py maintain_indexes`: what `own_indexes.py` has planned, one index after the other.

An index is built, measured, and only then told of in the user's row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from enum import StrEnum
from uuid import uuid4

from django.conf import settings
from django.db import DataError, Error, connections

from memory.embedding.spaces import dimension_of
from memory.isolation.own_index import OwnIndex
from memory.maintenance.index_recall import RECALL_MIN, recall_of
from memory.maintenance.own_indexes import Act, Task
from memory.retrieval.nearest import is_misfit
from memory.rls import tenant_transaction
from memory.sealing.quarantine import quarantine_misfits

logger = logging.getLogger(__name__)

# When a server notices that a killed run's connection is gone, and gives up what it builds for it.
CHECK_CLIENT = "5s"

# A new version of the profile makes every process look again.
_SAY = """
UPDATE memory_tenants SET indexed_space = %s, indexed_seals = %s, profile = %s, updated_at = now()
WHERE user_hash = %s"""
_BUILT_ANEW = "UPDATE memory_tenants SET indexed_seals = %s WHERE user_hash = %s"


class Ending(StrEnum):
    """How a task ended."""

    DONE = "done"
    FAILED = "failed"  # the database refused; the next run tries again
    INACCURATE = "inaccurate"  # the index finds too little, and is gone again
    STALE = "stale"  # the user is not any more as the plan saw him


def carried_out(tasks: Sequence[Task]) -> Iterator[tuple[Task, Ending]]:
    """Each task once it has ended, and how. One that fails is left to the next run; what was done stays done.

    Raises database errors where the server is not reached any more.
    """
    owner = connections["owner"]
    try:
        with owner.cursor() as cursor:
            megabytes = settings.MEMORY_OWN_INDEX_BUILD_MEGABYTES
            # One at a time, on one core: searches go on meanwhile.
            cursor.execute("SET max_parallel_maintenance_workers = 0")
            cursor.execute(f"SET maintenance_work_mem = '{megabytes}MB'")
            cursor.execute(f"SET client_connection_check_interval = '{CHECK_CLIENT}'")
            # Whatever the role or the database has: a build takes minutes, and waits for every open transaction.
            cursor.execute("SET statement_timeout = 0")
            cursor.execute("SET lock_timeout = 0")
            for task in tasks:
                try:
                    ending = _carry_out(cursor, task)
                except Error as exc:
                    if is_outage(exc):
                        raise
                    ending = Ending.FAILED
                    kind = type(exc.__cause__ or exc).__name__
                    logger.error("%s: the index %s was not %s", kind, task.name, task.act)
                yield task, ending
    finally:
        owner.close()


def is_outage(exc: Error) -> bool:
    """Whether the server was not reached, or let go of the connection."""
    sqlstate = getattr(exc.__cause__ or exc, "sqlstate", None)
    return sqlstate is None or sqlstate.startswith(("08", "57P"))


def _carry_out(cursor, task: Task) -> Ending:
    if task.act in (Act.BUILD, Act.REBUILD) and not _is_still_wanted(task):
        return Ending.STALE
    if task.act in (Act.UNSAY, Act.DROP):
        _unsay(task.user_hash, task.space)
    if task.act in (Act.CLEAN, Act.DROP):
        _drop(cursor, task)
    elif task.act is Act.BUILD:
        _build(cursor, task)
    elif task.act is Act.REBUILD:
        cursor.execute(f"REINDEX INDEX CONCURRENTLY {task.name}")
    if task.act in (Act.BUILD, Act.SAY, Act.REBUILD):
        # Else ANALYZE would keep a sample of the user's vectors, which no plan asks for.
        cursor.execute(f"ALTER INDEX {task.name} ALTER COLUMN 1 SET STATISTICS 0")
        if recall_of(task.user_hash, task.space) < RECALL_MIN:
            _unsay(task.user_hash, task.space, is_ill_suited=True)
            _drop(cursor, task)
            return Ending.INACCURATE
        _say(task.user_hash, task.space)
    return Ending.DONE


def _is_still_wanted(task: Task) -> bool:
    """Whether the user is as the plan saw him, for what was built before this may have taken hours."""
    least = settings.MEMORY_OWN_INDEX_CHUNKS if task.act is Act.BUILD else settings.MEMORY_OWN_INDEX_DROP_CHUNKS
    with tenant_transaction(task.user_hash) as tx:
        state = tx.state(even_inactive=True)
    if state is None or state.state != "active" or state.active_space != task.space:
        return False
    return state.chunk_count >= least


def _build(cursor, task: Task) -> None:
    statement = OwnIndex(task.user_hash, task.space, dimension_of(task.space)).statement(task.partition)
    try:
        cursor.execute(statement)
    except DataError as exc:
        if not is_misfit(exc):
            raise
        # Somebody changed a stored vector: one of another dimension lets no index be built. Not looked for before,
        # since that reads all of the biggest users' rows while they cannot write.
        _drop(cursor, task)
        quarantine_misfits(task.user_hash, task.space)
        cursor.execute(statement)


def _drop(cursor, task: Task) -> None:
    cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {task.name}")


def _say(user_hash: str, space: int) -> None:
    """Let searches use the user's index of `space`; nothing where he is gone, or has another space by now."""
    with tenant_transaction(user_hash, write=True) as tx:
        state = tx.state(even_inactive=True)
        if state is None or space != state.active_space:
            return
        if state.indexed_space == space:
            tx.execute(_BUILT_ANEW, [state.seal_count, user_hash])
        else:
            tx.execute(_SAY, [space, state.seal_count, uuid4(), user_hash])


def _unsay(user_hash: str, space: int, *, is_ill_suited: bool = False) -> None:
    """Let searches use no index of `space`; one of another space stays. `is_ill_suited`: and try none for a while."""
    with tenant_transaction(user_hash, write=True) as tx:
        state = tx.state(even_inactive=True)
        if state is not None and (is_ill_suited or state.indexed_space == space):
            tx.execute(_SAY, [None, state.seal_count if is_ill_suited else None, uuid4(), user_hash])
