"""What one caller waits for, here and in another checkout: `make bench-one-caller AGAINST=FOLDER`.

1. Start the service of this checkout, and that of `--against`, each over a new data folder and a database of its own.
2. Store the same turns of one user in each.
3. Ask questions, each of both services before the next is asked; who goes first alternates. Then write turns, likewise.

Prints p50 and p95 of each in milliseconds, and the median of the ratios of the pairs: what the machine does beside it
meets both alike. A checkout with a `.venv` of its own is served by that, else by this one's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.caller import Caller  # noqa: E402
from deploy.bench.chats import Chat, load_chats  # noqa: E402
from deploy.bench.database import percentiles  # noqa: E402
from deploy.bench.served import Served  # noqa: E402

WARM_CALLS = 20
HERE, THERE = "here", "against"


def checkouts(folder: Path, against: Path | None) -> dict[str, Served]:
    """By name, not started yet."""
    found = {HERE: Served(folder / HERE)}
    if against is not None:
        own = against / ".venv" / "bin" / "python"
        found[THERE] = Served(folder / THERE, root=against, python=str(own) if own.exists() else sys.executable)
    return found


def in_turn(callers: dict[str, Caller], path: str, bodies: list[dict]) -> dict[str, list[float]]:
    """Each body at every service before the next; who goes first alternates. Milliseconds by service."""
    found: dict[str, list[float]] = {name: [] for name in callers}
    order = list(callers)
    for body in bodies:
        for name in order:
            found[name].append(callers[name].timed(path, body))
        order.reverse()
    return found


def measure(chat: Chat, options: argparse.Namespace) -> dict:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="r1-bench-")))
        served = checkouts(folder, options.against)
        callers = {name: Caller(stack.enter_context(one), chat.user) for name, one in served.items()}
        for name, caller in callers.items():
            caller.store([turn.document() for turn in chat.turns])
            print(f"{name}: {len(chat.turns)} turns stored", file=sys.stderr)
        texts = [question.text for question in chat.questions]
        questions = [{"query": texts[number % len(texts)], "top_k": 10} for number in range(options.calls + WARM_CALLS)]
        laps = {"query": in_turn(callers, "memory/query", questions)}
        laps["write"] = in_turn(callers, "memory/index", [turn.document() for turn in chat.more])
    report: dict = {}
    for kind, found in laps.items():
        warm = {name: times[WARM_CALLS:] for name, times in found.items()}
        report[kind] = {name: percentiles(times) for name, times in warm.items()}
        if THERE in warm:
            ratios = [ours / theirs for ours, theirs in zip(warm[HERE], warm[THERE], strict=True)]
            report[kind]["ratio"] = round(statistics.median(ratios), 3)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout of this project; none: this one alone")
    parser.add_argument("--texts", type=Path, help="a folder of chats (deploy/bench/chats.py); none: made-up words")
    parser.add_argument("--turns", type=int, default=400, help="stored before (%(default)s)")
    parser.add_argument("--calls", type=int, default=200, help="queries, and then writes, timed (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    options = parser.parse_args()
    if min(options.turns, options.calls) < 1:
        parser.error("every number must be at least 1")
    if options.against is not None:
        options.against = options.against.resolve()
        if not (options.against / "r1site").is_dir():
            parser.error(f"{options.against} is no checkout of this project")
    chat = load_chats(options.texts, users=1, turns=options.turns, more=options.calls + WARM_CALLS)[0]
    report = measure(chat, options)
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    for kind, found in report.items():
        for name in (HERE, THERE):
            if name in found:
                print(f"{kind:8}{name:10}p50 {found[name]['p50']:7.1f} ms   p95 {found[name]['p95']:7.1f} ms")
        if "ratio" in found:
            print(f"{kind:8}here / against, median of pairs: {found['ratio']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
