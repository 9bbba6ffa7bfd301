"""Lists of any length: a page begins after the last row of the one before, and rows are counted by estimate.

What a page costs depends on the page and not on the table. The order is that of an index, always; to go on, an address
says `after=`, the values of that index's columns in the last row, as a JSON list.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db import connections

AFTER = "after"
# Of a view its table's: of each partition, where it has any. -1 where PostgreSQL has not looked at a table yet.
_ESTIMATE = """
SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_class c
WHERE c.relkind = 'r' AND (c.oid = to_regclass(%(table)s)
    OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass(%(table)s)))"""


class KeysetChangeList(ChangeList):
    """One page of a list in the order of `model_admin.keyset`, from the row after `after`.

    `next_page`: the address of the page after it, None on the last. `first_page`: of the first, None on it.
    `estimated_rows`: how many the table has, in about; None in a list that is narrowed down.
    """

    next_page: str | None = None
    first_page: str | None = None
    estimated_rows: int | None = None
    model_admin: Any

    def get_filters_params(self, params=None):
        wanted = super().get_filters_params(params)
        wanted.pop(AFTER, None)
        return wanted

    def get_ordering(self, request, queryset):
        way = "-" if self.model_admin.keyset_descends else ""
        return [f"{way}{column}" for column in self.model_admin.keyset]

    def get_results(self, request):
        keyset = self.model_admin.keyset
        rows = self.queryset
        if AFTER in request.GET:
            rows = _after(rows, keyset, request.GET[AFTER], descends=self.model_admin.keyset_descends)
        found = list(rows[: self.list_per_page + 1])
        page = found[: self.list_per_page]
        if len(found) > len(page):
            last = json.dumps([str(getattr(page[-1], column)) for column in keyset])
            self.next_page = "?" + urlencode({**self._narrowed(), AFTER: last}, doseq=True)
        if AFTER in request.GET:
            self.first_page = "?" + urlencode(self._narrowed(), doseq=True)
        elif not self._narrowed():
            self.estimated_rows = _estimate(self.model._meta.db_table.removesuffix("_meta")) or None
        self.result_list = page
        self.result_count = len(page)
        self.show_admin_actions = bool(page)
        self.can_show_all = self.multi_page = False

    def _narrowed(self) -> dict[str, list[str]]:
        return {name: values for name, values in self.filter_params.items() if name != AFTER}


def _after(rows, columns: tuple[str, ...], text: str, *, descends: bool):
    """The rows behind the one of these values. Raises IncorrectLookupParameters for values that are none."""
    fields = [rows.model._meta.get_field(column) for column in columns]
    try:
        values = json.loads(text)
        if not isinstance(values, list) or len(values) != len(fields):
            raise ValueError
        params: list[Any] = [field.to_python(value) for field, value in zip(fields, values, strict=True)]
        if any(value is None or "\0" in str(value) for value in params):
            raise ValueError
    except (ValueError, TypeError, ValidationError) as exc:
        raise IncorrectLookupParameters(exc) from exc
    names = ", ".join(f'"{field.column}"' for field in fields)
    marks = ", ".join(["%s"] * len(fields))
    # A comparison of rows is one condition on the index, where the same in ANDs and ORs is a filter.
    return rows.extra(where=[f"({names}) {'<' if descends else '>'} ({marks})"], params=params)


def _estimate(table: str) -> int | None:
    with connections["staff"].cursor() as cursor:
        cursor.execute(_ESTIMATE, {"table": table})
        return cursor.fetchone()[0]
