"""What a run showed, as one JSON-ready dict and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings

from memory.evaluation.collections import Collection
from memory.evaluation.measures import Interval, hit_at, mean_interval, ndcg_at, paired_interval, percentile, recall_at
from memory.evaluation.run import ANSWERABLE, DENSE, LEG_CANDIDATES, STAGES, TO_RERANK, Ranked
from memory.lexical.terms import expected_collisions
from memory.limits import CANDIDATES_DEFAULT

MEASURES = {
    "recall@3": lambda ranking, relevant: recall_at(3, ranking, relevant),
    "recall@10": lambda ranking, relevant: recall_at(10, ranking, relevant),
    "recall@24": lambda ranking, relevant: recall_at(24, ranking, relevant),
    "hit@3": lambda ranking, relevant: hit_at(3, ranking, relevant),
    "ndcg@10": lambda ranking, relevant: ndcg_at(10, ranking, relevant),
}
RECALLS = ("recall@3", "recall@10", "recall@24")
COMPARED = (*RECALLS, "hit@3", "ndcg@10")
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
        "categories": _categories(collection, first),
        "took_ms": {
            step: {"p50": round(percentile(times, 50), 3), "p95": round(percentile(times, 95), 3)}
            for step, times in first.took_ms.items()
        },
        "rerank_skipped": dict(first.rerank_skipped),
        "relevance": {
            origin: {"questions": len(found), "relevant": sum(found)} for origin, found in first.relevant.items()
        },
        "terms": first.terms,
        "expected_term_id_collisions": expected_collisions(first.terms),
        "notes": list(NOTES),
    }
    if len(runs) > 1:
        found["rotation"] = _rotation(*runs)
    return found


def _stages(collection: Collection, run: Ranked) -> Iterator[dict]:
    values = {stage: _values(collection, run.rankings[stage]) for stage in run.stages()}
    for stage in run.stages():
        row = {"stage": stage, "rotated": run.rotated}
        row |= {name: round(sum(each) / len(each), 5) for name, each in values[stage].items()}
        row |= {f"{name} interval": _rounded(mean_interval(values[stage][name]))[1:] for name in RECALLS}
        if stage != DENSE:
            baseline = row["against"] = _baseline(stage)
            for name in COMPARED:
                found = paired_interval(values[stage][name], values[baseline][name])
                row[f"{name} difference"] = _rounded(found)
        yield row | {"rankings_sha256": run.digest(stage)}


def _baseline(stage: str) -> str:
    """What a stage is held against: what it was given; of a leg, and of both fused, the vectors alone."""
    names = [each.name for each in STAGES]
    if "rerank" in stage:
        return TO_RERANK
    return names[names.index(stage) - 1] if stage in names[1:] else DENSE


def _rounded(found: Interval) -> list[float]:
    return [round(x, 5) for x in (found.mean, found.low, found.high)]


def _categories(collection: Collection, run: Ranked) -> dict[str, dict]:
    """By kind of question, how many there are and each stage's mean recalls."""
    values = {stage: _values(collection, run.rankings[stage]) for stage in run.stages()}
    positions = {query_id: position for position, query_id in enumerate(collection.queries)}
    return {
        category: {
            "queries": len(query_ids),
            "stages": {
                stage: {
                    name: round(sum(each[name][positions[q]] for q in query_ids) / len(query_ids), 5)
                    for name in RECALLS
                }
                for stage, each in values.items()
            },
        }
        for category, query_ids in collection.by_category().items()
    }


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
        if stage in rotated.stages()
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
        shown = ", ".join("{:.1f}-{:.1f}".format(*(100 * x for x in row[f"{measure} interval"])) for measure in RECALLS)
        lines.append(f"{'  95 % interval of recalls':32}  {shown}")
    for row in found["stages"]:
        if "against" in row:
            lines.append(_step(row))
    for category, kind in found["categories"].items():
        lines.append(f"category {category}, {kind['queries']} queries:")
        lines += [
            f"{'  ' + stage:32}" + "".join(f"{100 * means[name]:11.1f}" for name in RECALLS)
            for stage, means in kind["stages"].items()
        ]
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
    for origin, asked in found["relevance"].items():
        wrong, name = asked["relevant"], "false answers"
        if origin == ANSWERABLE:
            wrong, name = asked["questions"] - asked["relevant"], "false refusals"
        share = 100 * wrong / asked["questions"]
        lines.append(f"{name}, questions {origin}: {wrong} of {asked['questions']} ({share:.1f} %)")
    if found["terms"]:
        collisions = found["expected_term_id_collisions"]
        lines.append(f"{found['terms']} different terms: {collisions:.4f} pairs are expected to share an id")
    return "\n".join(lines + [f"note: {note}" for note in found["notes"]])


def _step(row: dict) -> str:
    """What a stage gained over the one it is held against, with intervals."""
    gains = []
    for name in RECALLS:
        mean, low, high = (100 * x for x in row[f"{name} difference"])
        gains.append(f"{name} {mean:+.1f} [{low:+.1f}, {high:+.1f}]")
    return f"{row['stage']} against {row['against']}: " + ", ".join(gains)
