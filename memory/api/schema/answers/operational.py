"""What the operational endpoints answer with, as components."""

from __future__ import annotations

from memory.api.shapes import Schema, any_names, boolean, integer, number, obj, or_null, ref, string
from reranker import BACKENDS

_COMPONENTS = ("database", "role", "migrations", "keys", "embedder", "reranker")

ANSWERS: dict[str, Schema] = {
    "Liveness": obj("The process answers.", {"status": string(enum=["ok"])}),
    "Readiness": obj(
        "Each component's state; the whole is as good as its worst component.",
        {
            "status": string(enum=["ok", "degraded", "failed"]),
            "reason": string("Why there are no components."),
            "components": obj(
                "Empty while the checks take too long.",
                {name: ref("ComponentState") for name in _COMPONENTS},
                optional=_COMPONENTS,
            ),
        },
        optional=("reason",),
    ),
    "RerankMetrics": obj(
        "How one worker's reranker is doing, since it started.",
        {
            "rerank_total": integer("Calls that were reranked."),
            "rerank_skipped_total": integer("Calls answered in candidate order."),
            "rerank_skipped": any_names("The same by reason.", integer(minimum=1)),
            "rerank_latency_ms": obj(
                "Milliseconds of the latest calls that asked a model; null before the first.",
                {name: or_null(number(minimum=0)) for name in ("p50", "p95", "max")},
            ),
            "backend": string("What reranks.", enum=[*BACKENDS, "none"]),
            "model": string("The cross-encoder's name."),
            "device": or_null(string("Where the model runs.")),
            "state": string("Whether the model is there."),
            "breaker": string("`open` while the model is given a rest.", enum=["closed", "half_open", "open"]),
            "stuck": boolean("Whether a call does not come back."),
            "queued_pairs": integer("Pairs that wait."),
            "queued_tokens": integer("Tokens of those."),
            "loads": integer("How often a model was loaded."),
            "detail": string("More about the state."),
            "reason": or_null(string("Why no model is there.")),
            "dtype": or_null(string("The numbers it computes with.")),
            "weights_sha256": or_null(string("The digest of its weights.")),
            "load_seconds": or_null(number("What loading took.", minimum=0)),
            "batches": integer("Forward passes."),
        },
        optional=("reason", "dtype", "weights_sha256", "load_seconds", "batches"),
    ),
    "ComponentState": obj(
        "One component.",
        {
            "status": string(enum=["ok", "degraded", "failed"]),
            "reason": string("Why it is not ok."),
            "backend": string("What reranks."),
            "device": string("Where its model runs, once it is loaded."),
            "model": string("The model's name."),
            "findings": integer("How many isolation checks failed."),
            "unapplied": integer("How many migrations are missing."),
            "master_keys": integer("How many master keys are known."),
        },
        optional=("reason", "backend", "device", "model", "findings", "unapplied", "master_keys"),
    ),
}
