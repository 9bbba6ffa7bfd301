"""Who logs what, and where to. No line quotes what somebody stored."""

from __future__ import annotations

from typing import Any


def logging_config(level: str) -> dict[str, Any]:
    """Django's LOGGING; `level` is that of all loggers that are not named here."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
            "bare": {"format": "%(message)s"},
        },
        "filters": {"without_quotes": {"()": "r1site.log_filters.WithoutQuotes"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["without_quotes"]},
            "access": {"class": "logging.StreamHandler", "formatter": "bare"},
        },
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "r1.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
            # These two print exception text, which may hold content; r1site/problems.py logs in their stead.
            "django.request": {"level": "CRITICAL"},
            "django.security": {"level": "CRITICAL"},
            "django.db.backends": {"level": "INFO"},
            "sentence_transformers": {"level": "WARNING"},
            # Who logged in is a line of the audit log.
            "axes": {"level": "WARNING"},
            # The language model's client and what it is made of: at DEBUG they print requests and their headers.
            "openai": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},
            "httpcore": {"level": "WARNING"},
            "httpx2": {"level": "WARNING"},
            "httpcore2": {"level": "WARNING"},
        },
    }
