"""The real command, killed in the middle: the next run goes on, and nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from django.conf import settings

from tests.db.server import connect
from tests.moving.memories import answers, rows_by_space
from tests.moving.waiting import PATIENCE_SECONDS, until_it_waits

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

# What we hold, so that the command cannot pass, in the order in which it comes there: the user's row, the note of his
# last document, the row of his move, a row that he leaves behind.
STOPS = {
    "while it copies": "INSERT INTO memory_moved_documents (user_hash, doc_id, version, chunk_count)"
    " VALUES (%s, 'z', '', 1) RETURNING 1",
    "before it switches": "SELECT 1 FROM memory_moves WHERE user_hash = %s FOR UPDATE",
    "while it removes": "SELECT 1 FROM memory_chunks WHERE user_hash = %s AND space = 1 LIMIT 1 FOR UPDATE",
}
COPIED = "SELECT count(*) FROM memory_moved_documents WHERE user_hash = %s"


def reindex(person, space: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "manage.py", "reindex", "--user", person.user_id, "--space", str(space)],
        cwd=settings.BASE_DIR, env=os.environ | {"DJANGO_SETTINGS_MODULE": "r1site.settings.test"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    return json.loads(out)


def test_a_killed_move_is_gone_on_with_wherever_it_was(scribe, superuser, another_edition):
    # More than one batch.
    more = [{"doc_id": f"more/{n}", "text": f"The lighthouse number {n} was lit at dusk."} for n in range(70)]
    assert scribe.post("memory/index", {"documents": more}).status_code == 201
    scribe.index("z", "The last one is about a lighthouse too.")
    before, copied = answers(scribe), []
    with connect("postgres") as holder:
        for where, lock in STOPS.items():
            holder.execute("BEGIN")
            assert holder.execute(lock, [scribe.user_hash]).fetchone(), where
            process = reindex(scribe, another_edition)
            until_it_waits(holder, superuser, process)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            holder.execute("ROLLBACK")
            assert answers(scribe) == before, where
            copied.append(superuser.execute(COPIED, [scribe.user_hash]).fetchone()[0])
    everything = len(more) + 8
    assert 0 < copied[0] < everything == copied[1] == copied[2]
    done = finished(reindex(scribe, another_edition))
    assert (done["users"], done["moved"], done["failed"], done["damaged"]) == (1, 1, 0, 0)
    # All of it had been copied by the runs before.
    assert done["documents"] == 0
    assert answers(scribe) == before
    assert set().union(*rows_by_space(superuser, scribe).values()) == {another_edition}
