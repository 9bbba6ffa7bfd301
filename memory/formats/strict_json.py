"""JSON request bodies, read strictly: what parses can be stored, rendered and means one thing only.

RFC 8259, narrowed towards I-JSON (RFC 7493): UTF-8 without a byte order mark, no duplicate names,
no numbers that are not finite. Imports no Django.
"""

from __future__ import annotations

import json
import math
from typing import Any

from memory.errors import MalformedJSON, NestingTooDeep

MAX_DEPTH = 20

_CONTAINERS = (dict, list)


def parse_json(raw: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """Parse one JSON text.

    `raw` is the whole body; the caller bounds its length. `max_depth` counts arrays and objects
    inside one another: `1` has depth 0, `[]` depth 1, `[[]]` depth 2.

    Raises `MalformedJSON` for an empty body, bytes that are not UTF-8, a byte order mark, anything
    after the value, a repeated name in an object, NaN, Infinity, a number too large for a double,
    an integer of more than 4,300 digits (the interpreter's own limit); `NestingTooDeep` beyond
    `max_depth`, however deep. Escaped lone surrogates (`"\\ud800"`) parse: which field held one is
    worth a field error, and only the field knows.
    """
    refusal: type[MalformedJSON] | type[NestingTooDeep]
    where = ""
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object_with_unique_names,
            parse_float=_finite_float,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        refusal = NestingTooDeep
    except json.JSONDecodeError as error:
        # Of what is there, only where it is.
        refusal, where = MalformedJSON, f"The body is not valid JSON: line {error.lineno}, column {error.colno}."
    except ValueError:
        refusal = MalformedJSON
    else:
        if raw.count(b"[") + raw.count(b"{") > max_depth and _deeper_than(value, max_depth):
            raise NestingTooDeep
        return value
    # Raised out here because a JSONDecodeError carries the whole body, and an exception raised
    # inside `except` would keep it as its context, for any error reporter to print.
    raise refusal(where) if where else refusal


def _object_with_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("repeated name")
    return members


def _finite_float(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise ValueError("number out of range")
    return number


def _refuse_constant(literal: str) -> None:
    raise ValueError("not JSON")


def _deeper_than(value: Any, max_depth: int) -> bool:
    """Level by level, so that the walk needs no stack of its own; a body of one long text costs nothing."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            return True
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, _CONTAINERS)
        ]
    return False
