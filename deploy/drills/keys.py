"""Keys rotated under load, with kill -9 in the middle of it: `make drill-keys`.

1. Start the whole service with the master key `k1` in a file, two workers and rates off. Store `--users` users of one
   chunk, one of `--rows` chunks, some readers and some writers.
2. From here on `--reads` queries and `--writes` writes a second, each timed from the moment that it was due. A reader's
   answer must be that of before: the same chunks with the same scores. A writer reads at the end what he wrote last.
3. Walk deploy/runbooks/key_rotation.md: `k2` into the file, promote (refused until the workers have read it), re-wrap,
   killed at half and gone on with, verify, retire, `k1` out of the file.
4. `rotate_keys --data`, killed at half of the rows, and gone on with.

`--only` does one of 3 and 4. Prints what each step did, its rate, and the waits of reads and writes meanwhile. Exit 1
where a request failed, an answer differed or a step did not end as it should.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.served import Served  # noqa: E402
from deploy.drills.key_files import KeyFiles  # noqa: E402
from deploy.drills.load import Load, begin_load  # noqa: E402
from deploy.drills.steps import Steps, load_options, reported  # noqa: E402

PATIENCE_SECONDS = 120.0
_NEW_ROWS = "SELECT count(*) FROM memory_chunks WHERE generation > 1"
_ROWS = "SELECT count(*) FROM memory_chunks"


class Drill:
    """The service, its key files and the steps."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.options = options
        self.files = KeyFiles(folder, "k1")
        self.steps = Steps(Served(folder / "var", settings={"WEB_CONCURRENCY": "2", **self.files.settings}))

    def master_key(self, load: Load) -> dict[str, Any]:
        """The runbook of a rotation, from the first step to the last."""
        self.files.add("k2")
        load.phase = "promote"
        code, refusals, deadline = 1, 0, time.monotonic() + PATIENCE_SECONDS
        while code and time.monotonic() < deadline:
            code, _, _ = self.steps.step("--promote", "k2")
            refusals += bool(code)
            time.sleep(2)
        self.steps.expect(not code and refusals > 0, "the promotion waits for the workers, and then comes")
        self.files.activate("k2")
        # The workers hear of the promotion with their next report.
        time.sleep(6)
        load.phase = "re-wrap"
        report = wrapped_anew(self.steps, "k2")
        load.phase = "verify, retire"
        report |= verified(self.steps)
        code, _, _ = self.steps.step("--retire", "k1", "--without-backups")
        self.steps.expect(code == 0, "the old key is retired")
        self.files.forget("k1")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            _, status, _ = self.steps.step("--status")
            if all(worker["master_keys"] == ["k2"] for worker in status["workers"]):
                break
            time.sleep(5)
        self.steps.expect(len(status["workers"]) == 2, "two workers are live")
        self.steps.expect(not status["findings"], "nothing is to be seen to once the old key is gone")
        return {"refused_promotions": refusals, **report}

    def data_keys(self, load: Load) -> dict[str, Any]:
        """New data keys for everybody."""
        load.phase = "data keys"
        self.steps.killed_at_half(_NEW_ROWS, _ROWS, "--data")
        code, said, seconds = self.steps.step("--data")
        self.steps.expect(code == 0 and not said.get("waiting"), "the second run ends it")
        rows = said.get("chunks", 0) + said.get("documents", 0)
        return {**said, "seconds": round(seconds, 1), "rows_a_second": round(rows / seconds, 1)}

    def run(self) -> dict[str, Any]:
        options, served = self.options, self.steps.served
        with served:
            fill_beside(self.steps, options.users, options.rows)
            load = begin_load(served, options.reads, options.writes)
            with load:
                load.phase = "before"
                time.sleep(options.seconds)
                report = {
                    name: walk(load)
                    for name, walk in (("master_key", self.master_key), ("data_keys", self.data_keys))
                    if options.only in (None, name)
                }
                load.phase = "after"
                time.sleep(options.seconds)
            self.steps.expect(load.wrote_what_is_read(), "what was written last is what is read")
            with served.superuser("r1") as superuser:
                rows = superuser.execute("SELECT count(*) FROM memory_chunks WHERE quarantined_at IS NOT NULL")
                self.steps.expect(rows.fetchone() == (0,), "nothing is quarantined")
        report |= self.steps.requests(load)
        self.steps.expect(not load.differing, f"{len(load.differing)} answers differed")
        return report | {"failures": self.steps.failures}


def wrapped_anew(steps: Steps, under: str) -> dict[str, Any]:
    """All keys wrapped anew under key ids LIKE `under`: killed at half and gone on with."""
    share = steps.killed_at_half(_count_under(under), _count_under("%"), "--rewrap")
    code, said, seconds = steps.step("--rewrap")
    steps.expect((code, said.get("left")) == (0, 0), "the second re-wrapping leaves nothing")
    done = said.get("done", 0)
    return {"killed_with": round(share, 2), "keys_rewrapped": done, "keys_a_second": round(done / seconds, 1)}


def verified(steps: Steps) -> dict[str, Any]:
    """Every key opened under what wraps now."""
    code, said, seconds = steps.step("--verify")
    steps.expect(code == 0, "every key opens under the new one")
    done = said.get("done", 0)
    return {"keys_verified": done, "verified_a_second": round(done / seconds, 1)}


def _count_under(key_id: str) -> str:
    counts = (f"(SELECT count(*) FROM {table} WHERE key_id LIKE '{key_id}')"
              for table in ("memory_data_keys", "memory_search_keys"))  # fmt: skip
    return f"SELECT {' + '.join(counts)}"


def fill_beside(steps: Steps, users: int, rows: int) -> None:
    """`fill` in a process of its own, with the service's settings."""
    command = [sys.executable, __file__, "--fill", "--users", str(users), "--rows", str(rows)]
    subprocess.run(command, cwd=ROOT, env=steps.environment, check=True)


def fill(users: int, rows: int) -> None:
    """In a process of its own, since it is Django's: users of one chunk with two keys each, and one of many rows."""
    import django

    django.setup()
    import numpy as np
    from django.db import connections

    from memory.embedding.spaces import default_space, dimension_of
    from memory.indexing.slices import Slice
    from memory.indexing.write import index_memory_batch

    dice, dimension = np.random.default_rng(1), dimension_of(default_space())

    def store(user: str, doc_id: str, chunks: int) -> None:
        passages = [Slice(f"Passage {n:06} of {doc_id}. ", n * 30, (n + 1) * 30) for n in range(chunks)]
        text = [Slice(p.text.ljust(30), p.start, p.end) for p in passages]
        vectors = dice.standard_normal((chunks, dimension)).astype(np.float32)
        index_memory_batch(connections["default"], user, doc_id, "drill", text, vectors)

    for number in range(users):
        store(f"key-{number}", "note", 1)
    for number in range(rows // 200):
        store("row-0", f"long-{number}", 200)
    print(f"{users} users and {rows} rows are stored", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=300, help="users of one chunk, two keys each (%(default)s)")
    parser.add_argument("--rows", type=int, default=4000, help="chunks of one user (%(default)s)")
    load_options(parser)
    parser.add_argument("--only", choices=("master_key", "data_keys"), help="one of the two; else both")
    parser.add_argument("--fill", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.users, options.rows)
        return 0
    return reported(lambda folder: Drill(folder, options).run())


if __name__ == "__main__":
    sys.exit(main())
