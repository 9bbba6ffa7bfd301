"""Request bodies: what may be parsed at all."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import MalformedJSON, NestingTooDeep
from memory.formats.strict_json import parse_json


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(), children, max_size=5),
    max_leaves=30,
)


@settings(deadline=None)
@given(json_values)
def test_any_json_value_is_read_as_the_standard_library_reads_it(value):
    assert parse_json(json.dumps(value).encode(), max_depth=100) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), max_depth=100) == value


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_the_two_refusals(raw):
    with contextlib.suppress(MalformedJSON, NestingTooDeep):
        parse_json(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"   \n",
        b"{",
        b'{"a": 1',
        b'{"a": 1}}',
        b'{"a": 1} x',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": "line\nbreak"}',
        b"\xef\xbb\xbf{}",
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        '{"a": "é"}'.encode("utf-16"),
        '{"a": "é"}'.encode("latin-1"),
        b"NaN",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": -1e999}',
        b'{"a": 1' + b"0" * 400 + b".5}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "c": 2, "b": 3}}',
        b'{"a": 1, "\\u0061": 2}',
        b"[" * 10,
    ],
)
def test_what_is_not_strict_json_is_malformed(raw):
    with pytest.raises(MalformedJSON):
        parse_json(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b' {"a" : 1}\r\n', {"a": 1}),
        (b'{"a": 1e300}', {"a": 1e300}),
        (b'{"a": ' + b"9" * 4300 + b"}", {"a": int("9" * 4300)}),
        (b'{"a": {"x": 1}, "b": {"x": 1}}', {"a": {"x": 1}, "b": {"x": 1}}),
        (b'{"a": "NaN", "b": "{\\"a\\": 1}"}', {"a": "NaN", "b": '{"a": 1}'}),
        (b"3", 3),
        (b"null", None),
    ],
)
def test_the_same_shapes_within_the_rules_are_read(raw, value):
    assert parse_json(raw) == value


def test_an_escaped_lone_surrogate_and_nul_are_left_to_the_field_that_gets_them():
    assert parse_json(b'{"a": "\\ud800", "b": "\\u0000"}') == {"a": "\ud800", "b": "\x00"}


def test_depth_counts_arrays_and_objects_inside_one_another():
    assert parse_json(b"1", max_depth=0) == 1
    assert parse_json(nested(20)) is not None
    with pytest.raises(NestingTooDeep):
        parse_json(nested(21))
    with pytest.raises(NestingTooDeep):
        parse_json(b'{"a":' * 21 + b"1" + b"}" * 21)
    assert parse_json(b'{"a":' * 20 + b"1" + b"}" * 20) is not None


def test_many_brackets_side_by_side_or_in_text_are_not_depth():
    assert len(parse_json(b"[" + b"[[]]," * 1000 + b"[]]")) == 1001
    assert parse_json(b'{"text": "' + b"[{" * 1000 + b'"}') == {"text": "[{" * 1000}


@pytest.mark.parametrize("raw", [nested(990), nested(100_000), b"[" * 100_000, b'{"a":' * 100_000, b'[{"a":' * 50_000])
def test_no_depth_overflows_the_stack(raw, caplog):
    with pytest.raises(NestingTooDeep):
        parse_json(raw)
    assert caplog.records == []


def test_a_refusal_does_not_carry_the_body_along():
    with pytest.raises(MalformedJSON) as refusal:
        parse_json(b'{"text": "a private sentence",}')
    assert refusal.value.__context__ is None
    assert refusal.value.__cause__ is None
    assert "private" not in repr(refusal.value)


def test_what_is_no_json_is_told_its_place_and_nothing_of_its_content():
    with pytest.raises(MalformedJSON) as refused:
        parse_json(b'{"name": 1,\n  "word": zukaroplaverq}')
    assert refused.value.detail == "The body is not valid JSON: line 2, column 11."
    assert refused.value.__context__ is None
