"""Where the time of a served query, or of a turn's write, goes by stage: `make profile-query`.

1. Start the whole service with one worker over a new data folder, rates off; store `--turns` turns of one user.
2. `--callers` ask one query after the other, or write one turn after the other (`--write`); py-spy samples every thread
   of the worker `--hz` times a second for `--seconds`, those that wait as well: what a request waits for is what its
   caller waits for.
3. Every sample of a thread that has a request counts for one stage: that of the innermost frame that STAGES knows.
   Waiting for the embedding model is a stage, and so holds what that model's own thread does.

Prints each stage's share and milliseconds a request, then the innermost lines of this project that most samples were
under. py-spy halts the worker while it looks: what callers wait for with and without it is printed, and only shares
compare. It needs the right to trace a process (root, or a kernel.yama.ptrace_scope that allows it).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.caller import Caller  # noqa: E402
from deploy.bench.chats import Chat, load_chats  # noqa: E402
from deploy.bench.database import percentiles  # noqa: E402
from deploy.bench.served import Served  # noqa: E402

WARM_CALLS = 50
# A thread that has a request is in this file's `handle`.
REQUEST = "r1site/gunicorn_worker.py"
# By stage, what the innermost frame that is known at all has in its `path:function`. The first that fits counts.
STAGES = {
    "metrics": r"/prometheus_client/|/django_prometheus/|memory/metrics\.py",
    "token, user": r"memory/auth/|/jwt/|memory/middleware\.py|memory/security\.py:(hmac_user|canonical)",
    "room, deadline, turns": r"memory/admission/|services/rate_limits\.py|services/stopwatch\.py",
    "body: JSON, validation": (
        r"memory/api/(parsers|serializers|fields)|memory/formats/|rest_framework/(serializers|fields|parsers)\.py"
    ),
    "keys, profile": r"memory/sealing/(keyring|profile|key_changes)|memory/keys/",
    "embedding, waited for": r"memory/embedding/(?!rotation)",
    "SQL": (
        r"memory/rls\.py|memory/isolation/|retrieval/search\.py|r1site/postgresql/|/psycopg|/django/db/|/pgvector/"
        r"|memory/indexing/(store|counters|derived|room)|memory/lexical/segments"
    ),
    "rotation, blind terms": r"memory/sealing/protection\.py|memory/embedding/rotation|memory/lexical/",
    "cutting": r"memory/indexing/(chunker|slices|token_starts)",
    "sealing, opening": r"retrieval/open\.py|indexing/seal\.py|memory/sealing/|memory/security\.py|/cryptography/",
    "reranking": r"retrieval/rerank\.py|reranker/",
    "ranking": r"memory/retrieval/(?!citations)|memory/services/",
    "answer: JSON": r"memory/api/(responses/|shapes)|retrieval/citations\.py|rest_framework/(renderers|response|utils)",
    "views, DRF": r"memory/api/|/rest_framework/",
    "Django, middleware": r"/django/|r1site/(?!gunicorn)",
    "HTTP, gunicorn": r"/gunicorn/|r1site/gunicorn",
}
_STAGES = {stage: re.compile(pattern) for stage, pattern in STAGES.items()}
_FRAME = re.compile(r"(?P<function>.*) \((?P<path>[^()]*?):(?P<line>\d+)\)$")
OTHER = "other"


def samples(raw: Path) -> Iterator[tuple[list[tuple[str, str, str]], int]]:
    """([(path, function, line), outermost first], how often) of each stack that belongs to a request."""
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [found.group("path", "function", "line") for found in map(_FRAME.match, stack.split(";")) if found]
        functions = {function for path, function, _ in frames if path.endswith(REQUEST)}
        # A thread that stays with a client that it has answered waits for nothing of a request.
        if any(each.endswith("handle") for each in functions) and not any(
            "_speaks_again" in each for each in functions
        ):
            yield frames, int(count)


def stage_of(frames: list[tuple[str, str, str]]) -> str:
    """The stage of the innermost frame that any stage knows."""
    for path, function, _ in reversed(frames):
        for stage, pattern in _STAGES.items():
            if pattern.search(f"{path}:{function}"):
                return stage
    return OTHER


def line_of(frames: list[tuple[str, str, str]]) -> str:
    """The innermost line of this project."""
    for path, function, line in reversed(frames):
        if path.startswith(str(ROOT)) and ".venv" not in path:
            return f"{path[len(str(ROOT)) + 1 :]}:{line} {function}"
    return OTHER


def worker_pid(served: Served) -> int:
    """The one worker of the gunicorn that the launcher has started."""
    [master] = children(served.process.pid)
    [worker] = children(master)
    return worker


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def call(caller: Caller, chat: Chat, *, write: bool, number: int) -> float:
    """One query, or the write of one turn that was not there; milliseconds."""
    if write:
        turn = chat.turns[number % len(chat.turns)]
        return caller.timed("memory/index", turn.document() | {"doc_id": f"more-{uuid.uuid4()}"})
    return caller.timed("memory/query", {"query": chat.questions[number % len(chat.questions)].text})


def loop(served: Served, chat: Chat, options: argparse.Namespace, during: Callable[[], object]) -> list[float]:
    """What `options.callers` wait for, in milliseconds, as long as `during()` takes."""
    stop, laps_ms = threading.Event(), []

    def repeat(caller: Caller) -> None:
        while not stop.is_set():
            laps_ms.append(call(caller, chat, write=options.write, number=len(laps_ms)))

    callers = [Caller(served, chat.user) for _ in range(options.callers)]
    threads = [threading.Thread(target=repeat, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        during()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return laps_ms


def record(py_spy: str, pid: int, raw: Path, options: argparse.Namespace) -> None:
    command = [py_spy, "record", "--pid", str(pid), "--format", "raw", "--output", str(raw), "--idle"]
    command += ["--full-filenames", "--rate", str(options.hz), "--duration", str(options.seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not raw.exists():
        raise SystemExit(f"py-spy failed: {done.stderr[-1000:]}")
    print(done.stderr.strip(), file=sys.stderr)


def measure(py_spy: str, options: argparse.Namespace) -> dict:
    chat = load_chats(options.texts, users=1, turns=options.turns)[0]
    with tempfile.TemporaryDirectory(prefix="r1-bench-") as folder:
        raw, settings = Path(folder) / "raw", {"WEB_CONCURRENCY": "1"}
        if options.reranker:
            from deploy.bench.tiny_reranker import build

            settings["CROSS_ENCODER_MODEL"] = str(build(Path(folder) / "reranker"))
        with Served(Path(folder) / "var", settings=settings) as served:
            caller = Caller(served, chat.user)
            caller.store([turn.document() for turn in chat.turns])
            for number in range(WARM_CALLS):
                call(caller, chat, write=options.write, number=number)
            pid = worker_pid(served)
            alone = loop(served, chat, options, lambda: threading.Event().wait(options.seconds / 2))
            watched = loop(served, chat, options, lambda: record(py_spy, pid, raw, options))
        stages, lines = Counter(), Counter()
        for frames, count in samples(raw):
            stages[stage_of(frames)] += count
            lines[line_of(frames)] += count
    total = sum(stages.values())
    if not total:
        raise SystemExit("py-spy saw no request")
    mean_ms = sum(alone) / len(alone)
    return {
        "alone": percentiles(alone),
        "sampled": percentiles(watched),
        "samples": total,
        "stages": {
            stage: {"share": round(100 * count / total, 1), "ms": round(mean_ms * count / total, 2)}
            for stage, count in stages.most_common()
        },
        "lines": {line: round(100 * count / total, 1) for line, count in lines.most_common(options.lines)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=Path, help="a folder of chats (deploy/bench/chats.py); none: made-up words")
    parser.add_argument("--turns", type=int, default=400, help="stored before (%(default)s)")
    parser.add_argument("--write", action="store_true", help="writes of one turn in place of queries")
    parser.add_argument("--callers", type=int, default=1, help="at once (%(default)s)")
    parser.add_argument("--seconds", type=int, default=30, help="sampled (%(default)s)")
    parser.add_argument("--hz", type=int, default=250, help="samples a second (%(default)s)")
    parser.add_argument("--lines", type=int, default=20, help="shown (%(default)s)")
    parser.add_argument("--reranker", action="store_true", help="with a cross-encoder of TinyBERT's shape")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options = parser.parse_args()
    if min(options.turns, options.callers, options.seconds, options.hz, options.lines) < 1:
        parser.error("every number must be at least 1")
    beside = Path(sys.executable).with_name("py-spy")
    py_spy = str(beside) if beside.exists() else shutil.which("py-spy")
    if py_spy is None:
        parser.error("py-spy is not installed: .venv/bin/python -m pip install py-spy")
    report = measure(py_spy, options)
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    print(f"alone {report['alone']}\nsampled {report['sampled']}\n{report['samples']} samples of requests\n")
    for stage, found in report["stages"].items():
        print(f"{stage:28}{found['share']:>7.1f} %{found['ms']:>9.2f} ms")
    print()
    for line, share in report["lines"].items():
        print(f"{share:>7.1f} %  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
