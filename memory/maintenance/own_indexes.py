"""Which big users have a vector index of their own, and the work that makes it so: `manage.py maintain_indexes`.

A user past MEMORY_OWN_INDEX_CHUNKS gets one, a user below MEMORY_OWN_INDEX_DROP_CHUNKS loses it. At most
MEMORY_OWN_INDEX_PER_PARTITION stand on a partition, for the planner looks at each of them; who waits there takes the
place of one who is less than half as big. Where more
than CHURN_MAX times its user's chunks have been written since it was built, it is built anew. One that finds less than
RECALL_MIN of what an exact search finds goes again (`index_recall.py`): the row has no space then, and the seals at
which it was tried. The work itself: `index_builds.py`.

The user's row says whether searches are to use it, and r1_app changes it, bound to that user; the index is r1_owner's.
It is said after the index is valid and unsaid before it goes, so a run that is killed at any point costs nobody an
answer, and the next one finds in the catalogue what is left to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.isolation.own_index import PGVECTOR_MIN, TABLE, FoundIndex, OwnIndex, read_own_indexes
from memory.isolation.partitions import PARTITIONS_OF, partition_name

ADVISORY_LOCK = 0x52314958
CHURN_MAX = 2
# Who waits for a place on a partition takes that of one who has fewer chunks than his own by so many times.
OUSTED_BY_TIMES = 2
# Text, metadata and vector. A guess at churn, no more: a document's own seals come on top, entities seal one a chunk,
# and what is deleted seals nothing.
SEALS_PER_CHUNK = 3
# Who is renamed has another row by then, and another index: the old name's has none of his chunks.
_KEPT_STATES = ("active", "moving")

_VERSION = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
_TENANTS = """
SELECT user_hash, state, active_space, seal_count, chunk_count, indexed_space, indexed_seals FROM memory_tenants
WHERE chunk_count >= %s OR indexed_space IS NOT NULL OR user_hash = ANY(%s::text[])"""


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

    @property
    def is_ill_suited(self) -> bool:
        """Whether an index of his was found inaccurate, and he has not written as many chunks since as he has."""
        is_known = self.indexed_space is None and self.indexed_seals is not None
        return is_known and self.written_since <= self.chunk_count


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
    by_hash = {user.user_hash: user for user in users}
    valid: dict[str, FoundIndex] = {}
    tasks, builds = [], []
    for index in indexes:
        user = by_hash.get(index.own.user_hash)
        if not index.is_valid:
            tasks.append(_task(Act.CLEAN, index))
        elif user is None or not _keeps(user, index):
            tasks.append(_task(Act.DROP, index))
        else:
            valid[user.user_hash] = index
    # Whoever has an index counts for so many times his chunks, so that two of nearly one size do not take turns.
    claims: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for user in users:
        if user.user_hash in valid:
            claims[valid[user.user_hash].partition].append((OUSTED_BY_TIMES * user.chunk_count, user.user_hash))
        elif _wants(user):
            claims[partition_of[user.user_hash]].append((user.chunk_count, user.user_hash))
    waiting = 0
    for partition, claimed in claims.items():
        claimed.sort(key=lambda claim: (-claim[0], claim[1] not in valid, claim[1]))
        for place, (_, user_hash) in enumerate(claimed):
            user, has_place = by_hash[user_hash], place < settings.MEMORY_OWN_INDEX_PER_PARTITION
            waiting += not has_place
            if user_hash in valid:
                tasks += _tasks_of_standing(user, valid[user_hash], has_place)
            elif has_place:
                name = OwnIndex(user_hash, user.active_space, 0).name
                builds.append((user.chunk_count, Task(Act.BUILD, user_hash, user.active_space, name, partition)))
    tasks += [task for _, task in sorted(builds, key=lambda build: (-build[0], build[1].user_hash))]
    dropped = {task.user_hash for task in tasks if task.act is Act.DROP}
    for user in users:
        if user.indexed_space is not None and user.user_hash not in valid and user.user_hash not in dropped:
            tasks.append(Task(Act.UNSAY, user.user_hash, user.indexed_space, "", ""))
    order = list(Act)
    return Plan(sorted(tasks, key=lambda task: order.index(task.act)), waiting)


def _tasks_of_standing(user: BigUser, index: FoundIndex, has_place: bool) -> list[Task]:
    if not has_place:
        return [_task(Act.DROP, index)]
    if user.indexed_space != index.own.space:
        return [_task(Act.SAY, index)]
    return [_task(Act.REBUILD, index)] if user.written_since > CHURN_MAX * user.chunk_count else []


def _wants(user: BigUser) -> bool:
    return user.state == "active" and user.chunk_count >= settings.MEMORY_OWN_INDEX_CHUNKS and not user.is_ill_suited


def _keeps(user: BigUser, index: FoundIndex) -> bool:
    is_big = user.chunk_count >= settings.MEMORY_OWN_INDEX_DROP_CHUNKS
    return is_big and user.state in _KEPT_STATES and user.active_space == index.own.space and not user.is_ill_suited


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
        cursor.execute(PARTITIONS_OF, [[user.user_hash for user in users]])
        partition_of = {user_hash: partition_name(TABLE, remainder) for user_hash, remainder in cursor.fetchall()}
    return planned(users, indexes, partition_of)
