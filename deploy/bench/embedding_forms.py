"""What the built form of the embedding model costs and loses: `python deploy/bench/embedding_forms.py FOLDER ...`.

1. Time: a question of about 20 tokens, a passage of 510, eight questions; torch in float32 and the built form by ONNX
   Runtime and by OpenVINO, in turn, with one thread and with all, OpenVINO with two at most (`threads_a_text`).
2. Quality, on each test collection (memory/evaluation/collections.py names the formats; the queries of several are also
   taken together): nDCG@10 and recall@10 of the exact vector search over whole documents, of which the model reads 512
   tokens. Torch over torch is the measure; other pairs of question and passage are shown as their difference, with a
   95 % paired bootstrap interval.

Needs the built form (`make prepare`, or `manage.py build_models`). Progress on stderr.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402

from memory.embedding.built_form import form_folder, read_manifest  # noqa: E402
from memory.embedding.built_model import BuiltEmbeddingModel  # noqa: E402
from memory.embedding.embedder import Embedder  # noqa: E402
from memory.embedding.model import EmbeddingModel  # noqa: E402
from memory.embedding.onnx_reader import OnnxReader  # noqa: E402
from memory.embedding.openvino_reader import OpenvinoReader, threads_a_text  # noqa: E402
from memory.evaluation.collections import Collection, load_collection  # noqa: E402
from memory.evaluation.measures import ndcg_at, paired_interval, recall_at  # noqa: E402
from reranker.model_files import files_digest, weights_digest  # noqa: E402
from reranker.onnx_graph import cpu_threads  # noqa: E402

QUESTION = "When was the heat pump serviced, and who did it for the last time please?"
PASSAGE = (
    "The heat pump was serviced in March and the filter is changed every six months by a company from Bremen. " * 40
)
CASES = {"a question": [QUESTION], "eight questions": [QUESTION] * 8, "a passage of 510 tokens": [PASSAGE]}
ROUNDS = {"a question": 40, "eight questions": 12, "a passage of 510 tokens": 8}
# Question and passage; the first pair is the measure.
PAIRS = (("torch", "torch"), ("onnx", "onnx"), ("openvino", "openvino"), ("openvino", "torch"), ("torch", "openvino"))
FORMS = ("torch", "onnx", "openvino")


class Forms:
    """The same weights, read by torch and in their built form."""

    def __init__(self, models: Path):
        folder = Embedder().folder()
        weights, files = weights_digest(folder), files_digest(folder)
        built = form_folder(models, weights)
        manifest = read_manifest(built, weights, files)
        if manifest is None:
            raise SystemExit("there is no built form: run `make prepare`, or `python manage.py build_models`")
        self.torch = EmbeddingModel(folder, None, None, 512, "cpu", "float32")
        self._form = built, manifest, 512
        self._built, self._positions = built, manifest.positions
        self.threads(cpu_threads())

    def threads(self, count: int) -> None:
        import torch

        torch.set_num_threads(count)
        onnx = BuiltEmbeddingModel(*self._form, OnnxReader(self._built, count))
        openvino = OpenvinoReader(self._built, self._positions, min(count, threads_a_text()))
        self.built = {"onnx": onnx, "openvino": BuiltEmbeddingModel(*self._form, openvino)}

    def embed(self, form: str, texts: list[str]) -> np.ndarray:
        if form == "torch":
            return np.stack([self.torch.encode("passage", [text])[0] for text in texts])
        return self.built[form].encode("passage", texts)


def timings(forms: Forms) -> None:
    print(f"{'milliseconds, median of some rounds in turn':48}" + "".join(f"{form:>10}" for form in FORMS))
    for threads in sorted({1, cpu_threads()}):
        forms.threads(threads)
        for name, texts in CASES.items():
            laps: dict[str, list[float]] = {form: [] for form in FORMS}
            for _ in range(ROUNDS[name] + 1):
                for form, found in laps.items():
                    started = time.perf_counter()
                    forms.torch.encode("query", texts) if form == "torch" else forms.embed(form, texts)
                    found.append((time.perf_counter() - started) * 1_000)
            row = "".join(f"{statistics.median(found[1:]):>10.1f}" for found in laps.values())
            print(f"{name + f', threads {threads}':48}{row}")


def scores(forms: Forms, collection: Collection) -> dict[str, tuple[list[float], list[float]]]:
    """By pair, nDCG@10 and recall@10 of each query."""
    started = time.monotonic()
    passages = {form: forms.embed(form, list(collection.documents.values())) for form in FORMS}
    questions = {form: forms.embed(form, list(collection.queries.values())) for form in FORMS}
    print(f"{collection.name}: embedded in {time.monotonic() - started:.0f} s", file=sys.stderr)
    ids, found = list(collection.documents), {}
    for question, passage in PAIRS:
        order = np.argsort(-(questions[question] @ passages[passage].T), axis=1, kind="stable")[:, :10]
        rankings = [[ids[index] for index in row] for row in order]
        judged = list(zip(rankings, collection.relevant.values(), strict=True))
        found[f"{question} over {passage}"] = (
            [ndcg_at(10, ranking, relevant) for ranking, relevant in judged],
            [recall_at(10, ranking, relevant) for ranking, relevant in judged],
        )
    return found


def report(name: str, found: dict[str, tuple[list[float], list[float]]]) -> None:
    first, *others = found
    queries = len(found[first][0])
    means = " ".join(f"{100 * statistics.fmean(values):6.2f}" for values in found[first])
    print(f"\n{name}, {queries} queries: nDCG@10, recall@10 of {first}: {means}")
    for pair in others:
        cells = []
        for ours, theirs in zip(found[pair], found[first], strict=True):
            interval = paired_interval(ours, theirs)
            cells.append(f"{100 * interval.mean:+6.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]")
        print(f"  {pair:20}" + "   ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="test collections; none: times alone")
    parser.add_argument("--models", type=Path, default=ROOT / "var" / "models", help="default %(default)s")
    options = parser.parse_args()
    forms = Forms(options.models)
    timings(forms)
    together: dict[str, tuple[list[float], list[float]]] = {}
    for folder in options.folders:
        found = scores(forms, load_collection(folder))
        report(folder.name, found)
        for pair, lists in found.items():
            have = together.setdefault(pair, ([], []))
            for mine, more in zip(have, lists, strict=True):
                mine.extend(more)
    if len(options.folders) > 1:
        report("all together", together)


if __name__ == "__main__":
    main()
