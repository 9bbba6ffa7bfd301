"""What a worker does before it serves: refuse an unsafe database, load the model, check the space."""

from __future__ import annotations

import logging
import sys

from django.conf import settings
from django.core.checks import ERROR
from django.db import DatabaseError, connections

import reranker
from memory.checks import settings_fit_together
from memory.embedding.process import configured_embedders, get_embedder
from memory.embedding.spaces import default_space, embedder_of, require_registered
from memory.errors import MemoryServiceError, UnsafeDatabase
from memory.isolation.audit import require_safe_database
from memory.keys.master_keys import tenant_hmac_key
from memory.keys.receipt_keys import receipt_keys
from memory.keys.secret_files import SettingError, exposed_secrets
from memory.language.pipeline import warm_language
from memory.lexical.terms import terms
from memory.middleware import token_verifier
from memory.retrieval.rerank import warm_reranker
from memory.sealing.keyring import begin_key_watch
from memory.sealing.promotion import require_promoted_key
from memory.sealing.providers import require_key_providers
from memory.sealing.worker_reports import begin_reports
from r1site.garbage import spare_what_is_loaded
from r1site.request_counts import count_from_zero

logger = logging.getLogger(__name__)

# How long a thread that computes keeps the interpreter from the others. With Python's 5 ms a query, which gives it up
# some dozens of times, waits that long each time for every thread of somebody else's that computes.
SWITCH_SECONDS = 0.0005


def refuse_unsafe_start() -> None:
    """Exit with the reasons when settings, keys, roles or tables are unsafe.

    A database that cannot be reached is no reason: every tenant transaction asks again before its
    first statement, and answers 503 until then.
    """
    if errors := [check.msg for check in settings_fit_together(None) if check.level >= ERROR]:
        _refuse(errors)
    # A connection is held by no thread that streams, reads a body or waits for a model.
    if settings.MEMORY_DB_POOL_MAX <= settings.MEMORY_USER_CONCURRENCY:
        logger.warning(
            "MEMORY_DB_POOL_MAX (%d) is not over MEMORY_USER_CONCURRENCY (%d): one user can hold all connections",
            settings.MEMORY_DB_POOL_MAX,
            settings.MEMORY_USER_CONCURRENCY,
        )
    try:
        require_key_providers()
        tenant_hmac_key()
        receipt_keys()
        token_verifier()
        if exposed := exposed_secrets():
            logger.warning("group or others may read or write the files of: %s", ", ".join(exposed))
        require_safe_database(connections["default"])
    except SettingError as exc:
        _refuse([str(exc)])
    except UnsafeDatabase as exc:
        _refuse(exc.findings)
    except DatabaseError as exc:
        logger.warning("the database cannot be verified yet (%s); requests get 503 until it can", type(exc).__name__)
    finally:
        connections["default"].close()


def warm_worker() -> None:
    """Load and warm the models in this worker, so that its first requests do not wait for them.

    The embedding model and the reranker before it serves; spaCy, which few requests need, behind its back.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    count_from_zero()
    try:
        for embedder in configured_embedders():
            embedder.embed_query("warm up")
        terms("wärm up")  # makes the patterns of words and of marks
        warm_reranker()
        logger.info(_what_runs())
        spare_what_is_loaded()
        warm_language(then=spare_what_is_loaded)
        begin_key_watch()
        begin_reports()
        require_promoted_key()
        # Last: a database that is away must not leave the models cold.
        require_registered(get_embedder())
        if embedder_of(default_space()) is not get_embedder():
            _refuse(["the default embedding space is not that of MEMORY_EMBEDDING_MODEL"])
    except DatabaseError as exc:
        logger.warning("the embedding space cannot be verified yet (%s)", type(exc).__name__)
    except SettingError as exc:
        _refuse([str(exc)])
    except MemoryServiceError as exc:
        _refuse([exc.detail])
    finally:
        connections["default"].close()


def _what_runs() -> str:
    """One line of the models of this worker, what runs each and where."""
    embed = "; ".join(
        f"{embedder.model_name} embeds by {embedder.load().runtime} on {embedder.device}"
        for embedder in configured_embedders()
    )
    reranks = reranker.get_rerank_metrics()
    if reranks["state"] == "ready":
        return f"{embed}; {reranks['model']} reranks by {reranks['runtime']} on {reranks['device']}"
    return f"{embed}; nothing reranks: {reranks.get('reason') or reranks['detail'] or reranks['state']}"


def _refuse(reasons: list[str]) -> None:
    for reason in reasons:
        logger.critical("refusing to start: %s", reason)
    sys.exit(3)
