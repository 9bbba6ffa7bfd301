"""The README's first conversation, run exactly as it is printed against a service of its own, says what it says.

It does so twice in a row, after a part of the demo: each question's document among its likeliest rivals.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import pytest
from django.conf import settings

from memory.maintenance import demo
from memory.maintenance.progress import Progress
from r1site.embedded.secrets import read_secret
from r1site.launch import DEMO_USER
from tests.faults.service import ROOT, running

SECTION = (ROOT / "README.md").read_text().partition("## A first conversation")[2].partition("\n## ")[0]
SHELL = re.findall(r"^```sh\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
[PYTHON] = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
# Between the blocks, to tell their output apart.
MARK = "-- next block --"
[USER] = set(re.findall(r"make -s token USER=(\w+)", SECTION))


RIVALS = ("PyJWT", "tokenizers", "gunicorn", "asgiref", "pgvector", "requests")


@pytest.fixture(scope="module")
def service():
    # Whatever weights this machine may have.
    with running(CROSS_ENCODER_MODEL="/nowhere", MEMORY_EMBED_BACKEND="auto") as service:
        yield service


@pytest.fixture(scope="module")
def demonstrated(service):
    """What the demo said, and the service's answers to its questions."""
    said, answers = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "FIRST_PACKAGES", RIVALS)
        patch.setattr(settings, "MEMORY_JWT_SECRET", read_secret(service.var / "secrets", "MEMORY_JWT_SECRET"))
        url = f"http://127.0.0.1:{service.port}"
        demo.run_demo(url, said.append, Progress(None))
        alice = demo.Person(url, DEMO_USER)
        answers += [alice.call("POST", "query", {"query": question})[1] for question, _ in demo.QUESTIONS]
    return "\n".join(said), answers


@pytest.fixture(scope="module", params=["first", "second"])
def walked(request, service, demonstrated):
    """The service's environment, and each shell block's output."""
    if shutil.which("curl") is None:
        pytest.skip("the walk is one with curl, which is not here")
    with tempfile.TemporaryDirectory(prefix="r1-") as folder:
        environment = {**service.environment, "TMPDIR": folder}
        script = f"\necho '{MARK}'\n".join(SHELL)
        walk = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert walk.returncode == 0, walk.stdout + walk.stderr
        yield environment | {"TOKEN": service.token(USER)}, walk.stdout.split(MARK)


def test_each_question_of_the_demo_is_answered_first_by_the_document_that_answers_it_without_a_reranker(demonstrated):
    said, answers = demonstrated
    assert [answer["reranked"] for answer in answers] == [False] * len(answers)
    assert [answer["results"][0]["doc_id"] for answer in answers] == [doc_id for _, doc_id in demo.QUESTIONS]
    assert said.count("mallory asks") == len(answers) and demo.NOT_RERANKED in said


def test_who_has_run_the_demo_before_sees_the_same():
    assert USER not in {DEMO_USER, "bob", "mallory"}


def answers(output: str) -> list[dict]:
    """The JSON objects among the lines."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def test_a_document_is_remembered_found_and_cited_to_the_character(walked):
    one, several, found, *_ = answers(walked[1][0])
    assert one["doc_id"] == "notes/heating"
    assert [document["doc_id"] for document in several["documents"]] == ["notes/visit", "notes/garden"]
    printed = re.search(r"`results\[0\]\.citation` is `(.*), \"quote\": \.\.\.}`", SECTION).group(1) + "}"
    [result] = found["results"]
    sent = re.search(r'"text": "(The heat pump[^"]*)"', SECTION).group(1)
    assert result["citation"] == {**json.loads(printed), "quote": sent}


def test_the_stream_cites_then_speaks_then_is_done(walked):
    stream = walked[1][0]
    events = re.findall(r"^event: (\w+)$", stream, re.MULTILINE)
    assert (events[0], set(events[1:-1]), events[-1]) == ("citations", {"token"}, "done")
    deltas = [
        json.loads(line)["delta"] for line in re.findall(r"^data: (.*)$", stream, re.MULTILINE) if "delta" in line
    ]
    assert "every six months" in "".join(deltas)


def test_the_summary_and_the_entities_are_those_in_the_text(walked):
    summary, entities, page, document, stats = answers(walked[1][1])
    assert (len(summary["sentences"]), summary["stored"]) == (2, True)
    assert all(sentence["citation"]["quote"] == sentence["text"] for sentence in summary["sentences"])
    named = dict(re.findall(r"\*([\w ]+)\*, a `(\w+)`", SECTION))
    assert {entity["text"]: entity["label"] for entity in entities["entities"]} == named
    assert len(named) == 2
    assert len(page["results"]) == 2 and page["next"].startswith("http://")
    assert document["text"].startswith("The heat pump")
    assert (stats["documents"], stats["derived_documents"]) == (int(re.search(r"`documents` is (\d)", SECTION)[1]), 0)


def test_what_was_erased_is_gone_and_what_was_exported_comes_back(walked):
    receipt, found, *indexed = answers(walked[1][2])
    assert receipt["erased_documents"] == int(re.search(r"that (\d) documents were erased", SECTION)[1])
    assert receipt["key_destroyed"] and receipt["unrecoverable_after"] > receipt["at"]
    assert found["results"] == []
    assert {document["doc_id"] for document in indexed} == {"notes/heating", "notes/visit"}
    assert not any(document["replaced"] for document in indexed)


def test_the_python_example_prints_what_the_readme_says(walked):
    assert len([line for line in PYTHON.splitlines() if line.strip()]) <= 30
    run = subprocess.run(
        [sys.executable, "-c", PYTHON],
        env={"PORT": walked[0]["PORT"], "TOKEN": walked[0]["TOKEN"], "PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    status, _, answer = run.stdout.partition("\n")
    assert status == re.search(r"It prints `(\d+)`", SECTION)[1]
    assert "zweimal am Tag das Wetter" in answer
