"""Tables of a report's page, as HTML; what stands in them is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from memory.rollout.shown import clock, said


def any_table(value: Any, nothing: str) -> str:
    """A table of whatever was written: rows of objects, or names with their values."""
    if not value:
        return f'<p class="soft">{escape(nothing)}</p>'
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list) and inner]
        if len(value) != 1 or not lists:
            rows = [[f"<td>{escape(name)}</td><td>{escape(said(inner))}</td>"] for name, inner in value.items()]
            return table(["Name", "Value"], rows)
        value = lists[0]
    items = [item if isinstance(item, dict) else {"value": item} for item in value] if isinstance(value, list) else []
    if not items:
        return f"<p>{escape(said(value))}</p>"
    names = list(dict.fromkeys(name for item in items for name in item))
    rows = [[_cell(name, item.get(name, "")) for name in names] for item in items]
    return table(names, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """It scrolls within itself. `rows`: of each its cells, as HTML; `numbers_from`: the first column of numbers."""
    heads = "".join(
        f"<th>{escape(str(name))}</th>"
        if numbers_from is None or number < numbers_from
        else f'<th class="number">{escape(str(name))}</th>'
        for number, name in enumerate(head)
    )
    lines = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(name: str, value: Any) -> str:
    if name == "at":
        return f'<td class="when">{clock(value)}</td>'
    return f"<td>{escape(said(value))}</td>"


def number_cell(text: str) -> str:
    """A cell of a column of numbers."""
    return f'<td class="number">{escape(text)}</td>'
