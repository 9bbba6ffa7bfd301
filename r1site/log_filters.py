"""What other people's loggers may print: their own fixed words, never what a client sent or a server answered.

Imports neither Django nor gunicorn: gunicorn's master reads it, too.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType

# Their messages quote what they are about: an error of the server, its statement; a request, its line.
QUOTING_PACKAGES = frozenset({"psycopg", "gunicorn"})
# Of a message that was put together before it got here: up to there, the words are the logger's own.
_FIXED_WORDS = re.compile(r"[A-Za-z ]{0,60}")


class WithoutQuotes(logging.Filter):
    """On a handler: records of QUOTING_PACKAGES keep their words and lose what these quote.

    Of an exception its type, its SQLSTATE and where it arose are left; of gunicorn's other arguments nothing.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        package = record.name.partition(".")[0]
        if package == "psycopg":
            arguments = record.args if isinstance(record.args, tuple) else ()
            record.args = tuple(
                said_of(argument) if isinstance(argument, BaseException) else argument for argument in arguments
            )
            _append_exception(record)
        elif package == "gunicorn":
            keep_fixed_words(record)
        return True


def keep_fixed_words(record: logging.LogRecord) -> None:
    """Reduce `record` to what its logger always says, and to the exception that was being handled, if one was."""
    words = _FIXED_WORDS.match(str(record.msg))
    record.msg = (words[0] if words else "").strip().removesuffix(" from ip") or "a message that quotes a request"
    record.args = None
    if not record.exc_info:
        record.exc_info = sys.exc_info()
    _append_exception(record)


def said_of(exception: BaseException) -> str:
    """`Type sqlstate=22012 at file:line`, without its text: the innermost line, the SQLSTATE where it has one."""
    said = type(exception).__qualname__
    if sqlstate := getattr(exception, "sqlstate", None):
        said += f" sqlstate={sqlstate}"
    return f"{said}{_innermost_line(exception.__traceback__)}"


def _append_exception(record: logging.LogRecord) -> None:
    exception = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    record.exc_info = record.exc_text = record.stack_info = None
    if exception is not None:
        record.msg, record.args = f"{record.getMessage()} ({said_of(exception)})", None


def _innermost_line(found: TracebackType | None) -> str:
    frames = traceback.extract_tb(found)
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
