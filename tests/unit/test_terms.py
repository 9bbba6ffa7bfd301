"""What two texts must share for a lexical match, and what of it is stored."""

import hashlib
import hmac
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.lexical.terms import (
    FREQUENCY_MAX,
    LANGUAGES,
    LENGTH_MAX,
    STOPWORDS_FOLDER,
    Blinder,
    blind,
    expected_collisions,
    terms,
)

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The dogs are running", {"dog": 1, "run": 1}),
        ("Dogs, dogs; DOGS! ﬁne", {"dog": 3, "fine": 1}),
        ("Anna's café naïve", {"anna": 1, "café": 1, "naïv": 1}),
        ("", {}),
        ("of the and", {}),
        ("... --- ___ !!!", {}),
    ],
)
def test_words_are_folded_stripped_of_stop_words_and_stemmed(text, found):
    assert terms(text) == found


@pytest.mark.parametrize(
    ("text", "whole", "parts"),
    [
        ("ERR_CONN_4711", "err_conn_4711", {"err", "conn", "4711"}),
        ("v2.1.3", "v2.1.3", {"v2", "1", "3"}),
        ("2026-01-31", "2026-01-31", {"2026", "01", "31"}),
        ("anna.berg@example.org", "anna.berg@example.org", {"anna", "berg", "exampl", "org"}),
        ("state-of-the-art", "state-of-the-art", {"state", "art"}),
        ("1,234.56", "1,234.56", {"234", "56"}),
        ("src/memory/rls.py", "src/memory/rls.py", {"src", "memori", "rls", "py"}),
        ("C++", "c++", {"c"}),
        ("issue#12", "issue#12", {"issu", "12"}),
    ],
)
def test_a_compound_counts_whole_and_by_its_parts(text, whole, parts):
    found = terms(f"See {text}, please.")
    assert found[whole] == 1
    assert parts <= found.keys()


def test_punctuation_at_the_end_of_a_sentence_belongs_to_no_compound():
    assert terms("It is ERR-7. Then") == terms("It is ERR-7 then")
    assert "pump,filter" not in terms("pump,filter")


def test_what_holds_a_digit_is_not_stemmed():
    assert terms("4711s windows95") == {"4711s": 1, "windows95": 1}


def test_chinese_japanese_and_korean_count_by_pairs_of_characters():
    assert terms("黒猫と東京") == {"黒猫": 1, "猫と": 1, "と東": 1, "東京": 1}
    assert terms("한국어") == {"한국": 1, "국어": 1}
    assert terms("猫") == {"猫": 1}
    assert terms("Python3入門") == {"python3": 1, "入門": 1}
    assert terms("東京タワー").keys() & terms("東京に行く").keys() == {"東京"}


def test_combining_marks_do_not_cut_a_word():
    assert terms("हिन्दी में", "none") == {"हिन्दी": 1, "में": 1}
    assert terms("cafe\u0301", "none") == terms("café", "none")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_of_the_setting_works(language):
    found = terms("Bibliotheken 2026 information", language)
    assert found["2026"] == 1
    assert len(found) == 3


def test_stemming_and_stop_words_follow_the_language():
    assert terms("die Häuser und das Haus", "german") == {"haus": 2}
    assert terms("die Häuser", "none") == {"die": 1, "häuser": 1}
    with pytest.raises(ValueError, match="klingon"):
        terms("x", "klingon")


def test_every_stop_word_list_belongs_to_a_language_and_is_folded_as_texts_are():
    lists = {path.stem: path.read_text("utf-8").split() for path in STOPWORDS_FOLDER.glob("*.txt")}
    assert {"english", "german", "french", "russian"} <= lists.keys() <= set(LANGUAGES)
    for language, words in lists.items():
        assert len(words) > 40
        plain = [word for word in words if word.isalpha()]
        assert terms(" ".join(plain), language) == {}, language


@given(st.text(max_size=300))
def test_any_text_has_terms_without_spaces_and_folding_it_first_changes_nothing(text):
    found = terms(text, "none")
    assert all(term and not any(character.isspace() for character in term) for term in found)
    assert terms(text.casefold(), "none") == terms(text.casefold().casefold(), "none")


@given(st.lists(st.sampled_from(["pump", "Filter", "4711", "a-b", "東京", "the"]), max_size=12))
def test_terms_of_two_texts_add_up(words):
    half = len(words) // 2
    apart = terms(" | ".join(words[:half])) + terms(" | ".join(words[half:]))
    assert terms(" | ".join(words)) == apart


def test_threads_stem_as_one_thread_does():
    text = " ".join(f"running{suffix} generations nationalities" for suffix in ("", "s", "ly", "er"))
    alone, others = terms(text), []
    threads = [threading.Thread(target=lambda: others.append([terms(text) for _ in range(50)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found == alone for batch in others for found in batch)
    assert len(others) == 4


# -- Blind


def test_an_id_is_the_first_32_bits_of_the_hmac_signed():
    digest = hmac.new(KEY, b"pump", hashlib.sha256).digest()
    assert blind(KEY, ["pump", "Grüße", "pump"])[0] == int.from_bytes(digest[:4], "big", signed=True)
    assert blind(KEY, ["pump", "Grüße", "pump"]) == [blind(KEY, [word])[0] for word in ("pump", "Grüße", "pump")]


def test_ids_never_change():
    """Frozen: stored rows are found by these."""
    assert blind(KEY, ["pump", "4711", "東京"]) == [1814909142, 1833285624, -828021127]


def test_another_key_gives_other_ids():
    words = [f"word{n}" for n in range(1000)]
    assert not set(blind(KEY, words)) & set(blind(KEY[::-1], words))


def test_a_chunk_is_stored_with_ascending_ids_and_its_whole_length():
    stored = Blinder(KEY).blind({"pump": 2, "filter": 1, "4711": 3})
    assert list(stored.ids) == sorted(blind(KEY, ["pump", "filter", "4711"]))
    assert dict(zip(stored.ids, stored.frequencies, strict=True))[blind(KEY, ["4711"])[0]] == 3
    assert stored.length == 6


def test_two_terms_of_one_id_count_as_one(monkeypatch):
    monkeypatch.setattr(Blinder, "id", lambda self, term: len(term))
    stored = Blinder(KEY).blind({"aa": 2, "bb": 3, "c": 1})
    assert (stored.ids, stored.frequencies, stored.length) == ((1, 2), (1, 5), 6)


def test_what_the_stored_form_cannot_hold_is_cut_to_what_it_can():
    stored = Blinder(KEY).blind({"a": 5000, "b": 5000})
    assert (stored.frequencies, stored.length) == ((FREQUENCY_MAX, FREQUENCY_MAX), LENGTH_MAX)


def test_the_expected_number_of_collisions_is_that_of_the_birthday_problem():
    assert expected_collisions(1) == 0
    assert expected_collisions(2) == 2**-32
    assert expected_collisions(100_000) == pytest.approx(1.164, rel=1e-3)
