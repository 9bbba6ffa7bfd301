"""Everybody moved to another embedding model under load, the mover killed in the middle: `make drill-another-model`.

1. Start the service; store `--chunks` turns of chats: a user for each chat, and one who has them all. Ask every
   question (recall@10 before). `--reads` queries and `--writes` writes a second go on until the end.
2. Walk deploy/guide/moving.md: an instance that knows both models takes the load over; `reindex`, killed at half and
   gone on with; an instance with the new model first takes it over; `reindex` once more, for who came meanwhile; then
   one that knows the new model alone. Ask every question (recall@10 after).

The other model is weaker and of another dimension (`deploy/drills/other_model.py`). Each answer in between must be that
of before or that of after, to the score: then no recall is below the worse of the two. `--data` is a folder of chats as
`deploy/bench/chats.py` reads it; without one, words are made up. Exit 1 where a request failed, an answer was neither,
or a step did not end as it should.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.chats import Chat, load_chats  # noqa: E402
from deploy.bench.served import Served  # noqa: E402
from deploy.bench.wire import mint_tokens  # noqa: E402
from deploy.drills.load import WRITERS, Load, asked, forget_connection  # noqa: E402
from deploy.drills.other_model import build_other_model  # noqa: E402
from deploy.drills.steps import Steps, load_options, reported  # noqa: E402

TURNS_A_CALL = 50
CHATS, TURNS_A_CHAT = 10, 1_000
# What a user of everything is asked, and each of the others.
QUESTIONS_EACH = 60
_HERE = "SELECT count(*) FROM memory_chunks WHERE space = (SELECT max(space) FROM memory_spaces)"
_CHUNKS = "SELECT count(*) FROM memory_chunks"


class ModelDrill:
    """The instances of the service, one after the other, the chats and the steps."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.options, self.var = options, folder / "var"
        self.other = str(build_other_model(folder / "model"))
        self.steps = Steps(self._instance({}))

    def _instance(self, settings: dict[str, str]) -> Served:
        return Served(self.var, settings={"WEB_CONCURRENCY": "2", **settings})

    def _chats(self) -> list[Chat]:
        """A chat a user, and one user who has all of them, as often as it takes to come to `--chunks`."""
        options = self.options
        each = load_chats(options.data, users=CHATS, turns=options.turns)
        everything = Chat("everything", [turn for chat in each for turn in chat.turns],
                          [question for chat in each for question in chat.questions])  # fmt: skip
        chats, number = [*each, everything], 0
        while sum(len(chat.turns) for chat in chats) < options.chunks:
            again = each[number % len(each)]
            chats.append(Chat(f"{again.user}-again-{number}", again.turns, again.questions))
            number += 1
        return chats

    def _fill(self, chats: list[Chat], tokens: list[str]) -> None:
        for chat, token in zip(chats, tokens, strict=True):
            for first in range(0, len(chat.turns), TURNS_A_CALL):
                documents = [turn.document() for turn in chat.turns[first : first + TURNS_A_CALL]]
                status, answer = asked(self.steps.served.port, token, "memory/index", {"documents": documents})
                if status not in (200, 201):
                    raise SystemExit(f"turns were answered {status}: {answer}")

    def move(self, load: Load) -> dict[str, Any]:
        """The guide's steps."""
        both = {"MEMORY_NEXT_EMBEDDING_MODEL": self.other}
        load.phase = "hand over"
        self.steps.run(both, "build_models")
        self.steps.run(both, "register_space")
        self.steps.hand_over(load, self._instance(both))
        load.phase = "reindex"
        pace = ("--chunks-per-second", str(self.options.pace))
        share = self.steps.killed_at_half(_HERE, _CHUNKS, *pace, command="reindex")
        code, said, seconds = self.steps.step(*pace, command="reindex")
        self.steps.expect(code == 0, "the second run moves everybody who is left")
        new_first = {"MEMORY_EMBEDDING_MODEL": self.other, "MEMORY_NEXT_EMBEDDING_MODEL": "all-MiniLM-L6-v2"}
        load.phase = "new model first"
        self.steps.run(new_first, "register_space", "--default")
        self.steps.hand_over(load, self._instance(new_first))
        code, again, _ = self.steps.step("--space", str(said["space"]), command="reindex")
        self.steps.expect(code == 0, "who came meanwhile is moved")
        load.phase = "new model alone"
        self.steps.hand_over(load, self._instance({"MEMORY_EMBEDDING_MODEL": self.other}))
        return {"killed_with": round(share, 2), "after_the_kill": said, "seconds": round(seconds, 1),
                "who_came_meanwhile": again}  # fmt: skip

    def run(self) -> dict[str, Any]:
        options, chats = self.options, self._chats()
        self.steps.served.__enter__()
        try:
            tokens = mint_tokens(self.var, [*(chat.user for chat in chats), *(f"writer-{n}" for n in range(WRITERS))])
            readers, writers = tokens[: len(chats)], tokens[len(chats) :]
            self._fill(chats, readers)
            of = {token: chat.questions[:QUESTIONS_EACH] for token, chat in zip(readers, chats, strict=True)}
            questions = {token: [question.text for question in those] for token, those in of.items()}
            turns = [turn.text for turn in chats[0].turns]
            load = Load(self.steps.served.port, questions, writers, turns, options.reads, options.writes)
            before = load.look_first()
            with load:
                time.sleep(options.seconds)
                report = self.move(load)
                load.phase = "after"
                time.sleep(options.seconds)
            forget_connection()
            after = load.look()
            self.steps.expect(load.wrote_what_is_read(), "what was written last is what is read")
        finally:
            self.steps.served.__exit__(None, None, None)
        evidence = {(token, each.text): each.evidence for token, those in of.items() for each in those}
        neither = [found for *asked_for, found in load.differing if found != after[*asked_for]]
        report |= {
            "chunks": sum(len(chat.turns) for chat in chats), "users": len(chats), "questions": len(evidence),
            "recall_at_10_before": recall(before, evidence), "recall_at_10_after": recall(after, evidence),
            "answers_of_the_new_model_meanwhile": len(load.differing), "answers_of_neither": len(neither),
            **self.steps.requests(load),
        }  # fmt: skip
        self.steps.expect(not neither, f"{len(neither)} answers are neither those of before nor those of after")
        return report | {"failures": self.steps.failures}


def recall(answers: dict[tuple[str, str], list[Any]], evidence: dict[tuple[str, str], frozenset[str]]) -> float:
    """The mean share of a question's evidence that its results hold."""
    shares = [
        len(wanted & {doc_id for _, doc_id, _, _ in answers[asked_for]}) / len(wanted)
        for asked_for, wanted in evidence.items()
    ]
    return round(sum(shares) / len(shares), 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder of chats; else words are made up")
    parser.add_argument("--turns", type=int, default=TURNS_A_CHAT, help="of each chat (%(default)s)")
    parser.add_argument("--chunks", type=int, default=20_000, help="of all users together (%(default)s)")
    parser.add_argument("--pace", type=float, default=100, help="reindex's chunks a second, 0: all (%(default)s)")
    load_options(parser)
    options = parser.parse_args()
    return reported(lambda folder: ModelDrill(folder, options).run())


if __name__ == "__main__":
    sys.exit(main())
