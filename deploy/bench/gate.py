"""The evidence of both approvals, on a database of its own: `make gate`.

1. Start an embedded PostgreSQL of its own under var/gate; migrate; register the space.
2. Where no cross-encoder is at hand, make one of the default's shape with random weights: what it says is noise, what
   it costs is not.
3. Run `manage.py gate`, which writes its documents into --out (var/gate/evidence).

Exit 0 where every line passes, 1 where one fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.database import service  # noqa: E402
from deploy.bench.tiny_reranker import build  # noqa: E402

FOLDER = ROOT / "var" / "gate"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER / "evidence", help="default var/gate/evidence")
    parser.add_argument("--only", choices=("security", "performance"), help="one of the two approvals")
    parser.add_argument("--calls", type=int, default=100, help="a measurement (%(default)s)")
    options = parser.parse_args()
    os.environ["R1_VAR_DIR"] = str(FOLDER)
    arguments = ["--out", str(options.out), "--calls", str(options.calls)]
    arguments += ["--only", options.only] if options.only else []
    with service(FOLDER), tempfile.TemporaryDirectory(prefix="r1-gate-") as folder:
        from django.core.management import call_command

        from memory.maintenance.gate_performance import rerank_config
        from reranker import Reranker

        if options.only != "security" and not Reranker(rerank_config(None)).warm(60):
            print("no cross-encoder is at hand: one of its shape with random weights is timed", file=sys.stderr)
            arguments += ["--rerank-model", str(build(Path(folder) / "random-weights"))]
        try:
            call_command("gate", *arguments)
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
