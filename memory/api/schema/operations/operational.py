"""For probes and scrapers."""

from __future__ import annotations

from memory.api.schema.operation import ANYWHERE, WITH_TOKEN, Answer, Operation
from memory.api.shapes import Schema, ref

_FORMAT: Schema = {
    "name": "format",
    "in": "query",
    "description": "`json` for the reranker's state; anything else is Prometheus text.",
    "schema": {"type": "string", "maxLength": 32, "examples": ["json"]},
}

OPERATIONS = [
    Operation(
        method="GET",
        path="/api/v1/auth/check",
        id="checkToken",
        tag="Operations",
        summary="Check a token",
        description="Verifies the bearer token and touches no database.",
        answers={204: Answer(description="The token is valid.")},
        errors=WITH_TOKEN,
    ),
    Operation(
        method="GET",
        path="/api/v1/health/live",
        id="getLiveness",
        tag="Operations",
        summary="Whether the process answers",
        security=(),
        answers={200: Answer(description="It does.", schema="Liveness")},
        errors=ANYWHERE,
    ),
    Operation(
        method="GET",
        path="/api/v1/health/ready",
        id="getReadiness",
        tag="Operations",
        summary="Whether the service can do its work",
        description="Looks again after 3 seconds at the earliest.",
        security=(),
        answers={
            200: Answer(description="No component has failed.", schema="Readiness"),
            503: Answer(description="A component has failed.", schema="Readiness"),
        },
        errors=ANYWHERE,
    ),
    Operation(
        method="GET",
        path="/api/v1/metrics",
        id="getMetrics",
        tag="Operations",
        summary="Metrics of all workers, for Prometheus",
        description="With the metrics token, or from loopback where no proxy stands between.",
        security=({}, {"metricsToken": []}),
        answers={
            200: Answer(description="Prometheus text.", schema={"type": "string"}, media_type="text/plain"),
        },
        errors=(*ANYWHERE, 401),
    ),
    Operation(
        method="GET",
        path="/api/v1/metrics/memory",
        id="getMemoryMetrics",
        tag="Operations",
        summary="The memory's metrics only",
        description="Of all workers, for Prometheus; or how one worker's reranker is doing. By token or from loopback.",
        security=({}, {"metricsToken": []}),
        parameters=(_FORMAT,),
        answers={
            200: Answer(
                description="Prometheus text, or the reranker's state.",
                content={
                    "text/plain": {"schema": {"type": "string"}},
                    "application/json": {"schema": ref("RerankMetrics")},
                },
            ),
        },
        errors=(*ANYWHERE, 401),
    ),
]
