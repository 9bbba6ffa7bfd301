"""What psycopg logs by itself, as our log prints it: on the real server, by its own code."""

from __future__ import annotations

import io
import logging
import threading

import psycopg
import psycopg_pool
import pytest
from django.db import connections

CANARY = "canaryquokka"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def printed():
    """What the service's own handler on stderr prints inside the test."""
    (handler,) = (handler for handler in logging.getLogger().handlers if handler.name == "stderr")
    stream = io.StringIO()
    before = handler.setStream(stream)
    yield stream
    handler.setStream(before)


def test_an_error_that_psycopg_swallows_is_named_and_not_quoted(printed):
    connections["default"].ensure_connection()
    with psycopg.connect(connections["default"].connection.info.dsn, **_password()) as connection:
        with pytest.raises(ZeroDivisionError), connection.pipeline():
            connection.execute("SELECT %s::text::int", [CANARY])
            raise ZeroDivisionError
    said = printed.getvalue()
    assert "WARNING psycopg error ignored" in said
    assert "InvalidTextRepresentation sqlstate=22P02" in said
    assert CANARY not in said


def test_a_pool_that_cannot_connect_says_so_without_the_servers_words(printed):
    tried = threading.Event()
    nowhere = f"host=127.0.0.1 port=1 user={CANARY} dbname=r1"
    pool = psycopg_pool.ConnectionPool(
        nowhere, open=False, min_size=1, reconnect_timeout=0.1, reconnect_failed=lambda _: tried.set()
    )
    pool.open()
    assert tried.wait(30)
    pool.close()
    said = printed.getvalue()
    assert "WARNING psycopg.pool error connecting in 'pool-" in said and "OperationalError" in said
    assert CANARY not in said and "refused" not in said


def test_gunicorns_other_loggers_lose_their_arguments(printed):
    logging.getLogger("gunicorn.http.wsgi").warning("WSGI app sent body bytes (method=%s)", CANARY)
    assert printed.getvalue().endswith("WARNING gunicorn.http.wsgi WSGI app sent body bytes\n")


def test_our_own_messages_stay_as_they_are(printed):
    logging.getLogger("r1site.startup").warning("threads: %d of %s", 8, "40")
    assert printed.getvalue().endswith("WARNING r1site.startup threads: 8 of 40\n")


def _password() -> dict[str, str]:
    return {"password": connections["default"].settings_dict["PASSWORD"]}
