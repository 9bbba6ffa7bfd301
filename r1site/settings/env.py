"""Typed, strict readers of environment variables. A value that does not parse stops the start."""

from __future__ import annotations

import os
import re

from django.core.exceptions import ImproperlyConfigured

from memory.admission.rate import Rate
from memory.keys.secret_files import Secret, SettingError

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _raw(name: str) -> str | None:
    value = os.environ.get(name)
    return None if value is None or value.strip() == "" else value.strip()


def text(name: str, default: str = "", *, choices: tuple[str, ...] = ()) -> str:
    """A string; with `choices`, one of them."""
    value = _raw(name) or default
    if choices and value not in choices:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(choices)}")
    return value


def texts(name: str, default: tuple[str, ...] = (), *, choices: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A comma-separated list of strings."""
    value = _raw(name)
    items = default if value is None else tuple(part.strip() for part in value.split(",") if part.strip())
    if choices and not set(items) <= set(choices):
        raise ImproperlyConfigured(f"{name} may only name {', '.join(choices)}")
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
    raise ImproperlyConfigured(f"{name} must be true or false")


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
        raise ImproperlyConfigured(f"{name} must be a {'whole ' if kind is int else ''}number") from None
    if not at_least <= number <= at_most:
        raise ImproperlyConfigured(f"{name} must be between {at_least} and {at_most}")
    return number


_PERIOD_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}


def rate(name: str, default: str) -> Rate | None:
    """`600/min`, also per `s` or `hour`; None for `off`."""
    value = (_raw(name) or default).lower()
    if value == "off":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,6})/([a-z]+)", value)
    if match is None or match[2] not in _PERIOD_SECONDS:
        raise ImproperlyConfigured(f"{name} must be `off`, or a number a second, minute or hour, such as 600/min")
    return Rate(int(match[1]), _PERIOD_SECONDS[match[2]])


def secret(name: str, *, required: bool) -> str:
    """The text of a secret from NAME or the file NAME_FILE; '' when it is absent and not required."""
    try:
        value = Secret(name).value()
    except SettingError as exc:
        raise ImproperlyConfigured(str(exc)) from None
    if required and not value:
        raise ImproperlyConfigured(f"{name} (or {name}_FILE) is required")
    return value
