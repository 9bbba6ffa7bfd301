"""What may be quoted as a sentence: no heading, no table of contents, no code."""

import pytest

from memory.language.prose import Prose


def quotable(text: str) -> list[str]:
    """The lines of `text` that are prose."""
    prose, at, found = Prose(text), 0, []
    for line in text.split("\n"):
        if line.strip() and prose.holds(at, at + len(line)):
            found.append(line)
        at += len(line) + 1
    return found


@pytest.mark.parametrize("text", [
    "# Measured",
    "## What was measured ##",
    "Measured\n========",
    "```python\nprint('how often')\nfor x in y:\n    z\n```",
    "```\nhow often\n```",
    "```sh\ncut off here by the passage's end",
    "~~~\nanything\n~~~",
    "1. Introduction ........ 3\n2. The filter . . . . . . 17",
    "3.1 The heat pump 12\n3.2 The filter 14",
    "- [The filter](#the-filter)\n- [The pump](pump.md)",
    '{"message": "How often is the filter changed?", "top_k": 3}',
    "def changed(filter):",
    "filter_age_days = today - changed_at",
    "from memory import limits",
    "import json",
    "SELECT changed_at FROM filters WHERE id = 1",
    "const filter = new Filter();",
    "<div class='filter'>How often</div>",
    "$ make filter",
    "|---|---|",
    "---",
])  # fmt: skip
def test_this_is_no_prose(text):
    assert quotable(text) == []


@pytest.mark.parametrize("text", [
    "Its filter is changed every six months.",
    "from Berlin",
    "going to Miami tomorrow lol",
    "[shares a photo of a dog]",
    "$5 is too much",
    "C++ is what she writes",
    "Ingredients (for two):",
    "He came late;",
    "#1 on my list is the pear tree",
    "Let me know, select the table from the list.",
    "- changed the filter\n- swept the floor",
    "| filter | every six months |",
    "I am 7\nShe is 9",
    "Milk\n\nEggs\n\nFlour",
])  # fmt: skip
def test_this_is_prose_though_it_looks_a_little_like_something_else(text):
    assert quotable(text) == [line for line in text.split("\n") if line.strip()]


def test_a_short_line_above_a_paragraph_is_a_heading_and_the_paragraph_is_not():
    assert quotable("Measured\n\nIts filter is changed every six months.") == [
        "Its filter is changed every six months."
    ]
    assert quotable("hi there\nhow are you?") == ["hi there", "how are you?"]


def test_a_slice_that_touches_what_is_no_prose_is_none():
    text = "# Filter\nChange it."
    assert not Prose(text).holds(0, len(text))
    assert Prose(text).holds(9, len(text))


def test_very_long_lines_cost_little():
    assert len(quotable("=" * 50_000 + "x\n" + "a. " * 50_000 + "\n" + "` " * 50_000)) == 3
