"""Test collections are read in three formats, and rankings measured as trec_eval does."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memory.evaluation.collections import load_collection
from memory.evaluation.measures import distinct, hit_at, mean_interval, ndcg_at, paired_interval, percentile, recall_at
from memory.evaluation.raw import CollectionError, Turn

DOCUMENTS = {"1": "On wings\nWings lift & carry.", "2": "Heat in slabs.", "3": "Boundary layers\nThey separate."}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode())
    return folder


def beir(folder: Path, **changes: str) -> Path:
    corpus = [
        {"_id": "1", "title": "On wings", "text": "Wings lift & carry."},
        {"_id": "2", "title": "", "text": "Heat in slabs."},
        {"_id": "3", "title": "Boundary layers", "text": "They separate."},
        {"_id": "4", "title": " ", "text": ""},
    ]
    queries = [{"_id": "q1", "text": "what lifts"}, {"_id": "q2", "text": "unjudged"}, {"_id": "q3", "text": "flow"}]
    files = {
        "corpus.jsonl": "\n".join(map(json.dumps, corpus)),
        "queries.jsonl": "\n".join(map(json.dumps, queries)) + "\n\n",
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\t1\t1\nq1\t2\t0\nq3\t3\t2\nq3\t4\t1\n",
    }
    return write(folder, files | changes)


def test_beir(tmp_path):
    collection = load_collection(beir(tmp_path))
    assert collection.name == tmp_path.name
    assert collection.documents == DOCUMENTS, "a document without text cannot be stored"
    assert collection.queries == {"q1": "what lifts", "q3": "flow"}
    assert collection.relevant == {"q1": {"1"}, "q3": {"3", "4"}}, "grade 0 is not relevant; what is missing still is"
    assert list(collection.first_queries(1).queries) == list(collection.first_queries(1).relevant) == ["q1"]


def test_smart(tmp_path):
    write(tmp_path, {
        "TINY.ALL": ".I 1\r\n.T\r\nOn wings\r\n.A\r\nSomebody\r\n.W\r\nWings lift & carry.\r\n.X\r\n1\t5\t1\r\n"
                    ".I 2\r\n.W\r\nHeat in slabs.\r\n.I 3\r\n.T \r\nBoundary layers\r\n.W\r\nThey separate.\r\n",
        "TINY.QRY": ".I 1\n.W\nwhat\nlifts\n.I 2\n.T\nSeparation\n.A\nSomebody\n.W\nflow\n.B\n(Journal)\n",
        "TINY.REL": "     1      1\t0\t0.000000\n     2      3\t0\t0.000000\n\n",
    })  # fmt: skip
    collection = load_collection(tmp_path)
    assert collection.documents == DOCUMENTS
    assert collection.queries == {"1": "what\nlifts", "2": "Separation\nflow"}
    assert collection.relevant == {"1": {"1"}, "2": {"3"}}


TREC = {
    "docs.xml": "<doc>\n<docno>1</docno><title>On wings</title><author>x</author><text>Wings lift &amp; carry.</text>\n"
    "</doc><DOC><DOCNO>2</DOCNO><TITLE></TITLE><TEXT>Heat in slabs.</TEXT></DOC>"
    "<doc><docno>3</docno><title>Boundary layers</title><text>They separate.</text></doc>",
    "topics.xml": "<xml><top><num> 11</num><title>\nwhat lifts\n</title></top>"
    "<top><num> Number: 30 <title> flow <desc> ignored</top></xml>",
    "qrels.txt": "1 0 1 1\r\n1 0 2 0\r\n2 0 3 3\r\n",
}


def test_trec_with_judgements_that_count_the_queries(tmp_path):
    collection = load_collection(write(tmp_path, TREC))
    assert collection.documents == DOCUMENTS
    assert collection.queries == {"1": "what lifts", "2": "flow"}
    assert collection.relevant == {"1": {"1"}, "2": {"3"}}


def test_trec_with_judgements_that_name_the_topics(tmp_path):
    collection = load_collection(write(tmp_path, TREC | {"qrels.txt": "11 0 1 1\n30 0 3 1\n"}))
    assert collection.queries == {"11": "what lifts", "30": "flow"}


def json_lines(*rows: dict) -> str:
    return "\n".join(map(json.dumps, rows))


def test_conversations(tmp_path):
    def turn(chat: int, session: int, turn_id: str, minute: int, speaker: str, text: str) -> dict:
        time = f"2024-01-05T10:{minute:02}:00Z"
        return {"chat": chat, "session": session, "id": turn_id, "time": time, "speaker": speaker, "text": text}

    write(tmp_path, {
        "turns.jsonl": json_lines(
            turn(1, 1, "D1:1", 0, "Ann", "Did you see a doctor?"), turn(1, 1, "D1:2", 0, "Ben", "Yes, last week!"),
            turn(1, 2, "D2:1", 5, "Ann", "Hello again."), turn(2, 1, "D1:1", 0, "Eve", "A chat of its own."),
        ),
        "questions.jsonl": json_lines(
            {"chat": 1, "question": "When did Ben see a doctor?", "category": 2, "evidence": ["D1:2", "D1:1"]},
            {"chat": 2, "question": "Who speaks?", "category": 1, "evidence": ["D1:1"]},
            {"chat": 1, "question": "Who says hello?", "category": 1, "evidence": ["D2:1"]},
        ),
    })  # fmt: skip
    whole = load_collection(tmp_path)
    assert list(whole.documents) == ["1/D1:1", "1/D1:2", "1/D2:1", "2/D1:1"], "a turn is a document"
    at = datetime(2024, 1, 5, 10, 0, tzinfo=UTC)
    assert whole.turns["1/D1:2"] == Turn("1", "1/1", at, 1, "Ben"), "turns of one minute are in order by their sequence"
    assert whole.turns["1/D2:1"].sequence == 0, "a session is a thread of its own"
    assert whole.relevant == {"1/1": {"1/D1:1", "1/D1:2"}, "2/1": {"2/D1:1"}, "1/2": {"1/D2:1"}}
    assert whole.by_category() == {"1": ["2/1", "1/2"], "2": ["1/1"]}
    assert whole.named().documents["1/D1:2"] == "Ben: Yes, last week!"
    first, second = whole.by_user()
    assert (first.documents.keys(), second.documents.keys()) == ({"1/D1:1", "1/D1:2", "1/D2:1"}, {"2/D1:1"})
    assert (list(first.queries), list(second.queries)) == (["1/1", "1/2"], ["2/1"])
    assert first.turns.keys() == first.documents.keys()


def test_beir_of_conversations_says_thread_time_sequence_and_speaker(tmp_path):
    said = {"user": "c1", "thread": 7, "time": "2024-01-05T10:00:00+01:00", "sequence": 3, "speaker": "Ben"}
    found = load_collection(beir(tmp_path, **{
        "corpus.jsonl": json_lines(
            {"_id": "1", "text": "Yes, last week!", "metadata": said}, {"_id": "3", "text": "Hello.", "user": "c2"},
        ),
        "queries.jsonl": json_lines(
            {"_id": "q1", "text": "when", "metadata": {"user": "c1", "category": "time"}},
            {"_id": "q3", "text": "who", "user": "c2"},
        ),
    }))  # fmt: skip
    assert found.turn("1") == Turn("c1", "7", datetime(2024, 1, 5, 9, 0, tzinfo=UTC), 3, "Ben")
    assert found.by_category() == {"time": ["q1"]}
    assert [part.name for part in found.by_user()] == [f"{tmp_path.name}, user c1", f"{tmp_path.name}, user c2"]


def test_a_collection_without_users_is_one_users(tmp_path):
    collection = load_collection(beir(tmp_path))
    assert collection.by_user() == [collection]
    assert collection.by_category() == {}


@pytest.mark.parametrize(("changes", "says"), [
    ({"corpus.jsonl": '{"_id": "1", "text": "a", "time": "noon"}'}, "document 1: its time"),
    ({"corpus.jsonl": '{"_id": "1", "text": "a", "user": "c1"}'}, "query q1 is answered by a document of another user"),
    ({"corpus.jsonl": '{"_id": "1"}'}, "line 1 of corpus.jsonl"),
    ({"corpus.jsonl": '{"_id": "1", "text": "a"}\n{"_id": "1", "text": "b"}'}, "two documents are called 1"),
    ({"corpus.jsonl": json.dumps({"_id": "x" * 257, "text": "a"})}, "1 to 256 characters"),
    ({"queries.jsonl": "no JSON"}, "line 1 of queries.jsonl"),
    ({"queries.jsonl": '{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}\n{"_id": "q3", "text": ""}'}, "same id"),
    ({"qrels/test.tsv": "q1 1 1"}, "line 1 of the judgements"),
    ({"qrels/test.tsv": "q1\t1\t0"}, "no query has a relevant document"),
    ({"qrels/test.tsv": "q1\tof-another-collection\t1"}, "no query has a relevant document"),
])  # fmt: skip
def test_what_is_no_collection_is_refused_with_the_reason(tmp_path, changes, says):
    with pytest.raises(CollectionError, match=says):
        load_collection(beir(tmp_path, **changes))


def test_a_folder_without_a_collection_is_refused(tmp_path):
    with pytest.raises(CollectionError, match="neither in BEIR's"):
        load_collection(tmp_path)
    with pytest.raises(CollectionError, match="not a folder"):
        load_collection(tmp_path / "missing")


def test_recall_and_hits():
    ranking, relevant = ["a", "x", "b", "y"], {"b", "y", "z"}
    assert [recall_at(k, ranking, relevant) for k in (1, 3, 4, 24)] == [0, 1 / 3, 2 / 3, 2 / 3]
    assert [hit_at(k, ranking, relevant) for k in (1, 2, 3)] == [0, 0, 1]
    assert recall_at(3, [], relevant) == hit_at(3, [], relevant) == ndcg_at(3, [], relevant) == 0


def test_ndcg_by_hand():
    # Relevant at ranks 1 and 3 of three: 1 + 1/2 over 1 + 1/log2(3) + 1/2.
    assert ndcg_at(10, ["a", "x", "b"], {"a", "b", "c"}) == pytest.approx(1.5 / (1.5 + 1 / math.log2(3)))
    assert ndcg_at(2, ["a", "b", "x"], {"a", "b", "c"}) == 1.0, "the ideal is cut at k too"
    assert ndcg_at(1, ["x", "a"], {"a"}) == 0.0


def test_an_interval_of_equal_differences_is_a_point():
    interval = paired_interval([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.1, 0.1, 0.1))
    assert interval.excludes_zero


def test_an_interval_is_that_of_the_bootstrap():
    # Of n = 400 differences of +1 or -1, evenly, the mean's standard error is 1/20: +-1.96/20.
    interval = paired_interval([1.0, 0.0] * 200, [0.0, 1.0] * 200)
    assert interval.mean == 0 and not interval.excludes_zero
    assert (interval.low, interval.high) == pytest.approx((-0.098, 0.098), abs=0.01)
    assert interval == paired_interval([1.0, 0.0] * 200, [0.0, 1.0] * 200), "the same input gives the same interval"
    with pytest.raises(ValueError):
        paired_interval([1.0], [])
    of_one_side = mean_interval([1.0, 0.0] * 200)
    assert (of_one_side.mean, of_one_side.low, of_one_side.high) == pytest.approx((0.5, 0.451, 0.549), abs=0.005)


def test_percentiles_and_best_passages():
    assert (percentile([1, 2, 3, 4], 50), percentile([5], 95)) == (2.5, 5)
    assert distinct(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]
