"""What a run showed, as one JSON-ready dict and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings

from memory.evaluation.collections import Collection
from memory.evaluation.measures import hit_at, ndcg_at, paired_interval, percentile, recall_at
from memory.evaluation.run import DENSE, FUSED, LEG_CANDIDATES, Ranked
from memory.lexical.terms import expected_collisions
from memory.limits import CANDIDATES_DEFAULT

MEASURES = {
    "recall@3": lambda ranking, relevant: recall_at(3, ranking, relevant),
    "recall@10": lambda ranking, relevant: recall_at(10, ranking, relevant),
    "recall@24": lambda ranking, relevant: recall_at(24, ranking, relevant),
    "hit@3": lambda ranking, relevant: hit_at(3, ranking, relevant),
    "ndcg@10": lambda ranking, relevant: ndcg_at(10, ranking, relevant),
}
COMPARED = ("hit@3", "ndcg@10")
NOTES = (
    f"dense and lexical come from one search with {LEG_CANDIDATES} candidates a leg, by each candidate's own distance "
    f"and BM25 score; the other stages are the service's answers with {CANDIDATES_DEFAULT} candidates a leg",
    "documents are ranked by their best passage; relevance is binary; intervals: 95 %, paired bootstrap over queries",
)


def report(collection: Collection, runs: list[Ranked]) -> dict:
    """One dict for JSON: a row a stage, measures and differences as shares (0-1), times in milliseconds.

    The first run is the deployment's own; a second one, without rotation, is compared with it.
    """
    first = runs[0]
    found = {
        "collection": collection.name,
        "documents": len(collection.documents),
        "chunks": first.chunks,
        "queries": len(collection.queries),
        "settings": {
            "candidates": CANDIDATES_DEFAULT,
            "embedding_model": settings.MEMORY_EMBEDDING_MODEL,
            "embedding_protection": settings.MEMORY_EMBEDDING_PROTECTION,
            "lexical": settings.MEMORY_LEXICAL,
            "lexical_language": settings.MEMORY_LEXICAL_LANGUAGE,
            "decay_weight": settings.MEMORY_DECAY_WEIGHT,
            "half_life_days": settings.MEMORY_HALF_LIFE_DAYS,
        },
        "stages": [row for run in runs for row in _stages(collection, run)],
        "took_ms": {
            step: {"p50": round(percentile(times, 50), 3), "p95": round(percentile(times, 95), 3)}
            for step, times in first.took_ms.items()
        },
        "rerank_skipped": dict(first.rerank_skipped),
        "terms": first.terms,
        "expected_term_id_collisions": expected_collisions(first.terms),
        "notes": list(NOTES),
    }
    if len(runs) > 1:
        found["rotation"] = _rotation(*runs)
    return found


def _stages(collection: Collection, run: Ranked) -> Iterator[dict]:
    values = {stage: _values(collection, rankings) for stage, rankings in run.rankings.items()}
    for stage in run.rankings:
        row = {"stage": stage, "rotated": run.rotated}
        row |= {name: round(sum(each) / len(each), 5) for name, each in values[stage].items()}
        # A reranked stage is held against what it was given, every other against the vectors alone.
        baseline = FUSED if "rerank" in stage else DENSE
        if stage != baseline:
            row["against"] = baseline
            for name in COMPARED:
                interval = paired_interval(values[stage][name], values[baseline][name])
                row[f"{name} difference"] = [round(x, 5) for x in (interval.mean, interval.low, interval.high)]
        yield row | {"rankings_sha256": run.digest(stage)}


def _values(collection: Collection, rankings: dict[str, list[str]]) -> dict[str, list[float]]:
    """Each measure's value for each query."""
    return {
        name: [measure(rankings[query_id], collection.relevant[query_id]) for query_id in collection.queries]
        for name, measure in MEASURES.items()
    }


def _rotation(rotated: Ranked, unrotated: Ranked) -> dict:
    """By stage, how many queries have the same documents in the same order, with and without rotation.

    Stored vectors are of half precision, and rotated ones round differently: documents as near as that to each
    other may change places. `largest_distance_difference` is the most that a passage's cosine distance moved.
    """
    differences = [
        abs(distance - unrotated.distances[query_id][passage])
        for query_id, distances in rotated.distances.items()
        for passage, distance in distances.items()
        if passage in unrotated.distances[query_id]
    ]
    stages = {
        stage: {
            f"same_top_{k}": sum(
                ranking[:k] == unrotated.rankings[stage][query_id][:k] for query_id, ranking in rankings.items()
            )
            for k in (3, 10, 24)
        }
        for stage, rankings in rotated.rankings.items()
    }
    return {"stages": stages, "largest_distance_difference": max(differences, default=0.0)}


def table(found: dict) -> str:
    """`report`'s dict as lines for a terminal; measures and differences in percent."""
    lines = [
        f"{found['collection']}: {found['documents']} documents, {found['chunks']} chunks, {found['queries']} queries",
        f"{'stage':32}" + "".join(f"{name:>11}" for name in MEASURES) + "   nDCG@10 difference",
    ]
    for row in found["stages"]:
        name = row["stage"] + ("" if row["rotated"] else ", unrotated")
        line = f"{name:32}" + "".join(f"{100 * row[measure]:11.1f}" for measure in MEASURES)
        if "against" in row:
            mean, low, high = (100 * x for x in row["ndcg@10 difference"])
            line += f"   {mean:+.1f} [{low:+.1f}, {high:+.1f}] against {row['against']}"
        lines.append(line)
    lines += [f"{'step':32}{'p50 ms':>11}{'p95 ms':>11}"]
    lines += [f"{step:32}{times['p50']:11.1f}{times['p95']:11.1f}" for step, times in found["took_ms"].items()]
    for stage, same in found.get("rotation", {"stages": {}})["stages"].items():
        counts = ", ".join(f"top {key.rpartition('_')[2]}: {count}" for key, count in same.items())
        lines.append(f"rotation on and off rank alike, {stage}: {counts} of {found['queries']} queries")
    if "rotation" in found:
        moved = found["rotation"]["largest_distance_difference"]
        lines.append(f"rotation moved a cosine distance by at most {moved:.1e}: half precision rounds")
    for reason, count in found["rerank_skipped"].items():
        lines.append(f"not reranked: {count} of {found['queries']} queries ({reason})")
    if found["terms"]:
        collisions = found["expected_term_id_collisions"]
        lines.append(f"{found['terms']} different terms: {collisions:.4f} pairs are expected to share an id")
    return "\n".join(lines + [f"note: {note}" for note in found["notes"]])
