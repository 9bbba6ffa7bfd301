"""Typed, strict readers of environment variables. A value that does not parse stops the start."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured

from memory.admission.rate import Rate
from memory.keys.secret_files import Secret, SettingError

T = TypeVar("T")
_problems: list[str] | None = None
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@contextmanager
def collecting() -> Iterator[list[str]]:
    """A block in which a value that does not parse, or is missing, is put on this list and the default stands in."""
    global _problems
    _problems = []
    try:
        yield _problems
    finally:
        _problems = None


def refuse(problem: str, stand_in: T) -> T:
    """Raise ImproperlyConfigured; while problems are collected, add this one and go on with `stand_in`."""
    if _problems is None:
        raise ImproperlyConfigured(problem)
    _problems.append(problem)
    return stand_in


def _raw(name: str) -> str | None:
    value = os.environ.get(name)
    return None if value is None or value.strip() == "" else value.strip()


def text(name: str, default: str = "", *, choices: tuple[str, ...] = ()) -> str:
    """A string; with `choices`, one of them."""
    value = _raw(name) or default
    if choices and value not in choices:
        return refuse(f"{name} must be one of {', '.join(choices)}", default)
    return value


def texts(name: str, default: tuple[str, ...] = (), *, choices: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A comma-separated list of strings."""
    value = _raw(name)
    items = default if value is None else tuple(part.strip() for part in value.split(",") if part.strip())
    if choices and not set(items) <= set(choices):
        return refuse(f"{name} may only name {', '.join(choices)}", default)
    return items


def boolean(name: str, default: bool) -> bool:
    """1/true/yes/on or 0/false/no/off."""
    value = _raw(name)
    if value is None:
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    return refuse(f"{name} must be true or false", default)


def integer(name: str, default: int, *, at_least: int, at_most: int) -> int:
    """A whole number within a range, both ends included."""
    return _number(name, default, int, at_least, at_most)


def decimal(name: str, default: float, *, at_least: float, at_most: float) -> float:
    """A finite number within a range, both ends included."""
    return _number(name, default, float, at_least, at_most)


def _number(name, default, kind, at_least, at_most):
    value = _raw(name)
    if value is None:
        return default
    try:
        number = kind(value)
    except ValueError:
        return refuse(f"{name} must be a {'whole ' if kind is int else ''}number", default)
    if not at_least <= number <= at_most:
        return refuse(f"{name} must be between {at_least} and {at_most}", default)
    return number


_PERIOD_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}


def rate(name: str, default: str) -> Rate | None:
    """`600/min`, also per `s` or `hour`; None for `off`."""
    value = (_raw(name) or default).lower()
    if value == "off":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,6})/([a-z]+)", value)
    if match is None or match[2] not in _PERIOD_SECONDS:
        return refuse(f"{name} must be `off`, or a number a second, minute or hour, such as 600/min", None)
    return Rate(int(match[1]), _PERIOD_SECONDS[match[2]])


def secret(name: str, *, required: bool) -> str:
    """The text of a secret from NAME or the file NAME_FILE; '' when it is absent and not required."""
    try:
        value = Secret(name).value()
    except SettingError as exc:
        return refuse(str(exc), "")
    if required and not value:
        return refuse(f"{name} (or {name}_FILE) is required", "")
    return value
