"""What the model reads: long words cut, offsets kept."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.embedding.model_text import MAX_WORD_CHARS, breakable

# Characters that matter to a tokenizer's idea of a word, each easily repeated.
ODD = ["x", "7", " ", "\n", "\u3000", "-", "。", "é", "e\u0301", "한", "가", "ᾂ", "ß", "中", "か", "ภ", "ี"] + [
    "\u0301",
    "\u200d",
    "👩\u200d👧",
    "🏽",
    "א",
    "ش",
    "\x00",
    "\x1c",
    "\ufffd",
    "\u0378",
    "_",
    "İ",
]
odd_texts = st.lists(st.tuples(st.sampled_from(ODD), st.integers(1, 130)), max_size=12).map(
    lambda runs: "".join(piece * times for piece, times in runs)
)


def pieces(text: str) -> list[str]:
    _, cuts = breakable(text)
    edges = [0, *cuts.positions, len(text)]
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def test_ordinary_text_is_returned_itself():
    text = "A sentence with a https://example.org/some/path?query=and-more#fragment, twice. " * 50
    model_text, cuts = breakable(text)
    assert model_text is text
    assert len(cuts) == 0


def test_a_million_letters_become_words_of_one_hundred():
    model_text, cuts = breakable("x" * 1_000_000)
    assert {len(word) for word in model_text.split(" ")} == {MAX_WORD_CHARS}
    assert len(cuts) == 9_999


def test_hangul_is_counted_as_the_letters_it_decomposes_into():
    model_text, _ = breakable("한" * 200)
    words = model_text.split(" ")
    assert all(len(unicodedata.normalize("NFD", word)) <= MAX_WORD_CHARS for word in words)
    assert all(len(word) == 33 for word in words[:-1])


@pytest.mark.parametrize("text", ["中" * 500, "a-" * 500, "。あ" * 500], ids=["ideographs", "punctuated", "kana"])
def test_what_the_tokenizer_parts_anyway_is_not_cut(text):
    assert breakable(text)[0] is text


def test_a_mark_stays_with_its_letter_and_a_joined_emoji_in_one_piece():
    assert not any(unicodedata.category(piece[0])[0] == "M" for piece in pieces("e\u0301" * 300))
    assert all(piece.count("👩") == piece.count("👧") for piece in pieces("👩\u200d👧" * 300))


def test_lone_surrogates_can_be_encoded_and_keep_their_place():
    model_text, cuts = breakable("a\ud800b")
    assert model_text == "a\ufffdb"
    assert len(cuts) == 0


@settings(deadline=None, max_examples=300)
@given(odd_texts)
def test_offsets_map_back_to_the_same_character(text):
    model_text, cuts = breakable(text)
    assert len(model_text) == len(text) + len(cuts)
    mapped = cuts.to_text(np.arange(len(model_text)))
    spaces = {position + n for n, position in enumerate(cuts.positions)}
    for offset, character in enumerate(model_text):
        if offset in spaces:
            assert character == " "
        else:
            assert text[mapped[offset]] == character


@settings(deadline=None, max_examples=300)
@given(odd_texts, st.data())
def test_a_slice_between_cuts_is_cut_at_the_same_places(text, data):
    _, cuts = breakable(text)
    edges = [0, *cuts.positions, len(text)]
    first = data.draw(st.integers(0, len(edges) - 1))
    last = data.draw(st.integers(first, len(edges) - 1))
    start, end = edges[first], edges[last]
    _, again = breakable(text[start:end])
    assert [start + p for p in again.positions] == [p for p in cuts.positions if start < p < end]


@settings(deadline=None, max_examples=300)
@given(odd_texts)
def test_no_word_passes_the_limit_of_wordpiece(text):
    from tokenizers import normalizers, pre_tokenizers

    model_text, _ = breakable(text)
    read = normalizers.BertNormalizer(lowercase=True).normalize_str(model_text)
    words = [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(read)]
    assert all(len(word) <= MAX_WORD_CHARS for word in words)
