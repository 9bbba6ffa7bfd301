"""A client generated from the committed document: whole, and able to read what the service answers.

Needs the generator, which has an environment of its own: `make clients` sets it up.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from django.test import Client

from tests.factories import DocumentFactory

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-clients/bin/python"

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not PYTHON.exists(), reason="there is no client generator here: run `make clients` once"),
]

# Reads answers with the generated client, each as its operation does, and prints what came out.
READ = """
import json, sys
from importlib import import_module
import httpx
from client import Client

client = Client(base_url="http://service", raise_on_unexpected_status=True)
for module, status, headers, body in json.load(sys.stdin):
    operation = import_module(f"client.api.{module}")
    answer = httpx.Response(status, headers=headers, content=body.encode())
    parsed = operation._build_response(client=client, response=answer).parsed
    print(json.dumps({"type": type(parsed).__name__, "value": parsed if isinstance(parsed, str) else parsed.to_dict()}))
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    """The folder in which the client is, as the package `client`."""
    folder = tmp_path_factory.mktemp("generated")
    command = [PYTHON, ROOT / "deploy/clients/generate.py", folder / "client"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("clients: 0 warnings")
    return folder


def read(generated: Path, answers: list) -> list[dict]:
    """What the client makes of each (module of its operation, response)."""
    given = [
        (module, response.status_code, dict(response.items()), response.getvalue().decode())
        for module, response in answers
    ]
    command = [PYTHON, "-c", READ]
    done = subprocess.run(command, cwd=generated, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_reads_answers_errors_events_and_lines(generated, alice):
    stored = DocumentFactory(person=alice, text="Grüße vom Leuchtturm, wo der Filter im März gewechselt wird.")
    stats, refused, missing, stream, export, ready = read(
        generated,
        [
            ("documents.get_stats", alice.get("memory/stats")),
            ("documents.get_stats", Client().get("/api/v1/memory/stats")),
            ("documents.get_document", alice.get("memory/documents/nowhere")),
            ("memory.stream_answer", alice.post("stream", {"message": "Wann wird der Filter gewechselt?"})),
            ("documents.export_memory", alice.get("memory/export")),
            ("operations.get_readiness", Client().get("/api/v1/health/ready")),
        ],
    )
    assert (stats["type"], stats["value"]["documents"]) == ("MemoryStats", 1)
    assert (refused["type"], refused["value"]["code"]) == ("UnauthorizedProblem", "missing_token")
    assert (missing["type"], missing["value"]["status"]) == ("NotFoundProblem", 404)
    assert stream["type"] == "str" and "event: done" in stream["value"]
    assert json.loads(export["value"])["doc_id"] == stored.doc_id
    assert "Grüße" in stream["value"] and "Grüße" in export["value"]
    assert ready["type"] == "Readiness"
