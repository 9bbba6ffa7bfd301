"""manage.py evaluate --collection DIR"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings

from memory.embedding.process import loaded_embedder
from memory.errors import MemoryServiceError
from memory.evaluation.collections import Collection, load_collection
from memory.evaluation.raw import CollectionError, questions_of
from memory.evaluation.report import report, table
from memory.evaluation.run import OF_ANOTHER_USER, UNANSWERABLE, Ranked, run
from memory.evaluation.throwaway import ThrowAwayUser
from memory.maintenance.command import ServiceCommand, failed, usage
from memory.maintenance.progress import Progress
from memory.retrieval.rerank import warm_reranker

QUESTIONS = Path(__file__).parents[2] / "evaluation" / "unanswerable.txt"
ROTATIONS = {"deployment": (True,), "off": (False,), "both": (True, False)}


class Command(ServiceCommand):
    help = (
        "Index a test collection (conversations, or BEIR, SMART or TREC format) for throw-away users, rank its "
        "queries in every combination of stages, and erase those users. JSON on stdout, table and progress on stderr. "
        "Exit 1 when the service failed, 2 on wrong arguments, 3 while another evaluation runs, 4 when interrupted; "
        "each time nothing is left behind."
    )
    lock = 0x5231_4556  # "R1EV"

    def add_arguments(self, parser):
        parser.add_argument("--collection", required=True, type=Path, metavar="DIR")
        parser.add_argument("--limit-queries", type=int, metavar="N", help="only the first N judged queries")
        flags: dict[str, dict[str, Any]] = {
            "--rotation": {
                "choices": tuple(ROTATIONS),
                "default": "deployment",
                "help": "off: for a user whose vectors are not rotated; both: as deployed, then off, and compared",
            },
            "--ages": {
                "type": float,
                "default": 0.0,
                "metavar": "DAYS",
                "help": "spread the documents' ages over so many days; default 0, where decay is neutral",
            },
            "--shuffled": {
                "action": "store_true",
                "help": "index in random order, with rewrites and deletes in between",
            },
            "--one-user": {
                "action": "store_true",
                "help": "all of a collection's users as one; default: each in a memory of its own, one after the other",
            },
            "--named": {
                "action": "store_true",
                "help": "begin each turn's text with its speaker's name, as where no field is for it",
            },
            "--unanswerable": {
                "type": Path,
                "nargs": "?",
                "const": QUESTIONS,
                "metavar": "FILE",
                "help": "ask each user the questions of FILE too, one a line, which nothing answers, and those of "
                "another user; default: a hundred of general knowledge and of other people's affairs",
            },
            "--json": {"action": "store_true", "help": "the JSON alone: no table, no progress"},
        }
        for flag, arguments in flags.items():
            parser.add_argument(flag, **arguments)

    def handle(self, *, collection, limit_queries, rotation, ages, shuffled, one_user, unanswerable, **options):
        loaded = self._collection(collection, limit_queries, rotation, ages)
        if options["named"]:
            loaded = loaded.named()
        parts = [loaded] if one_user else loaded.by_user()
        others = self._others(unanswerable, parts)
        progress = Progress(None) if options["json"] else self.progress
        erased: list[ThrowAwayUser] = []
        self.work(lambda: {"done": progress.counts, "erased_rows": [user.erased_rows for user in erased]})
        warm_reranker()
        try:
            with self.alone():
                runs = [Ranked(rotated) for rotated in ROTATIONS[rotation]]
                for ranked in runs:
                    for part, asked in zip(parts, others, strict=True):
                        # Always of the same name: so the next run finds what a killed one left, however many it had.
                        user = ThrowAwayUser(f"rotated={ranked.rotated}", rotated=ranked.rotated)
                        erased.append(user)
                        with user:
                            run(
                                part, user, ranked, others=asked, ages_days=ages, shuffled=shuffled, progress=progress
                            )  # fmt: skip
                found = report(loaded, runs)
        except MemoryServiceError as error:
            raise failed(f"the service failed: {error.detail}") from None
        except KeyboardInterrupt:
            if embedder := loaded_embedder():
                embedder.close()  # waits for the running batch: a process that ends within one is aborted
            progress.end()
            self.stderr.write("the throw-away users are erased")
            raise
        found |= {"ages_days": ages, "shuffled": shuffled, "erased_rows": [user.erased_rows for user in erased]}
        found["named"] = options["named"]
        found["users"] = len(erased) // len(runs)
        progress.end()
        if not options["json"]:
            self.stderr.write(table(found), style_func=str)
        self.conclude(found)

    def _others(self, unanswerable: Path | None, parts: list[Collection]) -> list[dict[str, list[str]]]:
        """What each part's user is asked besides: what nobody can answer, and what the user after him is asked."""
        if unanswerable is None:
            return [{} for _ in parts]
        try:
            questions = questions_of(unanswerable)
        except CollectionError as error:
            raise usage(str(error)) from None
        if len(parts) == 1:
            return [{UNANSWERABLE: questions}]
        return [
            {UNANSWERABLE: questions, OF_ANOTHER_USER: list(following.queries.values())}
            for following in (*parts[1:], parts[0])
        ]

    def _collection(self, folder: Path, limit_queries: int | None, rotation: str, ages: float) -> Collection:
        if limit_queries is not None and limit_queries < 1:
            raise usage("--limit-queries must be at least 1")
        if not 0 <= ages <= 36_500:
            raise usage("--ages must be between 0 and 36500")
        if rotation != "deployment" and settings.MEMORY_EMBEDDING_PROTECTION != "rotate":
            raise usage("--rotation off and both need MEMORY_EMBEDDING_PROTECTION=rotate")
        try:
            loaded = load_collection(folder)
        except CollectionError as error:
            raise usage(str(error)) from None
        return loaded if limit_queries is None else loaded.first_queries(limit_queries)
