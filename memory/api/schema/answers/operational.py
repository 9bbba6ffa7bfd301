"""What the operational endpoints answer with, as components."""

from __future__ import annotations

from memory.api.schema.shapes import Schema, integer, obj, ref, string

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
    "ComponentState": obj(
        "One component.",
        {
            "status": string(enum=["ok", "degraded", "failed"]),
            "reason": string("Why it is not ok."),
            "backend": string("What reranks."),
            "device": string("Where its model runs."),
            "model": string("The model's name."),
            "findings": integer("How many isolation checks failed."),
            "unapplied": integer("How many migrations are missing."),
            "master_keys": integer("How many master keys are known."),
        },
        optional=("reason", "backend", "device", "model", "findings", "unapplied", "master_keys"),
    ),
}
