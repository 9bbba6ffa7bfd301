"""What browsers and clients negotiate: compression for who asks, other origins where they are named."""

import gzip
import json

import pytest
from django.test import Client

from tests.factories import DocumentFactory

APP, OTHER = "https://app.example.com", "https://other.example.com"


@pytest.fixture
def large(alice):
    """A document whose answer is over a kilobyte."""
    return DocumentFactory(person=alice, text="The heat pump was serviced in March. " * 100)


def test_large_json_is_compressed_for_who_asks_and_for_nobody_else(alice, large):
    address = f"memory/documents/{large.doc_id}"
    plain = alice.get(address)
    packed = alice.get(address, accept_encoding="br, gzip")
    assert "Content-Encoding" not in plain.headers
    assert packed["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.content)) == plain.json()
    assert len(packed.content) < len(plain.content) / 3
    for answer in (plain, packed):
        assert "Accept-Encoding" in answer["Vary"]
        assert int(answer["Content-Length"]) == len(answer.content)
    refused = alice.get(address, accept_encoding="gzip;q=0, identity")
    assert "Content-Encoding" not in refused.headers


def test_small_answers_streams_and_exports_are_not_compressed(alice, large):
    asks = {"accept_encoding": "gzip"}
    assert "Content-Encoding" not in alice.get("memory/documents/nowhere", **asks).headers
    exported = alice.get("memory/export", **asks)
    assert "Content-Encoding" not in exported.headers
    assert b"heat pump" in b"".join(exported.streaming_content)
    exported.close()
    streamed = alice.post("stream", {"message": "When was the heat pump serviced?"}, accept_encoding="gzip")
    assert "Content-Encoding" not in streamed.headers
    streamed.close()


def test_a_kept_file_is_known_by_its_weak_tag():
    packed = Client().get("/api/v1/schema", headers={"accept-encoding": "gzip"})
    assert packed["ETag"].startswith('W/"')
    again = Client().get("/api/v1/schema", headers={"accept-encoding": "gzip", "if-none-match": packed["ETag"]})
    assert again.status_code == 304


def preflight(origin: str):
    return Client().options(
        "/api/v1/memory/query",
        headers={"origin": origin, "access-control-request-method": "POST",
                 "access-control-request-headers": "authorization"},
    )  # fmt: skip


def test_by_default_no_other_origin_is_told_anything(alice):
    assert "Access-Control-Allow-Origin" not in preflight(APP).headers
    assert "Access-Control-Allow-Origin" not in alice.get("memory/stats", origin=APP).headers


def test_a_named_origin_is_let_in_without_credentials_and_no_other(alice, settings):
    settings.MEMORY_CORS_ORIGINS = (APP,)
    allowed = preflight(APP)
    assert (allowed.status_code, allowed["Access-Control-Allow-Origin"]) == (204, APP)
    assert "Authorization" in allowed["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in allowed.headers
    assert "Origin" in allowed["Vary"]
    answered = alice.get("memory/stats", origin=APP)
    assert answered["Access-Control-Allow-Origin"] == APP
    assert Client().get("/api/v1/memory/stats", headers={"origin": APP})["Access-Control-Allow-Origin"] == APP
    for origin in (OTHER, "null", "", f"{APP}.evil.example", "https://APP.example.com"):
        assert "Access-Control-Allow-Origin" not in preflight(origin).headers
        assert preflight(origin).status_code in (401, 405)
