"""Every problem that a client can be told, by its code: status, words, and the headers that go with it.

The one table of them: exceptions (`memory/errors.py`) take their sentences from here, `r1site/problems.py` their HTTP,
the OpenAPI document its components, and the guide's page of errors is held to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# How a request ended, for metrics and for who reads them. Of `timeout` and `server` the service is to blame: the error
# rate is theirs. No client can bring about either; what he can is `client`, `rate` or `quota`.
Outcome = Literal["ok", "client", "rate", "quota", "timeout", "server"]
OURS: tuple[Outcome, ...] = ("timeout", "server")
_OUTCOMES: dict[str, Outcome] = {
    "rate_limited": "rate",
    "too_many_requests_at_once": "rate",
    # Switched off on purpose: nothing failed.
    "memory_disabled": "rate",
    "too_many_chunks": "quota",
    "quota_exceeded": "quota",
    "payload_too_large": "quota",
    "overloaded": "timeout",
    # The server's own word for a body that it will not read.
    "unsupported_transfer_coding": "client",
}


@dataclass(frozen=True)
class ProblemKind:
    """What a code is to a client.

    `detail` is one sentence. Where it `is_fixed` it wins over the exception's own: a foreign object must answer like
    a missing one, and what went wrong inside is for the log. `retry_after_seconds` is what Retry-After says where the
    service knows nothing better, `authenticate` the value of WWW-Authenticate; without them there is no such header.
    """

    status: int
    title: str
    detail: str
    is_fixed: bool = False
    retry_after_seconds: int | None = None
    authenticate: str | None = None


PROBLEMS: dict[str, ProblemKind] = {
    "bad_request": ProblemKind(400, "Bad request", "The request cannot be understood.", is_fixed=True),
    "malformed_json": ProblemKind(400, "Malformed JSON", "The body is not valid JSON."),
    "nesting_too_deep": ProblemKind(400, "JSON nested too deeply", "The JSON body is nested too deeply."),
    # RFC 6750, section 3: no error code where no token was sent.
    "missing_token": ProblemKind(401, "Authentication required", "A bearer token is required.", authenticate="Bearer"),
    "invalid_token": ProblemKind(
        401, "Invalid token", "The bearer token is not valid.", authenticate='Bearer error="invalid_token"'
    ),
    "insufficient_scope": ProblemKind(
        403,
        "Not allowed",
        "The token's scope does not allow this.",
        is_fixed=True,
        authenticate='Bearer error="insufficient_scope"',
    ),
    "not_found": ProblemKind(404, "Not found", "There is no such object.", is_fixed=True),
    "no_such_route": ProblemKind(404, "No such address", "There is no such address; see /api/v1/docs.", is_fixed=True),
    "method_not_allowed": ProblemKind(
        405, "Method not allowed", "This address does not have that method.", is_fixed=True
    ),
    "not_acceptable": ProblemKind(
        406, "Not acceptable", "The answer cannot be given in the form that Accept asks for."
    ),
    "request_timeout": ProblemKind(408, "Request timeout", "The request body did not arrive in time."),
    "idempotency_conflict": ProblemKind(
        409,
        "Idempotency conflict",
        "This Idempotency-Key came with another body within the last 24 hours; use a new one.",
    ),
    "length_required": ProblemKind(411, "Length required", "A Content-Length header is required."),
    "payload_too_large": ProblemKind(413, "Payload too large", "The request body is too large."),
    "uri_too_long": ProblemKind(
        414, "URI too long", "The request line is longer than the service takes.", is_fixed=True
    ),
    "unsupported_media_type": ProblemKind(
        415, "Unsupported media type", "Send application/json in UTF-8, without a Content-Encoding."
    ),
    "expectation_failed": ProblemKind(
        417, "Expectation failed", "Expect may ask for 100-continue and nothing else.", is_fixed=True
    ),
    "invalid": ProblemKind(422, "Invalid request", "The request is not valid."),
    "too_many_chunks": ProblemKind(
        422, "Too many chunks", "The text makes more chunks than one call may store; split it."
    ),
    "quota_exceeded": ProblemKind(
        422, "Quota exceeded", "With this the user would have more chunks than one user may store."
    ),
    "rate_limited": ProblemKind(429, "Too many requests", "Too many requests; try again later.", retry_after_seconds=1),
    "too_many_requests_at_once": ProblemKind(
        429,
        "Too many requests at once",
        "This user has as many requests under way as one user may; wait for one to be answered.",
        retry_after_seconds=1,
    ),
    "headers_too_large": ProblemKind(
        431, "Headers too large", "There are too many headers, or one is too long.", is_fixed=True
    ),
    "decryption_failed": ProblemKind(500, "Decryption failed", "Sealed data did not open; it has been quarantined."),
    "internal": ProblemKind(
        500, "Internal error", "Something went wrong on our side; the request id finds it in our logs.", is_fixed=True
    ),
    "unsupported_transfer_coding": ProblemKind(
        501, "Unsupported transfer coding", "Send the body with a Content-Length.", is_fixed=True
    ),
    "memory_disabled": ProblemKind(503, "Memory disabled", "Memory is switched off.", retry_after_seconds=60),
    "key_unavailable": ProblemKind(
        503, "Key unavailable", "The key for this data is not available.", retry_after_seconds=5
    ),
    "database_unavailable": ProblemKind(
        503, "Database unavailable", "The database cannot be reached.", is_fixed=True, retry_after_seconds=2
    ),
    "overloaded": ProblemKind(
        503, "Overloaded", "The service is at capacity; try again shortly.", is_fixed=True, retry_after_seconds=1
    ),
}


def outcome_of(code: str, *, is_own: bool = False) -> Outcome:
    """What a request that ended with the problem `code` counts as; `is_own`: the user's other requests are why."""
    if is_own:
        return "rate"
    return _OUTCOMES.get(code, "client" if PROBLEMS[code].status < 500 else "server")


def reason_of(outcome: Outcome) -> str:
    """What `memory_errors_total` calls an outcome that is not `ok`."""
    return "bad_request" if outcome == "client" else outcome


def codes_of(status: int) -> list[str]:
    """The codes that a response of that status can carry, in the table's order."""
    return [code for code, kind in PROBLEMS.items() if kind.status == status]
