"""The percentage in nginx's `split_clients`, where two deployments are behind one proxy.

    split_clients $r1_user $r1_upstream {
        5%  r1_canary;
        *   r1_stable;
    }

The first line with a percentage inside the first such block is the canary's. nginx takes no 0 %: at 0 the line is
commented out. nginx has to be told to read its file again: that is the operator's, or a path unit's, and the run says
so.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

_BLOCK = re.compile(r"(?m)^[ \t]*split_clients[^{]*\{(?P<inside>[^}]*)\}")
_LINE = re.compile(r"^(?P<indent>[ \t]*)(?:#[ \t]*)?\d+(?:\.\d+)?%(?P<rest>[ \t]+\S+;.*)$", re.MULTILINE)


class NoSplit(Exception):
    """The file has no `split_clients` with a percentage, or cannot be read or written; the message says which."""


def set_proxy_percent(path: Path, percent: int) -> str:
    """Write the percentage; gives the change as a unified diff, '' where there is none. Raises NoSplit."""
    before = read_split(path)
    block = _BLOCK.search(before)
    assert block is not None
    line = _LINE.search(before, block.start("inside"), block.end("inside"))
    assert line is not None
    new = f"{line['indent']}{'' if percent else '# '}{percent}%{line['rest']}"
    after = before[: line.start()] + new + before[line.end() :]
    if after == before:
        return ""
    # Beside it first: whoever reads it meanwhile sees one or the other, and its mode stays.
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(after, "utf-8")
        beside.chmod(path.stat().st_mode & 0o777)
        beside.replace(path)
    except OSError as exc:
        raise NoSplit(f"{path} cannot be written ({type(exc).__name__})") from None
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"before/{path.name}", f"after/{path.name}"
    )
    return "".join(lines)


def read_split(path: Path) -> str:
    """The file's text, which has such a line. Raises NoSplit."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise NoSplit(f"{path} cannot be read ({type(exc).__name__})") from None
    block = _BLOCK.search(text)
    if block is None or _LINE.search(text, block.start("inside"), block.end("inside")) is None:
        raise NoSplit(f"{path} has no split_clients with a percentage")
    return text
