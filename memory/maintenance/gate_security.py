"""The evidence of a security approval: bindings and tampering, isolation of users, and how fast sealing is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.db import connections

from memory.erasure.tables import ERASED_TABLES, KEY_TABLES
from memory.errors import NotFound
from memory.maintenance.binding_probe import binding_lines
from memory.maintenance.gate_lines import Line, measured, tried
from memory.maintenance.gate_users import GateUser
from memory.maintenance.rls_probe import probe_two_users
from memory.rls import bind_tenant, tenant_transaction, verify_rls_isolation
from memory.security import associated_data, open_sealed, seal
from memory.services.documents import get_document
from memory.services.query import MemoryQuery, query_memory

ISOLATION, SPEED = "one user and another", "sealing"
OPERATIONS, CONTENT_BYTES = 20_000, 2_000
OPERATIONS_LEAST, P99_MAX_MS = 5_000, 1.0


def security_lines(owner: GateUser, stranger: GateUser) -> Iterator[Line]:
    """Every line, as it is known. Both users have remembered something."""
    connection = connections["default"]
    try:
        yield from binding_lines(connection)
    finally:
        connection.close()
    yield from _isolation(owner, stranger)
    yield from _speed()


def _isolation(owner: GateUser, stranger: GateUser) -> Iterator[Line]:
    audit = verify_rls_isolation(connections["default"])
    connections["default"].close()
    told = "no finding"
    yield tried(ISOLATION, "audit of roles, tables, policies and grants", audit, target=told, value=told)
    yield tried(ISOLATION, "two users tried against each other in SQL", probe_two_users(), target=told, value=told)
    mine, others = (_rows_of(owner, seen_by=user) for user in (owner, stranger))
    unseen = [f"the owner sees no row of {table}" for table in ("memory_documents", "memory_chunks") if not mine[table]]
    seen = [f"{count} rows of {table}" for table, count in others.items() if count]
    told = f"none of {sum(mine.values())} rows in {len(mine)} tables"
    for check, problems, target, value in (
        ("rows that another user's transaction sees, as r1_app", unseen + seen, "0", told),
        ("a document read by another user", _read_of(owner, stranger), "not found", "not found"),
        ("a query of another user", _found_of(owner, stranger), "finds nothing", "nothing"),
    ):
        yield tried(ISOLATION, check, problems, target=target, value=value)


def _rows_of(owner: GateUser, *, seen_by: GateUser) -> dict[str, int]:
    """The owner's rows by table, as a transaction of `seen_by` counts them."""
    counts = {}
    for table in (*ERASED_TABLES, *KEY_TABLES, "memory_tenants"):
        with tenant_transaction(seen_by.user_hash) as tx:
            sql = f"SELECT count(*) FROM {table} WHERE user_hash = %s"
            [counts[table]] = tx.execute(sql, [owner.user_hash]).fetchone()
    return counts


def _read_of(owner: GateUser, stranger: GateUser) -> list[str]:
    doc_id = owner.documents[0]
    with bind_tenant(owner.user_hash):
        get_document(doc_id)
    try:
        with bind_tenant(stranger.user_hash):
            get_document(doc_id)
    except NotFound:
        return []
    return ["it was read"]


def _found_of(owner: GateUser, stranger: GateUser) -> list[str]:
    found = {}
    for user in (owner, stranger):
        with bind_tenant(user.user_hash):
            answer = query_memory(MemoryQuery(owner.question, rerank=False))
            found[user] = {result.doc_id for result in answer.results}
    problems = [] if found[owner] & set(owner.documents) else ["the owner finds nothing: this proves nothing"]
    return problems + [f"found {len(theirs)}" for theirs in [found[stranger] & set(owner.documents)] if theirs]


def _speed() -> Iterator[Line]:
    key, plaintext = AESGCM(os.urandom(32)), os.urandom(CONTENT_BYTES)
    aad = associated_data(os.urandom(32).hex(), "memory_chunks.text_cipher", os.urandom(16), 1)
    blob = seal(plaintext, aad, key)
    calls: dict[str, Callable[[], Any]] = {
        "seal": lambda: seal(plaintext, aad, key),
        "open": lambda: open_sealed(blob, aad, key),
    }
    for name, call in calls.items():
        rate, p99_ms = _timed(call)
        what = f"{name} {CONTENT_BYTES:,} bytes"
        yield measured("security", SPEED, what, rate, OPERATIONS_LEAST, "operations a second", least=True)
        yield measured("security", SPEED, f"{what}, p99", p99_ms, P99_MAX_MS, "ms")


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """(calls a second, p99 in milliseconds) of one caller in one thread."""
    for _ in range(OPERATIONS // 20):
        call()
    took_ns, began = [], time.perf_counter_ns()
    for _ in range(OPERATIONS):
        before = time.perf_counter_ns()
        call()
        took_ns.append(time.perf_counter_ns() - before)
    rate = OPERATIONS / (time.perf_counter_ns() - began) * 1e9
    return rate, sorted(took_ns)[int(OPERATIONS * 0.99)] / 1e6
