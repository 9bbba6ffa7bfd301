"""Which document ids can stand in a path."""

from __future__ import annotations

from rest_framework import serializers

from memory.formats.doc_ids import is_addressable


def refuse_unaddressable(doc_id: str) -> None:
    """Raise a ValidationError for empty and dot segments: proxies fold `//`, `.` and `..` away.

    Checked when a document is indexed too, so that every stored document can be read and deleted.
    """
    if not is_addressable(doc_id):
        raise serializers.ValidationError("Empty, `.` and `..` path segments are not allowed.", code="invalid")
