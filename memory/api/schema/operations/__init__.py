"""Every operation of the service: what it takes, and all that it can answer. One file a tag."""

from __future__ import annotations

from memory.api.schema.operation import Operation
from memory.api.schema.operations import contract, documents, memory, operational, stream

TAGS = {
    "Memory": "Remember texts, ask questions, and be cited.",
    "Documents": "What is remembered, one document at a time or as a whole.",
    "Operations": "For probes and scrapers; they answer at the root as well, without `/api/v1`.",
    "Contract": "This document.",
}

OPERATIONS: dict[tuple[str, str], Operation] = {
    (operation.method, operation.path): operation
    for table in (memory, stream, documents, operational, contract)
    for operation in table.OPERATIONS
}
