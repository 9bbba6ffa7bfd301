"""Problem documents: what a client is told, and what nobody is."""

from __future__ import annotations

import json
import logging

import psycopg
import psycopg_pool
import pytest
from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import DataError, InterfaceError, OperationalError, ProgrammingError
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from rest_framework import exceptions as drf
from rest_framework.response import Response
from rest_framework.views import APIView

from memory import errors
from memory.api.fields import StrictCharField, StrictSerializer
from memory.api.permissions import HasScope
from memory.auth.claims import VerifiedToken
from memory.errors import FieldError
from memory.keys.secret_files import SettingError
from memory.problems import PROBLEMS
from r1site import problems
from r1site.our_line import our_innermost_line
from r1site.problems import problem_for, problem_response

PRIVATE = "a private sentence"
CONTRACT = {
    400: {"malformed_json", "nesting_too_deep", "bad_request"},
    401: {"missing_token", "invalid_token"},
    403: {"insufficient_scope"},
    404: {"not_found", "no_such_route"},
    405: {"method_not_allowed"},
    406: {"not_acceptable"},
    408: {"request_timeout"},
    409: {"idempotency_conflict"},
    411: {"length_required"},
    413: {"payload_too_large"},
    414: {"uri_too_long"},
    415: {"unsupported_media_type"},
    417: {"expectation_failed"},
    422: {"invalid", "too_many_chunks", "quota_exceeded"},
    429: {"rate_limited", "too_many_requests_at_once"},
    431: {"headers_too_large"},
    500: {"decryption_failed", "internal"},
    501: {"unsupported_transfer_coding"},
    503: {"memory_disabled", "key_unavailable", "database_unavailable", "overloaded"},
}


class Part(StrictSerializer):
    text = StrictCharField(max_chars=5)


class Whole(StrictSerializer):
    name = StrictCharField()
    parts = Part(many=True, required=False)


class Echo(APIView):
    def get(self, request):
        return Response({"ok": True})

    def post(self, request):
        serializer = Whole(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(serializer.validated_data)


class Failing(APIView):
    def get(self, request):
        raise ValueError(PRIVATE)


class ReadOnly(APIView):
    permission_classes = [HasScope.read]

    def get(self, request):
        return Response({"ok": True})


class WriteOnly(ReadOnly):
    permission_classes = [HasScope.write]


@problems.allow_methods("GET", "HEAD")
def plain(request):
    return HttpResponse("ok")


def failing_plain(request):
    raise ValueError(PRIVATE)


def missing_plain(request):
    raise Http404(PRIVATE)


urlpatterns = [
    path("echo", Echo.as_view()),
    path("failing", Failing.as_view()),
    path("read", ReadOnly.as_view()),
    path("write", WriteOnly.as_view()),
    path("plain", plain),
    path("failing-plain", failing_plain),
    path("missing-plain", missing_plain),
]
handler400 = problems.bad_request
handler403 = problems.permission_denied
handler404 = problems.not_found
handler500 = problems.server_error


class WithToken:
    """Stands where the token middleware stands: sets the token that a test put into the environment."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if "test.token" in request.META:
            request.verified_token = request.META["test.token"]
        return self.get_response(request)


@pytest.fixture
def client(settings) -> Client:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = ["r1site.request_limits.RequestLimitsMiddleware", f"{__name__}.WithToken"]
    return Client(raise_request_exception=False)


def document(response) -> dict:
    assert response["Content-Type"] == "application/problem+json"
    body = json.loads(response.content)
    assert body["status"] == response.status_code
    assert body["type"] == f"urn:r1:problem:{body['code']}"
    assert body["code"] in CONTRACT[response.status_code]
    assert set(body) - {"errors"} == {"type", "title", "status", "detail", "code", "request_id"}
    assert all(set(error) == {"field", "code", "detail"} for error in body.get("errors", []))
    return body


def raised(exc: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise exc from cause
    except BaseException as caught:
        return caught


# The table


def test_the_table_of_codes_is_the_contract():
    by_status: dict[int, set[str]] = {}
    for code, kind in PROBLEMS.items():
        by_status.setdefault(kind.status, set()).add(code)
        assert kind.title
        assert kind.detail.endswith(".")
    assert by_status == CONTRACT


def all_errors(root=errors.MemoryServiceError):
    return [root, *(found for child in root.__subclasses__() for found in all_errors(child))]


@pytest.mark.parametrize("error", all_errors())
def test_every_error_of_the_service_has_a_status(error):
    assert error.code in PROBLEMS


def test_an_error_says_the_sentence_of_its_code_unless_it_has_one_of_its_own():
    assert errors.QuotaExceeded().detail == PROBLEMS["quota_exceeded"].detail
    assert errors.ExpiredToken().detail == "The token has expired."
    assert errors.TooManyChunks([], "Two texts do.").detail == "Two texts do."


def test_no_error_repeats_the_sentence_of_its_code():
    repeated = [error for error in all_errors() if error.__doc__ == PROBLEMS[error.code].detail]
    assert repeated == []


def test_what_the_service_says_itself_reaches_the_client_unless_the_table_has_the_last_word():
    assert problem_for(errors.QuotaExceeded("Twelve too many.")).detail == "Twelve too many."
    assert problem_for(errors.Overloaded("The queue is full.")).detail == PROBLEMS["overloaded"].detail


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (drf.ParseError(PRIVATE), "malformed_json"),
        (drf.NotAuthenticated(PRIVATE), "missing_token"),
        (drf.AuthenticationFailed(PRIVATE), "invalid_token"),
        (drf.PermissionDenied(PRIVATE), "insufficient_scope"),
        (drf.NotFound(PRIVATE), "not_found"),
        (drf.MethodNotAllowed(PRIVATE), "method_not_allowed"),
        (drf.NotAcceptable(PRIVATE), "not_acceptable"),
        (drf.UnsupportedMediaType(PRIVATE), "unsupported_media_type"),
        (drf.Throttled(7, PRIVATE), "rate_limited"),
        (drf.APIException(PRIVATE), "internal"),
        (Http404(PRIVATE), "not_found"),
        (PermissionDenied(PRIVATE), "insufficient_scope"),
        (BadRequest(PRIVATE), "bad_request"),
        (SuspiciousOperation(PRIVATE), "bad_request"),
        (RequestDataTooBig(PRIVATE), "payload_too_large"),
        (ProgrammingError(PRIVATE), "internal"),
        (DataError(PRIVATE), "internal"),
        (KeyError(PRIVATE), "internal"),
        (SettingError(PRIVATE), "key_unavailable"),
        (RecursionError(PRIVATE), "internal"),
        (errors.NotFound(PRIVATE), "not_found"),
        (errors.CrossTenantAttempt(PRIVATE), "internal"),
    ],
)
def test_what_an_exception_says_stays_inside(exc, code):
    response = problem_response(HttpRequest(), exc)
    assert document(response)["code"] == code
    assert PRIVATE not in response.content.decode()
    assert PRIVATE not in str(response.headers)


def test_a_code_nobody_knows_is_internal():
    class Unlisted(errors.MemoryServiceError):
        """Unlisted."""

        code = "unlisted"

    assert problem_for(Unlisted()).code == "internal"


# Headers


@pytest.mark.parametrize(
    ("exc", "challenge"),
    [
        (errors.MissingToken(), "Bearer"),
        (errors.InvalidToken(), 'Bearer error="invalid_token"'),
        (errors.ExpiredToken(), 'Bearer error="invalid_token", error_description="The token has expired."'),
        (errors.InsufficientScope(), 'Bearer error="insufficient_scope"'),
    ],
)
def test_a_refused_token_comes_with_its_challenge(exc, challenge):
    assert problem_response(HttpRequest(), exc)["WWW-Authenticate"] == challenge


@pytest.mark.parametrize(
    ("exc", "seconds"),
    [
        (errors.KeyUnavailable(), "5"),
        (errors.KeyUnavailable(retry_after_seconds=17), "17"),
        (errors.DatabaseUnavailable(), "2"),
        (errors.Overloaded(retry_after_seconds=0), "1"),
        (drf.Throttled(2.3), "3"),
        (drf.Throttled(), "1"),
        (OperationalError(), "2"),
    ],
)
def test_every_refusal_for_now_says_when_to_come_back(exc, seconds):
    assert problem_response(HttpRequest(), exc)["Retry-After"] == seconds


def test_no_other_refusal_says_so():
    assert "Retry-After" not in problem_response(HttpRequest(), errors.NotFound())


# The database


@pytest.mark.parametrize(
    ("original", "code"),
    [
        (psycopg.errors.LockNotAvailable(PRIVATE), "overloaded"),
        (psycopg.errors.QueryCanceled(PRIVATE), "overloaded"),
        (psycopg.errors.TooManyConnections(PRIVATE), "overloaded"),
        (psycopg.errors.DeadlockDetected(PRIVATE), "overloaded"),
        (psycopg_pool.TooManyRequests(PRIVATE), "overloaded"),
        (psycopg.errors.AdminShutdown(PRIVATE), "database_unavailable"),
        (psycopg.errors.CannotConnectNow(PRIVATE), "database_unavailable"),
        (psycopg.errors.DiskFull(PRIVATE), "database_unavailable"),
        (psycopg.OperationalError(PRIVATE), "database_unavailable"),
        (psycopg.InterfaceError(PRIVATE), "database_unavailable"),
        (psycopg.errors.InsufficientPrivilege(PRIVATE), "internal"),
        (psycopg.errors.UniqueViolation(PRIVATE), "internal"),
    ],
)
def test_a_database_that_is_away_or_full_is_503_wrapped_or_not(original, code):
    wrapper = {psycopg.OperationalError: OperationalError, psycopg.InterfaceError: InterfaceError}
    kind = next((ours for theirs, ours in wrapper.items() if isinstance(original, theirs)), ProgrammingError)
    assert problem_for(original).code == code
    assert problem_for(raised(kind(PRIVATE), original)).code == code


def test_a_server_that_refuses_the_connection_is_unavailable():
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect("host=127.0.0.1 port=1 connect_timeout=2")
    assert problem_for(refused.value).code == "database_unavailable"


# Field errors


def test_nested_field_errors_become_paths(client):
    body = {"nmae": 1, "parts": [{"text": "ok"}, {"text": "too long", "user_hash": "x"}]}
    response = client.post("/echo", body, content_type="application/json")
    assert response.status_code == 422
    found = {(error["field"], error["code"]) for error in document(response)["errors"]}
    assert found == {
        ("name", "required"),
        ("nmae", "unknown_field"),
        ("parts[1].text", "max_length"),
        ("parts[1].user_hash", "unknown_field"),
    }


@pytest.mark.parametrize("body", ["[]", "1", "null", '"text"'])
def test_a_body_that_is_no_object_is_an_error_of_the_body(client, body):
    response = client.post("/echo", body, content_type="application/json")
    assert response.status_code == 422
    assert [error["field"] for error in document(response)["errors"]] == ["body"]


def test_errors_keyed_by_position_and_messages_that_quote(client):
    exc = drf.ValidationError({"doc_id": {2: [drf.ErrorDetail(f'"{PRIVATE}" is no choice', "invalid_choice")]}})
    response = problem_response(HttpRequest(), exc)
    (error,) = document(response)["errors"]
    assert (error["field"], error["code"]) == ("doc_id[2]", "invalid_choice")
    assert PRIVATE not in response.content.decode()


def test_the_list_of_errors_and_their_names_are_bounded():
    exc = errors.InvalidInput([FieldError("x" * 1000, "invalid", "No.")] * 1000)
    found = document(problem_response(HttpRequest(), exc))["errors"]
    assert len(found) == problems.MAX_FIELD_ERRORS
    assert len(found[0]["field"]) == problems.MAX_FIELD_NAME_CHARS


def test_a_lone_surrogate_in_an_unknown_name_can_be_rendered(client):
    response = client.post("/echo", b'{"name": "a", "\\ud800": 1}', content_type="application/json")
    assert response.status_code == 422
    assert document(response)["errors"][0]["field"] == "\ud800"


@pytest.mark.parametrize(
    ("body", "code"), [(b"{", "malformed_json"), (b"[" * 100_000, "nesting_too_deep"), (b'{"a":NaN}', "malformed_json")]
)
def test_a_body_that_does_not_parse_is_400(client, body, code):
    response = client.post("/echo", body, content_type="application/json")
    assert response.status_code == 400
    assert document(response)["code"] == code


# Views


def test_a_wrong_method_says_which_are_right(client):
    for address, allowed in (("/echo", "GET, POST, HEAD, OPTIONS"), ("/plain", "GET, HEAD")):
        response = client.delete(address)
        assert response.status_code == 405
        assert document(response)["code"] == "method_not_allowed"
        assert response["Allow"] == allowed
    assert client.get("/plain").content == b"ok"


def test_no_endpoint_describes_itself_or_takes_a_format(client):
    assert document(client.options("/echo"))["code"] == "method_not_allowed"
    assert client.get("/echo?format=xml").json() == {"ok": True}


def test_an_answer_nobody_can_give_is_406(client):
    assert client.get("/echo", headers={"Accept": "application/json"}).status_code == 200
    refused = document(client.get("/echo", headers={"Accept": "text/csv"}))
    assert refused["status"] == 406
    assert "application/json" in refused["detail"] and "csv" not in refused["detail"]


def test_every_missing_thing_answers_alike(client):
    bodies = []
    response = client.get("/missing-plain", headers={"X-Request-ID": "same"})
    assert response.status_code == 404
    bodies.append(document(response))
    bodies.append(
        document(problem_response(HttpRequest(), errors.NotFound("no document seven"))) | {"request_id": "same"}
    )
    assert bodies[0] == bodies[1]


def test_an_address_that_is_not_there_says_so(client):
    response = client.get("/nowhere")
    assert (response.status_code, document(response)["code"]) == (404, "no_such_route")


@pytest.mark.parametrize("address", ["/failing", "/failing-plain"])
def test_an_unexpected_failure_is_logged_by_type_and_place_and_id_only(client, caplog, settings, address):
    caplog.set_level(logging.DEBUG, logger="r1site.problems")
    response = client.get(address, headers={"X-Request-ID": "request-7"})
    assert response.status_code == 500
    assert document(response)["request_id"] == "request-7"
    assert PRIVATE not in response.content.decode()
    (record,) = [record for record in caplog.records if record.name == "r1site.problems"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is None
    message = record.getMessage()
    assert "ValueError" in message
    assert "request-7" in message
    assert PRIVATE not in message


def test_the_place_of_a_failure_is_in_our_own_code(caplog):
    caplog.set_level(logging.DEBUG, logger="r1site.problems")
    with pytest.raises(errors.MalformedJSON) as refused:
        problems_place_probe()
    assert our_innermost_line(refused.value.__traceback__).startswith("memory/formats/strict_json.py:")


def problems_place_probe():
    from memory.formats.strict_json import parse_json

    parse_json(b"{")


def test_a_refusal_of_the_client_is_not_logged_as_ours(client, caplog):
    caplog.set_level(logging.DEBUG, logger="r1site.problems")
    client.get("/nowhere")
    assert [record for record in caplog.records if record.name == "r1site.problems"] == []


# Scopes


@pytest.mark.parametrize(
    ("scopes", "read", "write"),
    [
        (None, 200, 200),
        (frozenset({"memory:read"}), 200, 403),
        (frozenset({"memory:write"}), 403, 200),
        (frozenset({"memory:read", "memory:write"}), 200, 200),
        (frozenset(), 403, 403),
        (frozenset({"memory"}), 403, 403),
    ],
)
def test_a_scope_allows_what_it_names(client, scopes, read, write):
    token = VerifiedToken("alice", scopes, 0.0)
    for address, status in (("/read", read), ("/write", write)):
        response = client.get(address, **{"test.token": token})
        assert response.status_code == status
        if status == 403:
            assert document(response)["code"] == "insufficient_scope"


def test_without_a_token_there_is_no_scope(client):
    assert document(client.get("/read"))["code"] == "missing_token"
