"""What one user can do to a served worker: the attacks that `make bench-starvation` times and the fault tests judge.

Each takes one ordinary token or none. Rates are off: they count requests a minute, and each of these did its harm
within them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from deploy.bench.attacker import DRIPPED, SLOWLY, Attack, Store
from deploy.bench.wire import Request

MANY, WRITERS, DRIPPERS = 42, 24, 44


def _post(path: str, body: dict | bytes, **headers: str) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return Request("POST", f"memory/{path}", raw, headers)


def _same(request: Request) -> Callable[[int], Request]:
    return lambda number: request


def _index(documents: list[dict]) -> Request:
    return _post("index", {"documents": documents})


def _stored(store: Store, documents: list[dict]) -> None:
    answer = store(_index(documents))
    assert answer.status in (200, 201), f"storing was answered {answer}"


_VOCABULARY = (
    "heat pump filter cellar harbour boat engine garden pear tree well doctor train budget meeting kitchen colleague"
    " sister letter lease bank holiday shelf book medicine january march summer monday signed paid booked repaired"
)
_WORDS = _VOCABULARY.split()


def _prose(seed: int, words: int = 20) -> str:
    rng = random.Random(seed)
    return f"{' '.join(rng.choices(_WORDS, k=words)).capitalize()}."


def _marks(documents: int, chars: int = 80_000) -> list[dict]:
    """Texts of combining marks in the wrong order: normalising sorts them.

    They make no tokens, so that a chunk of them has as many characters as a chunk may have.
    """
    marks = "zz a " + "\u0301\u0316" * (chars // 2)
    return [{"doc_id": f"marks/{number}", "text": f"{number} {marks}"} for number in range(documents)]


def _store_marks(store: Store) -> None:
    # 200 chunks, in bodies of 800 kB.
    for first in (0, 5):
        documents = _marks(10)[first : first + 5]
        _stored(store, documents)


def _store_thread(store: Store) -> None:
    _stored(store, [{"doc_id": f"turn/{n}", "thread_id": "talk", "text": _prose(n)} for n in range(200)])


def _store_long(store: Store) -> None:
    """50 lines of 60 kB are more than all the buffers between a reader and the worker."""
    for first in range(0, 50, 10):
        note = {"note": "x" * 60_000}
        _stored(store, [{"doc_id": f"long/{n}", "text": "A bill.", "metadata": note} for n in range(first, first + 10)])


def _short_id(number: int) -> str:
    """Of three characters, for numbers below 36 ** 3."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return digits[number // 1296] + digits[number // 36 % 36] + digits[number % 36]


def _summaries(batch: int, ids: int) -> Request:
    """28 documents, each made from the same `ids` others, whose names are of three characters."""
    made_from = list(map(_short_id, range(ids)))
    return _index(
        [
            {"doc_id": f"{batch}/{n}", "source": "summary", "text": "Short.", "metadata": {"derived_from": made_from}}
            for n in range(28)
        ]
    )


def _store_provenance(store: Store) -> None:
    """420 summaries, each made from as many other documents as 32 KB name, or as the service allows."""
    ids = 5_400 if store(_summaries(0, 5_400)).status != 422 else 200
    for batch in range(15):
        answer = store(_summaries(batch, ids))
        assert answer.status in (200, 201), f"storing provenance was answered {answer}"


def _erase(user: str) -> Request:
    return _post("erase", {"confirm": user})


def _dripped(path: str, method: str = "POST", length_bytes: int = 900_000, **headers: str) -> Request:
    return Request(method, path, b"", {"Content-Length": str(length_bytes), **headers})


_REFUSED_UNREAD = (
    _dripped("memory/query"),  # with a token that is none: 401
    _dripped("memory/nowhere"),  # 404
    _dripped("memory/stats"),  # 405
    _dripped("memory/query", length_bytes=2_000_000),  # 413
    _dripped("memory/query", **{"Content-Type": "text/plain"}),  # 415
)


def _refused_unread(number: int) -> Request:
    request = _REFUSED_UNREAD[number % len(_REFUSED_UNREAD)]
    if request is _REFUSED_UNREAD[0]:
        return _dripped("memory/query", Authorization="Bearer none")
    return request


def _document(number: int) -> Request:
    return _index([{"doc_id": f"chunks/{number}/{each}", "text": _prose(each, 8)} for each in range(200)])


def _unlike_words(count: int, chars: int) -> str:
    rng = random.Random(7)
    return " ".join(f"{rng.getrandbits(4 * chars):0{chars}x}" for _ in range(count))


_CURSORS = ("x", "A" * 4_900, "9" * 3_000, "AAAA" * 1_000 + "==")

ATTACKS = (
    Attack(
        "phrases over combining marks", 6,
        _same(_post("query", {"query": '"\u0301c"' * 2_048, "candidates": 200})), (200, 422), _store_marks, "marks",
    ),
    Attack(
        "a quoted phrase over combining marks", MANY,
        _same(_post("query", {"query": '"zz" a', "candidates": 200})), (200,), _store_marks, "marks",
    ),
    Attack("documents of combining marks", WRITERS, lambda n: _index(_marks(1)), (200, 201)),
    Attack("queries of 8,192 characters", MANY, lambda n: _post("query", {"query": _prose(n, 1_500)[:8_192]}), (200,)),
    Attack(
        "the largest queries", MANY,
        _same(_post("query", {"query": "heat pump", "top_k": 50, "candidates": 200, "rerank_pool": 100})), (200,),
        _store_thread, "thread",
    ),
    Attack(
        "wide filters", MANY,
        _same(_post("query", {
            "query": "heat pump", "candidates": 200, "source": [f"source {n:055}" for n in range(99)] + ["api"],
            "doc_id": [f"{n:0255}" for n in range(99)] + ["turn/1"],
        })), (200,), _store_thread, "thread",
    ),
    Attack("entities of one long unbroken text", MANY, _same(_post("entities", {"text": "a-" * 44_000})), (200, 422)),
    Attack(
        "entities of a long thread", MANY, _same(_post("entities", {"thread_id": "talk"})), (200,), _store_thread,
        "thread",
    ),
    Attack(
        "summaries of a long thread", MANY, _same(_post("summarize", {"thread_id": "talk"})), (200,), _store_thread,
        "thread",
    ),
    Attack(
        "writers of one document beside provenance", WRITERS,
        _same(_post("index", {"doc_id": "tiny", "text": "A tiny document."})), (200, 201), _store_provenance,
    ),
    Attack(
        "30,000 words that are too many chunks", WRITERS,
        _same(_post("index", {"doc_id": "long", "text": _unlike_words(30_000, 32)})), (422,),
    ),
    Attack(
        "one megabyte of one-letter words", WRITERS,
        _same(_post("index", {"doc_id": "letters", "text": "a " * 499_900})), (422,),
    ),
    Attack("200 chunks a call", WRITERS, _document, (200, 201)),
    Attack("bodies sent drop by drop", DRIPPERS, _same(_dripped("memory/index")), (400, 408), how=DRIPPED),
    Attack(
        "bodies sent drop by drop without a token", DRIPPERS, _same(_dripped("memory/index")), (401,), how=DRIPPED,
        has_token=False,
    ),
    Attack(
        "bodies of refused requests sent drop by drop", 2 * DRIPPERS, _refused_unread, (401, 404, 405, 413, 415),
        how=DRIPPED,
    ),
    Attack(
        "streams read slowly", MANY, _same(Request("POST", "stream", {"message": "When was the heat pump serviced?"})),
        (200,), _store_thread, "thread", how=SLOWLY,
    ),
    Attack(
        "large query answers read slowly", MANY, _same(_post("query", {"query": "bill", "top_k": 50})), (200,),
        _store_long, "exports read slowly", how=SLOWLY,
    ),
    Attack("exports read slowly", MANY, _same(Request("GET", "memory/export")), (200,), _store_long, how=SLOWLY),
    Attack(
        "replays of one key", MANY,
        _same(_post("index", {"doc_id": "once", "text": _prose(1)}, **{"Idempotency-Key": "the-same"})), (200, 201),
    ),
    Attack("erasures confirmed wrongly", MANY, _same(_erase("somebody else")), (422,), _store_thread, "thread"),
    Attack(
        "forged cursors", MANY,
        lambda n: Request("GET", f"memory/documents?limit=100&cursor={_CURSORS[n % len(_CURSORS)][:3_900]}"),
        (400, 422), _store_thread, "thread",
    ),
    Attack(
        "tokens that are none", MANY,
        lambda n: Request("GET", "memory/stats", None, {"Authorization": f"Bearer {'e30.' * 1_900}{n}"}), (401,),
        has_token=False,
    ),
    Attack(
        "JSON as deep as a body is long", MANY, _same(_post("query", b'{"query": ' + b"[" * 900_000)), (400,),
    ),
    Attack(
        "metadata of 10,000 keys", MANY,
        _same(_post("index", {"doc_id": "keys", "text": "x", "metadata": {f"k{n}": n for n in range(10_000)}})), (422,),
    ),
    Attack(
        "deletions of documents that many were made from", MANY,
        lambda n: Request("DELETE", f"memory/documents/{_short_id(n)}"), (204, 404), _store_provenance,
        "writers of one document beside provenance",
    ),
    # The last: it leaves nothing of what the others stored.
    Attack("erasures", MANY, _same(_erase("thread")), (200,), _store_thread, "thread"),
)  # fmt: skip
BY_NAME = {attack.name: attack for attack in ATTACKS}
