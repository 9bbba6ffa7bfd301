"""Serializer fields: a value is taken as sent, or refused under a field name and a code."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.exceptions import ValidationError

from memory.api.fields import (
    MetadataField,
    StrictBoolean,
    StrictCharField,
    StrictFloat,
    StrictInteger,
    StrictSerializer,
    StringOrList,
    Timestamp,
)

JSON_SCALARS = [None, True, False, 0, 1, -1, 10**400, 1.5, "", "1", "true", "text", [], ["a"], {}, {"a": 1}]
storable_text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))


def refusal(field, value) -> str:
    with pytest.raises(ValidationError) as refused:
        field.run_validation(value)
    (code,) = refused.value.get_codes()
    return code


# Strings


@settings(deadline=None)
@given(storable_text.filter(bool))
def test_text_comes_out_exactly_as_it_went_in(text):
    assert StrictCharField().run_validation(text) == text


@pytest.mark.parametrize("value", [value for value in JSON_SCALARS if not isinstance(value, str)])
def test_only_a_string_is_a_string(value):
    assert refusal(StrictCharField(), value) == ("null" if value is None else "invalid")


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud800", "a\udfffb", "\udc00\ud800"])
def test_nul_and_lone_surrogates_are_refused_everywhere(text):
    assert refusal(StrictCharField(), text) == "invalid"
    assert refusal(StringOrList(), text) == "invalid"
    assert refusal(MetadataField(), {"name": text}) == "invalid"
    assert refusal(MetadataField(), {text: 1}) == "invalid"
    assert refusal(MetadataField(), {"a": [{"b": {text: 1}}]}) == "invalid"


def test_a_paired_surrogate_from_json_is_an_ordinary_character():
    text = json.loads('"\\ud83d\\ude00"')
    assert StrictCharField().run_validation(text) == "\U0001f600"


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "a\x7f", "a\x85b", "\t"])
def test_control_characters_are_text_but_no_identifier(text):
    assert StrictCharField().run_validation(text) == text
    assert refusal(StrictCharField(control_characters=False), text) == "invalid"


@pytest.mark.parametrize(
    "text", ["a'b", '"; DROP', "%s $1", ";set app.user_hash=", "\u202eabc", "zero\u200bwidth", "é", "e\u0301", " a "]
)
def test_an_identifier_may_hold_anything_printable(text):
    assert StrictCharField(control_characters=False).run_validation(text) == text


def test_lengths_are_counted_in_characters_and_in_bytes():
    assert StrictCharField(max_chars=3).run_validation("ééé") == "ééé"
    assert refusal(StrictCharField(max_chars=3), "éééé") == "max_length"
    assert StrictCharField(max_bytes=6).run_validation("ééé") == "ééé"
    assert refusal(StrictCharField(max_bytes=5), "ééé") == "max_bytes"
    assert refusal(StrictCharField(), "") == "min_length"
    assert StrictCharField(min_chars=0).run_validation("") == ""
    assert StrictCharField().run_validation(" ") == " "


# Numbers and booleans


@pytest.mark.parametrize("value", [None, True, False, 1.5, float("nan"), float("inf"), "1", "", [], {}, "10"])
def test_only_an_integer_is_an_integer(value):
    assert refusal(StrictInteger(), value) == ("null" if value is None else "invalid")


def test_an_integer_may_be_written_with_an_empty_fraction():
    value = StrictInteger(max_value=50).run_validation(12.0)
    assert (value, type(value)) == (12, int)
    assert refusal(StrictInteger(max_value=50), 1e300) == "max_value"


def test_an_integer_keeps_to_its_limits():
    field = StrictInteger(min_value=1, max_value=50)
    assert [field.run_validation(value) for value in (1, 50)] == [1, 50]
    assert {value: refusal(field, value) for value in (0, -1, 51, 10**9, 10**400)} == {
        0: "min_value",
        -1: "min_value",
        51: "max_value",
        10**9: "max_value",
        10**400: "max_value",
    }


@pytest.mark.parametrize("value", [None, True, "0.5", [], {}, float("nan"), float("inf"), float("-inf"), 10**400])
def test_only_a_finite_number_is_a_number(value):
    assert refusal(StrictFloat(), value) == ("null" if value is None else "invalid")


def test_a_number_keeps_to_its_limits_and_becomes_a_float():
    field = StrictFloat(min_value=0, max_value=1)
    assert [field.run_validation(value) for value in (0, 0.25, 1)] == [0.0, 0.25, 1.0]
    assert isinstance(field.run_validation(1), float)
    assert refusal(field, -1e-9) == "min_value"
    assert refusal(field, 1.0000001) == "max_value"


@pytest.mark.parametrize("value", [value for value in JSON_SCALARS if not isinstance(value, bool)])
def test_only_true_and_false_are_booleans(value):
    assert refusal(StrictBoolean(), value) == ("null" if value is None else "invalid")
    assert [StrictBoolean().run_validation(flag) for flag in (True, False)] == [True, False]


# Metadata

metadata_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | storable_text,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(storable_text, children, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(storable_text, metadata_values, max_size=4))
def test_metadata_comes_back_from_json_exactly_as_sent(metadata):
    accepted = MetadataField(max_depth=50).run_validation(metadata)
    assert json.loads(json.dumps(accepted)) == metadata


@pytest.mark.parametrize("value", [None, True, 1, "{}", [], [{}]])
def test_only_an_object_is_metadata(value):
    assert refusal(MetadataField(), value) == ("null" if value is None else "invalid")


def test_metadata_is_measured_as_compact_utf8_json():
    assert MetadataField().run_validation({"k": "x" * (65536 - 8)})
    assert refusal(MetadataField(), {"k": "x" * (65536 - 7)}) == "max_bytes"
    assert MetadataField().run_validation({"k": "é" * (32768 - 4)})
    assert refusal(MetadataField(), {"k": "é" * (32768 - 3)}) == "max_bytes"
    assert refusal(MetadataField(), {"k" * 1_000_000: 1}) == "max_bytes"


def test_metadata_has_so_many_names_in_all_its_objects_together():
    names = {str(number): None for number in range(1_000)}
    most = {"list": [names], **{f"more {number}": None for number in range(999)}}
    assert MetadataField().run_validation(most) == most
    assert refusal(MetadataField(), {**most, "one more": None}) == "max_names"
    assert refusal(MetadataField(), {f"key{number}": number for number in range(10_000)}) == "max_names"


def test_metadata_is_eight_levels_deep_at_most():
    def deep(levels):
        return {"a": deep(levels - 1)} if levels > 1 else {}

    def deep_lists(levels):
        return {"a": json.loads("[" * (levels - 1) + "]" * (levels - 1))}

    for make in (deep, deep_lists):
        assert MetadataField().run_validation(make(8)) is not None
        assert refusal(MetadataField(), make(9)) == "max_depth"
    endless: dict = {}
    innermost = endless
    for _ in range(100_000):
        innermost["a"] = {}
        innermost = innermost["a"]
    assert refusal(MetadataField(), endless) == "max_depth"


def test_metadata_numbers_are_those_that_come_back_exact():
    limits = {"least": -(2**63), "most": 2**63 - 1}
    assert MetadataField().run_validation(limits) == limits
    for number in (2**63, -(2**63) - 1, float("nan"), float("inf")):
        assert refusal(MetadataField(), {"a": [number]}) == "invalid"


# Filters


def test_one_string_or_a_list_of_strings_becomes_a_list():
    field = StringOrList(max_items=2, max_chars=3)
    assert field.run_validation("abc") == ["abc"]
    assert field.run_validation(["a", "b"]) == ["a", "b"]
    assert refusal(field, []) == "min_items"
    assert refusal(field, ["a", "b", "c"]) == "max_items"
    assert refusal(field, {"a": 1}) == "invalid"
    with pytest.raises(ValidationError) as refused:
        field.run_validation(["a", 1])
    assert refused.value.get_codes() == {1: ["invalid"]}
    with pytest.raises(ValidationError) as refused:
        field.run_validation(["abcd", ["a"]])
    assert refused.value.get_codes() == {0: ["max_length"], 1: ["invalid"]}


# Times


@settings(deadline=None)
@given(
    st.datetimes(datetime(1901, 1, 1), datetime(2198, 12, 31)),
    st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_a_date_time_with_offset_becomes_the_same_instant_in_utc(naive, offset):
    moment = naive.replace(tzinfo=offset)
    instant = Timestamp().run_validation(moment.isoformat())
    assert instant == moment
    assert instant.utcoffset() == timedelta(0)
    assert Timestamp().run_validation(Timestamp().to_representation(instant)) == instant


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-31T09:30:00Z", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("2026-01-31t09:30:00z", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("2026-01-31 09:30:00.25+02:00", datetime(2026, 1, 31, 7, 30, 0, 250000, tzinfo=UTC)),
        ("2026-01-31T09:30:00.123456789-00:00", datetime(2026, 1, 31, 9, 30, 0, 123456, tzinfo=UTC)),
    ],
)
def test_the_spellings_of_rfc_3339(text, instant):
    assert Timestamp().run_validation(text) == instant


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-31T09:30:00",
        "2026-01-31",
        "2026-01-31T09:30Z",
        "20260131T093000Z",
        "2026-02-30T00:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-06-30T23:59:60Z",
        "2026-01-31T09:30:00+24:00",
        "2026-01-31T09:30:00+02:60",
        "2026-01-31T09:30:00+0200",
        "2026-01-31T09:30:00Z ",
        "2026-01-31T09:30:00Z\n",
        "２０２６-01-31T09:30:00Z",
        "2026-W05-6T09:30:00Z",
        "yesterday",
        "",
        1769851800,
        None,
        True,
    ],
)
def test_what_is_no_instant_is_refused(value):
    assert refusal(Timestamp(), value) == ("null" if value is None else "invalid")


def test_years_keep_to_their_range_in_utc():
    assert refusal(Timestamp(), "1899-12-31T23:59:59Z") == "out_of_range"
    assert refusal(Timestamp(), "2200-01-01T00:00:00Z") == "out_of_range"
    assert refusal(Timestamp(), "1900-01-01T00:00:00+01:00") == "out_of_range"
    wide = Timestamp(min_year=1, max_year=9999)
    assert wide.run_validation("0001-01-01T00:00:00Z").year == 1
    assert refusal(wide, "0001-01-01T00:00:00+01:00") == "out_of_range"
    assert refusal(wide, "9999-12-31T23:59:59-01:00") == "out_of_range"
    assert refusal(wide, "0000-01-01T00:00:00Z") == "invalid"


# Serializers


class Part(StrictSerializer):
    text = StrictCharField(max_chars=5)


class Whole(StrictSerializer):
    name = StrictCharField(max_chars=5)
    count = StrictInteger(required=False, default=3)
    parts = Part(many=True, required=False)


def codes(data) -> object:
    serializer = Whole(data=data)
    assert not serializer.is_valid()
    return ValidationError(serializer.errors).get_codes()


def test_declared_members_come_through():
    serializer = Whole(data={"name": "a", "parts": [{"text": "b"}]})
    assert serializer.is_valid()
    assert serializer.validated_data == {"name": "a", "count": 3, "parts": [{"text": "b"}]}


def test_an_undeclared_member_is_an_error_beside_the_others():
    assert codes({"name": "a", "user_hash": "x"}) == {"user_hash": ["unknown_field"]}
    assert codes({"nmae": "a"}) == {"name": ["required"], "nmae": ["unknown_field"]}
    assert codes({"name": "a", "parts": [{"text": "b"}, {"text": 1, "x": 2}]}) == {
        "parts": {1: {"text": ["invalid"], "x": ["unknown_field"]}}
    }


@pytest.mark.parametrize("user_id", JSON_SCALARS)
def test_a_user_id_of_any_kind_is_accepted_and_dropped(user_id):
    serializer = Whole(data={"name": "a", "user_id": user_id, "parts": [{"text": "b", "user_id": user_id}]})
    assert serializer.is_valid()
    assert serializer.validated_data == {"name": "a", "count": 3, "parts": [{"text": "b"}]}


@pytest.mark.parametrize("data", [None, True, 1, "text", [], [{"name": "a"}]])
def test_a_body_that_is_no_object_is_an_error_of_the_whole(data):
    assert list(codes(data)) == ["non_field_errors"]


def test_a_hundred_thousand_unknown_members_are_not_all_reported():
    data = {f"x{number}": 1 for number in range(100_000)}
    assert len(codes({"name": "a", **data})) == Whole.max_unknown_reported


def test_one_instance_reads_for_all_what_a_new_one_would():
    """Many at once, good and bad in turn: nothing of one body is in another's values or errors."""

    def by_a_new_one(data):
        serializer = Whole(data=data)
        serializer.is_valid(raise_exception=True)
        return serializer.validated_data

    def outcome(read, data):
        try:
            return read(data)
        except ValidationError as refusal:
            return refusal.detail, refusal.get_codes()

    bodies = [{"name": f"n{number}", "parts": [{"text": f"t{number}"}] * (number % 3)} for number in range(60)]
    bodies += [None, [], {}, {"name": None}, {"name": "a", "parts": [{"x": 1}]}, {"nmae": "a"}] * 20
    expected = [outcome(by_a_new_one, body) for body in bodies]
    with ThreadPoolExecutor(8) as readers:
        assert list(readers.map(lambda body: outcome(Whole.read, body), bodies)) == expected
    assert Whole.read(bodies[1])["parts"] is not Whole.read(bodies[1])["parts"]
