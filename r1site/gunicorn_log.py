"""gunicorn's own messages: whole while it starts, and once a worker serves without anything that clients sent."""

from __future__ import annotations

import logging

from gunicorn.glogging import Logger

from r1site.log_filters import keep_fixed_words


class RequestFreeLogger(Logger):
    """gunicorn's `logger_class`. Its parser's messages quote what they refuse, and name the client's address.

    From `serves()` on every record of this process is reduced to its fixed words, the type of the exception and where
    it arose: which of them are about requests is the next version's to change. No access log is written, whatever the
    command line says: the service has its own, without paths.
    """

    _is_serving = False

    def serves(self) -> None:
        """From now on this process reads requests."""
        if not self._is_serving:
            self._is_serving = True
            self.error_log.addFilter(_reduced)

    def access(self, resp, req, environ, request_time) -> None:
        return None


def _reduced(record: logging.LogRecord) -> bool:
    keep_fixed_words(record)
    return True
