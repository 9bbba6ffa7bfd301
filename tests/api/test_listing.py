"""GET /memory/documents: newest first, page by page, each document once whatever happens meanwhile."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

import jsonschema_rs
import pytest
from django.db import connections
from gunicorn.config import LimitRequestLine

from memory.api.schema import document
from memory.api.serializers.documents import CURSOR_MAX_CHARS
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.retrieval.plan import Plan
from memory.rls import bind_tenant, tenant_transaction
from memory.services.forget import delete_document
from memory.services.listing import ListingFilters, Position, page_statement
from tests.db.memories import unit_vector

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def keep(person, doc_id: str, minute: int = 0, **fields) -> None:
    """Store a document without asking the model."""
    text = f"What is kept under {doc_id}."
    index_memory_batch(
        connections["default"], person.user_id, doc_id, fields.pop("source", "notes"), [Slice(text, 0, len(text))],
        unit_vector()[None, :], created_at=NOON + timedelta(minutes=minute), **fields,
    )  # fmt: skip


def page(person, **parameters) -> dict:
    response = person.get(f"memory/documents?{urlencode(parameters)}")
    assert response.status_code == 200, response.content
    return response.json()


def follow(person, url: str) -> dict:
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == ("http", "testserver", "/api/v1/memory/documents")
    response = person.client().get(f"{parts.path}?{parts.query}")
    assert response.status_code == 200, response.content
    return response.json()


def ids(found: dict) -> list[str]:
    return [result["doc_id"] for result in found["results"]]


def walk(person, **parameters) -> list[str]:
    found = page(person, **parameters)
    walked = ids(found)
    while found["next"]:
        found = follow(person, found["next"])
        walked += ids(found)
    return walked


def test_a_user_without_documents_has_an_empty_page(stranger):
    assert page(stranger) == {"results": [], "next": None, "previous": None}


def test_a_listed_document_says_what_is_known_without_opening_it(alice):
    alice.index("family/recipe", "Two lemons and a cup of poppy seeds.", source="notes", thread_id="cake",
                metadata={"stars": 5}, created_at="2025-12-24T18:00:00+01:00")  # fmt: skip
    alice.index("sum", "Lemons and seeds.", source="summary", metadata={"derived_from": ["family/recipe"]},
                created_at="2025-12-25T00:00:00Z")  # fmt: skip
    made, sent = page(alice)["results"]
    assert sent.pop("updated_at").endswith("Z")
    assert sent == {
        "doc_id": "family/recipe", "source": "notes", "thread_id": "cake", "chunks": 1, "chars": 36,
        "derived_from": [], "created_at": "2025-12-24T17:00:00Z",
    }  # fmt: skip
    assert (made["doc_id"], made["derived_from"]) == ("sum", ["family/recipe"])


def test_pages_lead_forwards_and_back_through_documents_of_equal_times(alice):
    for number in range(7):
        keep(alice, f"doc-{number}", minute=number // 3)
    newest_first = [f"doc-{number}" for number in reversed(range(7))]
    assert walk(alice) == newest_first
    first = page(alice, limit=3)
    second = follow(alice, first["next"])
    third = follow(alice, second["next"])
    assert [ids(found) for found in (first, second, third)] == [newest_first[:3], newest_first[3:6], newest_first[6:]]
    assert first["previous"] is None and third["next"] is None
    again = follow(alice, third["previous"])
    assert again["results"] == second["results"]
    assert follow(alice, again["next"])["results"] == third["results"]
    again = follow(alice, again["previous"])
    assert again["results"] == first["results"] and again["previous"] is None


def test_filters_narrow_the_listing_and_stay_on_in_its_links(alice):
    for number in range(6):
        source = "mail" if number % 2 else "notes"
        keep(alice, f"doc-{number}", minute=number, source=source, thread_id=f"t{number % 3}")
    assert walk(alice, source="mail", limit=1) == ["doc-5", "doc-3", "doc-1"]
    assert walk(alice, thread_id="t0", limit=1) == ["doc-3", "doc-0"]
    since, until = (NOON + timedelta(minutes=1)).isoformat(), (NOON + timedelta(minutes=4)).isoformat()
    assert walk(alice, since=since, until=until, limit=2) == ["doc-3", "doc-2", "doc-1"]
    assert walk(alice, source="mail", thread_id="t0") == ["doc-3"]


def test_every_document_that_stays_is_seen_exactly_once_while_others_come_and_go(alice, bob):
    """Twenty walks over random memories, written to and deleted from between any two pages."""
    draw = random.Random(5)
    for number in range(20):
        keep(bob, f"bob-{number}", minute=number)
    for run in range(20):
        there = {f"{run}-{number:02}": draw.randrange(6) for number in range(draw.randrange(1, 14))}
        for doc_id, minute in there.items():
            keep(alice, doc_id, minute)
        stays, limit, seen, back = dict(there), draw.randrange(1, 5), [], None
        found = page(alice, limit=limit)
        while True:
            seen += ids(found)
            if not found["next"]:
                break
            back, url = found, found["next"]
            for _ in range(draw.randrange(4)):
                if draw.random() < 0.5:
                    keep(alice, f"{run}-new-{draw.random()}", minute=draw.randrange(6))
                elif stays:
                    gone = draw.choice(sorted(stays))
                    del stays[gone]
                    with bind_tenant(alice.user_hash):
                        delete_document(gone)
            found = follow(alice, url)
        assert len(seen) == len(set(seen))
        assert set(stays) <= set(seen)
        assert not any(doc_id.startswith("bob") for doc_id in seen)
        order = [doc_id for doc_id in seen if doc_id in there]
        assert order == sorted(order, key=lambda doc_id: (there[doc_id], doc_id), reverse=True)
        if back is not None and found["previous"]:
            assert not set(ids(follow(alice, found["previous"]))) & set(ids(found))
        for doc_id in walk(alice):
            with bind_tenant(alice.user_hash):
                delete_document(doc_id)


def test_a_page_that_was_emptied_leads_back_to_what_is_left(alice):
    for number in range(4):
        keep(alice, f"doc-{number}", minute=number)
    first = page(alice, limit=2)
    for number in (0, 1):
        assert alice.delete(f"memory/documents/doc-{number}").status_code == 204
    second = follow(alice, first["next"])
    assert ids(second) == [] and second["next"] is None
    assert ids(follow(alice, second["previous"])) == ["doc-3", "doc-2"]


def test_a_cursor_is_sealed_and_only_the_users_own_untouched_one_is_taken(alice, bob):
    for number in range(3):
        keep(alice, f"private-{number}")
        keep(bob, f"private-{number}")
    cursor = parse_qs(urlsplit(page(alice, limit=1)["next"]).query)["cursor"][0]
    assert "private" not in cursor
    assert ids(page(alice, limit=1, cursor=cursor)) == ["private-1"]
    flipped = ("B" if cursor[9] == "A" else "A").join((cursor[:9], cursor[10:]))
    for tampered in (flipped, cursor[:-1], cursor + "A", "", "x", "é", "[]", cursor + "=", "A" * 5_001):
        refused = alice.get(f"memory/documents?{urlencode({'cursor': tampered})}")
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "cursor"), tampered
    assert bob.get(f"memory/documents?{urlencode({'cursor': cursor})}").status_code == 422


def test_the_longest_cursor_is_one_that_the_document_allows(alice):
    longest = Position(">=", datetime(2026, 1, 1, 1, 1, 1, 1, UTC), "🙂" * 256).sealed(alice.user_hash)
    parameters = json.loads(document.PATH.read_bytes())["paths"]["/api/v1/memory/documents"]["get"]["parameters"]
    (schema,) = [parameter["schema"] for parameter in parameters if parameter["name"] == "cursor"]
    assert schema["maxLength"] == CURSOR_MAX_CHARS
    jsonschema_rs.validate(schema, longest)
    assert alice.get(f"memory/documents?{urlencode({'cursor': longest})}").status_code == 200
    too_long = alice.get(f"memory/documents?{urlencode({'cursor': 'A' * (CURSOR_MAX_CHARS + 1)})}")
    assert too_long.json()["errors"][0]["code"] == "max_length"


@pytest.mark.parametrize("name", ["🙂" * 256, '"\\' * 128])
def test_a_page_link_fits_a_request_line_whatever_the_ids_and_filters_are(alice, name):
    source, thread_id = "🙂" * 64, "🙂" * 128
    for number in range(3):
        keep(alice, f"{number}{name[1:]}", minute=number, source=source, thread_id=thread_id)
    times = {"since": "2025-01-01T00:00:00.123456789+00:00", "until": "2027-01-01T00:00:00.123456789+00:00"}
    found, walked = page(alice, limit=1, source=source, thread_id=thread_id, **times), []
    while True:
        walked += ids(found)
        for link in (found["next"], found["previous"]):
            parts = urlsplit(link or "")
            line = f"GET {parts.path}?{parts.query} HTTP/1.1\r\n"
            assert len(line) <= LimitRequestLine.default, len(line)
        if not found["next"]:
            break
        found = follow(alice, found["next"])
    assert walked == [f"{number}{name[1:]}" for number in (2, 1, 0)]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=-1", "limit=1.0", "limit=%2B1", "limit=01", "limit=", "limit=ten",
     "limit=1&limit=2",
     "source=", "source=a%00b", f"source={'x' * 65}", "source=a&source=b", "thread_id=", f"thread_id={'x' * 129}",
     "thread_id=a%0Ab", "since=yesterday", "since=", "until=2026-01-01", "until=2026-01-01T00:00:00"],
)  # fmt: skip
def test_a_parameter_that_cannot_be_meant_is_422(alice, query):
    refused = alice.get(f"memory/documents?{query}")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    assert refused.json()["errors"][0]["field"] == query.partition("=")[0]


def test_another_user_named_in_the_query_string_is_ignored(alice, bob):
    keep(alice, "alices")
    keep(bob, "bobs")
    found = page(alice, user_id=bob.user_id, user_hash=bob.user_hash, unknown="x", limit=1)
    assert ids(found) == ["alices"]
    keep(alice, "alices-second")
    assert "user" not in page(alice, user_id=bob.user_id, limit=1)["next"]


@pytest.mark.parametrize("side", [None, "<", ">", "<=", ">="])
def test_a_page_is_one_range_of_the_index_by_time_and_reads_no_more_rows_than_it_shows(alice, superuser, side):
    """As r1_app under row-level security, where only LEAKPROOF comparisons become index conditions; with statistics
    that know this user, as autovacuum keeps them."""
    with tenant_transaction(alice.user_hash, write=True):
        for number in range(300):
            keep(alice, f"doc-{number:03}", minute=number)
    mine = "SELECT DISTINCT tableoid::regclass::text FROM memory_documents WHERE user_hash = %s"
    superuser.execute(f"ANALYZE {superuser.execute(mine, [alice.user_hash]).fetchone()[0]}")
    position = side and Position(side, NOON + timedelta(minutes=150), "doc-150")
    sql, params = page_statement(alice.user_hash, ListingFilters(until=NOON + timedelta(days=1)), position, 20)
    with tenant_transaction(alice.user_hash) as tx:
        tree = tx.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + sql, params).fetchone()[0]
    plan = Plan((json.loads(tree) if isinstance(tree, str) else tree)[0], "")
    [(scan, guarded)] = plan.scans("memory_documents")
    assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", "memory_documents_by_time")
    assert scan["Scan Direction"] == ("Forward" if side and side.startswith(">") else "Backward")
    assert guarded and f"user_hash = '{alice.user_hash}'" in scan["Index Cond"]
    assert scan["Actual Rows"] == 20 and not scan.get("Rows Removed by Filter")
    if side:
        assert "ROW(created_at, doc_id)" in scan["Index Cond"]
    # What a summary was made from is put in its order, and nothing else.
    assert all(node["Sort Key"] == ['s."position"'] for node in plan.nodes() if "Sort" in node["Node Type"])
