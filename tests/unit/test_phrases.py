"""Quoted phrases in a question."""

import pytest

from memory.retrieval.phrases import PHRASES_MAX, holds_phrases, quoted_phrases


@pytest.mark.parametrize(
    ("query", "phrases"),
    [
        ("no quotes at all", []),
        ('who said "Heat  Pump"?', ["heat pump"]),
        ('"one" and "two words"', ["one", "two words"]),
        ("“curly” „deutsch“ «français»", ["curly", "deutsch", "français"]),
        ('an open " quote', []),
        ('empty "" and " "', []),
        ("it's the engineers' pump", []),
    ],
)
def test_the_phrases_of_a_question(query, phrases):
    assert sorted(quoted_phrases(query)) == sorted(phrases)


def test_case_and_white_space_do_not_matter_and_every_phrase_must_be_there():
    text = "The HEAT\n  pump\tin the Cellar."
    assert holds_phrases(text, ["heat pump"])
    assert holds_phrases(text, ["heat pump", "the cellar"])
    assert not holds_phrases(text, ["heat pump", "the attic"])
    assert not holds_phrases(text, ["pump heat"])
    assert holds_phrases(text, [])


def test_a_phrase_counts_once_and_the_first_eight_count():
    assert quoted_phrases('"Heat Pump" "heat  pump" "cellar"') == ["heat pump", "cellar"]
    many = [f"phrase {number}" for number in range(PHRASES_MAX + 3)]
    assert quoted_phrases(" ".join(f'"{phrase}"' for phrase in [*many, *many])) == many[:PHRASES_MAX]
