"""The access log of development: appended to by several processes, and turned over where it is too large."""

import logging
import subprocess
import sys

from r1site.shared_log import SharedLogHandler

WRITER = """
import logging, sys
from r1site.shared_log import SharedLogHandler
handler = SharedLogHandler(sys.argv[1], most_bytes=2000, kept_files=50)
for number in range(200):
    handler.emit(logging.makeLogRecord({"msg": f"{sys.argv[2]} {number}"}))
"""


def lines(folder) -> list[str]:
    return [line for path in folder.glob("access.log*") for line in path.read_text().splitlines()]


def test_no_line_of_any_process_is_lost_while_the_file_is_turned_over(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "log/access.log")]
    writers = [subprocess.Popen([*command, name]) for name in ("one", "two", "three")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(list((tmp_path / "log").glob("access.log.[0-9]*"))) > 1
    assert sorted(lines(tmp_path / "log")) == sorted(
        f"{name} {number}" for name in ("one", "two", "three") for number in range(200)
    )


def test_only_so_many_files_are_kept(tmp_path):
    handler = SharedLogHandler(tmp_path / "access.log", most_bytes=10, kept_files=2)
    for number in range(9):
        handler.emit(logging.makeLogRecord({"msg": f"a line that is long {number}"}))
    handler.close()
    assert {path.name for path in tmp_path.glob("access.log*")} == {
        "access.log", "access.log.1", "access.log.2", "access.log.lock",
    }  # fmt: skip
    assert "a line that is long 8" in lines(tmp_path)


def test_where_it_cannot_be_written_lines_go_to_stderr(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    handler = SharedLogHandler(tmp_path / "file" / "access.log")
    handler.emit(logging.makeLogRecord({"msg": "still told"}))
    handler.close()
    assert capfd.readouterr().err == "still told\n"
