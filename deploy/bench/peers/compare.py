"""Other memories beside this one, in one run: `make bench-peers`.

1. Start the whole service over a new data folder; give every other system a database on the same PostgreSQL.
2. Write the first `--turns` turns of each of `--users` users in turn: each system stores turn i before any stores turn
   i + 1, and another one begins each time. The first tenth of them warms up and is not timed.
3. Ask what these turns answer, `--rounds` times, question by question likewise. The first round alone counts for
   recall, which is of the turns that a question is known to need.
4. Weigh what each has on disk.

One caller. The floors are the least that a memory of this kind must do: embed, and one statement. Prints milliseconds,
p50 and p95; x, how many times as long as the torch floor, the median over all questions or turns; percent; and bytes a
turn. Progress on stderr. Runs in the environment of its requirements (.venv-peers), the service in the project's own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT)]
# Nothing here may ask the network, or write to a home folder.
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False"}
from deploy.bench.chats import Chat, load_chats  # noqa: E402
from deploy.bench.database import percentiles  # noqa: E402
from deploy.bench.peers.systems import (  # noqa: E402
    LangGraphStore,
    Mem0,
    Ours,
    RawPgvector,
    System,
    stored_bytes,
)
from deploy.bench.served import Served  # noqa: E402

WARM_SHARE = 0.1
RECALL_AT = (3, 10)
HEADINGS = (
    *(("", 30), ("query p50", 10), ("p95", 8), ("x", 6), ("write p50", 11), ("p95", 8), ("x", 6)),
    *((f"R@{k}", 7) for k in RECALL_AT),
    ("bytes", 9),
)


def systems(served: Served, users: list[str], folder: Path, stack: ExitStack) -> list[System]:
    """All of them, empty."""
    import torch
    from sentence_transformers import SentenceTransformer

    from memory.embedding.embedder import Embedder

    ours = Embedder(models=ROOT / "var" / "models")
    model, form = ours.folder(), ours.load()
    # For one short text a second thread gains nothing, and on a busy machine each waits for the other.
    torch.set_num_threads(1)
    transformer = SentenceTransformer(str(model), device="cpu")

    def by_torch(text: str):
        return transformer.encode(text, normalize_embeddings=True, show_progress_bar=False)

    return [
        RawPgvector("raw pgvector, torch fp32", served, "peers_torch", by_torch),
        RawPgvector("raw pgvector, our form", served, "peers_built", lambda text: form.encode("query", [text])[0]),
        LangGraphStore(served, by_torch, stack),
        Mem0(served, model, folder),
        Ours(served, users),
    ]


def in_turn(found: list[System], number: int) -> list[System]:
    """Who is asked for the `number`th time, in order: another one begins each time."""
    first = number % len(found)
    return found[first:] + found[:first]


def write_all(compared: list[System], chats: list[Chat]) -> dict[str, list[float]]:
    """Milliseconds of every write by system. Users take turns, too."""
    laps: dict[str, list[float]] = {system.name: [] for system in compared}
    turns = [(chat.user, chat.turns[index]) for index in range(len(chats[0].turns)) for chat in chats]
    for number, (user, turn) in enumerate(turns):
        for system in in_turn(compared, number):
            started = time.perf_counter()
            system.write(user, turn)
            laps[system.name].append((time.perf_counter() - started) * 1_000)
        if number % 200 == 199:
            print(f"{number + 1} of {len(turns)} turns", file=sys.stderr)
    return laps


def ask_all(compared: list[System], chats: list[Chat], rounds: int) -> tuple[dict, dict]:
    """(milliseconds of every query, recall of each question by depth), by system."""
    laps: dict[str, list[float]] = {system.name: [] for system in compared}
    recall: dict[str, dict[int, list[float]]] = {system.name: {k: [] for k in RECALL_AT} for system in compared}
    questions = [(chat.user, question) for chat in chats for question in chat.questions]
    for number, (user, question) in enumerate(questions * rounds):
        for system in in_turn(compared, number):
            started = time.perf_counter()
            ids = system.query(user, question.text)
            laps[system.name].append((time.perf_counter() - started) * 1_000)
            if number < len(questions):
                for k, shares in recall[system.name].items():
                    shares.append(len(question.evidence & set(ids[:k])) / len(question.evidence))
    print(f"{len(questions)} questions, {rounds} times", file=sys.stderr)
    return laps, recall


def times_the_floor(laps: list[float], floor: list[float]) -> float:
    """The median, over what was asked or written, of how many times as long it took."""
    return round(statistics.median(own / least for own, least in zip(laps, floor, strict=True)), 2)


def measure(options: argparse.Namespace) -> dict:
    chats = load_chats(options.texts, users=options.users, turns=options.turns)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="r1-bench-")))
        service = Served(folder / "var", python=str(ROOT / ".venv" / "bin" / "python"))
        served = stack.enter_context(service)
        compared = systems(served, [chat.user for chat in chats], folder, stack)
        empty = {system.name: stored_bytes(served, system) for system in compared}
        writes = write_all(compared, chats)
        queries, recall = ask_all(compared, chats, options.rounds)
        weights = {system.name: stored_bytes(served, system) - empty[system.name] for system in compared}
    stored, floor = options.users * options.turns, compared[0].name
    return {
        system.name: {
            "query_ratio": times_the_floor(queries[system.name], queries[floor]),
            "write_ratio": times_the_floor(writes[system.name], writes[floor]),
            "query": percentiles(queries[system.name]),
            "write": percentiles(writes[system.name][int(stored * WARM_SHARE) :]),
            "recall": {k: round(100 * statistics.fmean(shares), 1) for k, shares in recall[system.name].items()},
            "bytes_a_turn": round(weights[system.name] / stored),
        }
        for system in compared
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=Path, help="a folder of chats (deploy/bench/chats.py); none: made-up words")
    parser.add_argument("--users", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--turns", type=int, default=400, help="of each user (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of the questions (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args()
    if min(options.users, options.turns, options.rounds) < 1:
        parser.error("every number must be at least 1")
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    for title, width in HEADINGS:
        print(f"{title:>{width}}", end="")
    print()
    for name, found in report.items():
        times = "".join(
            f"{found[kind]['p50']:>{width}.1f}{found[kind]['p95']:>8.1f}{found[f'{kind}_ratio']:>6.2f}"
            for kind, width in (("query", 10), ("write", 11))
        )
        recall = "".join(f"{found['recall'][k]:>7.1f}" for k in RECALL_AT)
        print(f"{name:30}{times}{recall}{found['bytes_a_turn']:>9,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
