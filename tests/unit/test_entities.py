"""Entities: a mention is its name and nothing around it; mentions of one thing are one entity."""

import time

import pytest

from memory.errors import Overloaded
from memory.language.entities import Mention, find_mentions, merge, recognizer


class Fixed:
    """A recogniser that finds given names wherever they stand, as a model would mark them."""

    backend = "fixed"

    def __init__(self, *names: str):
        self._names = names

    def recognize(self, texts, *, deadline=None):
        return [
            [
                Mention(name, "ORG", at, at + len(name))
                for name in self._names
                for at in range(len(text))
                if text.startswith(name, at)
            ]
            for text in texts
        ]


@pytest.mark.parametrize(
    ("marked", "name"),
    [
        ("the Berlin office", "Berlin office"), ("Berlin's", "Berlin"), ("James’", "James"), ("the U.S.'s", "U.S."),
        ("Google Inc.", "Google Inc."), ("$3.5 million", "$3.5 million"), ("'Anna'", "Anna"), ("(Anna)", "Anna"),
        ("C++", "C++"), ("Ltd,", "Ltd"), ("Amazon", "Amazon"), ("The Hague", "Hague"),
    ],
)  # fmt: skip
def test_a_mention_is_the_name_itself(marked, name):
    text = f"We saw {marked} again."
    (mention,) = find_mentions(Fixed(marked), text)
    assert (mention.text, text[mention.start : mention.end]) == (name, name)


@pytest.mark.parametrize("marked", ["the ", "«»", " "])
def test_a_mention_without_a_name_is_none(marked):
    assert find_mentions(Fixed(marked), f"x {marked} y") == []


def test_case_spacing_and_compatibility_forms_are_one_entity_under_its_commonest_form():
    forms = ["Acme Corp", "ACME CORP", "Acme\n Corp", "\uff21cme Corp", "Acme Corp"]
    entities = merge(
        [Mention(form, "ORG", at, at) for at, form in enumerate(forms)]
        + [Mention("Acme Corp", "PERSON", 9, 9), Mention("Other", "ORG", 10, 10)]
    )
    assert [(e.text, e.label, len(e.mentions)) for e in entities] == [
        ("Acme Corp", "ORG", 5), ("Acme Corp", "PERSON", 1), ("Other", "ORG", 1),
    ]  # fmt: skip


def test_a_long_text_is_read_in_passages_with_offsets_of_the_whole():
    text = "Tim Cook spoke to the staff in Berlin about the year.\n" * 300
    mentions = find_mentions(recognizer(), text)
    assert all(text[mention.start : mention.end] == mention.text for mention in mentions)
    assert max(mention.start for mention in mentions) > len(text) - 60
    assert [mention.start for mention in mentions] == sorted(mention.start for mention in mentions)


def test_what_takes_too_long_is_refused():
    with pytest.raises(Overloaded):
        find_mentions(recognizer(), "Tim Cook was in Berlin. " * 2_000, deadline=time.monotonic() - 1)
