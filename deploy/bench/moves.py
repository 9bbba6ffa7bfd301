"""A drill: users moved under load, the mover killed in the middle. Run by `make drill-moves`.

A service of its own is asked 20 times and written to 5 times a second, by users of many sizes, while every user gets a
new search key (`reindex`) and then another name (`rotate_hmac`). Each command is
killed (-9) a few times and run again until it is through. The drill fails where a request fails, where the answers of a
user who does not write are not those of before (ids, and scores but for the half precision of another rotation), or
where a write that was acknowledged is not there at the end.

Longer than 250 lines on purpose: a drill is read from its load to its verdict in one piece.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.bench.served import Served
from memory.auth.mint import mint

WORDS = [
    "ferry",
    "island",
    "lighthouse",
    "harbour",
    "passport",
    "cellar",
    "piano",
    "beekeeper",
    "envelope",
    "drawer",
    "kitchen",
    "roof",
    "winter",
    "spring",
]
QUESTIONS = ("Where is the passport?", "the ferry to the island", "lighthouse in winter")
# Of a cosine, by the half precision of a vector that was rotated otherwise.
SCORE_TOLERANCE = 0.003
CLIENTS = 12
DOCUMENTS_A_CALL = 50


class Client:
    """Calls the service as any user, a connection a thread; keeps what failed and how long each kind of call took."""

    def __init__(self, served: Served, secret: str):
        self._served, self._secret = served, secret
        self._local = threading.local()
        self._tokens: dict[str, str] = {}
        self.failures: list[str] = []
        self.took_seconds: dict[str, list[float]] = {"read": [], "write": []}

    def call(self, user: str, method: str, path: str, body: dict | None = None, *, kind: str = "") -> dict:
        """The answer; {} where it failed, which is kept."""
        if user not in self._tokens:
            self._tokens[user] = mint(
                user, secret=self._secret, algorithm="HS256", issuer="r1-memory", audience="r1-memory", key_id=None,
                ttl_seconds=86_000,
            )  # fmt: skip
        headers = {"Authorization": f"Bearer {self._tokens[user]}", "Content-Type": "application/json"}
        raw = None if body is None else json.dumps(body)
        started = time.perf_counter()
        status, answer = self._sent(method, f"/api/v1/memory/{path}", raw, headers)
        if kind:
            self.took_seconds[kind].append(time.perf_counter() - started)
        if status not in (200, 201, 204):
            self.failures.append(f"{method} {path}: {status} {answer[:200]!r}")
            return {}
        return json.loads(answer or b"{}")

    def _sent(self, method: str, path: str, raw: str | None, headers: dict) -> tuple[int, bytes]:
        for _ in range(2):
            connection = getattr(self._local, "connection", None) or self._served.connection()
            self._local.connection = connection
            try:
                connection.request(method, path, raw, headers)
                response = connection.getresponse()
                return response.status, response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError):
                # Silent for so long that the server has closed it.
                self._local.connection = None
        return 0, b"no connection"


def text_of(user: str, number: int) -> str:
    """A passage that is the user's own."""
    chosen = random.Random(f"{user}/{number}")
    return f"Note {number}: " + " ".join(chosen.choices(WORDS, k=24)) + "."


def answers(client: Client, user: str, *, kind: str = "") -> list[list[tuple]]:
    """Ids and scores of what each question brings."""
    found = []
    for question in QUESTIONS:
        body = {"query": question, "top_k": 10, "decay_weight": 0, "rerank": False}
        results = client.call(user, "POST", "query", body, kind=kind).get("results", [])
        found.append([(each["chunk_id"], each["scores"]["vector"], each["scores"]["lexical"]) for each in results])
    return found


def differ(before: list[list[tuple]], now: list[list[tuple]]) -> bool:
    """Whether two answers are not the same, in ids or scores; rows that close in score may change places."""
    for these, those in zip(before, now, strict=True):
        scores = {chunk_id: (vector, lexical) for chunk_id, vector, lexical in those}
        if {row[0] for row in these} != set(scores):
            return True
        for chunk_id, vector, lexical in these:
            if abs(vector - scores[chunk_id][0]) > SCORE_TOLERANCE or abs(lexical - scores[chunk_id][1]) > 1e-9:
                return True
    return False


class Load:
    """Readers and writers at a constant rate, until it is stopped."""

    def __init__(self, client: Client, still: dict[str, list], writers: list[str], reads: float, writes: float):
        self._client, self._still, self._writers = client, still, writers
        self._rates = ((reads, self._read), (writes, self._write))
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self.written: dict[tuple[str, str], str | None] = {}
        self.different: list[str] = []
        self.compared = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._arrive, args=pair) for pair in self._rates]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown()

    def _arrive(self, per_second: float, work) -> None:
        number, started = 0, time.monotonic()
        while not self._stop.is_set():
            self._pool.submit(work, number)
            number += 1
            time.sleep(max(0.0, started + number / per_second - time.monotonic()))

    def _read(self, number: int) -> None:
        user = random.choice(list(self._still))
        question = number % len(QUESTIONS)
        body = {"query": QUESTIONS[question], "top_k": 10, "decay_weight": 0, "rerank": False}
        answer = self._client.call(user, "POST", "query", body, kind="read")
        if answer:
            found = [
                (each["chunk_id"], each["scores"]["vector"], each["scores"]["lexical"]) for each in answer["results"]
            ]
            self.compared += 1
            if differ([self._still[user][question]], [found]):
                self.different.append(f"{user}: {QUESTIONS[question]}")

    def _write(self, number: int) -> None:
        user = random.choice(self._writers)
        doc_id, text = f"load/{number % 50}", f"Written as number {number}: {text_of(user, number)}"
        # One document is written by one call at a time, or nobody could say which of two is the last.
        with self._lock:
            if (user, doc_id) in self.written and number % 5 == 0 and self.written[user, doc_id] is not None:
                self._client.call(user, "DELETE", f"documents/{doc_id}", kind="write")
                self.written[user, doc_id] = None
                return
            if self._client.call(user, "POST", "index", {"doc_id": doc_id, "text": text}, kind="write"):
                self.written[user, doc_id] = text


def run_command(served: Served, arguments: list[str], kills: int, after_seconds: float) -> dict:
    """Run it, kill it `kills` times, and again until it is through; what it said last, and how long it ran."""
    environment = {**served.environment, "DJANGO_SETTINGS_MODULE": "r1site.settings.dev"}
    killed, started = 0, time.monotonic()
    while True:
        process = subprocess.Popen(
            [served.python, "manage.py", *arguments], cwd=served.root, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=after_seconds if killed < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            continue
        if process.returncode not in (0, 4):
            raise SystemExit(f"{arguments[0]} ended with {process.returncode}: {err[-500:]}")
        said = json.loads(out) if out.strip() else {}
        if process.returncode == 0:
            return {**said, "killed": killed, "seconds": round(time.monotonic() - started, 1)}


def check_written(client: Client, load: Load) -> list[str]:
    """Which acknowledged writes are not as they were acknowledged."""
    wrong = []
    for (user, doc_id), text in load.written.items():
        listed = client.call(user, "GET", f"documents/{doc_id}") if text is not None else None
        if listed is not None and listed.get("text") != text:
            wrong.append(f"{user}/{doc_id}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=6)
    parser.add_argument("--chunks", type=int, default=20, help="of each user")
    parser.add_argument("--big", type=int, default=2_000, help="chunks of one of them")
    parser.add_argument("--reads", type=float, default=20.0, help="a second")
    parser.add_argument("--writes", type=float, default=5.0, help="a second")
    parser.add_argument("--kills", type=int, default=2, help="of each command")
    parser.add_argument("--kill-after", type=float, default=6.0, help="seconds")
    parser.add_argument("--pace", type=float, default=0.0, help="chunks a second; 0: as many as go")
    parser.add_argument("--only", choices=("reindex", "rotate_hmac"))
    options = parser.parse_args()
    other_key = base64.b64encode(secrets.token_bytes(32)).decode()
    with tempfile.TemporaryDirectory(prefix="r1-drill-") as folder:
        os.chmod(folder, 0o755)
        with Served(Path(folder) / "var", settings={"MEMORY_TENANT_HMAC_OTHER_KEY": other_key}) as served:
            sys.exit(drill(served, options))


def drill(served: Served, options: argparse.Namespace) -> int:
    """0 where nothing failed; prints a line a step as JSON."""
    secret = (served.var / "secrets" / "MEMORY_JWT_SECRET").read_text().strip()
    client = Client(served, secret)
    users = [f"drill-{number}" for number in range(options.users)]
    for number, user in enumerate(users):
        documents = [
            {"doc_id": f"kept/{n}", "text": text_of(user, n)}
            for n in range(options.big if not number else options.chunks)
        ]
        for first in range(0, len(documents), DOCUMENTS_A_CALL):
            client.call(user, "POST", "index", {"documents": documents[first : first + DOCUMENTS_A_CALL]})
    # The big one does not write, so that its answers can be compared; it is moved like the others.
    readers, writers = users[::2], users[1::2]
    still = {user: answers(client, user) for user in readers}
    if client.failures:
        raise SystemExit(f"the drill could not begin: {client.failures[0]}")
    steps = []
    if options.only != "rotate_hmac":
        run_command(served, ["register_space", "--another", "--default"], 0, 0)
        steps.append(["reindex"])
    if options.only != "reindex":
        steps.append(["rotate_hmac"])
    pace = ["--chunks-per-second", str(options.pace)]
    is_good = True
    for step in steps:
        for taken in client.took_seconds.values():
            taken.clear()
        with Load(client, still, writers, options.reads, options.writes) as load:
            time.sleep(2)
            said = run_command(served, [*step, *pace], options.kills, options.kill_after)
            time.sleep(2)
        wrong = check_written(client, load)
        after = sum(differ(still[user], answers(client, user)) for user in readers)
        is_good = is_good and not (client.failures or load.different or wrong or after)
        print(
            json.dumps({
                "step": step[0], **said, "reads": len(client.took_seconds["read"]), "compared": load.compared,
                "writes": len(client.took_seconds["write"]), "failed_requests": len(client.failures),
                "first_failure": client.failures[:1], "different_answers": len(load.different) + after,
                "lost_writes": wrong[:5],
                **{f"{kind}_{name}_ms": round(1000 * value, 1) for kind, taken in client.took_seconds.items()
                   for name, value in (("median", sorted(taken)[len(taken) // 2]), ("longest", max(taken)))},
                "load_average": os.getloadavg()[0],
            })
        )  # fmt: skip
        if step[0] == "rotate_hmac":
            print(json.dumps({"step": "retire", **run_command(served, ["rotate_hmac", "--retire"], 0, 0)}))
            is_good = is_good and not any(differ(still[user], answers(client, user)) for user in readers)
    return 0 if is_good else 1


if __name__ == "__main__":
    main()
