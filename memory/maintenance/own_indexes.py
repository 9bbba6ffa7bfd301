"""Which big users have a vector index of their own, and the work that makes it so: `manage.py maintain_indexes`.

A user past MEMORY_OWN_INDEX_CHUNKS gets one, a user below MEMORY_OWN_INDEX_DROP_CHUNKS loses it. At most
MEMORY_OWN_INDEX_PER_PARTITION stand on a partition, the biggest users': the planner looks at each of them. Where more
than CHURN_MAX times its user's chunks have been written since it was built, it is built anew.

The user's row says whether searches are to use it, and r1_app changes it, bound to that user; the index is r1_owner's.
It is said after the index is valid and unsaid before it goes, so a run that is killed at any point costs nobody an
answer, and the next one finds in the catalogue what is left to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import uuid4

from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.embedding.spaces import dimension_of
from memory.isolation.own_index import PGVECTOR_MIN, TABLE, FoundIndex, OwnIndex, read_own_indexes
from memory.rls import tenant_transaction
from memory.sealing.quarantine import quarantine_misfits

ADVISORY_LOCK = 0x52314958
CHURN_MAX = 2
# Text, metadata and vector; a document's own seals come on top, so churn is over- rather than underestimated.
SEALS_PER_CHUNK = 3
# Who is renamed has another row by then, and another index: the old name's has none of his chunks.
_KEPT_STATES = ("active", "moving")
# When a server notices that a killed run's connection is gone, and gives up what it builds for it.
CHECK_CLIENT = "5s"

_VERSION = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
_TENANTS = """
SELECT user_hash, state, active_space, seal_count, chunk_count, indexed_space, indexed_seals FROM memory_tenants
WHERE chunk_count >= %s OR indexed_space IS NOT NULL OR user_hash = ANY(%s::text[])"""
_PARTITIONS = """
SELECT h, r FROM unnest(%s::text[]) h, generate_series(0, 63) r
WHERE satisfies_hash_partition('memory_chunks'::regclass, 64, r, h)"""
# A new version of the profile makes every process look again.
_SAY = """
UPDATE memory_tenants SET indexed_space = %s, indexed_seals = %s, profile = %s, updated_at = now()
WHERE user_hash = %s"""
_BUILT_ANEW = "UPDATE memory_tenants SET indexed_seals = %s WHERE user_hash = %s"


class Act(StrEnum):
    """What is done about one user's index; in a run, in this order."""

    CLEAN = "cleaned"  # a killed build's remains go
    UNSAY = "unsaid"  # the row tells of an index that is not there
    DROP = "dropped"
    SAY = "said"  # a valid index that a killed run had not told of
    BUILD = "built"
    REBUILD = "rebuilt"


@dataclass(frozen=True)
class BigUser:
    """A row of `memory_tenants`, as far as it says whether the user should have an index."""

    user_hash: str
    state: str
    active_space: int
    seal_count: int
    chunk_count: int
    indexed_space: int | None
    indexed_seals: int | None

    @property
    def written_since(self) -> float:
        """Chunks written since the index was built; counted anew where another generation of the key began since."""
        before = self.indexed_seals or 0
        return (self.seal_count - before if self.seal_count >= before else self.seal_count) / SEALS_PER_CHUNK


@dataclass(frozen=True)
class Task:
    """One act, on an index by name and partition."""

    act: Act
    user_hash: str
    space: int
    name: str
    partition: str


@dataclass(frozen=True)
class Plan:
    """What is to be done, in order; `waiting`: how many users have no index since their partition has its most."""

    tasks: list[Task]
    waiting: int


def planned(users: Sequence[BigUser], indexes: Sequence[FoundIndex], partition_of: dict[str, str]) -> Plan:
    """What brings `indexes` to what `users` should have. `partition_of`: of every user that may get one."""
    tasks, waiting = [], 0
    by_hash = {user.user_hash: user for user in users}
    valid: dict[str, FoundIndex] = {}
    for index in indexes:
        user = by_hash.get(index.own.user_hash)
        if not index.is_valid:
            tasks.append(_task(Act.CLEAN, index))
        elif user is None or not _keeps(user, index):
            tasks.append(_task(Act.DROP, index))
        else:
            valid[user.user_hash] = index
            if user.indexed_space != index.own.space:
                tasks.append(_task(Act.SAY, index))
            elif user.written_since > CHURN_MAX * user.chunk_count:
                tasks.append(_task(Act.REBUILD, index))
    dropped = {task.user_hash for task in tasks if task.act is Act.DROP}
    for user in users:
        if user.indexed_space is not None and user.user_hash not in valid and user.user_hash not in dropped:
            tasks.append(Task(Act.UNSAY, user.user_hash, user.indexed_space, "", ""))
    standing = Counter(index.partition for index in valid.values())
    for user in sorted(users, key=lambda one: (-one.chunk_count, one.user_hash)):
        if user.user_hash in valid or user.state != "active" or user.chunk_count < settings.MEMORY_OWN_INDEX_CHUNKS:
            continue
        partition = partition_of[user.user_hash]
        if standing[partition] >= settings.MEMORY_OWN_INDEX_PER_PARTITION:
            waiting += 1
            continue
        standing[partition] += 1
        name = OwnIndex(user.user_hash, user.active_space, 0).name
        tasks.append(Task(Act.BUILD, user.user_hash, user.active_space, name, partition))
    order = list(Act)
    return Plan(sorted(tasks, key=lambda task: order.index(task.act)), waiting)


def _keeps(user: BigUser, index: FoundIndex) -> bool:
    is_big = user.chunk_count >= settings.MEMORY_OWN_INDEX_DROP_CHUNKS
    return is_big and user.state in _KEPT_STATES and user.active_space == index.own.space


def _task(act: Act, index: FoundIndex) -> Task:
    return Task(act, index.own.user_hash, index.own.space, index.name, index.partition)


def is_supported(maint: BaseDatabaseWrapper) -> tuple[bool, str]:
    """(whether this server's pgvector can search such an index under conditions, its version)."""
    with maint.cursor() as cursor:
        cursor.execute(_VERSION)
        [version] = cursor.fetchone() or ["0"]
    return tuple(int(part) for part in version.split(".")[:2]) >= PGVECTOR_MIN, version


def plan(maint: BaseDatabaseWrapper) -> Plan:
    """What is to be done now. `maint` is r1_maint's connection."""
    indexes = read_own_indexes(maint)
    with maint.cursor() as cursor:
        named = [index.own.user_hash for index in indexes]
        cursor.execute(_TENANTS, [settings.MEMORY_OWN_INDEX_CHUNKS, named])
        users = [BigUser(*row) for row in cursor.fetchall()]
        cursor.execute(_PARTITIONS, [[user.user_hash for user in users]])
        partition_of = {user_hash: f"{TABLE}_p{remainder:02}" for user_hash, remainder in cursor.fetchall()}
    return planned(users, indexes, partition_of)


def carried_out(tasks: Sequence[Task]) -> Iterator[Task]:
    """Each task once it is done. Raises database errors; what was done before one stays done."""
    owner = connections["owner"]
    try:
        with owner.cursor() as cursor:
            megabytes = settings.MEMORY_OWN_INDEX_BUILD_MEGABYTES
            # One at a time, on one core: searches go on meanwhile.
            cursor.execute("SET max_parallel_maintenance_workers = 0")
            cursor.execute(f"SET maintenance_work_mem = '{megabytes}MB'")
            cursor.execute(f"SET client_connection_check_interval = '{CHECK_CLIENT}'")
            for task in tasks:
                _carry_out(cursor, task)
                yield task
    finally:
        owner.close()


def _carry_out(cursor, task: Task) -> None:
    if task.act in (Act.UNSAY, Act.DROP):
        _say(task.user_hash, None)
    if task.act in (Act.CLEAN, Act.DROP):
        cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {task.name}")
    elif task.act is Act.BUILD:
        # Somebody changed a stored vector: one of another dimension would let no index be built.
        quarantine_misfits(task.user_hash, task.space)
        cursor.execute(OwnIndex(task.user_hash, task.space, dimension_of(task.space)).statement(task.partition))
        # Else ANALYZE would keep a sample of the user's vectors, which no plan asks for.
        cursor.execute(f"ALTER INDEX {task.name} ALTER COLUMN 1 SET STATISTICS 0")
    elif task.act is Act.REBUILD:
        cursor.execute(f"REINDEX INDEX CONCURRENTLY {task.name}")
    if task.act in (Act.BUILD, Act.SAY, Act.REBUILD):
        _say(task.user_hash, task.space)


def _say(user_hash: str, space: int | None) -> None:
    """Let searches use the user's index of `space`, or none; nothing where he is gone, or has another space by now."""
    with tenant_transaction(user_hash, write=True) as tx:
        state = tx.state(even_inactive=True)
        if state is None or space not in (None, state.active_space):
            return
        if space is not None and state.indexed_space == space:
            tx.execute(_BUILT_ANEW, [state.seal_count, user_hash])
        else:
            tx.execute(_SAY, [space, None if space is None else state.seal_count, uuid4(), user_hash])
