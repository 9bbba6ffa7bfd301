"""Sentences: exact slices that leave nothing out, whatever the text."""

import os
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import ModelUnavailable, Overloaded
from memory.language import sentences
from memory.language.pipeline import (
    RUN_MAX_CHARS,
    entity_pipeline,
    pipeline_name,
    readable,
    sentence_pipeline,
    warm_language,
)
from memory.language.sentences import SENTENCE_MAX_CHARS, WINDOW_CHARS, split_sentences


def texts(text: str) -> list[str]:
    return [sentence.text for sentence in split_sentences(text)]


@pytest.fixture
def clock():
    """`clock(work, best_of=n)`: the processor seconds of the fastest of n runs, all of this process's threads."""

    def seconds(work, *, best_of: int) -> float:
        work()
        took = []
        for _ in range(best_of):
            start = time.process_time()
            work()
            took.append(time.process_time() - start)
        return min(took)

    return seconds


def require_whole(text: str) -> None:
    """Every sentence is its slice without outer whitespace, in order, and only whitespace is in none."""
    end = 0
    for sentence in split_sentences(text):
        assert text[end : sentence.start].strip() == ""
        assert text[sentence.start : sentence.end] == sentence.text == sentence.text.strip() != ""
        end = sentence.end
    assert text[end:].strip() == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid $3.5 million. It's late; e.g. the U.S. team left. (See it.)",
         ["Dr. Smith paid $3.5 million.", "It's late; e.g. the U.S. team left.", "(See it.)"]),
        ("He waited. 'Really?' she said. \"Fine.\" He left.",
         ["He waited.", "'Really?' she said.", '"Fine."', "He left."]),
        ("i went home. then i slept!", ["i went home.", "then i slept!"]),
        ("这是第一句。这是第二句！「第三句吗？」好", ["这是第一句。", "这是第二句！", "「第三句吗？」", "好"]),
        ("Buy:\n1. milk\n2. eggs\n- bread\n\nCall mum", ["Buy:", "1. milk", "2. eggs", "- bread", "Call mum"]),
        ("Alice: hi\nBob: ok then", ["Alice: hi", "Bob: ok then"]),
        ("A line that was wrapped because it had grown far too long\nfor its column. Next.",
         ["A line that was wrapped because it had grown far too long\nfor its column.", "Next."]),
        ("no end in sight", ["no end in sight"]),
        ("One\x85\x85\x85two\u2028\n three\x85 \u2028- four", ["One", "two", "three", "- four"]),
        (" \n\t ", []), ("", []),
    ],
)  # fmt: skip
def test_sentences_end_where_a_reader_ends_them(text, expected):
    assert texts(text) == expected


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab A.?!'\"(\n\t 。」1-é\u200d😀\x85"), max_size=400))
def test_no_character_but_whitespace_is_lost(text):
    require_whole(text)


@pytest.mark.parametrize("unit", ["word ", "x", "?'", "(", "a.\n", "One ends here. ", "句。"])
def test_a_text_far_longer_than_a_window_is_split_whole(unit):
    text = unit * (5 * WINDOW_CHARS // len(unit))
    require_whole(text)
    assert all(len(sentence.text) <= SENTENCE_MAX_CHARS for sentence in split_sentences(text))


PROSE = "Anna's ship left Gdansk at 3 p.m., and (so she wrote) nobody waved. "
HOSTILE = ["_", "'s", "’S", "(_", ":_)", "\U0001f600_", "(" * 16 + "_", "(" * 15 + "a", "http://", "1km", "+a", "句。"]


@pytest.mark.parametrize("unit", ["\x85", "\u2028", "\v ", "\x85\t", " \f\x1c", "\r\x0b", ".\x85", "(\u2028"])
def test_whitespace_is_looked_at_once_however_long_it_is(unit, clock):
    def lines(chars):
        text = "x" + unit * (chars // len(unit))
        return lambda: list(sentences._line_starts(text, None))

    assert clock(lines(200_000), best_of=3) < 40 * clock(lines(20_000), best_of=3) + 0.01


@pytest.mark.parametrize("unit", HOSTILE)
def test_no_text_costs_spacy_far_more_than_prose(unit, clock):
    def split(text):
        return lambda: sentence_pipeline().run(lambda nlp: sentences._window_starts(nlp, text))

    prose = clock(split((PROSE * 100)[:WINDOW_CHARS]), best_of=5)
    assert clock(split((unit * WINDOW_CHARS)[:WINDOW_CHARS]), best_of=2) < 30 * prose


@pytest.mark.parametrize("unit", [*HOSTILE, PROSE])
def test_no_run_that_spacy_reads_holds_many_symbols(unit):
    text = (unit * WINDOW_CHARS)[:WINDOW_CHARS]
    read = readable(text)
    assert len(read) == len(text)
    assert all(there in (here, " ") for here, there in zip(text, read, strict=True))
    assert [c for c in read if c.isalnum()][:50] == [c for c in text if c.isalnum()][:50]
    assert all(sum(not c.isalnum() for c in run) <= RUN_MAX_CHARS for run in read.split())


@pytest.mark.parametrize("text", [PROSE, "https://a.org/" + "a-b/" * 30, "ภาษาไทย" * 90, "क्षत्रिय" * 90, "x" * 900])
def test_ordinary_text_is_read_as_it_stands(text):
    assert readable(text) == text


def test_what_takes_too_long_is_refused_at_every_step():
    past = time.monotonic() - 1
    for step in (
        lambda: split_sentences("One. Two.", deadline=past),
        lambda: list(sentences._line_starts("One.\nTwo.", past)),
        lambda: list(sentences._rejoined("One. Two.", [0, 5], past)),
        lambda: list(sentences._pieces("One.", 0, 4, past)),
    ):
        with pytest.raises(Overloaded):
            step()


def test_a_sentence_across_two_windows_stays_one():
    sentence = "The keeper wrote down that the sea was calm and the lamp was lit."
    count = 3 * WINDOW_CHARS // len(sentence)
    assert texts(" ".join([sentence] * count)) == [sentence] * count


def test_a_pipeline_that_is_not_there_is_named_by_its_setting(settings):
    settings.MEMORY_SPACY_MODEL = "no_such_pipeline"
    for ask in (pipeline_name, lambda: split_sentences("One. Two.")):
        with pytest.raises(ModelUnavailable, match="MEMORY_SPACY_MODEL"):
            ask()


def test_the_backend_is_named_as_its_makers_do():
    assert pipeline_name() == "en_core_web_sm"


def test_nothing_of_a_model_is_imported_before_it_is_asked():
    modules = "memory.services.summarize, memory.services.entities, memory.language.pipeline"
    code = f"import django; django.setup(); import sys, {modules}; print({{'spacy', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "set()"


_IMPORTING = """
import django, threading
from unittest import mock
django.setup()
from memory.language import pipeline

def torch_here():
    try:
        import torch
    except ImportError:
        print("none")
    else:
        print("torch")

def spacy(name):
    torch_here()
    other = threading.Thread(target=torch_here)
    other.start()
    other.join()

with mock.patch.object(pipeline.importlib, "import_module", spacy):
    pipeline._import_spacy()
"""


def test_while_spacy_is_imported_without_torch_another_thread_imports_it(tmp_path):
    (tmp_path / "torch.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", _IMPORTING]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["none", "torch"]


def test_a_pipeline_that_cannot_be_warmed_is_logged_and_named_by_its_setting(settings, caplog):
    settings.MEMORY_SPACY_MODEL = "no_such_pipeline"
    then = threading.Event()
    warm_language(then.set)
    assert then.wait(60)
    for pipeline in (sentence_pipeline(), entity_pipeline()):
        with pytest.raises(ModelUnavailable):
            pipeline.run(len)
    assert caplog.text.count("no sentences and entities: The spaCy pipeline named by MEMORY_SPACY_MODEL") == 2
