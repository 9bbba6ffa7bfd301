"""A segment's postings, packed into bytes: what goes in comes out, at the bounds of every part of them."""

from __future__ import annotations

import random
from uuid import UUID

import pytest

from memory.embedding.spaces import default_space
from memory.lexical.lookup import LexicalQuery, Lookup
from memory.lexical.segments import SEGMENT_CHUNKS, add_terms, compact, flush
from memory.lexical.terms import FREQUENCY_MAX, LENGTH_MAX, BlindTerms
from memory.rls import tenant_transaction
from tests.db.lexicon import store

pytestmark = pytest.mark.django_db(transaction=True)

# Ids at the bounds of 32 bits, several of one block among them.
TERMS = (-(2**31), -256, -1, 0, 256, 512, 1000, 2**31 - 1)
FREQUENCIES = (1, 7, 8, 63, 64, 255, 256, FREQUENCY_MAX)
ROWS = "SELECT chunk_id, length, terms, frequencies FROM memory_lexical_chunks WHERE user_hash = %s ORDER BY chunk_id"


def made_up() -> list[tuple[UUID, BlindTerms]]:
    """As many chunks as a segment holds: numbers up to 1,023, with frequencies and lengths up to their greatest."""
    drawn, chunks = random.Random(5), []
    for number in range(SEGMENT_CHUNKS):
        ids = sorted(drawn.sample(TERMS, drawn.randrange(1, len(TERMS))))
        frequencies = tuple(drawn.choice(FREQUENCIES) for _ in ids)
        chunks.append((UUID(int=number), BlindTerms(tuple(ids), frequencies, drawn.choice((1, 255, 256, LENGTH_MAX)))))
    return chunks


def test_what_is_flushed_is_found_as_it_was_and_comes_back_as_it_was(alice):
    store(alice, "d", ["so that there is a user"])
    space, chunks = default_space() + 1, made_up()
    with tenant_transaction(alice.user_hash, write=True) as tx:
        add_terms(tx, space, chunks)
        rows = tx.execute(ROWS, [alice.user_hash]).fetchall()
        assert flush(tx, space) == 1
        hits = Lookup(tx, space, LexicalQuery(TERMS, (1,) * len(TERMS))).hits()
        found = zip(hits.numbers, hits.positions, hits.frequencies, hits.lengths, strict=True)
        expected = [
            (number, TERMS.index(term), frequency, of.length)
            for number, (_, of) in enumerate(chunks)
            for term, frequency in zip(of.ids, of.frequencies, strict=True)
        ]
        assert sorted(tuple(map(int, occurrence)) for occurrence in found) == sorted(expected)
        compact(tx, space, 0)
        assert tx.execute(ROWS, [alice.user_hash]).fetchall() == rows
