"""What is done once the server has closed a response: its last byte has gone, or its client has."""

from __future__ import annotations

from collections.abc import Callable

from django.http.response import HttpResponseBase


def once_closed(response: HttpResponseBase, do: Callable[[], None]) -> None:
    """Have `do` called then, once, also where closing raises."""
    close, is_done = response.close, False

    def closed() -> None:
        nonlocal is_done
        try:
            close()
        finally:
            if not is_done:
                is_done = True
                do()

    response.close = closed  # type: ignore[method-assign]
