"""Who is asking: the token and nothing else."""

import io

import jwt
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import Client

from memory import metrics

pytestmark = pytest.mark.django_db(transaction=True)

PROTECTED = [
    ("post", "/api/v1/memory/index"), ("post", "/api/v1/memory/query"), ("get", "/api/v1/memory/documents/d"),
    ("delete", "/api/v1/memory/documents/d"), ("get", "/api/v1/auth/check"), ("get", "/api/v1/no/such/thing"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    ("header", "code"),
    [(None, "missing_token"), ("Bearer nonsense", "invalid_token"), ("Basic YTpi", "missing_token")],
)
def test_without_a_valid_token_every_address_is_401(method, path, header, code):
    headers = {"authorization": header} if header else {}
    body = {"data": "{}", "content_type": "application/json"} if method == "post" else {}
    response = getattr(Client(), method)(path, headers=headers, **body)
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")
    assert response["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == code


def test_a_valid_token_passes_and_no_statement_runs(alice, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert alice.get("auth/check").status_code == 204


def test_an_expired_token_is_told_so_and_a_forged_one_is_not(alice):
    token = alice.token(ttl_seconds=1)
    old = jwt.decode(token, options={"verify_signature": False}) | {"iat": 1_700_000_000, "exp": 1_700_000_300}
    answers = []
    for secret in (settings.MEMORY_JWT_SECRET, "another secret, of somebody else, that is long enough"):
        headers = {"authorization": f"Bearer {jwt.encode(old, secret, algorithm='HS256')}"}
        answers.append(Client().get("/api/v1/auth/check", headers=headers))
    expired, forged = answers
    assert (expired.status_code, expired.json()["detail"]) == (401, "The token has expired.")
    assert expired["WWW-Authenticate"] == 'Bearer error="invalid_token", error_description="The token has expired."'
    assert (forged.status_code, forged.json()["detail"]) == (401, "The bearer token is not valid.")
    assert forged["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_a_token_for_longer_than_the_setting_allows_is_told_so(alice):
    refused = alice.client(ttl_seconds=settings.MEMORY_JWT_MAX_SECONDS + 1).get("/api/v1/auth/check")
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
    assert refused.json()["detail"] == "The token is valid for longer than is allowed here."
    assert alice.client(ttl_seconds=settings.MEMORY_JWT_MAX_SECONDS).get("/api/v1/auth/check").status_code == 204


def test_a_token_issued_here_names_the_key_and_lives_no_longer_than_allowed(settings):
    settings.MEMORY_JWT_KEY_ID, settings.MEMORY_JWT_MAX_SECONDS = "2024", 600

    def issued(*arguments: str) -> str:
        said = io.StringIO()
        call_command("issue_token", "--user", "alice", *arguments, stdout=said)
        return said.getvalue().strip()

    claims = jwt.decode(issued(), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 600
    assert jwt.get_unverified_header(issued("--ttl", "10m"))["kid"] == "2024"
    with pytest.raises(CommandError, match="MEMORY_JWT_MAX_SECONDS"):
        issued("--ttl", "11m")


def test_verifying_is_timed(alice):
    def verified() -> float:
        return next(s.value for s in metrics.auth_ms.collect()[0].samples if s.name == "auth_ms_count")

    before = verified()
    alice.get("auth/check")
    assert verified() == before + 1


@pytest.mark.parametrize("header", ["X-User-Id", "X_User_Id", "X-User-Hash", "X-Forwarded-User", "X-User"])
def test_headers_that_name_another_user_change_nothing(alice, bob, header):
    bob.index("secret", "Bob keeps bees on the roof.")
    for value in (bob.user_id, bob.user_hash):
        response = alice.post("memory/query", {"query": "bees"}, **{header: value})
        assert (response.status_code, response.json()["results"]) == (200, [])
    response = alice.client().post(
        f"/api/v1/memory/query?user_id={bob.user_id}&user_hash={bob.user_hash}", '{"query": "bees"}', "application/json"
    )
    assert (response.status_code, response.json()["results"]) == (200, [])


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("memory:read", "post", "/api/v1/memory/index", 403),
        ("memory:write", "post", "/api/v1/memory/query", 403),
        ("memory:read", "delete", "/api/v1/memory/documents/d", 403),
        ("memory:write", "get", "/api/v1/memory/documents/d", 403),
        ("memory:read", "get", "/api/v1/memory/documents/d", 404),
        ("memory:write", "delete", "/api/v1/memory/documents/d", 404),
        ("memory:read memory:write", "get", "/api/v1/memory/documents/d", 404),
        ("", "get", "/api/v1/memory/documents/d", 403),
    ],
)
def test_the_scope_is_enforced_where_the_token_carries_one(alice, scope, method, path, status):
    body = {"data": "{}", "content_type": "application/json"} if method == "post" else {}
    response = getattr(alice.client(scope=scope), method)(path, **body)
    assert response.status_code == status
    if status == 403:
        assert response.json()["code"] == "insufficient_scope"


def test_memory_switched_off_is_503_and_the_token_is_still_checked(alice, settings):
    settings.MEMORY_ENABLED = False
    response = alice.query("anything")
    assert (response.status_code, response.json()["code"]) == (503, "memory_disabled")
    assert response["Retry-After"]
    assert alice.get("auth/check").status_code == 204
    assert Client().post("/api/v1/memory/query", "{}", "application/json").status_code == 401
