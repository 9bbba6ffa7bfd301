"""What probes and scrapers are answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memory.api.responses.body import About, Member, itself
from memory.api.shapes import Schema, any_names, boolean, integer, number, or_null, string
from reranker import BACKENDS

_ABSENT = object()


@dataclass(frozen=True)
class ComponentState:
    """One component; `status` is ok, degraded or failed. What is None is left out."""

    status: str
    reason: str | None = None
    backend: str | None = None
    device: str | None = None
    runtime: str | None = None
    model: str | None = None
    findings: int | None = None
    unapplied: int | None = None
    master_keys: int | None = None


@dataclass(frozen=True)
class Readiness:
    """The components by name, as far as they are known, and what they come to; `reason` where there are none."""

    status: str
    components: Mapping[str, ComponentState] = field(default_factory=dict)
    reason: str | None = None


def _status() -> Schema:
    return string(enum=["ok", "degraded", "failed"])


COMPONENT_STATE = About(ComponentState).body(
    "ComponentState",
    "One component.",
    Member("status", _status()),
    Member("reason", string("Why it is not ok."), unless=None),
    Member("backend", string("What reranks."), unless=None),
    Member("device", string("Where its model runs, once it is loaded."), unless=None),
    Member(
        "runtime", string("What runs its model, once it is loaded.", enum=["openvino", "onnx", "torch"]), unless=None
    ),
    Member("model", string("The model's name."), unless=None),
    Member("findings", integer("How many isolation checks failed."), unless=None),
    Member("unapplied", integer("How many migrations are missing."), unless=None),
    Member("master_keys", integer("How many master keys are known."), unless=None),
)


def _component(name: str) -> Member[Readiness]:
    return Member(name, COMPONENT_STATE, lambda found: found.components.get(name), unless=None)


LIVENESS = About(str).body(
    "Liveness",
    "The process answers.",
    Member("status", string(enum=["ok"]), itself),
)
READINESS = About(Readiness).body(
    "Readiness",
    "Each component's state; the whole is as good as its worst component.",
    Member("status", _status()),
    Member("reason", string("Why there are no components."), unless=None),
    Member(
        "components",
        About(Readiness).part(
            "Empty while the checks take too long. `next_embedder` is there where a second model is configured.",
            *map(
                _component,
                ("database", "role", "migrations", "keys", "embedder", "next_embedder", "reranker"),
            ),
        ),
        itself,
    ),
)


def _once_loaded(name: str, shape: Schema) -> Member[dict]:
    """A member that the reranker's view of itself has only where there is a model's thread to ask."""
    return Member(name, shape, lambda found: found.get(name, _ABSENT), unless=_ABSENT)


LATENCIES = About(dict).part(
    "Milliseconds of the latest calls that asked a model; null before the first.",
    *(Member(name, or_null(number(minimum=0))) for name in ("p50", "p95", "max")),
)
RERANK_METRICS = About(dict).body(
    "RerankMetrics",
    "How one worker's reranker is doing, since it started.",
    Member("rerank_total", integer("Calls that were reranked.")),
    Member("rerank_skipped_total", integer("Calls answered in candidate order.")),
    Member("rerank_skipped", any_names("The same by reason.", integer(minimum=1))),
    Member("rerank_latency_ms", LATENCIES),
    Member("backend", string("What reranks.", enum=[*BACKENDS, "none"])),
    Member("model", string("The cross-encoder's name.")),
    Member("device", or_null(string("Where the model runs."))),
    Member("state", string("Whether the model is there.")),
    Member("breaker", string("`open` while the model is given a rest.", enum=["closed", "half_open", "open"])),
    Member("stuck", boolean("Whether a call does not come back.")),
    Member("queued_pairs", integer("Pairs that wait.")),
    Member("queued_tokens", integer("Tokens of those.")),
    Member("loads", integer("How often a model was loaded.")),
    Member("detail", string("More about the state.")),
    _once_loaded("reason", or_null(string("Why no model is there."))),
    _once_loaded("runtime", or_null(string("What runs the model.", enum=["openvino", "onnx", "torch"]))),
    _once_loaded("dtype", or_null(string("The numbers it computes with."))),
    _once_loaded("weights_sha256", or_null(string("The digest of its weights."))),
    _once_loaded("load_seconds", or_null(number("What loading took.", minimum=0))),
    _once_loaded("batches", integer("Forward passes.")),
)


def liveness() -> dict[str, Any]:
    """The process answers."""
    return LIVENESS.render("ok")


def readiness(found: Readiness) -> dict[str, Any]:
    """How each component stands."""
    return READINESS.render(found)


def rerank_metrics(found: dict[str, Any]) -> dict[str, Any]:
    """What `reranker.get_rerank_metrics()` found."""
    return RERANK_METRICS.render(found)
