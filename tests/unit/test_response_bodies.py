"""A response body is said once: what it renders is what its schema describes, and nothing else spells its members."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import jsonschema_rs
import pytest

from memory.api.responses.body import About, ListOf, Member, OrNull, itself
from memory.api.responses.documents import DOCUMENT_PAGE, STORED_DOCUMENT
from memory.api.responses.entities import ENTITY_ANSWER
from memory.api.responses.erase import RECEIPT
from memory.api.responses.export import EXPORTED_DOCUMENT
from memory.api.responses.index import INDEX_ANSWER, INDEX_BATCH_ANSWER
from memory.api.responses.operational import (
    LIVENESS,
    READINESS,
    RERANK_METRICS,
    ComponentState,
    Readiness,
    liveness,
    readiness,
    rerank_metrics,
)
from memory.api.responses.query import QUERY_ANSWER
from memory.api.responses.stats import STATS
from memory.api.responses.stream import CITATIONS, DONE, TOKEN, citations, done
from memory.api.responses.summarize import SUMMARY_ANSWER
from memory.api.schema import document
from memory.api.schema.answers import ANSWERS, BODIES, stream
from memory.api.shapes import integer, or_null, string
from memory.erasure.receipts import Receipt
from memory.language.extract import CitedSentence
from memory.retrieval.candidate import Candidate, Neighbour
from memory.retrieval.citations import Citation
from memory.services.documents import StoredDocument
from memory.services.entities import FoundEntities, FoundEntity
from memory.services.index import IndexedBatch, IndexedDocument
from memory.services.listing import DocumentPage, ListedDocument
from memory.services.query import MemoryAnswer
from memory.services.stats import MemoryStats, RateLeft
from memory.services.stream import Done
from memory.services.summary import Summary
from reranker import get_rerank_metrics

API = Path(__file__).resolve().parents[2] / "memory/api"
COMPONENTS = json.loads(document.PATH.read_bytes())["components"]
NOW, CHUNK_ID = datetime(2026, 1, 31, 9, 30, tzinfo=UTC), UUID(int=7)
FOUND = MemoryAnswer(
    results=[
        Candidate(
            chunk_id=CHUNK_ID, doc_id="notes/1", chunk_index=0, source="notes", thread_id="t", start=0, end=4,
            created_at=NOW, sequence=0, generation=1, text_cipher=b"", meta_cipher=b"", document_meta_cipher=None,
            document_mac=None, document_generation=None, distance=0.2, vector=0.9, fused=0.8, decay=0.7, text="calm",
            metadata={"page": 3}, before=[],
            after=[Neighbour(CHUNK_ID, "notes/2", 0, "notes", "t", 0, 4, NOW, 1, 1, b"", "grey")],
        )
    ],
    relevant=True, candidates=1, reranked=False, rerank={"backend": "none", "skipped": "disabled"}, variant="r1",
    degraded=["quarantined"], took_ms=dict.fromkeys(("embed", "ann", "open", "rerank", "total"), 1.5),
)  # fmt: skip
STORED = StoredDocument("notes/1", "notes", "t", "calm", {"page": 3}, [CHUNK_ID], NOW, NOW)
INDEXED = IndexedBatch(
    [IndexedDocument("notes/1", [CHUNK_ID], replaced=True)],
    dict.fromkeys(("chunk", "embed", "seal", "store", "total"), 1.5),
)
SENTENCE = CitedSentence(Citation("notes/1", 0, 0, 4, "calm"))
BUCKETS = ("query", "index", "chunks", "memory", "default")
RENDERED = {
    INDEX_ANSWER: INDEX_ANSWER.render(INDEXED),
    INDEX_BATCH_ANSWER: INDEX_BATCH_ANSWER.render(INDEXED),
    QUERY_ANSWER: QUERY_ANSWER.render(FOUND),
    SUMMARY_ANSWER: SUMMARY_ANSWER.render(
        Summary("calm", [SENTENCE], 1, 1, "extractive", "summary/1", ["llm"], {"read": 1.5, "total": 1.5})
    ),
    ENTITY_ANSWER: ENTITY_ANSWER.render(
        FoundEntities([FoundEntity("Ada", "PERSON", ((CHUNK_ID, 0, 3),))], "model", stored=True)
    ),
    STORED_DOCUMENT: STORED_DOCUMENT.render(STORED),
    DOCUMENT_PAGE: DOCUMENT_PAGE.render(
        DocumentPage([ListedDocument("notes/1", "notes", None, 1, 4, ["notes/0"], NOW, NOW)], "http://r1/", None)
    ),
    EXPORTED_DOCUMENT: EXPORTED_DOCUMENT.render(STORED),
    STATS: STATS.render(
        MemoryStats(1, 0, 1, 4, 1, NOW, NOW, {"notes": 1}, 0, 1, 9, dict.fromkeys(BUCKETS, RateLeft(9, 60, 8)))
    ),
    RECEIPT: RECEIPT.render(
        Receipt(1, "0" * 16, "0" * 64, 1, 1, True, "2026-01-31T09:30:00Z", "2026-01-31T09:30:00Z", "c2lnbmF0dXJl")
    ),
    CITATIONS: citations(FOUND),
    TOKEN: TOKEN.render("calm"),
    DONE: done(Done("stop", {"completion_tokens": 1}, ["llm"]), ttfv_ms=1.5, total_ms=2.5),
    LIVENESS: liveness(),
    READINESS: readiness(
        Readiness("degraded", {"database": ComponentState("ok"), "reranker": ComponentState("degraded", "no_backend")})
    ),
    RERANK_METRICS: rerank_metrics(get_rerank_metrics()),
}


@dataclass
class Sea:
    name: str
    depth_metres: int
    part_of: Sea | None = None


NAMED = About(Sea).part("Its name.", Member("name", string()))
SEA = About(Sea).body(
    "Sea",
    "A sea.",
    Member("name", string()),
    Member("depth", or_null(integer()), lambda sea: sea.depth_metres or None),
    Member("calm", integer(), lambda sea: 0, unless=0),
    Member("itself", NAMED, itself),
    Member("part_of", OrNull(NAMED, "The greater one.")),
    Member("parts", ListOf(NAMED), lambda sea: [sea, sea]),
)


def assert_same_members(schema: dict, value) -> None:
    """That `value` has the members of `schema` in their order, none but optional ones missing, and so on within it."""
    if "$ref" in schema:
        schema = ANSWERS.get(schema["$ref"].rpartition("/")[2], {})
    if "properties" in schema:
        assert list(value) == [name for name in schema["properties"] if name in value]
        assert set(schema["required"]) <= value.keys()
        for name, member in value.items():
            assert_same_members(schema["properties"][name], member)
    for each in value if "items" in schema else ():
        assert_same_members(schema["items"], each)


def dicts_spelled(path: Path) -> list[set[str]]:
    """The names in each dict that a file writes out."""
    return [
        {key.value for key in node.keys if isinstance(key, ast.Constant)}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Dict)
    ]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.component)
def test_what_is_rendered_is_what_the_schema_describes(body):
    rendered = RENDERED[body]
    assert_same_members(body.schema(), rendered)
    jsonschema_rs.validate({**body.schema(), "components": COMPONENTS}, json.loads(json.dumps(rendered)))


def test_a_component_that_nobody_looked_at_is_left_out():
    assert readiness(Readiness("failed", {"role": ComponentState("failed", findings=2)})) == {
        "status": "failed",
        "components": {"role": {"status": "failed", "findings": 2}},
    }
    assert readiness(Readiness("failed", reason="the checks take too long")) == {
        "status": "failed",
        "reason": "the checks take too long",
        "components": {},
    }


def test_an_export_leaves_out_what_index_takes_anyway():
    plain = StoredDocument("notes/1", "api", None, "calm", {}, [CHUNK_ID], NOW, NOW)
    rendered = EXPORTED_DOCUMENT.render(plain)
    assert_same_members(EXPORTED_DOCUMENT.schema(), rendered)
    assert list(rendered) == EXPORTED_DOCUMENT.schema()["required"] == ["doc_id", "text", "created_at"]


def test_a_body_renders_its_members_in_their_order():
    north = Sea("North Sea", 95, part_of=Sea("Atlantic", 3646))
    rendered = SEA.render(north)
    assert_same_members(SEA.schema(), rendered)
    assert list(rendered.items()) == [
        ("name", "North Sea"),
        ("depth", 95),
        ("itself", {"name": "North Sea"}),
        ("part_of", {"name": "Atlantic"}),
        ("parts", [{"name": "North Sea"}, {"name": "North Sea"}]),
    ]
    assert SEA.render(Sea("Aral Sea", 0)) | {"name": ""} == {
        "name": "",
        "depth": None,
        "itself": {"name": "Aral Sea"},
        "part_of": None,
        "parts": [{"name": "Aral Sea"}] * 2,
    }


def test_a_member_that_can_be_left_out_is_not_required():
    assert SEA.schema()["required"] == ["name", "depth", "itself", "part_of", "parts"]


def test_a_component_is_referred_to_and_a_part_described_in_its_place():
    assert SEA.shape() == {"$ref": "#/components/schemas/Sea"}
    assert NAMED.shape() == NAMED.schema() == SEA.schema()["properties"]["itself"]
    assert SEA.schema()["properties"]["part_of"] == {
        **NAMED.schema(),
        "type": ["object", "null"],
        "description": "The greater one.",
    }


@pytest.mark.parametrize(
    "members",
    [
        (Member("colour", string()),),
        (Member("name", string()), Member("name", string())),
    ],
)
def test_a_body_refuses_members_that_its_subject_lacks_or_that_share_a_name(members):
    with pytest.raises(TypeError):
        About(Sea).part("A sea.", *members)


def test_no_body_is_described_a_second_time():
    described = [body.component for answered in BODIES for body in answered.bodies() if body.component]
    by_hand = [*stream.ANSWERS]
    assert len(described) > 15
    assert not set(described) & set(by_hand)
    assert ANSWERS.keys() == {*described, *by_hand}


def test_nothing_but_its_body_spells_an_answers_members():
    bodies = [body for answered in BODIES for body in answered.bodies()]
    members = [{member.name for member in body.members} for body in bodies]
    in_responses = [path for path in (API / "responses").glob("*.py") if path.name != "body.py"]
    assert len(in_responses) > 8
    assert {path.name: names for path in in_responses for names in dicts_spelled(path) if names} == {}

    around = [path for room in ("views", "streaming", "schema/answers") for path in (API / room).glob("*.py")]
    assert len(around) > 15
    twice = [(path.name, names & body) for path in around for names in dicts_spelled(path) for body in members]
    assert [(name, shared) for name, shared in twice if len(shared) > 1] == []
