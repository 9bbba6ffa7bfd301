"""Every way the memory service says no: one root, one code each, one safe sentence.

A message never holds content, another tenant's identifiers, a key or a path. The mapping
from `code` to an HTTP status stands in one place, `r1site/problems.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One refused input field, as it appears in a problem document's `errors` list."""

    field: str
    code: str
    detail: str


class MemoryServiceError(Exception):
    """The memory service could not do what was asked."""

    code = "internal"

    def __init__(self, detail: str | None = None, *, retry_after_seconds: int | None = None):
        self.detail = detail or (type(self).__doc__ or "").strip().splitlines()[0]
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.detail)


class MissingToken(MemoryServiceError):
    """A bearer token is required."""

    code = "missing_token"


class InvalidToken(MemoryServiceError):
    """The bearer token is not valid."""

    code = "invalid_token"
    # The rule that refused it: for logs and metrics, never for the client.
    reason: str | None = None


class ExpiredToken(InvalidToken):
    """The token has expired."""


class TokenLivesTooLong(InvalidToken):
    """The token is valid for longer than is allowed here."""


class InsufficientScope(MemoryServiceError):
    """The token's scope does not allow this."""

    code = "insufficient_scope"


class MalformedJSON(MemoryServiceError):
    """The body is not valid JSON."""

    code = "malformed_json"


class NestingTooDeep(MemoryServiceError):
    """The JSON body is nested too deeply."""

    code = "nesting_too_deep"


class LengthRequired(MemoryServiceError):
    """A Content-Length header is required."""

    code = "length_required"


class PayloadTooLarge(MemoryServiceError):
    """The request body is too large."""

    code = "payload_too_large"


class UnsupportedMediaType(MemoryServiceError):
    """Send application/json in UTF-8, without a Content-Encoding."""

    code = "unsupported_media_type"


class InvalidInput(MemoryServiceError):
    """The request is not valid."""

    code = "invalid"

    def __init__(self, errors: list[FieldError] | None = None, detail: str | None = None):
        self.errors = errors or []
        super().__init__(detail)


class TooManyChunks(InvalidInput):
    """The text makes more chunks than one call may store; split it."""

    code = "too_many_chunks"


class QuotaExceeded(MemoryServiceError):
    """With this the user would have more chunks than one user may store."""

    code = "quota_exceeded"


class IdempotencyConflict(MemoryServiceError):
    """This Idempotency-Key came with another body within the last 24 hours; use a new one."""

    code = "idempotency_conflict"


class TooManyRequestsAtOnce(MemoryServiceError):
    """This user has as many requests under way as one user may; wait for one to be answered."""

    code = "too_many_requests_at_once"


class BodyTooSlow(MemoryServiceError):
    """The request body did not arrive in time."""

    code = "request_timeout"


class RateLimited(MemoryServiceError):
    """Too many requests; try again later."""

    code = "rate_limited"


class InvalidUserId(MemoryServiceError, ValueError):
    """The user id is not canonical: 1-128 characters, NFC, no control characters, no outer spaces."""

    code = "invalid"


class NotFound(MemoryServiceError):
    """There is no such object."""

    code = "not_found"


class DecryptionFailed(MemoryServiceError):
    """Sealed data did not open; it has been quarantined."""

    code = "decryption_failed"


class KeyUnavailable(MemoryServiceError):
    """The key for this data is not available."""

    code = "key_unavailable"


class DatabaseUnavailable(MemoryServiceError):
    """The database cannot be reached."""

    code = "database_unavailable"


class MemoryDisabled(MemoryServiceError):
    """Memory is switched off."""

    code = "memory_disabled"


class Overloaded(MemoryServiceError):
    """The service is at capacity; try again shortly."""

    code = "overloaded"


class InvalidEmbedding(MemoryServiceError):
    """The embedding model returned a vector that cannot be stored."""

    code = "internal"


class ModelUnavailable(MemoryServiceError):
    """The embedding model is not available."""

    code = "internal"


class TenantNotBound(MemoryServiceError):
    """No tenant is bound; tenant data can only be reached for one verified user."""

    code = "internal"


class CrossTenantAttempt(MemoryServiceError):
    """The server contradicted itself about whose data this is; the request was stopped."""

    code = "internal"


class UnsafeDatabase(MemoryServiceError):
    """The database does not keep tenants apart; the service refuses to use it."""

    code = "internal"

    def __init__(self, findings: list[str]):
        self.findings = findings
        super().__init__()


class SpaceMismatch(MemoryServiceError):
    """The user is in a space that no model of this process is of, or the database is not the keys' own."""

    code = "internal"


class StaleKeys(MemoryServiceError):
    """The user's keys or space changed while the request was under way; try again."""

    code = "key_unavailable"


class LanguageModelError(MemoryServiceError):
    """The language model did not answer.

    `reason`: timeout, stalled, unreachable, refused, malformed, too_long, unavailable for a while after it hung, or
    busy where too many wait for it already.
    """

    code = "overloaded"

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__()
