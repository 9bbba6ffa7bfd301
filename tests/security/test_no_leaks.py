"""What a user stores and asks stands nowhere in clear: not in a table, a dump, the server's log or ours.

The server logs every statement and every error in full while users store, ask and fail; then everything that
can be read without a key is searched for their words, for runs of five of them, and for unkeyed digests of both.
Each place is proved to be searched: a control text left there on purpose is found.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import logging
import math
import os
import random
import subprocess
import traceback
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
from django.conf import settings
from django.db import DatabaseError
from prometheus_client import generate_latest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from memory.embedding.process import get_embedder
from memory.errors import MemoryServiceError
from memory.indexing.seal import DocumentDraft
from memory.rls import bind_tenant
from memory.sealing.keyring import forget_profiles
from memory.services.documents import get_document
from memory.services.index import index_document
from memory.services.query import MemoryQuery, query_memory
from r1site.embedded import installation
from r1site.embedded.data_folder import SUPERUSER
from r1site.embedded.secrets import read_secret
from r1site.embedded.socket_folder import PORT
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

SHINGLE_WORDS = 5
SEARCH_STEP_BYTES = 1 << 20
# Everything a server can be told to log, but for the two settings that keep parameters out of it.
LOG_EVERYTHING = {
    "log_statement": "all",
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug1",
    "log_error_verbosity": "verbose",
    "log_min_duration_statement": "0",
    "log_duration": "on",
    "log_lock_waits": "on",
}
SHIPPED = {"log_parameter_max_length": "0", "log_parameter_max_length_on_error": "0"}


def invented_text(words: int) -> str:
    """Words that nobody else can have written."""
    syllables = ("ka", "zu", "mi", "ro", "ve", "pla", "nor", "tis", "gha", "wex", "dol", "fry")
    return " ".join("".join(random.choices(syllables, k=5)) + random.choice("qxz") for _ in range(words))


def shingles(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[n : n + SHINGLE_WORDS]) for n in range(len(words) - SHINGLE_WORDS + 1)]


def spellings(word: str) -> Iterator[bytes]:
    """The word as it would stand in a text, in a bytea column, in UTF-16, or in the base64 of a longer text."""
    for spelling in (word, word.title(), word.upper()):
        yield spelling.encode()
    yield word.encode().hex().encode()
    yield word.encode("utf-16-le").hex().encode()
    # By its position in the longer text a word has one of three encodings, whose ends depend on its neighbours.
    for shift in range(3):
        raw = bytes(shift) + word.encode()
        yield base64.b64encode(raw)[math.ceil(shift * 4 / 3) : len(raw) * 4 // 3]


def digests(phrase: str) -> Iterator[bytes]:
    """Unkeyed digests of the phrase, in hex (as bytea is written, too) and in base64."""
    for algorithm in ("sha256", "md5"):
        digest = hashlib.new(algorithm, phrase.encode()).digest()
        yield digest.hex().encode()
        yield base64.b64encode(digest).rstrip(b"=")


@functools.cache
def needles(text: str) -> frozenset[bytes]:
    """What must not be found of a text: its words in every spelling (so no run of them either), and digests of both."""
    found = {needle for word in text.split() for needle in spellings(word)}
    found |= {needle for phrase in (text, *text.split(), *shingles(text)) for needle in digests(phrase)}
    assert all(len(needle) >= 8 for needle in found), "a needle this short is found by chance"
    return frozenset(found)


def found_in(haystack: bytes, texts: Iterable[str]) -> list[bytes]:
    """The needles of `texts` that `haystack` holds.

    One pass for all needles: a hash of every four bytes says where one may begin, and there it is compared.
    """
    by_prefix: dict[bytes, list[bytes]] = {}
    for needle in frozenset().union(*map(needles, texts)):
        by_prefix.setdefault(needle[:4], []).append(needle)
    may_begin = np.zeros(1 << 20, dtype=bool)
    may_begin[_hashes(b"".join(by_prefix))[::4]] = True
    found = set()
    for start in range(0, len(haystack), SEARCH_STEP_BYTES):
        hashes = _hashes(haystack[start : start + SEARCH_STEP_BYTES + 3])
        for place in (np.flatnonzero(may_begin[hashes]) + start).tolist():
            for needle in by_prefix.get(haystack[place : place + 4], ()):
                if haystack.startswith(needle, place):
                    found.add(needle)
    return sorted(found)


def _hashes(raw: bytes) -> np.ndarray:
    """A 20-bit multiplicative hash of every four neighbouring bytes."""
    each = np.frombuffer(raw, np.uint8).astype(np.uint32)
    four = each[:-3] | each[1:-2] << 8 | each[2:-1] << 16 | each[3:] << 24
    return (four * np.uint32(2654435761)) >> np.uint32(12)


@dataclass
class Places:
    """Where to look, and how."""

    superuser: psycopg.Connection
    cluster: object
    log_start_bytes: int

    def tables(self) -> dict[str, bytes]:
        """Every row of every table as its text, in which bytes stand in hex, by table."""
        names = self.superuser.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\\_%'"
            " AND n.nspname <> 'information_schema'"
        ).fetchall()
        found = {}
        for (name,) in names:
            every_row = f"COPY (SELECT t::text FROM {name} t) TO STDOUT"
            with self.superuser.cursor() as cursor, cursor.copy(every_row) as rows:
                found[name] = b"".join(bytes(row) for row in rows)
        return found

    def readable_columns(self) -> bytes:
        """Every bytea column's raw bytes, for what is text in them."""
        columns = self.superuser.execute(
            "SELECT c.oid::regclass::text, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE a.atttypid = 'bytea'::regtype AND a.attnum > 0"
            " AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = 'public'"
        ).fetchall()
        parts = []
        for table, column in columns:
            query = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(column), sql.SQL(table))
            parts += [row[0] for row in self.superuser.execute(query, binary=True) if row[0] is not None]
        return b"\n".join(parts)

    def dump(self, folder: Path, *options: str) -> bytes:
        """A whole pg_dump as the backup role takes it."""
        password = read_secret(self.cluster.secrets_folder, "R1_BACKUP_PASSWORD")
        target = folder / f"{uuid.uuid4().hex}.sql"
        conninfo = make_conninfo(
            host=str(self.cluster.socket_folder), port=PORT, user="r1_backup",
            dbname=settings.DATABASES["default"]["NAME"],
        )  # fmt: skip
        subprocess.run(
            [str(installation.program("pg_dump")), "--no-password", "--file", str(target), *options, conninfo],
            env={**installation.environment(), "PGPASSWORD": password},
            check=True,
            timeout=120,
        )
        return target.read_bytes()

    def log(self) -> bytes:
        """What the server wrote since the test began."""
        with open(self.cluster.log, "rb") as file:
            file.seek(self.log_start_bytes)
            return file.read()


@pytest.fixture
def places(cluster, transactional_db):
    """A server that logs everything for the length of one test."""
    password = read_secret(cluster.secrets_folder, "POSTGRES_PASSWORD")
    conninfo = cluster.conninfo(SUPERUSER, password, settings.DATABASES["default"]["NAME"])
    with closing(psycopg.connect(conninfo, autocommit=True)) as superuser:
        start_bytes = os.path.getsize(cluster.log)
        for name, value in {**LOG_EVERYTHING, **SHIPPED}.items():
            superuser.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        try:
            reload_until(superuser, "log_statement", "all")
            yield Places(superuser, cluster, start_bytes)
        finally:
            for name in (*LOG_EVERYTHING, *SHIPPED):
                superuser.execute(f"ALTER SYSTEM RESET {name}")
            reload_until(superuser, "log_statement", "none")


def reload_until(superuser: psycopg.Connection, name: str, value: str) -> None:
    """Have every backend read its settings again; a signal is on its way for a moment."""
    superuser.execute("SELECT pg_reload_conf()")
    for _ in range(500):
        if superuser.execute("SELECT current_setting(%s)", [name]).fetchone()[0] == value:
            return
        superuser.execute("SELECT pg_sleep(0.01)")
    raise AssertionError(f"the server did not take {name} = {value}")


@contextmanager
def model_that_quotes_its_input(text: str):
    """The forward pass fails as a careless library does, with the input in its message."""

    def fail(texts):
        raise ValueError(f"cannot embed {text!r}")

    reader = get_embedder().load()._reader
    read, reader.read = reader.read, fail
    try:
        yield
    finally:
        reader.read = read


@contextmanager
def tenant_locked(places: Places, person: Person):
    """Somebody else holds the user's row for longer than the service waits."""
    with places.superuser.transaction():
        places.superuser.execute("SELECT FROM memory_tenants WHERE user_hash = %s FOR UPDATE", [person.user_hash])
        yield


def walk_and_fail(places: Places, person: Person, texts: dict[str, str]) -> tuple[list[str], dict[str, int]]:
    """Use every endpoint well and badly with `texts`: (what exceptions said, HTTP statuses by request)."""
    text, secret, question, refused = texts["text"], texts["metadata"], texts["question"], texts["refused"]
    metadata = {secret.split()[0]: secret, "deep": {"list": [secret]}}
    statuses = {
        "index": person.index("notes", text, metadata=metadata).status_code,
        "replace": person.index("notes", f"{text} {text}", metadata=metadata).status_code,
        "query": person.query(question).status_code,
        "read": person.get("memory/documents/notes").status_code,
        "bad json": person.post("memory/index", f'{{"doc_id": "x", "text": "{refused}"').status_code,
        "nul": person.index("x", f"{refused}\0").status_code,
        "surrogate": person.post("memory/index", f'{{"doc_id": "x", "text": "{refused}\\ud800"}}').status_code,
        "unknown field": person.index("x", text, **{refused.split()[0]: refused}).status_code,
        "bad number": person.query(question, top_k=refused).status_code,
        "bad time": person.query(question, since=refused).status_code,
        "not an object": person.index("x", text, metadata=refused).status_code,
        "too deep": person.index("x", text, metadata=json.loads('{"a":' * 12 + f'"{refused}"' + "}" * 12)).status_code,
    }
    with model_that_quotes_its_input(text):
        statuses["model fails on a text"] = person.index("y", text).status_code
        statuses["model fails on a question"] = person.query(question).status_code
    with tenant_locked(places, person):
        statuses["lock timeout"] = person.index("z", text, metadata=metadata).status_code
    with places.superuser.transaction():
        # A count that the next deletion would bring below zero: a CHECK refuses the row.
        places.superuser.execute("UPDATE memory_tenants SET chunk_count = 0 WHERE user_hash = %s", [person.user_hash])
    statuses["constraint violation"] = person.delete("memory/documents/notes").status_code
    said = []
    for act in (
        lambda: index_document(person.user_id, DocumentDraft("notes", "api", text, metadata=metadata)),
        lambda: query_memory(MemoryQuery(question)),
        lambda: get_document("notes"),
    ):
        with damaged(places, person), bind_tenant(person.user_hash):
            try:
                act()
            except (MemoryServiceError, DatabaseError) as exc:
                said += [str(exc), repr(exc), repr(exc.__cause__), "".join(traceback.format_exception(exc))]
    places.superuser.execute("UPDATE memory_tenants SET chunk_count = 1 WHERE user_hash = %s", [person.user_hash])
    return said, statuses


@contextmanager
def damaged(places: Places, person: Person):
    """One byte of the user's sealed data key is wrong, so that every use of it fails."""
    change = (
        "UPDATE memory_data_keys SET sealed_key = set_byte(sealed_key, 20, get_byte(sealed_key, 20) # 1)"
        " WHERE user_hash = %s"
    )
    assert places.superuser.execute(change, [person.user_hash]).rowcount == 1
    forget_profiles()
    try:
        yield
    finally:
        places.superuser.execute(change, [person.user_hash])
        forget_profiles()


def test_no_word_of_a_user_is_found_anywhere_without_a_key(places, alice, caplog, capfd, tmp_path):
    caplog.set_level(logging.DEBUG)
    canaries = {name: invented_text(12) for name in ("text", "metadata", "question", "refused")}
    user = Person.new(f"canary-{alice.user_id}")

    said, statuses = walk_and_fail(places, user, canaries)

    # The walk went where it was meant to go.
    assert statuses == {
        "index": 201, "replace": 200, "query": 200, "read": 200,
        "bad json": 400, "nul": 422, "surrogate": 422, "unknown field": 422, "bad number": 422, "bad time": 422,
        "not an object": 422, "too deep": 422,
        "model fails on a text": 500, "model fails on a question": 500, "lock timeout": 503,
        "constraint violation": 500,
    }  # fmt: skip
    assert len(said) == 12
    assert user.query(canaries["question"]).json()["results"][0]["text"].startswith(canaries["text"])

    # A control in each place, which the same search must find.
    control = invented_text(5)
    with control_table(places, control) as control_name:
        tables = places.tables()
        dumps = {options: places.dump(tmp_path, *options) for options in ((), ("--inserts",))}
        columns = places.readable_columns()
    logging.getLogger("memory.control").info("control %s", control)
    application_log = caplog.text.encode() + "".join(capfd.readouterr()).encode()
    haystacks = {
        **{f"table {name}": rows for name, rows in tables.items()},
        "bytea columns": columns,
        **{f"pg_dump {' '.join(options)}": dumped for options, dumped in dumps.items()},
        "server log": places.log(),
        "application log": application_log,
    }
    where_the_control_is = [name for name, haystack in haystacks.items() if found_in(haystack, [control])]
    assert where_the_control_is == [
        name for name in haystacks if not name.startswith("table ") or name == f"table {control_name}"
    ]
    for name in ("memory_tenants", "memory_data_keys", "memory_documents", "memory_chunks"):
        assert user.user_hash.encode() in haystacks[f"table {name}"], f"{name} holds no row of the user"
    for statement in (b"INSERT INTO memory_chunks", b"violates check constraint", b"lock timeout", b"STATEMENT:"):
        assert statement in haystacks["server log"], f"the server log holds no {statement.decode()}"

    haystacks |= {"exceptions": "\n".join(said).encode(), "metrics": generate_latest()}
    leaks = {name: found for name, haystack in haystacks.items() if (found := found_in(haystack, canaries.values()))}
    assert leaks == {}
    leaks = {name: found for name, haystack in haystacks.items() if (found := found_in(haystack, [user.user_id]))}
    assert leaks == {}, "a user id stands in clear"


@contextmanager
def control_table(places: Places, control: str) -> Iterator[str]:
    """The name of a table with `control` in clear as text and as bytes; the owner's, so that a backup has it."""
    password = read_secret(places.cluster.secrets_folder, "R1_OWNER_PASSWORD")
    conninfo = places.cluster.conninfo("r1_owner", password, settings.DATABASES["default"]["NAME"])
    name = f"leak_control_{uuid.uuid4().hex}"
    with closing(psycopg.connect(conninfo, autocommit=True)) as owner:
        owner.execute(f"CREATE TABLE {name} (words text, bytes bytea)")
        try:
            insert = f"INSERT INTO {name} VALUES ({{text}}, convert_to({{text}}, 'UTF8'))"
            owner.execute(sql.SQL(insert).format(text=control))
            yield name
        finally:
            owner.execute(f"DROP TABLE {name}")


CONTROL = "brimfulq tenacityx harbourz lanternq meridianx"


@pytest.mark.parametrize(
    "hiding_place",
    [
        CONTROL,
        f"prefix {CONTROL} suffix",
        CONTROL.upper(),
        "harbourz",
        rf"\x{CONTROL.encode().hex()}",
        base64.b64encode(b"a" + CONTROL.encode() + b"b").decode(),
        base64.b64encode(b"ab" + CONTROL.encode()).decode(),
        json.dumps({"words": CONTROL}),
        hashlib.sha256(CONTROL.encode()).hexdigest(),
        hashlib.md5(b"harbourz").hexdigest(),
        base64.b64encode(hashlib.sha256(b"tenacityx").digest()).decode(),
        CONTROL.encode("utf-16-le").hex(),
    ],
)
def test_the_search_finds_a_leak_in_every_disguise(hiding_place):
    assert found_in(f"some row|{hiding_place}|another".encode(), [CONTROL])


def test_the_search_does_not_find_what_is_not_there():
    assert found_in(b"some row|brimful tenacity harbour|another", [CONTROL]) == []
