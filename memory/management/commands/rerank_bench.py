"""manage.py rerank_bench [--json] [--dtype D] [--model DIR] [--way W] [--p95-limit-ms N]"""

from dataclasses import replace

from memory.maintenance.command import Exit, ServiceCommand, usage
from memory.retrieval.reranker_config import deployed_config
from reranker import RerankConfig, RerankSkipped
from reranker.bench import WAYS, BenchPlan, run_bench

# `auto` is what the service would run here; the others are torch's.
DTYPES = ("auto", "bfloat16", "float32")
COLUMNS = (
    *("backend", "runtime", "dtype", "candidates", "tokens", "concurrency"),
    *("p50_ms", "p95_ms", "p99_ms", "per_second"),
)


class Command(ServiceCommand):
    help = (
        "Time reranking on this machine, nothing refused: per dtype, by tokens a pair, at several callers. "
        "Exit 1 when the model cannot be loaded or a single caller's p95 is over --p95-limit-ms."
    )

    def add_arguments(self, parser):
        plan = BenchPlan()
        parser.add_argument("--json", action="store_true", help="print {rows: [...]} instead of a table")
        parser.add_argument(
            "--dtype",
            action="append",
            choices=DTYPES,
            help="repeatable; default all: auto is what the service runs, the others are torch's",
        )
        parser.add_argument("--model", help="folder or name of the cross-encoder; default CROSS_ENCODER_MODEL")
        parser.add_argument("--device", help="a torch device; default cuda:0 where there is one, else cpu")
        parser.add_argument("--queries", type=int, default=plan.queries, help="calls a row; default %(default)s")
        parser.add_argument("--candidates", type=int, default=plan.candidates, help="default %(default)s")
        parser.add_argument("--tokens", type=int, nargs="+", default=plan.token_counts, help="default %(default)s")
        parser.add_argument("--callers", type=int, nargs="+", default=plan.concurrencies, help="default %(default)s")
        parser.add_argument(
            "--way",
            choices=WAYS,
            default="queue",
            help="pass, predict: to compare, one call at a time in a pass of its own, or by the library's predict",
        )
        parser.add_argument("--p95-limit-ms", type=float, help="exit 1 when a row of one caller is slower")

    def handle(self, *, dtype, model, device, queries, candidates, tokens, callers, p95_limit_ms, **options):
        if min(queries, candidates, *callers) < 1 or min(tokens) < 16:
            raise usage("queries, candidates and callers are at least 1, tokens at least 16")
        plan = BenchPlan(queries, candidates, tuple(tokens), tuple(callers))
        rows: list[dict] = []
        findings: list[str] = []
        self.work(lambda: {"rows": rows})
        # Of torch's models alone is there a `predict`.
        measured = dtype or (DTYPES if options["way"] != "predict" else DTYPES[1:])
        for config in _configs(measured, model, device):
            try:
                rows += run_bench([config], plan, progress=self.stderr.write, way=options["way"])
            except RerankSkipped as exc:
                findings.append(f"{config.backend} {config.dtype} was not measured: {exc}")
        findings += [
            f"p95 of {row['p95_ms']} ms is over {p95_limit_ms:g} ms: {row['backend']} {row['dtype']}, "
            f"{row['candidates']} candidates of {row['tokens']} tokens"
            for row in rows
            if p95_limit_ms is not None and row["concurrency"] == 1 and row["p95_ms"] > p95_limit_ms
        ]
        if findings:
            self.stderr.write("\n".join(findings))
        code = Exit.FINDINGS if findings else Exit.DONE
        self.conclude({"rows": rows} if options["json"] else _table(rows), code)


def _configs(dtypes, model, device) -> list[RerankConfig]:
    """One config a dtype."""
    deployed = replace(deployed_config(), backend="cross_encoder", device=device)
    if model is not None:
        deployed = replace(deployed, model=model, revision=None)
    return [replace(deployed, dtype=dtype) for dtype in dict.fromkeys(dtypes)]


def _table(rows: list[dict]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    return "\n".join(lines + [f"| {' | '.join(str(row[name]) for name in COLUMNS)} |" for row in rows])
