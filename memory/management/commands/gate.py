"""manage.py gate [--out DIR] [--only security|performance] [--rerank-model DIR]"""

from pathlib import Path
from typing import Any

from memory.errors import MemoryServiceError
from memory.maintenance.command import Exit, ServiceCommand, failed, usage
from memory.maintenance.gate_lines import DOCUMENTS, Line, summary, write_documents
from memory.maintenance.gate_performance import Plan, rerank_config, rerank_lines, service_lines
from memory.maintenance.gate_security import security_lines
from memory.maintenance.gate_users import GateUser


class Command(ServiceCommand):
    help = (
        "Make the evidence of a security and of a performance approval: each sealed column moved and changed, users "
        "tried against each other, sealing, reranking, queries and writes timed. Two throw-away users are stored and "
        "erased. Exit 1 where a line fails."
    )
    lock = 0x5231_4741  # "R1GA"

    def add_arguments(self, parser):
        plan = Plan()
        parser.add_argument("--out", type=Path, metavar="DIR", help="write gate.json and a document an approval there")
        parser.add_argument("--only", choices=tuple(DOCUMENTS), help="one of the two approvals; default both")
        parser.add_argument("--rerank-model", metavar="DIR", help="a cross-encoder; default CROSS_ENCODER_MODEL")
        parser.add_argument("--calls", type=int, default=plan.rerank_calls, help="a measurement; default %(default)s")

    def handle(self, *, out: Path | None, only, rerank_model, calls: int, **options):
        if calls < 20:
            raise usage("--calls is at least 20: less has no p95")
        lines: list[Line] = []
        about: dict[str, Any] = {}
        self.work(lambda: summary(lines, about))
        plan = Plan(rerank_calls=calls, queries=calls)
        try:
            with self.alone(), GateUser("alice") as alice, GateUser("bob") as bob:
                if only != "performance":
                    for user in (alice, bob):
                        user.remember()
                    self._take(lines, security_lines(alice, bob))
                if only != "security":
                    self._take(lines, service_lines(alice, plan))
                    self._take(lines, rerank_lines(rerank_config(rerank_model), plan, about))
        except MemoryServiceError as exc:
            raise failed(f"the service failed: {exc}") from None
        result = summary(lines, about)
        if out is not None:
            try:
                for path in write_documents(out, lines, result):
                    self.stderr.write(f"wrote {path}")
            except OSError as exc:
                raise usage(f"--out cannot be written: {exc.strerror}") from None
        self.conclude(result, Exit.DONE if result["passed"] else Exit.FINDINGS, indent=2)

    def _take(self, lines: list[Line], made) -> None:
        for line in made:
            lines.append(line)
            if not line.passed:
                self.stderr.write(f"FAILS {line.part}: {line.check}: {line.value}, wanted {line.target}")
