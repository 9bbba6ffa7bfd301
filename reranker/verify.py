"""Does the model on this machine do what it did elsewhere? What an operator asks of a new host."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from reranker.config import RerankConfig
from reranker.reranker import Reranker
from reranker.results import RerankSkipped

# Between fp32 and bf16, and between devices, a score of 0-1 may differ by this much.
SCORE_TOLERANCE = 0.03
_NVIDIA_SMI_TIMEOUT_SECONDS = 10
_NVIDIA_SMI_FIELDS = "name,driver_version,memory.total,memory.used,temperature.gpu,power.limit"
_QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "When did the user move to Lisbon?",
        (
            "We moved to Lisbon in March 2021, two weeks after the contract was signed.",
            "The user asked for a recipe with chickpeas and spinach.",
            "Lisbon has seven hills and a castle.",
        ),
    ),
    (
        "What is the user allergic to?",
        (
            "Remember that peanuts give me hives, so leave them out.",
            "My sister's wedding is on the second Saturday of June.",
            "The train to Porto takes three hours.",
        ),
    ),
)


def verify(config: RerankConfig, reference: dict[str, Any] | None = None) -> dict[str, Any]:
    """Load the model, score fixed texts and compare with `reference` (of `as_reference`).

    Gives {ok, findings, backend, runtime, device, dtype, model, revision, weights_sha256, load_seconds,
    scores, largest_difference, gpu, nvidia_smi}. `findings` says in words what is not as it
    should be; `ok` is that there are none. `largest_difference` is None without a reference; `gpu`
    is None without CUDA, else {name, memory_total_bytes, memory_used_bytes, memory_peak_bytes}.
    """
    reranker = Reranker(config)
    findings: list[str] = []
    scores: list[list[float]] = []
    try:
        ready = reranker.warm()
        metrics = reranker.metrics()
        if not ready:
            findings.append(f"no model: {metrics.get('reason') or 'no_backend'} {metrics['detail']}".rstrip())
        else:
            try:
                scores = fixed_scores(reranker)
            except RerankSkipped as error:
                findings.append(f"the model does not score: {error}")
        gpu = gpu_memory(metrics["device"])
    finally:
        reranker.close()

    report = {
        "backend": metrics["backend"],
        "runtime": metrics.get("runtime"),
        "device": metrics["device"],
        "dtype": metrics.get("dtype"),
        "model": config.model,
        "revision": config.pinned_revision,
        "weights_sha256": metrics.get("weights_sha256"),
        "load_seconds": metrics.get("load_seconds"),
        "scores": scores,
        "largest_difference": None,
        "gpu": gpu,
        "nvidia_smi": nvidia_smi(),
    }
    if scores and reference is not None:
        report["largest_difference"] = largest_difference(scores, reference["scores"])
        findings += differences(report, reference)
    if report["nvidia_smi"] and gpu is None and report["backend"] == "cross_encoder":
        findings.append("there is a GPU, but the model is not on it")
    return {"ok": not findings, "findings": findings, **report}


def fixed_scores(reranker: Reranker) -> list[list[float]]:
    """Scores of the fixed texts in the order they are written, for each question."""
    rows = []
    for question, texts in _QUESTIONS:
        score_of = {result.candidate: result.score for result in reranker.rerank_or_raise(question, texts, 60_000)}
        rows.append([score_of[text] for text in texts])
    return rows


def as_reference(report: dict[str, Any]) -> dict[str, Any]:
    """What of a report holds on every machine: {backend, model, revision, weights_sha256, scores}."""
    return {name: report[name] for name in ("backend", "model", "revision", "weights_sha256", "scores")}


def differences(report: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    """In words, what differs between a report and a reference."""
    found = [
        f"{name} is {report[name]}, not {reference[name]}"
        for name in ("backend", "weights_sha256")
        if report[name] != reference[name]
    ]
    difference = report["largest_difference"]
    if difference is None:
        found.append("the reference is of other texts")
    elif not difference <= SCORE_TOLERANCE:
        found.append(f"scores differ by {difference:.4f}, more than {SCORE_TOLERANCE}")
    return found


def largest_difference(scores: list[list[float]], expected: list[list[float]]) -> float | None:
    """The largest absolute difference; None where the shapes differ."""
    if [len(row) for row in scores] != [len(row) for row in expected]:
        return None
    return max(abs(a - b) for row, other in zip(scores, expected, strict=True) for a, b in zip(row, other, strict=True))


def read_reference(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def write_reference(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(as_reference(report), indent=2) + "\n")


def gpu_memory(device: str | None) -> dict[str, Any] | None:
    if not (device or "").startswith("cuda"):
        return None
    torch = sys.modules["torch"]
    free, total = torch.cuda.mem_get_info(device)
    return {
        "name": torch.cuda.get_device_name(device),
        "memory_total_bytes": total,
        "memory_used_bytes": total - free,
        "memory_peak_bytes": torch.cuda.max_memory_allocated(device),
    }


def nvidia_smi() -> list[dict[str, str]] | None:
    """A row per GPU as nvidia-smi gives it; None where there is no such program or it fails."""
    command = ["nvidia-smi", f"--query-gpu={_NVIDIA_SMI_FIELDS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    names = _NVIDIA_SMI_FIELDS.split(",")
    rows = [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [dict(zip(names, row, strict=False)) for row in rows]
