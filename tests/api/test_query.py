"""POST /memory/query: filters, scores, decay, limits."""

from datetime import UTC, datetime, timedelta

import pytest

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def library(alice):
    """Alice's five notes over two sources and two threads, one of them very old."""
    now = datetime.now(UTC)
    for number, (source, thread, days, text) in enumerate(
        [
            ("mail", "t1", 1, "The boiler engineer comes on Thursday morning."),
            ("mail", "t2", 400, "The boiler engineer came on a Thursday morning."),
            ("chat", "t1", 2, "Bread rises better with cold water and patience."),
            ("chat", "t2", 3, "The train to Gdansk was two hours late again."),
            ("note", None, 4, "Passport renewal takes six weeks at the city office."),
        ]
    ):
        created_at = (now - timedelta(days=days)).isoformat()
        indexed = alice.index(f"n{number}", text, source=source, thread_id=thread, created_at=created_at)
        assert indexed.status_code == 201
    return alice


def ids(response) -> list[str]:
    assert response.status_code == 200, response.content
    return [result["doc_id"] for result in response.json()["results"]]


def test_the_three_best_come_first_with_every_stage_scored(library):
    answer = library.query("When does the boiler engineer come?").json()
    assert [r["doc_id"] for r in answer["results"]][:2] == ["n0", "n1"]
    assert len(answer["results"]) == 3
    assert answer["candidates"] == 5
    assert (answer["variant"], answer["degraded"], answer["reranked"]) == ("r1", [], False)
    assert set(answer["took_ms"]) == {"embed", "ann", "open", "rerank", "total"}
    for result in answer["results"]:
        scores = result["scores"]
        assert 0 <= scores["decay"] <= scores["fused"] <= 1
        assert result["score"] == scores["decay"]
    assert [r["score"] for r in answer["results"]] == sorted((r["score"] for r in answer["results"]), reverse=True)


def test_without_decay_the_score_is_the_fused_score_exactly(library):
    for result in library.query("boiler", decay_weight=0).json()["results"]:
        assert result["score"] == result["scores"]["fused"] == result["scores"]["decay"]


def test_a_stage_that_did_not_run_has_no_score(library, settings):
    def lexical(question: str) -> dict[str, float | None]:
        results = library.query(question, top_k=5).json()["results"]
        assert {result["scores"]["rerank"] for result in results} == {None}
        return {result["doc_id"]: result["scores"]["lexical"] for result in results}

    assert lexical("passport") == {"n4": 1.0, "n0": 0.0, "n1": 0.0, "n2": 0.0, "n3": 0.0}
    assert set(lexical("what is the").values()) == {None}, "stop words alone"
    settings.MEMORY_LEXICAL = False
    assert set(lexical("passport").values()) == {None}


def test_full_decay_with_a_short_half_life_prefers_the_new(library):
    strong = library.query("boiler engineer Thursday", decay_weight=1, half_life_days=1, top_k=5).json()["results"]
    scores = {result["doc_id"]: result["score"] for result in strong}
    assert scores["n1"] < 1e-6 < scores["n0"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"source": "chat"}, {"n2", "n3"}),
        ({"source": ["chat", "note"]}, {"n2", "n3", "n4"}),
        ({"doc_id": "n4"}, {"n4"}),
        ({"doc_id": ["n0", "n4", "absent"]}, {"n0", "n4"}),
        ({"thread_id": "t1"}, {"n0", "n2"}),
        ({"thread_id": "t1", "source": "chat"}, {"n2"}),
        ({"source": "absent"}, set()),
    ],
)
def test_filters_narrow_the_candidates(library, filters, expected):
    assert set(ids(library.query("anything at all", top_k=10, **filters))) == expected


def test_since_and_until_bound_the_time_half_open(library):
    now = datetime.now(UTC)
    since, until = ((now - timedelta(days=days)).isoformat() for days in (3.5, 1.5))
    assert set(ids(library.query("anything", top_k=10, since=since, until=until))) == {"n2", "n3"}


def test_min_vector_applies_to_the_vector_score(library):
    results = library.query("boiler engineer", top_k=10, min_vector=0.5).json()["results"]
    assert {result["doc_id"] for result in results} == {"n0", "n1"}
    assert all(result["scores"]["vector"] >= 0.5 for result in results)


def test_min_score_applies_to_the_score_that_the_answer_is_ordered_by(library):
    everything = library.query("boiler engineer", top_k=10).json()["results"]
    scores = [result["score"] for result in everything]
    least = scores[2]
    assert scores[-1] < least < scores[0]
    some = library.query("boiler engineer", top_k=10, min_score=least - 1e-6).json()["results"]
    assert [result["doc_id"] for result in some] == [
        result["doc_id"] for result in everything if result["score"] >= least - 1e-6
    ]


def test_candidates_are_raised_to_top_k(library):
    assert len(ids(library.query("anything", top_k=4, candidates=1, rerank_pool=1))) == 4


def test_equal_passages_come_in_the_same_order_every_time(alice):
    for number in range(6):
        alice.index(f"copy{number}", "The very same words.", created_at="2026-01-01T00:00:00Z")
    orders = {tuple(ids(alice.query("the very same words", top_k=6))) for _ in range(4)}
    assert len(orders) == 1


def test_a_user_with_nothing_gets_an_empty_answer(stranger):
    answer = stranger.query("anything").json()
    assert (answer["results"], answer["candidates"]) == ([], 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 0}, {"top_k": -1}, {"top_k": 51}, {"top_k": 10**9}, {"top_k": "10"}, {"top_k": 3.5}, {"top_k": True},
        {"candidates": 201}, {"rerank_pool": 101}, {"rerank": "yes"}, {"min_score": 1.5}, {"min_vector": -1},
        {"decay_weight": -0.1}, {"half_life_days": 0}, {"since": "yesterday"}, {"source": []}, {"source": [1]},
        {"filter": {"a": 1}}, {"query": ""}, {"query": "q" * 8193}, {"query": "a\x00"}, {"query": None},
        {"thread_id": "a\x01"},
    ],
)  # fmt: skip
def test_a_bad_query_is_422(alice, fields):
    response = alice.post("memory/query", {"query": "fine", **fields})
    assert response.status_code == 422, response.content
    assert response.json()["code"] == "invalid"
    assert response.json()["errors"]
