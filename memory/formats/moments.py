"""A moment as PostgreSQL keeps it: whole microseconds, here counted from 1970."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Since 1970, negative before; `moment` is aware."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(since_1970: int) -> datetime:
    """The inverse of `microseconds`, in UTC."""
    return _EPOCH + since_1970 * _MICROSECOND
