"""Where in our own code an exception arose: all that a log may say of it beside its type."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

_OUR_PACKAGES = frozenset({"memory", "r1site", "reranker"})
_ROOT = Path(__file__).resolve().parent.parent


def our_innermost_line(traceback: TracebackType | None) -> str:
    """`file:line` of the innermost frame in our own packages."""
    line = "-"
    while traceback is not None:
        path = Path(traceback.tb_frame.f_code.co_filename)
        if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OUR_PACKAGES:
            line = f"{path.relative_to(_ROOT)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line
