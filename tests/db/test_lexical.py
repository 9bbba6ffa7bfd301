"""The lexical leg on real PostgreSQL: what BM25 over the plaintext would say, whatever happened on the way there."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from memory.embedding.spaces import default_space
from memory.embedding.vectors import half_vectors
from memory.indexing import removal
from memory.indexing import store as storing
from memory.indexing.seal import DocumentDraft, seal_document
from memory.indexing.slices import Slice
from memory.lexical import lookup
from memory.lexical import segments as term_index
from memory.lexical.bm25 import QUERY_TERMS_MAX, lexical_query
from memory.lexical.segments import compact
from memory.lexical.terms import Blinder, blind
from memory.retrieval.filters import Filters
from memory.retrieval.plan import SEARCHED_TABLES, explain_candidates, foreign_row_findings
from memory.rls import tenant_transaction
from memory.sealing.keyring import existing_profile
from memory.sealing.protection import protect
from memory.sealing.user_keys import Purpose
from r1site.embedded.data_folder import SUPERUSER
from tests.db.lexicon import WEIGHTS, WORDS, in_order, lexical_scores, plain_bm25, random_texts, remove, search, store
from tests.db.memories import flush_terms, unit_vector
from tests.db.server import connect
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

LEXICAL_TABLES = [table for table in SEARCHED_TABLES if table != "memory_chunks"]
SQL_FOLDER = Path(term_index.__file__).parents[1] / "migrations" / "sql"
QUESTIONS = ["word0 word3 word17", "word40", "word299 word1 word1", "Word2, unknownword and WORD5!"]


@pytest.fixture
def small_segments(monkeypatch):
    """Segments of 8 chunks that are compacted below 4, so that a few documents go through every form."""
    monkeypatch.setattr(term_index, "SEGMENT_CHUNKS", 8)
    monkeypatch.setattr(storing, "SEGMENT_CHUNKS", 8)
    monkeypatch.setattr(term_index, "SEGMENT_LIVE_MIN", 4)


def store_all(person: Person, texts: dict[str, list[str]]) -> None:
    for doc_id, passages in texts.items():
        store(person, doc_id, passages)


def assert_as_plain(person: Person, texts: dict[str, list[str]], name=str) -> None:
    for question in QUESTIONS:
        found, expected = lexical_scores(person, question), plain_bm25(texts, question, name)
        assert found == pytest.approx(expected, abs=1e-6)
        assert in_order(found) == in_order(expected) != []


def rows_of(person: Person) -> dict[str, int]:
    with connect("r1_backup") as backup:
        count = "SELECT count(*) FROM {} WHERE user_hash = %s"
        return {t: backup.execute(count.format(t), [person.user_hash]).fetchone()[0] for t in LEXICAL_TABLES}


def live_chunks(person: Person) -> list:
    """The ids of all chunks that the lexical tables hold alive, however they hold them."""
    with connect("r1_backup") as backup:
        found = backup.execute(
            "SELECT chunk_id FROM memory_lexical_chunks WHERE user_hash = %(h)s UNION ALL"
            " SELECT c.id FROM memory_lexical_segments s, unnest(s.chunk_ids) WITH ORDINALITY c (id, number)"
            " WHERE user_hash = %(h)s AND get_bit(s.live, number - 1) = 1",
            {"h": person.user_hash},
        )
        return sorted(chunk_id for (chunk_id,) in found)


def stored_chunks(person: Person) -> list:
    with connect("r1_backup") as backup:
        found = backup.execute("SELECT id FROM memory_chunks WHERE user_hash = %s", [person.user_hash])
        return sorted(chunk_id for (chunk_id,) in found)


# -- The score


def test_terms_in_the_memtable_in_segments_and_compacted_score_as_bm25_over_the_plaintext_and_all_alike(alice):
    texts = random_texts(1, 30)
    store_all(alice, texts)
    assert_as_plain(alice, texts)
    in_memtable = [lexical_scores(alice, question) for question in QUESTIONS]
    assert flush_terms(alice, chunks=25) >= 2
    assert rows_of(alice)["memory_lexical_chunks"] < 25
    in_segments = [lexical_scores(alice, question) for question in QUESTIONS]
    assert in_segments == in_memtable  # to the last bit
    with tenant_transaction(alice.user_hash, write=True) as tx:
        compact(tx, default_space(), 0)
    assert [lexical_scores(alice, question) for question in QUESTIONS] == in_memtable
    assert live_chunks(alice) == stored_chunks(alice)


def test_terms_whose_ids_collide_score_as_one_term_and_nothing_else_changes(alice, monkeypatch):
    monkeypatch.setattr(Blinder, "id", lambda self, term: sum(term.encode()) % 40 - 20)
    texts = random_texts(2, 20)
    store_all(alice, texts)
    flush_terms(alice, chunks=15)
    assert_as_plain(alice, texts, name=lambda term: sum(term.encode()) % 40)


def test_a_segment_of_full_size_is_made_by_the_write_that_fills_it_and_scores_alike(alice):
    chance = random.Random(12)
    texts = {f"d{n}": [" ".join(chance.choices(WORDS, WEIGHTS, k=20)) for _ in range(200)] for n in range(6)}
    for number, (doc_id, passages) in enumerate(texts.items()):
        assert rows_of(alice)["memory_lexical_segments"] == 0, number
        store(alice, doc_id, passages)
    assert rows_of(alice) == {
        "memory_lexical_chunks": 1200 - 1024, "memory_lexical_segments": 1, "memory_lexical_blocks": ANY
    }  # fmt: skip
    remove(alice, "d1")
    del texts["d1"]
    assert rows_of(alice)["memory_lexical_segments"] == 1
    for question in ("word2 word50", "word250 word120 word5"):
        expected = plain_bm25(texts, question)
        scores = {(c.doc_id, c.chunk_index): c.bm25 for c in search(alice, question, 50)}
        assert scores == pytest.approx({key: expected[key] for key in scores}, abs=1e-6)
        assert in_order(scores)[:50] == in_order(expected)[:50]
    remove(alice, "d0")
    remove(alice, "d2")
    remove(alice, "d3")
    assert rows_of(alice) == {
        "memory_lexical_chunks": 400, "memory_lexical_segments": 0, "memory_lexical_blocks": 0
    }  # fmt: skip
    assert live_chunks(alice) == stored_chunks(alice)
    left = {doc_id: texts[doc_id] for doc_id in ("d4", "d5")}
    expected = plain_bm25(left, "word250 word120")
    scores = {(c.doc_id, c.chunk_index): c.bm25 for c in search(alice, "word250 word120", 100)}
    assert scores == pytest.approx({key: expected[key] for key in scores}, abs=1e-6)


def test_each_leg_gives_its_best_and_every_row_has_both_scores(alice):
    texts = random_texts(3, 60)
    store_all(alice, texts)
    flush_terms(alice, chunks=40)
    question, limit = "word0 word7 word30", 5
    expected = plain_bm25(texts, question)
    found = search(alice, question, limit)
    scores = {(c.doc_id, c.chunk_index): c.bm25 for c in found}
    assert in_order(scores)[:limit] == in_order(expected)[:limit]
    assert limit < len(found) <= 2 * limit
    assert scores == pytest.approx({key: expected[key] for key in scores}, abs=1e-6)
    assert all(0 < c.distance < 2 for c in found)
    nearest = [c.distance for c in found][:limit]
    assert nearest == sorted(c.distance for c in found)[:limit]


def test_what_is_left_out_of_a_long_search_could_not_have_been_among_the_best(alice):
    """Rare words with frequent ones, so that most chunks are passed over: hundreds, in memtable and two segments."""
    chance = random.Random(13)
    texts = {f"d{n}": [" ".join(chance.choices(WORDS, WEIGHTS, k=12)) for _ in range(150)] for n in range(6)}
    store_all(alice, texts)
    assert flush_terms(alice, chunks=400) == 2
    questions = [" ".join(chance.choices(WORDS, k=2) + chance.choices(WORDS[:8], k=3)) for _ in range(12)]
    for question in [*questions, "word0 word1 word2", "word250", "word250 word0 word0 word0 word0 word0 word0"]:
        expected = plain_bm25(texts, question)
        for limit in (1, 5, 24):
            scores = {(c.doc_id, c.chunk_index): c.bm25 for c in search(alice, question, limit)}
            assert in_order(scores)[:limit] == in_order(expected)[:limit]
            assert scores == pytest.approx({key: expected[key] for key in scores}, abs=1e-6)


def test_where_too_many_chunks_hold_a_questions_terms_the_rarest_of_them_count(alice, monkeypatch):
    texts = {f"d{n}": [f"pump number{n % 4}", "pump and boiler"] for n in range(8)}
    store_all(alice, texts)
    assert flush_terms(alice, chunks=16) == 1
    question = "pump boiler number3"
    whole = lexical_scores(alice, question)
    assert whole == pytest.approx(plain_bm25(texts, question), abs=1e-6)
    # 2 chunks hold the one, 8 the other; the third is in all 16, and its lists stay unread.
    monkeypatch.setattr(lookup, "POSTINGS_MAX", 2 + 8)
    assert lexical_scores(alice, question) == pytest.approx(plain_bm25(texts, "boiler number3"), abs=1e-6)
    monkeypatch.setattr(lookup, "POSTINGS_MAX", 1)
    assert set(lexical_scores(alice, question).values()) == {0.0}


def test_equal_scores_go_by_document_and_place(alice):
    for doc_id in ("m", "z", "a", "k"):
        store(alice, doc_id, ["heat pump serviced", "heat pump serviced"])
    flush_terms(alice, chunks=3)
    best = {(c.doc_id, c.chunk_index) for c in search(alice, "pump", 3) if c.bm25 > 0}
    lexical_only = sorted(lexical_scores(alice, "pump"))[:3]
    assert set(lexical_only) <= best
    assert len({c.bm25 for c in search(alice, "pump")}) == 1


def test_filters_narrow_both_legs_and_change_no_score(alice):
    texts = random_texts(4, 40)
    for number, (doc_id, passages) in enumerate(texts.items()):
        store(alice, doc_id, passages, source="mail" if number % 3 else "chat")
    flush_terms(alice, chunks=30)
    question = "word1 word9"
    expected = {key: score for key, score in plain_bm25(texts, question).items() if int(key[0][1:]) % 3 == 0}
    found = search(alice, question, 4, Filters(sources=("chat",)))
    assert {c.source for c in found} == {"chat"}
    scores = {(c.doc_id, c.chunk_index): c.bm25 for c in found}
    assert in_order(scores)[:4] == in_order(expected)[:4]
    only = search(alice, question, 4, Filters(doc_ids=("d007",)))
    assert {c.doc_id for c in only} == {"d007"}


def test_a_quarantined_chunk_is_in_neither_leg_and_makes_room(alice):
    texts = {f"d{number}": [f"heat pump {'filler ' * number}"] for number in range(8)}
    store_all(alice, texts)
    flush_terms(alice, chunks=5)
    with connect(SUPERUSER) as superuser:
        superuser.execute(
            "UPDATE memory_chunks SET quarantined_at = now() WHERE user_hash = %s AND doc_id IN ('d0', 'd1')",
            [alice.user_hash],
        )
    found = search(alice, "pump", 3)
    assert {"d2", "d3", "d4"} <= {c.doc_id for c in found}
    assert not {"d0", "d1"} & {c.doc_id for c in found}


def test_a_question_of_stop_words_alone_leaves_the_vector_leg(alice):
    store_all(alice, random_texts(5, 5))
    found = search(alice, "the of and", 3)
    assert len(found) == 3
    assert {c.bm25 for c in found} == {None}


def test_a_memory_of_stop_words_alone_is_searched_by_its_vectors(alice):
    store(alice, "said", ["no, not at all", "what was that"])
    assert lexical_scores(alice, "heat pump") == {("said", 0): 0.0, ("said", 1): 0.0}


def test_of_a_very_long_question_the_first_terms_count(alice):
    store(alice, "d", ["word0 word1"])
    key = existing_profile(alice.user_hash).search_key
    question = " ".join(f"term{number}" for number in range(2 * QUERY_TERMS_MAX))
    asked = lexical_query(key, question + " term0", "english")
    assert len(asked.ids) == QUERY_TERMS_MAX
    assert asked.ids[0] == lexical_query(key, "term0", "english").ids[0]
    assert asked.counts[:2] == (2, 1)
    assert search(alice, question + " word0")[0].bm25 == 0


def test_stems_are_those_of_the_deployments_language_or_of_the_documents_own(alice, settings):
    settings.MEMORY_LEXICAL_LANGUAGE = "german"
    store(alice, "d", ["Die Häuser am Hafen"])
    assert lexical_scores(alice, "Haus")[("d", 0)] > 0
    assert lexical_scores(alice, "die am")[("d", 0)] is None
    profile, draft = existing_profile(alice.user_hash), DocumentDraft("e", "notes", "running")
    piece, vector = Slice("running", 0, 7), unit_vector()[None, :]
    for language, stem in (("english", "run"), ("none", "running"), (None, "running")):
        [chunk] = seal_document(profile, draft, [piece], vector, language=language).chunks
        assert list(chunk.terms.ids) == blind(profile.search_key.subkey(Purpose.WORDS), [stem])


# -- What must not matter


def test_other_users_the_order_of_writing_and_earlier_deletes_change_nothing(alice, bob, small_segments):
    texts, chance = random_texts(6, 24), random.Random(6)
    store_all(alice, texts)
    before = [in_order(lexical_scores(alice, question)) for question in QUESTIONS]
    to_go = set()
    for doc_id in chance.sample(sorted(texts), len(texts)):
        store(bob, doc_id, ["word0 word3 something else that goes again"] * chance.randint(1, 3))
        store(bob, f"gone-{doc_id}", texts[doc_id])
        to_go.add(f"gone-{doc_id}")
        store(bob, doc_id, texts[doc_id])
        if chance.random() < 0.7:
            remove(bob, chance.choice(sorted(to_go)))
            to_go = {other for other in to_go if (other, 0) in lexical_scores(bob, "word0")}
    for doc_id in to_go:
        remove(bob, doc_id)
    assert [lexical_scores(bob, q) for q in QUESTIONS] == [lexical_scores(alice, q) for q in QUESTIONS]
    assert [in_order(lexical_scores(alice, question)) for question in QUESTIONS] == before
    assert rows_of(bob)["memory_lexical_segments"] > 0
    assert_as_plain(bob, texts)


def test_terms_go_with_their_chunk_from_either_form(alice, small_segments):
    texts = random_texts(7, 20)
    store_all(alice, texts)
    assert rows_of(alice)["memory_lexical_segments"] > 1
    for doc_id in sorted(texts):
        if int(doc_id[1:]) % 2:
            texts[doc_id] = ["word0 a new version"]
            store(alice, doc_id, texts[doc_id])
        else:
            del texts[doc_id]
            remove(alice, doc_id)
        assert live_chunks(alice) == stored_chunks(alice)
        if len(texts) > 12:
            assert_as_plain(alice, texts)
    for doc_id in texts:
        remove(alice, doc_id)
    assert set(rows_of(alice).values()) == {0}


def index_entries_read(tx, table: str) -> int:
    """How many entries of the indexes of `table`'s partitions this transaction has read so far, dead ones included."""
    found = tx.execute(
        "SELECT sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::bigint FROM pg_inherits h"
        " JOIN pg_index i ON i.indrelid = h.inhrelid WHERE h.inhparent = %s::regclass",
        [table],
    )
    return found.fetchone()[0]


def test_in_one_transaction_the_later_segments_cost_no_more_than_the_first(alice, small_segments):
    texts, read = random_texts(14, 80), [0]
    with tenant_transaction(alice.user_hash, write=True) as tx:
        for doc_id, passages in texts.items():
            store(alice, doc_id, passages)
            read.append(index_entries_read(tx, "memory_lexical_chunks"))
    assert rows_of(alice)["memory_lexical_segments"] > 15
    half = len(texts) // 2
    assert 0 < read[-1] - read[half] < 1.5 * read[half]
    assert_as_plain(alice, texts)


def test_chunks_whose_writer_waited_while_later_ones_were_flushed_are_found_and_flushed_too(alice, small_segments):
    store(alice, "first", ["word0 word1"])
    profile, texts = existing_profile(alice.user_hash), {"first": ["word0 word1"], "late": ["word3 word17", "word40"]}
    pieces = [Slice("word3 word17", 0, 12), Slice("word40", 12, 18)]
    vectors = np.stack([unit_vector() for _ in pieces])
    late = seal_document(profile, DocumentDraft("late", "notes", "word3 word17word40"), pieces, vectors)
    for number in range(12):
        texts[f"d{number}"] = [f"word0 word2 word3 filler{number}"] * 2
        store(alice, f"d{number}", texts[f"d{number}"])
    assert rows_of(alice)["memory_lexical_segments"] > 1
    with tenant_transaction(alice.user_hash, write=True) as tx:
        storing.store_documents(tx, [late])
    assert_as_plain(alice, texts)
    # With the newest segment goes what it knew of them.
    for number in range(11, 5, -1):
        remove(alice, f"d{number}")
        del texts[f"d{number}"]
        assert_as_plain(alice, texts)
    for number in range(12, 18):
        texts[f"d{number}"] = [f"word1 word40 filler{number}"] * 2
        store(alice, f"d{number}", texts[f"d{number}"])
        assert_as_plain(alice, texts)
    assert rows_of(alice)["memory_lexical_chunks"] < 8
    assert live_chunks(alice) == stored_chunks(alice)


def test_a_write_that_fails_leaves_the_terms_as_they_were(alice, monkeypatch):
    store(alice, "d", ["heat pump"])
    before = live_chunks(alice)

    def fail(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(removal, "remove_terms", fail)
    with pytest.raises(RuntimeError):
        store(alice, "d", ["something else"])
    assert live_chunks(alice) == before == stored_chunks(alice)
    assert lexical_scores(alice, "pump")[("d", 0)] > 0


def test_frequencies_and_lengths_stay_right_while_many_write_and_delete_at_once(alice, small_segments):
    versions = [random_texts(seed, 30) for seed in (8, 9)]
    store(alice, "first", ["word0 word1"])

    def work(number: int) -> None:
        """Each thread has documents of its own, so that what must be left is known; segments are all theirs."""
        mine = [doc_id for doc_id in versions[0] if int(doc_id[1:]) % 4 == number]
        for version in versions:
            for doc_id in mine:
                store(alice, doc_id, version[doc_id])
                assert all(score >= 0 for score in lexical_scores(alice, "word0 word3").values())
        for doc_id in mine[::3]:
            remove(alice, doc_id)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, number) for number in range(4)]:
            done.result()
    gone = {doc_id for n in range(4) for doc_id in [d for d in versions[0] if int(d[1:]) % 4 == n][::3]}
    texts = {doc_id: passages for doc_id, passages in versions[1].items() if doc_id not in gone}
    assert live_chunks(alice) == stored_chunks(alice)
    assert rows_of(alice)["memory_lexical_segments"] > 0
    assert_as_plain(alice, texts | {"first": ["word0 word1"]})


def test_two_writers_of_one_document_leave_the_terms_of_one_version(alice, small_segments):
    store_all(alice, random_texts(10, 10))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store(alice, "contested", [f"contested version{n}"] * 3), range(12)))
    assert live_chunks(alice) == stored_chunks(alice)
    scores = lexical_scores(alice, "contested")
    assert sum(score > 0 for score in scores.values()) == 3


# -- Off


def test_switched_off_no_terms_are_written_and_rows_without_terms_score_nothing(alice, settings):
    settings.MEMORY_LEXICAL = False
    store(alice, "off", ["heat pump"])
    assert set(rows_of(alice).values()) == {0}
    settings.MEMORY_LEXICAL = True
    assert lexical_scores(alice, "pump") == {("off", 0): 0.0}
    store(alice, "on", ["heat pump"])
    scores = lexical_scores(alice, "pump")
    assert scores[("off", 0)] == 0.0 < scores[("on", 0)]
    settings.MEMORY_LEXICAL = False
    store(alice, "on", ["heat pump"])
    assert set(rows_of(alice).values()) == {0}


# -- Isolation


def test_the_plan_visits_this_users_rows_only_in_every_table(alice, bob):
    for person in (alice, bob):
        store_all(person, random_texts(11, 12))
        flush_terms(person, chunks=8)
    key, limit = existing_profile(alice.user_hash).search_key, 5
    searchable = half_vectors(protect(key, unit_vector()[None, :]))[0]
    plan, owned = explain_candidates(alice.user_hash, default_space(), searchable, limit)
    assert set(owned) == set(SEARCHED_TABLES)
    assert all(plan.scans(table) for table in SEARCHED_TABLES)
    assert foreign_row_findings(plan, alice.user_hash, owned) == []
    elsewhere = foreign_row_findings(plan, bob.user_hash, owned)
    assert all(any(table in finding for finding in elsewhere) for table in SEARCHED_TABLES)
    assert foreign_row_findings(plan, alice.user_hash, dict.fromkeys(owned, 0))


# -- The migration


def test_the_migration_goes_back_and_comes_again_as_it_was(alice):
    """In one transaction that is rolled back: DDL of PostgreSQL is transactional."""
    store(alice, "d", ["heat pump"])
    catalogue = """
        SELECT c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole::text,
               c.relacl::text, c.reloptions,
               (SELECT array_agg(polname || polcmd::text || coalesce(pg_get_expr(polqual, polrelid), '')
                       || coalesce(pg_get_expr(polwithcheck, polrelid), '') ORDER BY polname)
                FROM pg_policy WHERE polrelid = c.oid),
               (SELECT array_agg(pg_get_constraintdef(oid) ORDER BY conname) FROM pg_constraint WHERE conrelid = c.oid)
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname LIKE 'memory\\_%' ORDER BY 1"""

    def run(connection, *files: str) -> None:
        connection.execute("SET LOCAL ROLE r1_owner")
        for file in files:
            connection.execute((SQL_FOLDER / file).read_text())
        connection.execute("RESET ROLE")

    with connect(SUPERUSER) as superuser, superuser.transaction(force_rollback=True):
        chunks = "SELECT count(*), md5(string_agg(c::text, '' ORDER BY id)) FROM memory_chunks c WHERE user_hash = %s"
        before, rows = superuser.execute(catalogue).fetchall(), superuser.execute(chunks, [alice.user_hash]).fetchone()
        assert rows[0] == 1
        # Isolation is put on all tenant tables together, in a migration above this one.
        above = ("0017_own_indexes", "0025_partition_reads", "0026_packed_postings")
        run(superuser, *(f"{name}.down.sql" for name in (*above[::-1], "0011_isolation", "0007_lexical")))
        without = superuser.execute(catalogue).fetchall()
        assert {row[0] for row in before} - {row[0] for row in without} >= set(LEXICAL_TABLES)
        assert superuser.execute(chunks, [alice.user_hash]).fetchone() == rows
        run(superuser, *(f"{name}.up.sql" for name in ("0007_lexical", "0011_isolation", *above)))
        assert superuser.execute(catalogue).fetchall() == before
        assert superuser.execute("SELECT count(*) FROM memory_lexical_chunks").fetchone() == (0,)
