"""Every error as HTTP: the one place where an exception becomes a status, headers and words, by the tables beside it.

RFC 9457 problem documents: `{type, title, status, detail, code, request_id, errors?}` as
`application/problem+json`. Titles and details are fixed sentences or those of `memory.errors`,
which hold no content; texts of exceptions from elsewhere are neither sent nor logged, because a
database or JSON error quotes the data it is about.
"""

from __future__ import annotations

import functools
import logging
import math
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import psycopg
import psycopg_pool
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse
from rest_framework import exceptions as drf

from memory.errors import ExpiredToken, FieldError, MemoryServiceError, TokenLivesTooLong
from memory.problems import PROBLEMS, ProblemKind
from r1site.our_line import our_innermost_line
from r1site.pool_outage import is_pool_full
from r1site.problem_codes import CODE_BY_EXCEPTION, CODE_BY_SERVER_STATUS

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:r1:problem:"
MAX_FIELD_ERRORS = 50
MAX_FIELD_NAME_CHARS = 128

# The database is up and has no room for this statement now (PostgreSQL, appendix A): too many
# connections, lock_timeout, statement_timeout, deadlock, serialization failure.
_OVERLOADED_SQLSTATES = frozenset({"53300", "55P03", "57014", "40P01", "40001"})
# Default sentences of DRF's own fields that quote the value sent.
_QUOTING_CODES = frozenset({"invalid_choice", "does_not_exist", "incorrect_type", "not_a_list"})


@dataclass(frozen=True)
class Problem:
    """One problem document, but for its request id, and the headers that go with it."""

    code: str
    detail: str
    errors: list[FieldError] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> ProblemKind:
        return PROBLEMS[self.code]

    @property
    def status(self) -> int:
        return self.kind.status


def problem_for(exc: BaseException) -> Problem:
    """What `exc` is to a client. Anything not known here is `internal`."""
    errors: list[FieldError] = []
    detail = None
    retry_after_seconds = None
    if isinstance(exc, MemoryServiceError):
        code = exc.code if exc.code in PROBLEMS else "internal"
        detail = exc.detail
        errors = getattr(exc, "errors", [])
        retry_after_seconds = exc.retry_after_seconds
    elif isinstance(exc, DatabaseError | InterfaceError | psycopg.Error):
        code = _database_code(exc)
    else:
        code = next((code for known, code in CODE_BY_EXCEPTION if isinstance(exc, known)), "internal")
        if isinstance(exc, drf.ValidationError):
            errors = list(islice(_field_errors(exc.detail), MAX_FIELD_ERRORS))
        elif isinstance(exc, drf.Throttled):
            retry_after_seconds = exc.wait  # type: ignore[attr-defined]
        elif isinstance(exc, drf.NotAcceptable) and exc.available_renderers:
            offered = ", ".join(renderer.media_type for renderer in exc.available_renderers)
            detail = f"Accept must allow one of the media types of this address: {offered}."
    kind = PROBLEMS[code]
    headers = {}
    if kind.authenticate:
        headers["WWW-Authenticate"] = kind.authenticate
        if isinstance(exc, ExpiredToken | TokenLivesTooLong):
            headers["WWW-Authenticate"] += f', error_description="{exc.detail}"'
    if kind.retry_after_seconds is not None:
        wait_seconds = kind.retry_after_seconds if retry_after_seconds is None else retry_after_seconds
        headers["Retry-After"] = str(max(1, math.ceil(wait_seconds)))
    return Problem(code, kind.detail if kind.is_fixed else detail or kind.detail, errors, headers)


def problem_response(request: HttpRequest, exc: BaseException) -> JsonResponse:
    """The problem document for `exc`, logged where it is ours. `request` may be Django's or DRF's."""
    problem = problem_for(exc)
    request_id = getattr(request, "request_id", None) or uuid.uuid4().hex
    if problem.status >= 500:
        _log(problem, exc, request_id)
    response = _response(problem, request_id)
    response.problem_code = problem.code  # type: ignore[attr-defined]
    response.is_own_problem = getattr(exc, "is_own", False)  # type: ignore[attr-defined]
    return response


def server_refusal(status: int, request_id: str) -> JsonResponse:
    """What the server answers with `status` to a request that it could not read, and so could hand to nobody."""
    code = CODE_BY_SERVER_STATUS.get(status, "internal")
    response = _response(Problem(code, PROBLEMS[code].detail), request_id)
    response["X-Request-ID"] = request_id
    response["Cache-Control"] = "no-store"
    return response


def exception_handler(exc: Exception, context: dict[str, Any]) -> JsonResponse:
    """DRF's EXCEPTION_HANDLER: no exception leaves a view for Django's handler, whose log quotes it."""
    response = problem_response(context["request"], exc)
    if isinstance(exc, drf.MethodNotAllowed):
        response["Allow"] = ", ".join(context["view"].allowed_methods)
    return response


def allow_methods(*methods: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`require_http_methods` for plain Django views, with a problem document as its 405."""

    def decorator(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if request.method in methods:
                return view(request, *args, **kwargs)
            return method_not_allowed(request, methods)

        return checked

    return decorator


def method_not_allowed(request: HttpRequest, allowed: Iterable[str]) -> JsonResponse:
    response = problem_response(request, drf.MethodNotAllowed(request.method or ""))
    response["Allow"] = ", ".join(allowed)
    return response


def bad_request(request: HttpRequest, exception: Exception | None = None) -> JsonResponse:
    """Django's handler400."""
    return problem_response(request, exception or BadRequest())


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> JsonResponse:
    """Django's handler403."""
    return problem_response(request, exception or PermissionDenied())


def not_found(request: HttpRequest, exception: Exception | None = None) -> JsonResponse:
    """Django's handler404: an address that does not exist, or a page's file that does not."""
    return problem_response(request, exception or Http404())


def server_error(request: HttpRequest) -> JsonResponse:
    """Django's handler500, which is called while the exception is being handled."""
    return problem_response(request, sys.exception() or Exception())


def _response(problem: Problem, request_id: str) -> JsonResponse:
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.code,
        "title": problem.kind.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
    }
    if problem.errors:
        document["errors"] = [
            {"field": error.field[:MAX_FIELD_NAME_CHARS], "code": error.code, "detail": error.detail}
            for error in problem.errors[:MAX_FIELD_ERRORS]
        ]
    response = JsonResponse(document, status=problem.status, content_type=CONTENT_TYPE)
    for name, value in problem.headers.items():
        response[name] = value
    return response


def _database_code(exc: BaseException) -> str:
    """503 for a database that is away or full, 500 for one that says our statement is wrong."""
    original = exc if isinstance(exc, psycopg.Error) else exc.__cause__
    if isinstance(original, psycopg_pool.PoolTimeout):
        return "overloaded" if is_pool_full(original) else "database_unavailable"
    if isinstance(original, psycopg_pool.TooManyRequests):
        return "overloaded"
    if getattr(original, "sqlstate", None) in _OVERLOADED_SQLSTATES:
        return "overloaded"
    away = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
    return "database_unavailable" if isinstance(exc, away) else "internal"


def _field_errors(detail: Any, path: str = "") -> Iterator[FieldError]:
    """DRF's nested error detail as a flat list: `documents[3].metadata`; `body` for the whole."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            if name == "non_field_errors":
                yield from _field_errors(inner, path)
            elif isinstance(name, int):
                yield from _field_errors(inner, f"{path}[{name}]")
            else:
                yield from _field_errors(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            yield from _field_errors(inner, path if isinstance(inner, str) else f"{path}[{index}]")
    else:
        code = getattr(detail, "code", None) or "invalid"
        text = "Not an allowed value." if code in _QUOTING_CODES else str(detail)
        yield FieldError(path or "body", code, text)


def _log(problem: Problem, exc: BaseException, request_id: str) -> None:
    """One line without the exception's text: its type, where in our code it arose, its SQLSTATE."""
    cause = exc.__cause__
    sqlstate = getattr(exc, "sqlstate", None) or getattr(cause, "sqlstate", None) or "-"
    level = logging.ERROR if problem.status == 500 else logging.WARNING
    logger.log(
        level,
        "%s: %s at %s sqlstate=%s request_id=%s",
        problem.code,
        type(exc).__qualname__,
        our_innermost_line(exc.__traceback__),
        sqlstate,
        request_id,
    )
