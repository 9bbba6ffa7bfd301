"""Django's view of the tables that `migrations/sql` makes. None of them is managed by Django."""

from memory.models.chunk import Chunk
from memory.models.document import Document
from memory.models.erasure import Erasure
from memory.models.flag import Flag
from memory.models.space import Space
from memory.models.staff import (
    AuditLine,
    ChunkMeta,
    DataKeyMeta,
    DocumentMeta,
    ErasureMeta,
    MasterKey,
    MoveMeta,
    Rollout,
    StaffFlag,
    StaffModel,
    StaffSpace,
    TenantMeta,
    Worker,
)
from memory.models.tenant import DataKey, SearchKey, Tenant

__all__ = [
    "AuditLine",
    "Chunk",
    "ChunkMeta",
    "DataKey",
    "DataKeyMeta",
    "Document",
    "DocumentMeta",
    "Erasure",
    "ErasureMeta",
    "Flag",
    "MasterKey",
    "MoveMeta",
    "Rollout",
    "SearchKey",
    "Space",
    "StaffFlag",
    "StaffModel",
    "StaffSpace",
    "Tenant",
    "TenantMeta",
    "Worker",
]
