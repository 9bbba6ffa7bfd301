"""What may be kept by proxies and browsers: the contract and its page, and no answer besides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import URLPattern, get_resolver

from tests.factories import DocumentFactory

pytestmark = pytest.mark.django_db(transaction=True)

CONTRACT = {"schema", "docs", "docs/start.js"}


def addresses(patterns=None, prefix: str = "/") -> Iterator[str]:
    """Every address of the service, with a document id or a file's name where it has a place for one."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield path.replace("<anypath:doc_id>", "notes/house").replace("<str:name>", "start.js")
        else:
            yield from addresses(pattern.url_patterns, path)


ADDRESSES = sorted(addresses())


def test_the_addresses_are_those_of_the_service():
    assert {"/health/live", "/metrics", "/api/v1/memory/documents/notes/house", "/api/v1/stream"} <= set(ADDRESSES)
    assert not any("<" in address for address in ADDRESSES)


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_answer_is_kept_but_the_contract(alice, address):
    DocumentFactory(person=alice, doc_id="notes/house", text="The heat pump was serviced in March.")
    body = '{"query": "pump", "message": "pump", "text": "Ann lives in Rome.", "source": "notes"}'
    answers = [
        alice.client().get(address),
        alice.client().head(address),
        alice.client().post(address, body, "application/json"),
        alice.client().post(address, "{", "application/json"),
        alice.client().post(address, "x", "text/plain"),
        alice.client().delete(address),
        Client().get(address),
    ]
    for answer in answers:
        kept = "public, max-age=300" if _is_contract(address) and answer.status_code == 200 else "no-store"
        assert answer["Cache-Control"] == kept, (answer.request["REQUEST_METHOD"], answer.status_code)
        answer.close()


def _is_contract(address: str) -> bool:
    return address.removeprefix("/api/v1/") in CONTRACT


def test_what_memory_answers_is_not_kept(alice):
    DocumentFactory(person=alice, doc_id="notes/house", text="The heat pump was serviced in March.")
    answers = [
        alice.get("memory/documents"),
        alice.get("memory/documents/notes/house"),
        alice.get("memory/stats"),
        alice.get("memory/export"),
        alice.get("auth/check"),
        alice.query("When was the heat pump serviced?"),
        alice.post("stream", {"message": "When was the heat pump serviced?"}),
        alice.post("memory/summarize", {"doc_ids": ["notes/house"]}),
        alice.post("memory/entities", {"doc_id": "notes/house"}),
        alice.index("notes/garden", "The roses are cut back in late winter."),
        alice.delete("memory/documents/notes/garden"),
        alice.get("memory/documents/notes/garden"),
        alice.post("memory/erase", {"confirm": alice.user_id}),
    ]
    assert [answer.status_code for answer in answers] == [*[200] * 4, 204, *[200] * 4, 201, 204, 404, 200]
    assert {answer["Cache-Control"] for answer in answers} == {"no-store"}
    for answer in answers:
        answer.close()
