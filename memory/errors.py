"""Every way the memory service says no: one root, one code each, one safe sentence.

A message never holds content, another tenant's identifiers, a key or a path. The sentence is a class's docstring, or
that of its code in `memory/problems.py`, where the HTTP status stands too.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory.problems import OURS, PROBLEMS, outcome_of


@dataclass(frozen=True)
class FieldError:
    """One refused input field, as it appears in a problem document's `errors` list."""

    field: str
    code: str
    detail: str


class MemoryServiceError(Exception):
    """The memory service could not do what was asked."""

    code = "internal"
    # Whether it is for what the same user has under way beside it, which is no failure of the service.
    is_own = False

    def __init__(self, detail: str | None = None, *, retry_after_seconds: int | None = None):
        own = type(self).__doc__
        self.detail = detail or (own.strip().splitlines()[0] if own else PROBLEMS[self.code].detail)
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.detail)


class MissingToken(MemoryServiceError):
    code = "missing_token"


class InvalidToken(MemoryServiceError):
    code = "invalid_token"
    # The rule that refused it: for logs and metrics, never for the client.
    reason: str | None = None


class ExpiredToken(InvalidToken):
    """The token has expired."""


class TokenLivesTooLong(InvalidToken):
    """The token is valid for longer than is allowed here."""


class InsufficientScope(MemoryServiceError):
    code = "insufficient_scope"


class MalformedJSON(MemoryServiceError):
    code = "malformed_json"


class NestingTooDeep(MemoryServiceError):
    code = "nesting_too_deep"


class LengthRequired(MemoryServiceError):
    code = "length_required"


class PayloadTooLarge(MemoryServiceError):
    code = "payload_too_large"


class UnsupportedMediaType(MemoryServiceError):
    code = "unsupported_media_type"


class InvalidInput(MemoryServiceError):
    code = "invalid"

    def __init__(self, errors: list[FieldError] | None = None, detail: str | None = None):
        self.errors = errors or []
        super().__init__(detail)


class TooManyChunks(InvalidInput):
    code = "too_many_chunks"


class QuotaExceeded(MemoryServiceError):
    code = "quota_exceeded"


class IdempotencyConflict(MemoryServiceError):
    code = "idempotency_conflict"


class TooManyRequestsAtOnce(MemoryServiceError):
    code = "too_many_requests_at_once"


class BodyTooSlow(MemoryServiceError):
    code = "request_timeout"


class RateLimited(MemoryServiceError):
    code = "rate_limited"


class InvalidUserId(MemoryServiceError, ValueError):
    """The user id is not canonical: 1-128 characters, NFC, no control characters, no outer spaces."""

    code = "invalid"


class NotFound(MemoryServiceError):
    code = "not_found"


class DecryptionFailed(MemoryServiceError):
    code = "decryption_failed"


class KeyUnavailable(MemoryServiceError):
    code = "key_unavailable"


class PromotionUnknown(KeyUnavailable):
    """Which master key wraps new keys is not known yet."""


class DatabaseUnavailable(MemoryServiceError):
    code = "database_unavailable"


class MemoryDisabled(MemoryServiceError):
    code = "memory_disabled"


class Overloaded(MemoryServiceError):
    code = "overloaded"


class UserOverloaded(Overloaded):
    """Too much of this user's work waits already; try again shortly."""

    is_own = True


def is_ours(exc: BaseException) -> bool:
    """Whether a request that ends with `exc` failed by the service, and not by what its user sent or has under way."""
    return not isinstance(exc, MemoryServiceError) or outcome_of(exc.code, is_own=exc.is_own) in OURS


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
