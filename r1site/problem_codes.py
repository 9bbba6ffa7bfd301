"""What each error is to a client: tables of codes, statuses, fixed words and waits, and which exception is which."""

from __future__ import annotations

from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.http import Http404, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from rest_framework import exceptions as drf

from memory.keys.secret_files import SettingError

# code: (status, title, detail). A detail here wins over the exception's own: a foreign object must
# answer like a missing one, and what went wrong inside is for the log.
_INTERNAL = "Something went wrong on our side; the request id finds it in our logs."
PROBLEMS: dict[str, tuple[int, str, str | None]] = {
    "bad_request": (400, "Bad request", "The request cannot be understood."),
    "malformed_json": (400, "Malformed JSON", None),
    "nesting_too_deep": (400, "JSON nested too deeply", None),
    "missing_token": (401, "Authentication required", None),
    "invalid_token": (401, "Invalid token", None),
    "insufficient_scope": (403, "Not allowed", "The token's scope does not allow this."),
    "not_found": (404, "Not found", "There is no such object."),
    "method_not_allowed": (405, "Method not allowed", "This address does not have that method."),
    "not_acceptable": (406, "Not acceptable", None),
    "request_timeout": (408, "Request timeout", None),
    "idempotency_conflict": (409, "Idempotency conflict", None),
    "length_required": (411, "Length required", None),
    "payload_too_large": (413, "Payload too large", None),
    "uri_too_long": (414, "URI too long", "The request line is longer than the service takes."),
    "unsupported_media_type": (415, "Unsupported media type", None),
    "expectation_failed": (417, "Expectation failed", "Expect may ask for 100-continue and nothing else."),
    "invalid": (422, "Invalid request", None),
    "too_many_chunks": (422, "Too many chunks", None),
    "quota_exceeded": (422, "Quota exceeded", None),
    "rate_limited": (429, "Too many requests", None),
    "too_many_requests_at_once": (429, "Too many requests at once", None),
    "headers_too_large": (431, "Headers too large", "There are too many headers, or one is too long."),
    "decryption_failed": (500, "Decryption failed", None),
    "internal": (500, "Internal error", _INTERNAL),
    "unsupported_transfer_coding": (501, "Unsupported transfer coding", "Send the body with a Content-Length."),
    "memory_disabled": (503, "Memory disabled", None),
    "key_unavailable": (503, "Key unavailable", None),
    "database_unavailable": (503, "Database unavailable", "The database cannot be reached."),
    "overloaded": (503, "Overloaded", "The service is at capacity; try again shortly."),
}
RETRY_AFTER_SECONDS = {
    "rate_limited": 1,
    "too_many_requests_at_once": 1,
    "memory_disabled": 60,
    "key_unavailable": 5,
    "database_unavailable": 2,
    "overloaded": 1,
}
# RFC 6750, section 3: no error code where no token was sent.
AUTHENTICATE = {
    "missing_token": "Bearer",
    "invalid_token": 'Bearer error="invalid_token"',
    "insufficient_scope": 'Bearer error="insufficient_scope"',
}
# What gunicorn answers itself, by its own status, before a request reaches any middleware.
CODE_BY_SERVER_STATUS = {
    400: "bad_request",
    403: "bad_request",
    414: "uri_too_long",
    417: "expectation_failed",
    431: "headers_too_large",
    501: "unsupported_transfer_coding",
}
CODE_BY_EXCEPTION: tuple[tuple[type[Exception], str], ...] = (
    (SettingError, "key_unavailable"),
    (drf.ParseError, "malformed_json"),
    (drf.NotAuthenticated, "missing_token"),
    (drf.AuthenticationFailed, "invalid_token"),
    (drf.PermissionDenied, "insufficient_scope"),
    (drf.NotFound, "not_found"),
    (drf.MethodNotAllowed, "method_not_allowed"),
    (drf.NotAcceptable, "not_acceptable"),
    (drf.UnsupportedMediaType, "unsupported_media_type"),
    (drf.Throttled, "rate_limited"),
    (drf.ValidationError, "invalid"),
    (Http404, "not_found"),
    (PermissionDenied, "insufficient_scope"),
    (RequestDataTooBig, "payload_too_large"),
    (UnreadablePostError, "malformed_json"),
    (SuspiciousOperation, "bad_request"),
    (MultiPartParserError, "bad_request"),
    (BadRequest, "bad_request"),
)
DETAIL_BY_CODE = {
    "malformed_json": "The body is not valid JSON.",
    "missing_token": "A bearer token is required.",
    "not_acceptable": "The answer cannot be given in the form that Accept asks for.",
    "invalid_token": "The bearer token is not valid.",
    "payload_too_large": "The request body is too large.",
    "unsupported_media_type": "Send application/json in UTF-8, without a Content-Encoding.",
    "invalid": "The request is not valid.",
    "rate_limited": "Too many requests; try again later.",
    "key_unavailable": "The key for this data is not available.",
}
