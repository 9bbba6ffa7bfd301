"""Retrieval over conversations: `python deploy/bench/conversations.py FOLDER`, both ways of `manage.py evaluate`.

1. Each user of the collection in a memory of their own.
2. All of them in one.

On a database of its own under var/bench. Tables and progress on stderr, one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from database import machine, service  # noqa: E402

WAYS = {"each": (), "one": ("--one-user",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", type=Path, help="turns.jsonl and questions.jsonl, or BEIR (deploy/guide/evaluation.md)"
    )
    parser.add_argument("--limit-queries", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--named", action="store_true", help="each text begins with its speaker's name")
    parser.add_argument("--way", choices=tuple(WAYS), action="append", help="default: both")
    options = parser.parse_args()
    limit = () if options.limit_queries is None else ("--limit-queries", str(options.limit_queries))
    named = ("--named",) if options.named else ()
    with service() as connections:
        from django.core.management import call_command

        call_command("build_models", stdout=sys.stderr)
        found = {"machine": machine(connections)}
        for way in options.way or WAYS:
            said = io.StringIO()
            call_command(
                "evaluate",
                "--collection",
                str(options.folder),
                "--unanswerable",
                *limit,
                *named,
                *WAYS[way],
                stdout=said,
            )
            found[way] = json.loads(said.getvalue())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
