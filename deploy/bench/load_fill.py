"""The table that `make loadtest` loads: filled by several processes, each with its part of the users, and probed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deploy.bench.database import machine, service
from deploy.bench.own_index import Asker, build
from deploy.bench.sealed_memories import Pool, bytes_by_part, fill_user, vacuum, zipf_sizes

VAR = Path(__file__).resolve().parents[2] / "var" / "loadtest"
CHUNKS_PER_USER = 100
PROBE, PROBE_CHUNKS, PROBE_QUESTIONS = "load-probe", 1_000, 200


def fill(options: argparse.Namespace, turns: list[str], questions: list[str]) -> tuple[dict, list[str], list[int]]:
    """(what it was, the users' ids, their sizes): steps 1 and 2."""
    sizes = zipf_sizes(options.chunks, max(1, options.chunks // CHUNKS_PER_USER))
    users = [f"load-{rank}" for rank in range(len(sizes))]
    with service(VAR) as connections:
        cache = VAR / f"pool-{options.texts.name if options.texts else 'made-up'}.npy"
        pool = Pool(turns, cache, seed=1 + options.part)
        started = time.perf_counter()
        added = _in_parts(options, lambda: _fill_part(options, pool, users, sizes))
        if options.part:
            print(added)
            return {}, users, sizes
        filled = {"users": len(users), "added_chunks": added, "fill_seconds": round(time.perf_counter() - started, 1)}
        if added:
            filled["chunks_per_second"] = round(added / filled["fill_seconds"])
        filled["vacuum_seconds"] = round(vacuum(connections), 1)
        filled["builds"] = build()
        filled["bytes_a_chunk"] = bytes_by_part(connections)
        probe = Asker(PROBE, pool, (questions * PROBE_QUESTIONS)[:PROBE_QUESTIONS])
        filled["probe_search_ms"] = probe.timed_ms(has_own_index=False)
        filled["machine"] = machine(connections)
    return filled, users, sizes


def _in_parts(options: argparse.Namespace, fill_mine: Callable[[], int]) -> int:
    """How many chunks were added: by this process, and by one beside it for each other part of the users."""
    others = [] if options.part else range(1, options.jobs)
    children = [
        subprocess.Popen([sys.executable, *sys.argv, "--part", str(part)], stdout=subprocess.PIPE, text=True)
        for part in others
    ]
    added = fill_mine()
    for child in children:
        said, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"a process that filled beside this one ended with {child.returncode}")
        added += int(said.split()[-1])
    return added


def _fill_part(options: argparse.Namespace, pool: Pool, users: list[str], sizes: list[int]) -> int:
    """Bring this part's users to their sizes; how many chunks that added. Its progress is that of its own part."""
    from memory.maintenance.progress import Progress

    progress = Progress(None if options.part else sys.stderr.write, is_terminal=sys.stderr.isatty())
    mine = list(zip(users, sizes, strict=True))[options.part :: options.jobs]
    total, done, added = sum(size for _, size in mine), 0, 0
    progress("chunks", 0, total)
    for user, size in mine if options.part else [*mine, (PROBE, PROBE_CHUNKS)]:
        is_new = 0

        def more(count: int, done: int = done) -> None:
            nonlocal is_new
            is_new += count
            progress("chunks", done + is_new, total)

        added += fill_user(pool, user, size, more)
        done = min(total, done + size)
        progress("chunks", done, total)
    progress.end()
    return added
