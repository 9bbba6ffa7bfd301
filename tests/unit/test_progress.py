"""How far a command is: a line drawn over on a terminal, and in a log a line now and then."""

import re

import pytest

from memory.maintenance import progress as module
from memory.maintenance.progress import Progress


@pytest.fixture
def written() -> list[str]:
    return []


def test_a_terminals_line_is_drawn_over_and_ends_with_the_work(written, monkeypatch):
    monkeypatch.setattr(module, "REDRAW_SECONDS", 0.0)
    progress = Progress(written.append, is_terminal=True)
    for done in range(4):
        progress("rows", done, 3)
    progress.end()
    assert all(piece.startswith("\rrows ") for piece in written[:-1])
    assert re.fullmatch(r"\rrows 2/3, \d+ s, [\d.]+/s, \d+ s left *", written[2])
    assert written[-1] == "\n"


def test_the_last_of_them_is_drawn_however_soon_it_comes(written):
    progress = Progress(written.append, is_terminal=True)
    progress("rows", 0, 2)
    progress("rows", 1, 2)
    progress("rows", 2, 2)
    assert [piece.split(",")[0] for piece in written] == ["\rrows 2/2"]


def test_another_label_begins_another_line(written):
    progress = Progress(written.append, is_terminal=True)
    progress("rows", 0, 1)
    progress("rows", 1, 1)
    progress("users", 0, 1)
    progress("users", 1, 1)
    assert [piece.split(",")[0] for piece in written] == ["\rrows 1/1", "\n", "\rusers 1/1"]


def test_a_log_hears_of_long_work_only(written, monkeypatch):
    progress = Progress(written.append)
    for done in range(4):
        progress("rows", done, 3)
    assert written == []
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    progress("rows", 3, 3)
    assert re.fullmatch(r"rows 3/3, \d+ s, [\d.]+/s, 0 s left\n", written[0])


def test_where_nobody_knows_how_many_there_are_no_end_is_told(written, monkeypatch):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    progress = Progress(written.append)
    progress("rows", 0)
    progress("rows", 7)
    progress.end()
    assert [re.fullmatch(r"rows \d, \d+ s, [\d.]+/s\n", piece) is not None for piece in written] == [True, True]


def test_what_is_not_shown_is_counted_all_the_same():
    progress = Progress(None)
    progress("rows", 0, 9)
    progress("rows", 5, 9)
    progress("users", 0, 2)
    assert progress.counts == {"rows": 5, "users": 0}
