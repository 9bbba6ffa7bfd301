"""A test collection: documents, queries, and which documents answer which query.

Three formats are told apart by the files of a folder:

| format | documents                         | queries                       | relevance                              |
|--------|-----------------------------------|-------------------------------|----------------------------------------|
| BEIR   | `corpus.jsonl`                    | `queries.jsonl`               | `qrels/test.tsv` or the only `*.tsv`   |
| SMART  | `*.ALL`                           | `*.QRY`                       | `*.REL`                                |
| TREC   | `*.xml`, `*.sgml`, `*.trec` of `<doc>` | the same of `<top>`      | `*qrel*` with four columns             |

Relevance is binary: a grade above 0 is relevant. A document is its title, a line feed and its text, and so is a query
that has both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memory.evaluation import beir, smart, trec
from memory.evaluation.raw import CollectionError, RawCollection, titled
from memory.limits import DOC_ID_MAX_CHARS


@dataclass(frozen=True)
class Collection:
    """`documents` and `queries` by id, in the order of their files; `relevant` by query id, never an empty set.

    `queries` holds judged queries only: one that nothing answers, or that is empty, measures nothing.
    """

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    relevant: dict[str, frozenset[str]]

    def first_queries(self, count: int) -> Collection:
        """The same documents with the first `count` queries."""
        queries = dict(list(self.queries.items())[:count])
        return Collection(self.name, self.documents, queries, {q: self.relevant[q] for q in queries})


Reader = Callable[[Path], RawCollection]


def load_collection(folder: Path) -> Collection:
    """The collection in `folder`. Raises CollectionError."""
    if not folder.is_dir():
        raise CollectionError(f"{folder} is not a folder")
    reader = _reader(folder)
    try:
        raw = reader(folder)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise CollectionError(f"{folder}: {error}") from error
    return collected(folder.resolve().name, raw)


def _reader(folder: Path) -> Reader:
    for module in (beir, smart, trec):
        if module.recognises(folder):
            return module.read
    raise CollectionError(f"{folder} is neither in BEIR's, nor in SMART's, nor in TREC's format")


def collected(name: str, raw: RawCollection) -> Collection:
    """Join what a reader found.

    Queries keep the ids of their file where all judged ones are among them. Where they are not, as in the
    Cranfield collection, whose relevance counts the queries, they are numbered by position from 1.
    Documents without any text cannot be stored; judgements on them stand and count against every ranking.
    Raises CollectionError for ids that are missing, doubled or too long, and where nothing is relevant.
    """
    documents = {}
    for doc_id, title, text in raw.documents:
        if not doc_id or len(doc_id) > DOC_ID_MAX_CHARS:
            raise CollectionError(f"{name}: a document's id must have 1 to {DOC_ID_MAX_CHARS} characters")
        if doc_id in documents:
            raise CollectionError(f"{name}: two documents are called {doc_id}")
        documents[doc_id] = titled(title, text)
    documents = {doc_id: text for doc_id, text in documents.items() if text}

    relevant: dict[str, set[str]] = {}
    for query_id, doc_id, grade in raw.grades:
        if grade > 0:
            relevant.setdefault(query_id, set()).add(doc_id)

    numbered = raw.queries
    if not {query_id for query_id, _, _ in raw.grades} <= {query_id for query_id, _ in raw.queries}:
        numbered = [(str(number), text) for number, (_, text) in enumerate(raw.queries, start=1)]
    if len({query_id for query_id, _ in numbered}) != len(numbered):
        raise CollectionError(f"{name}: two queries have the same id")
    queries = {query_id: text.strip() for query_id, text in numbered if query_id in relevant and text.strip()}
    if not any(relevant[query_id] & documents.keys() for query_id in queries):
        raise CollectionError(f"{name}: no query has a relevant document")
    return Collection(name, documents, queries, {query_id: frozenset(relevant[query_id]) for query_id in queries})
