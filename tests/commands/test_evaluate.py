"""`manage.py evaluate` measures the real service and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections

from memory.embedding.process import get_embedder
from memory.erasure.erase import KEY_TABLES
from memory.evaluation.run import search_legs
from memory.evaluation.throwaway import ThrowAwayUser, erase
from memory.indexing.seal import DocumentDraft
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.isolation.audit import APPEND_ONLY_TABLES, TENANT_TABLES
from memory.lexical.terms import expected_collisions, terms
from memory.management.commands.evaluate import Command
from memory.rls import TenantTransaction
from memory.services.index import index_document, index_documents
from tests.db.server import connect

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

DOCUMENTS = {
    "kettle": ("Descaling the kettle", "Fill it with one part vinegar and four parts water, and boil it twice."),
    "bike": ("Bicycle brakes", "The front brake squeals in the rain; the pads are of type BR-7731."),
    "garden": ("Tomatoes", "Water tomatoes at the root in the morning and never wet the leaves."),
    "tax": ("Tax return", "The declaration for 2024 is due on 2025-07-31 at the office in Bern."),
    "cat": ("The cat", "Minka eats twice a day and must not have milk."),
}
QUERIES = {
    "1": ("BR-7731", "bike"),
    "2": ("How do I get lime out of my kettle?", "kettle"),
    "3": ("feeding the cat", "cat"),
}


@pytest.fixture
def collection(tmp_path) -> Path:
    """A BEIR collection of five documents and three queries with one relevant document each."""
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"_id": key, "title": title, "text": text}) for key, (title, text) in DOCUMENTS.items())
    )
    (tmp_path / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": key, "text": text}) for key, (text, _) in QUERIES.items())
    )
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "\n".join(f"{key}\t{doc_id}\t1" for key, (_, doc_id) in QUERIES.items())
    )
    return tmp_path


@pytest.fixture
def rows():
    """Counts the rows of the throw-away users in every tenant table, as the role that sees every row."""
    users = [ThrowAwayUser(f"{rotated=}").user_hash for rotated in (True, False)]
    with connect("r1_backup") as backup:
        yield lambda: sum(
            backup.execute(f"SELECT count(*) FROM {table} WHERE user_hash = ANY(%s)", [users]).fetchone()[0]
            for table in TENANT_TABLES
        )


def evaluate(capsys, folder: Path, *arguments: str) -> tuple[dict, str]:
    """The command's JSON and what it wrote to stderr."""
    call_command("evaluate", "--collection", str(folder), *arguments)
    written = capsys.readouterr()
    return json.loads(written.out), written.err


def test_every_stage_is_measured_and_nothing_stays(collection, rows, capsys):
    found, shown = evaluate(capsys, collection)
    assert rows() == 0
    assert all(found["erased_rows"][0][table] > 0 for table in ("memory_chunks", "memory_data_keys", "memory_tenants"))

    stages = {row["stage"]: row for row in found["stages"]}
    assert {"dense", "lexical", "fused", "all + decay"} <= stages.keys()
    assert (found["documents"], found["chunks"], found["queries"]) == (5, 5, 3)
    for stage in ("fused", "all + decay"):
        assert stages[stage]["ndcg@10"] == stages[stage]["hit@3"] == stages[stage]["recall@3"] == 1.0
    assert stages["lexical"]["rankings_sha256"] != stages["dense"]["rankings_sha256"]
    assert stages["fused"]["rankings_sha256"] == stages["all + decay"]["rankings_sha256"], "all are equally old"
    assert {"index total", "query embed", "query ann", "query total"} <= found["took_ms"].keys()
    assert all(0 < times["p50"] <= times["p95"] for step, times in found["took_ms"].items() if "total" in step)
    assert "all + decay" in shown and "query total" in shown
    assert found["rerank_skipped"] == {"no_backend": 3} and "not reranked: 3 of 3 queries (no_backend)" in shown
    assert not [stage for stage in stages if "rerank" in stage]
    assert {stage: row.get("against") for stage, row in stages.items()} == {
        "dense": None, "lexical": "dense", "fused": "dense", "context": "fused", "context, dates": "context",
        "context, dates, speakers": "context, dates", "all + decay": "context, dates, speakers",
    }  # fmt: skip
    assert stages["all + decay"]["recall@10 difference"] == [0.0, 0.0, 0.0]
    assert stages["fused"]["recall@10 interval"] == [1.0, 1.0]
    assert "fused against dense: recall@3 " in shown


@pytest.fixture
def chats(tmp_path) -> Path:
    """Two conversations of two threads each; each has one question, and the other's turns answer it as well."""
    with open(tmp_path / "turns.jsonl", "w") as turns:
        for chat, name in ((1, "Minka"), (2, "Tiger")):
            for session, said in enumerate((["How is your cat?", f"{name} sleeps."], ["Shall we go?", "At nine."]), 1):
                for number, text in enumerate(said, 1):
                    turns.write(json.dumps({
                        "chat": chat, "session": session, "id": f"D{session}:{number}", "speaker": f"S{number}",
                        "time": f"2024-01-0{session}T10:00:00Z", "text": text,
                    }) + "\n")  # fmt: skip
    (tmp_path / "questions.jsonl").write_text("".join(
        json.dumps({"chat": chat, "question": "What is the cat's name?", "category": chat, "evidence": ["D1:2"]}) + "\n"
        for chat in (1, 2)
    ))  # fmt: skip
    return tmp_path


def test_each_conversation_is_a_users_own_and_recall_is_by_turn_and_category(chats, rows, capsys):
    found, shown = evaluate(capsys, chats)
    assert rows() == 0
    assert (found["users"], found["documents"], found["chunks"], found["queries"]) == (2, 8, 8, 2)
    assert [erased["memory_chunks"] for erased in found["erased_rows"]] == [4, 4]
    assert found["categories"]["1"]["queries"] == 1
    assert found["categories"]["2"]["stages"]["fused"]["recall@10"] == 1.0
    assert "category 2, 1 queries:" in shown
    assert len(found["took_ms"]["index total"]) == 2


def test_refusals_of_answerable_questions_and_answers_to_others_are_counted(chats, tmp_path, rows, capsys):
    asked = tmp_path / "asked.txt"
    asked.write_text("How tall is Mount Everest?\n\nWhat is the melting point of tungsten?\n")
    found, shown = evaluate(capsys, chats, "--unanswerable", str(asked))
    assert rows() == 0
    assert found["relevance"]["answerable"] == {"questions": 2, "relevant": 2}
    assert found["relevance"]["unanswerable"] == {"questions": 4, "relevant": 0}, "each of two users is asked both"
    assert found["relevance"]["of another user"]["questions"] == 2
    assert "false refusals, questions answerable: 0 of 2 (0.0 %)" in shown
    assert "false answers, questions unanswerable: 0 of 4 (0.0 %)" in shown


def test_a_hundred_unanswerable_questions_come_with_the_product(chats, rows, capsys):
    found, _ = evaluate(capsys, chats, "--one-user", "--unanswerable", "--json")
    assert found["relevance"].keys() == {"answerable", "unanswerable"}
    assert found["relevance"]["unanswerable"]["questions"] == 100


def test_all_conversations_in_one_memory_keep_their_threads_apart(chats, rows, capsys, monkeypatch):
    stored = {}

    def noted(user_id, drafts):
        stored.update(
            {draft.doc_id: (draft.text, draft.thread_id, draft.sequence, draft.created_at.day) for draft in drafts}
        )
        return index_documents(user_id, drafts)

    monkeypatch.setattr("memory.evaluation.run.index_documents", noted)
    found, _ = evaluate(capsys, chats, "--one-user", "--json")
    assert rows() == 0
    assert (found["users"], found["chunks"], found["named"]) == (1, 8, False)
    assert stored["1/D1:2"] == ("Minka sleeps.", "1/1", 1, 1)
    assert stored["2/D2:1"] == ("Shall we go?", "2/2", 0, 2)
    assert evaluate(capsys, chats, "--one-user", "--named", "--json")[0]["named"]
    assert stored["1/D1:2"][0] == "S2: Minka sleeps."


def test_the_terms_that_are_expected_to_share_an_id_are_printed(collection, capsys, settings):
    found, shown = evaluate(capsys, collection, "--limit-queries", "1")
    different = {term for parts in DOCUMENTS.values() for term in terms("\n".join(parts), "english")}
    assert found["terms"] == len(different) > 40
    assert found["expected_term_id_collisions"] == expected_collisions(len(different))
    assert f"{len(different)} different terms: 0.0000 pairs are expected to share an id" in shown
    settings.MEMORY_LEXICAL = False
    found, shown = evaluate(capsys, collection, "--limit-queries", "1")
    assert found["terms"] == 0 and "share an id" not in shown


def test_rotation_changes_no_ranking(collection, rows, capsys):
    found, shown = evaluate(capsys, collection, "--rotation", "both", "--json")
    assert rows() == 0
    assert shown == ""
    assert 0 < found["rotation"]["largest_distance_difference"] < 1e-3, "two different matrices, and only rounding"
    assert found["rotation"]["stages"]["fused"] == {"same_top_3": 3, "same_top_10": 3, "same_top_24": 3}
    assert [row["rotated"] for row in found["stages"] if row["stage"] == "fused"] == [True, False]


def test_an_unrotated_user_is_stored_with_the_models_own_vectors():
    text = "The front brake squeals in the rain."
    embedding = get_embedder().embed_passages([text])[0]
    cosines = {}
    for rotated in (True, False):
        with ThrowAwayUser(f"of a test, {rotated=}", rotated=rotated) as user, connect("r1_backup") as backup:
            user.call(index_document, user.user_id, DocumentDraft("d", "test", text))
            stored = backup.execute(
                "SELECT embedding::text FROM memory_chunks WHERE user_hash = %s", [user.user_hash]
            ).fetchone()[0]
            cosines[rotated] = sum(a * b for a, b in zip(json.loads(stored), embedding.tolist(), strict=True))
            assert user.call(search_legs, text)[0].distance == pytest.approx(0.0, abs=1e-3)
    assert abs(cosines[True]) < 0.5
    assert cosines[False] == pytest.approx(1.0, abs=1e-3)


def test_the_order_of_indexing_changes_no_ranking(collection, rows, capsys):
    straight, _ = evaluate(capsys, collection, "--json", "--rotation", "off")
    shuffled, _ = evaluate(capsys, collection, "--json", "--rotation", "off", "--shuffled")
    assert rows() == 0
    assert shuffled["chunks"] == straight["chunks"]
    assert [row["rankings_sha256"] for row in shuffled["stages"]] == [
        row["rankings_sha256"] for row in straight["stages"]
    ]


def test_what_a_killed_run_left_is_erased_by_the_next(collection, rows, capsys):
    killed = ThrowAwayUser("rotated=True")
    killed.call(index_document, killed.user_id, DocumentDraft("kettle", "evaluate", "left behind"))
    assert rows() > 0
    found, _ = evaluate(capsys, collection, "--limit-queries", "1", "--json")
    assert (found["chunks"], found["queries"]) == (5, 1)
    assert rows() == 0


def test_an_interrupted_run_cleans_up_and_says_so(collection, rows):
    corpus = "\n".join(json.dumps({"_id": str(n), "text": f"Note {n}: the kettle is on."}) for n in range(2_000))
    (collection / "corpus.jsonl").write_text(corpus)
    (collection / "qrels" / "test.tsv").write_text("1\t7\t1")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "evaluate", "--collection", str(collection)],
        cwd=settings.BASE_DIR, env={**os.environ, "DJANGO_SETTINGS_MODULE": "r1site.settings.test"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while rows() == 0:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    said = json.loads(out)
    assert said["interrupted"] is True
    assert said["done"].keys() == {f"indexing {collection.name}"}
    assert said["erased_rows"][0]["memory_tenants"] == 1
    assert "interrupted" in err and "Traceback" not in err
    assert rows() == 0


def test_one_evaluation_at_a_time(collection):
    with connect("r1_maint") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [Command.lock])
        with pytest.raises(CommandError, match="another run of this command") as refused:
            call_command("evaluate", "--collection", str(collection))
        assert refused.value.returncode == 3
        with pytest.raises(CommandError) as refused:
            call_command("evaluate", "--collection", "/nowhere")
        assert refused.value.returncode == 2


@pytest.mark.parametrize("arguments", [
    ["--collection", "/nowhere"],
    ["--limit-queries", "0"],
    ["--ages", "-1"],
    ["--ages", "nan"],
    ["--unanswerable", "/nowhere"],
])  # fmt: skip
def test_wrong_arguments_are_a_usage_error(collection, arguments):
    with pytest.raises(CommandError) as refused:
        call_command("evaluate", "--collection", str(collection), *arguments)
    assert refused.value.returncode == 2


def test_comparing_rotations_needs_rotation(collection, settings):
    settings.MEMORY_EMBEDDING_PROTECTION = "none"
    with pytest.raises(CommandError) as refused:
        call_command("evaluate", "--collection", str(collection), "--rotation", "both")
    assert refused.value.returncode == 2


def test_erasing_reaches_one_user_only(alice, bob):
    for person in (alice, bob):
        assert person.index("d", "The kettle is on.").status_code == 201
    erased = erase(alice.user_hash)
    for table in ("memory_chunks", *KEY_TABLES, "memory_tenants"):
        assert erased[table] == 1, table
    with connect("r1_backup") as backup:
        both = [alice.user_hash, bob.user_hash]
        left = [
            backup.execute(f"SELECT user_hash FROM {table} WHERE user_hash = ANY(%s)", [both])
            for table in (
                "memory_tenants",
                "memory_data_keys",
                "memory_search_keys",
                "memory_documents",
                "memory_chunks",
            )
        ]
        assert [cursor.fetchall() for cursor in left] == [[(bob.user_hash,)]] * 5


def test_a_large_collection_is_erased_in_batches_that_no_statement_timeout_ends(alice, monkeypatch):
    monkeypatch.setattr("memory.erasure.erase.BATCH_ROWS", 2)
    passages = [Slice(f"note {n}. ", n * 8, n * 8 + 8) for n in range(5)]
    vectors = np.random.default_rng(1).normal(size=(5, 384))
    index_memory_batch(connections["default"], alice.user_id, "notes", "evaluate", passages, vectors)

    deletes, execute = [], TenantTransaction.execute

    def counted(self, sql, params=()):
        cursor = execute(self, sql, params)
        if sql.startswith("DELETE FROM memory_chunks"):
            deletes.append(cursor)
        return cursor

    monkeypatch.setattr(TenantTransaction, "execute", counted)
    erased = erase(alice.user_hash)
    assert [cursor.rowcount for cursor in deletes] == [2, 2, 1]
    assert set(erased) == set(TENANT_TABLES) - set(APPEND_ONLY_TABLES)
    assert (erased["memory_chunks"], erased["memory_data_keys"], erased["memory_tenants"]) == (5, 1, 1)
    with connect("r1_backup") as backup:
        for table in TENANT_TABLES:
            left = backup.execute(f"SELECT count(*) FROM {table} WHERE user_hash = %s", [alice.user_hash])
            assert left.fetchone()[0] == 0, table


def test_decay_counts_where_ages_differ(collection, capsys, settings):
    settings.MEMORY_DECAY_WEIGHT = 1.0
    found, _ = evaluate(capsys, collection, "--ages", "3000", "--json")
    stages = {row["stage"]: row["rankings_sha256"] for row in found["stages"]}
    assert stages["fused"] != stages["all + decay"]
    assert found["ages_days"] == 3000
