"""The way out of a database of the schema before: refused, exported from, taken in by the version that is here."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.faults.service import ROOT, Service, running

# A version that nobody develops any more, set up and served: a minute, which the rest of the suite has no use for.
pytestmark = pytest.mark.skipif(
    not os.environ.get("R1_TEST_FORMER"), reason="the way out of the schema before: make test-former"
)

TEXTS = {
    ("alice", "tea/1"): "The canary word heliotrope was said over green tea. 🍵",
    ("alice", "notes/ä ö"): "Grüße\n\n" + "A long note about ferries and timetables. " * 200,
    ("bob", "tea/1"): "Bob drinks coffee, and has a document of the same name.",
}


@pytest.fixture(scope="module")
def former(tmp_path_factory) -> Path:
    """A tree of the last version before the schema was made anew, as `make former-export` takes it from the history."""
    last = ["git", "log", "--diff-filter=D", "--format=%H", "-1", "--", "memory/migrations/0014_data_key_remains*"]
    found = subprocess.run(last, cwd=ROOT, capture_output=True, text=True)
    commit = found.stdout.strip()
    if not commit:
        pytest.skip("the history does not reach back to the version before: a shallow clone, or no clone")
    tree = subprocess.run(["git", "archive", f"{commit}^"], cwd=ROOT, capture_output=True, check=True).stdout
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(fileobj=io.BytesIO(tree)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def told(command: list[str], var: Path, *, stdin: str = "", **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEMORY_", "DJANGO_"))}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=kept | {"R1_VAR_DIR": str(var)} | environment, input=stdin,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_database_of_the_schema_before_is_refused_exported_from_and_taken_in(former, folder):
    before = Service(folder / "var")
    before.tree, before.is_prepared = former, False
    before.start()
    try:
        for (user, doc_id), text in TEXTS.items():
            said = {"doc_id": doc_id, "text": text, "metadata": {"of": user}, "thread_id": f"{user}'s"}
            assert before.call("POST", "/api/v1/memory/index", before.token(user), said)[0] == 201
    finally:
        before.stop()

    refused = told(["-m", "r1site.launch", "prepare"], before.var)
    assert refused.returncode != 0
    assert "make former-export" in refused.stderr

    exported = told(["deploy/former/export.py"], before.var, R1_FORMER=str(former))
    assert exported.returncode == 0, exported.stderr
    assert len(exported.stdout.splitlines()) == len(TEXTS)

    with running() as service:
        taken = told(["deploy/former/import.py"], service.var, stdin=exported.stdout)
        assert taken.returncode == 0, taken.stderr
        for user in ("alice", "bob"):
            token = service.token(user)
            expected = {doc_id: text for (owner, doc_id), text in TEXTS.items() if owner == user}
            listed = service.call("GET", "/api/v1/memory/documents", token)[1]["results"]
            assert {one["doc_id"] for one in listed} == set(expected)
            answer = service.call("POST", "/api/v1/memory/query", token, {"query": "what is drunk?", "top_k": 9})[1]
            for result in answer["results"]:
                cited = result["citation"]
                assert expected[cited["doc_id"]][cited["start"] : cited["end"]] == cited["quote"]
                assert (result["metadata"], result["thread_id"]) == ({"of": user}, f"{user}'s")
