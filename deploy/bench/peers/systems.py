"""The memories that are compared: each stores a user's turns, and finds them again, the way its own manual shows.

All stand in databases of their own on one PostgreSQL, and embed with the same weights. Those that are libraries run in
this process; ours is called over HTTP, by one connection that is kept alive, as it is used.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psycopg
from psycopg import sql

from deploy.bench.caller import Caller
from deploy.bench.chats import Turn
from deploy.bench.served import Served

DIMENSION = 384
TOP_K = 10
SIZE_OF_ALL_TABLES = """
    SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c
    WHERE c.relkind = 'r' AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""


class Embed(Protocol):
    """A unit vector of a text, float32[384]."""

    def __call__(self, text: str) -> np.ndarray: ...


class System(Protocol):
    name: str
    database: str

    def write(self, user: str, turn: Turn) -> None:
        """Returns once the turn is stored for good and will be found."""

    def query(self, user: str, question: str) -> list[str]:
        """The ids of the best TOP_K turns of this user, best first."""


class RawPgvector:
    """A table, an index on the user, an exact search over his rows. In the clear; no rights, no words, no service."""

    def __init__(self, name: str, served: Served, database: str, embed: Embed):
        from pgvector.psycopg import register_vector

        self.name, self.database, self._embed = name, database, embed
        self._connection = create_database(served, database)
        self._connection.execute("CREATE EXTENSION vector")
        register_vector(self._connection)
        self._connection.execute(
            f"CREATE TABLE turns (user_id text, turn text, body text, embedding vector({DIMENSION}),"
            " PRIMARY KEY (user_id, turn))"
        )

    def write(self, user: str, turn: Turn) -> None:
        row = (user, turn.id, turn.text, self._embed(turn.text))
        self._connection.execute("INSERT INTO turns VALUES (%s, %s, %s, %s)", row)

    def query(self, user: str, question: str) -> list[str]:
        found = self._connection.execute(
            "SELECT turn, body FROM turns WHERE user_id = %s ORDER BY embedding <=> %s LIMIT %s",
            (user, self._embed(question), TOP_K),
        )
        return [turn for turn, _ in found.fetchall()]


class LangGraphStore:
    """LangGraph's PostgresStore, a namespace a user, its vector index as it is by default."""

    name, database = "LangGraph PostgresStore", "peers_langgraph"

    def __init__(self, served: Served, embed: Embed, stack: ExitStack):
        from langgraph.store.postgres import PostgresStore

        create_database(served, self.database).close()

        def embed_all(texts: Any) -> list[list[float]]:
            return [embed(text).tolist() for text in texts]

        index = {"dims": DIMENSION, "embed": embed_all, "fields": ["text"]}
        self._store = stack.enter_context(
            PostgresStore.from_conn_string(served.conninfo(self.database), index=index)  # type: ignore[arg-type]
        )
        self._store.setup()

    def write(self, user: str, turn: Turn) -> None:
        self._store.put(("turns", user), turn.id, {"text": turn.text})

    def query(self, user: str, question: str) -> list[str]:
        return [item.key for item in self._store.search(("turns", user), query=question, limit=TOP_K)]


class Mem0:
    """mem0's open-source Memory on pgvector, told to store what it is given (`infer=False`): no language model."""

    name, database = "mem0", "peers_mem0"

    def __init__(self, served: Served, model: Path, folder: Path):
        os.environ |= {"MEM0_TELEMETRY": "False", "MEM0_DIR": str(folder)}
        from mem0 import Memory

        create_database(served, self.database).close()
        store = {"connection_string": served.conninfo(self.database), "embedding_model_dims": DIMENSION}
        self.history = folder / "history.db"
        self._memory = Memory.from_config(
            {
                "vector_store": {"provider": "pgvector", "config": store},
                "embedder": {
                    "provider": "huggingface",
                    "config": {"model": str(model), "embedding_dims": DIMENSION, "model_kwargs": {"device": "cpu"}},
                },
                # Made, and never called.
                "llm": {"provider": "openai", "config": {"api_key": "none"}},
                "history_db_path": str(self.history),
            }
        )

    def write(self, user: str, turn: Turn) -> None:
        messages = [{"role": "user", "content": turn.text}]
        self._memory.add(messages, user_id=user, metadata={"turn": turn.id}, infer=False)

    def query(self, user: str, question: str) -> list[str]:
        found = self._memory.search(question, filters={"user_id": user}, top_k=TOP_K, threshold=0.0)
        return [result["metadata"]["turn"] for result in found["results"]]


class Ours:
    """This service, whole: tokens, row-level security, sealing, words beside vectors, JSON over HTTP."""

    name, database = "this service, over HTTP", "r1"

    def __init__(self, served: Served, users: list[str]):
        self._callers = {user: Caller(served, user) for user in users}

    def write(self, user: str, turn: Turn) -> None:
        self._callers[user].post("memory/index", turn.document())

    def query(self, user: str, question: str) -> list[str]:
        answer = self._callers[user].post("memory/query", {"query": question, "top_k": TOP_K})
        return [result["doc_id"] for result in answer["results"]]


def create_database(served: Served, name: str) -> psycopg.Connection:
    """A new database on the service's server, and a connection to it; both as the superuser."""
    with served.superuser() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return served.superuser(name)


def stored_bytes(served: Served, system: System) -> int:
    """What the system's tables, their indexes included, take on disk, and its files beside them."""
    with served.superuser(system.database) as connection:
        connection.execute("VACUUM ANALYZE")
        (size,) = connection.execute(SIZE_OF_ALL_TABLES).fetchone() or (0,)
    history = getattr(system, "history", None)
    return int(size) + (history.stat().st_size if history is not None and history.exists() else 0)
