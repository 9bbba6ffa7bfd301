"""Faults for the canary's drill, put into a served process from outside: no setting of the product makes one.

`shim(folder)` writes a `sitecustomize` that lets this module change a few of the service's functions as they are
imported. What is wrong at the moment stands in the file that R1_DRILL_FAULT names, one word, which each call reads.
Faults are of the new variant's users alone, but for the denial and the reranker, which are whose request comes.

    errors      every 50th query fails, as by a mistake of the code
    latency     a query waits for twice SLOWED_SECONDS; with `latency ahead` once, as of a service near its limit
    denial      one statement that the database denies; the request goes on
    stream      a stream's first token comes STREAM_SECONDS late
    reranker    a pass of the cross-encoder takes RERANK_SECONDS more
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EACH = 50
SLOWED_SECONDS, STREAM_SECONDS, RERANK_SECONDS = 0.25, 2.0, 0.17

_queries = itertools.count(1)


def shim(folder: Path) -> Path:
    """A folder for PYTHONPATH."""
    folder.mkdir()
    here = Path(__file__).parent
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(here)!r})\nimport canary_faults\ncanary_faults.install()\n"
    )
    return folder


def install() -> None:
    """Change each module of `_CHANGES` once it has been imported."""
    if os.environ.get("R1_DRILL_FAULT"):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds modules as ever, and changes ours once they are there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: Any) -> None:
            execute(module)
            holder, function, changed = _CHANGES[name]
            owner = getattr(module, holder) if holder else module
            setattr(owner, function, changed(getattr(owner, function)))

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def _fault() -> str:
    with contextlib.suppress(OSError):
        return Path(os.environ["R1_DRILL_FAULT"]).read_text().strip()
    return ""


def _is_new() -> bool:
    """Whether the bound user is one of the new variant's."""
    from memory.rls import bound_tenant
    from memory.rollout.variants import NEWER, variant_in_use

    return variant_in_use(bound_tenant()) == NEWER


def _query(embed: Callable[..., Any]) -> Callable[..., Any]:
    """Within a query, where every timer and counter of it looks."""

    @functools.wraps(embed)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        fault = _fault()
        if fault == "errors" and _is_new() and next(_queries) % EACH == 0:
            raise RuntimeError("the drill's fault")
        if fault in ("latency ahead", "latency"):
            time.sleep(SLOWED_SECONDS * (2 if fault == "latency" and _is_new() else 1))
        if fault == "denial":
            _be_denied()
        return embed(*args, **kwargs)

    return faulty


def _be_denied() -> None:
    """Once, by whichever worker comes first: r1_app may not read how canaries went."""
    path = Path(os.environ["R1_DRILL_FAULT"])
    try:
        path.rename(path.with_suffix(".taken"))
    except OSError:
        return
    from django.db import DatabaseError

    from memory.rls import bound_tenant, tenant_transaction

    with contextlib.suppress(DatabaseError), tenant_transaction(bound_tenant()) as tx:
        tx.execute("SELECT count(*) FROM memory_rollouts").fetchall()


def _stream(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Between the citations and the first token, where no deadline of a query runs any more."""

    @functools.wraps(answer)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        is_late = _fault() == "stream" and _is_new()
        events = answer(*args, **kwargs)
        return _late(events) if is_late else events

    return faulty


def _late(events: Any) -> Any:
    with contextlib.closing(events):
        yield next(events)
        time.sleep(STREAM_SECONDS)
        yield from events


def _score(score: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(score)
    def faulty(*args: Any, **kwargs: Any) -> Any:
        if _fault() == "reranker":
            time.sleep(RERANK_SECONDS)
        return score(*args, **kwargs)

    return faulty


# By module: what holds the function ("" for the module itself), its name, and what is made of it.
_CHANGES: dict[str, tuple[str, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "memory.embedding.embedder": ("Embedder", "ask_query", _query),
    "memory.services.stream": ("", "stream_answer", _stream),
    "reranker.backends.cross_encoder": ("CrossEncoderBackend", "score", _score),
    "reranker.backends.built_cross_encoder": ("BuiltCrossEncoderBackend", "score", _score),
}
