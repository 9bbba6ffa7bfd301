"""manage.py rerank_verify [--reference FILE | --write-reference FILE]"""

from dataclasses import replace
from pathlib import Path

from memory.maintenance.command import Exit, ServiceCommand, usage
from memory.retrieval.reranker_config import deployed_config
from reranker.verify import read_reference, verify, write_reference


class Command(ServiceCommand):
    help = (
        "Load the reranker's model on this machine, score fixed texts and report device, weights, scores and GPU "
        "memory as JSON. Exit 1 with findings: no model, not on the GPU, or not the reference's scores."
    )

    def add_arguments(self, parser):
        files = parser.add_mutually_exclusive_group()
        files.add_argument("--reference", type=Path, metavar="FILE", help="compare with what another machine wrote")
        files.add_argument("--write-reference", type=Path, metavar="FILE", help="write the scores for other machines")
        parser.add_argument("--model", help="folder or name of the cross-encoder; default CROSS_ENCODER_MODEL")
        parser.add_argument("--device", help="a torch device; default cuda:0 where there is one, else cpu")
        parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")

    def handle(self, *, reference, write_reference: Path | None, model, device, dtype, **options):
        expected = None if reference is None else _read(reference)
        config = replace(deployed_config(), backend="cross_encoder", device=device, dtype=dtype)
        if model is not None:
            config = replace(config, model=model, revision=None)
        self.stderr.write(f"loading {config.model}")
        report = verify(config, expected)
        if write_reference is not None and report["scores"]:
            _write(write_reference, report)
        self.conclude(report, Exit.DONE if report["ok"] else Exit.FINDINGS, indent=2)


def _read(path: Path) -> dict:
    try:
        found = read_reference(path)
        _ = found["backend"], found["weights_sha256"], found["scores"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise usage(f"{path} is not a reference ({type(exc).__name__})") from None
    return found


def _write(path: Path, report: dict) -> None:
    try:
        write_reference(path, report)
    except OSError as exc:
        raise usage(f"{path} cannot be written ({type(exc).__name__})") from None
