"""A connection apart from requests, for the threads that look after keys: no full pool keeps them waiting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import psycopg
from django.db import connections

CONNECT_SECONDS = 2


def connect_apart() -> psycopg.Connection:
    """A connection as the service's role, apart from the pool and from Django; the caller closes it."""
    params = connections["default"].get_connection_params()
    return psycopg.connect(**{"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 5000} | params, autocommit=True)


def at_each_turn(
    turns: Iterable[object], work: Callable[[psycopg.Connection], object], *, logger: logging.Logger, away: str
) -> None:
    """Do `work` at each of `turns` over one connection, made anew after it failed; returns when they end.

    While the database is away the turns go by, and `logger` says `away` once.
    """
    connection, is_away = None, False
    try:
        for _ in turns:
            try:
                connection = connection or connect_apart()
                work(connection)
                is_away = False
            except psycopg.Error as exc:
                if not is_away:
                    logger.warning("%s (%s)", away, type(exc).__name__)
                is_away = True
                if connection is not None:
                    connection.close()
                connection = None
    finally:
        if connection is not None:
            connection.close()
