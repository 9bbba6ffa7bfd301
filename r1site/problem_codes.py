"""Which problem of `memory/problems.py` each exception of others is, and each refusal of the server's own."""

from __future__ import annotations

from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.http import Http404, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.urls import Resolver404
from rest_framework import exceptions as drf

from memory.keys.secret_files import SettingError

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
    (Resolver404, "no_such_route"),
    (Http404, "not_found"),
    (PermissionDenied, "insufficient_scope"),
    (RequestDataTooBig, "payload_too_large"),
    (UnreadablePostError, "malformed_json"),
    (SuspiciousOperation, "bad_request"),
    (MultiPartParserError, "bad_request"),
    (BadRequest, "bad_request"),
)
