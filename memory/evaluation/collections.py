"""A test collection: documents, queries, and which documents answer which query.

Four formats are told apart by the files of a folder:

| format        | documents                              | queries             | relevance                            |
|---------------|----------------------------------------|---------------------|--------------------------------------|
| conversations | `turns.jsonl`                          | `questions.jsonl`   | `evidence` of a question             |
| BEIR          | `corpus.jsonl`                         | `queries.jsonl`     | `qrels/test.tsv` or the only `*.tsv` |
| SMART         | `*.ALL`                                | `*.QRY`             | `*.REL`                              |
| TREC          | `*.xml`, `*.sgml`, `*.trec` of `<doc>` | the same of `<top>` | `*qrel*` with four columns           |

Relevance is binary: a grade above 0 is relevant. A document is its title, a line feed and its text, and so is a query
that has both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from memory.evaluation import beir, conversations, smart, trec
from memory.evaluation.raw import Asked, CollectionError, RawCollection, Turn, titled
from memory.limits import DOC_ID_MAX_CHARS


@dataclass(frozen=True)
class Collection:
    """`documents` and `queries` by id, in the order of their files; `relevant` by query id, never an empty set.

    `queries` holds judged queries only: one that nothing answers, or that is empty, measures nothing. `turns` and
    `asked` say more of those documents and queries of which more is known.
    """

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    relevant: dict[str, frozenset[str]]
    turns: dict[str, Turn] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)

    def first_queries(self, count: int) -> Collection:
        """The same documents with the first `count` queries."""
        queries = dict(list(self.queries.items())[:count])
        return self._part(self.name, self.documents, queries)

    def named(self) -> Collection:
        """The same with each text begun by its speaker's name, as it is stored where there is no field for it."""
        documents = {
            doc_id: f"{speaker}: {text}" if (speaker := self.turn(doc_id).speaker) else text
            for doc_id, text in self.documents.items()
        }
        return Collection(self.name, documents, self.queries, self.relevant, self.turns, self.asked)

    def by_user(self) -> list[Collection]:
        """A collection for each user who is asked, with that user's documents alone; itself where it names none."""
        users = dict.fromkeys(self.user_of(query_id) for query_id in self.queries)
        if users.keys() == {""}:
            return [self]
        return [
            self._part(
                f"{self.name}, user {user}",
                {doc_id: text for doc_id, text in self.documents.items() if self.turn(doc_id).user == user},
                {query_id: text for query_id, text in self.queries.items() if self.user_of(query_id) == user},
            )
            for user in users
        ]

    def turn(self, doc_id: str) -> Turn:
        """What the document is stored with."""
        return self.turns.get(doc_id, Turn())

    def user_of(self, query_id: str) -> str:
        """Whose memory the query is put to; empty where the collection names no users."""
        return self.asked.get(query_id, Asked()).user

    def by_category(self) -> dict[str, list[str]]:
        """Query ids by the kind of question, in the order of the kinds' names; without those of no kind."""
        found: dict[str, list[str]] = {}
        for query_id in self.queries:
            if category := self.asked.get(query_id, Asked()).category:
                found.setdefault(category, []).append(query_id)
        return dict(sorted(found.items()))

    def _part(self, name: str, documents: dict[str, str], queries: dict[str, str]) -> Collection:
        return Collection(
            name, documents, queries, {q: self.relevant[q] for q in queries},
            {doc_id: turn for doc_id, turn in self.turns.items() if doc_id in documents},
            {query_id: asked for query_id, asked in self.asked.items() if query_id in queries},
        )  # fmt: skip


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
    for module in (conversations, beir, smart, trec):
        if module.recognises(folder):
            return module.read
    raise CollectionError(f"{folder} is neither in BEIR's, nor in SMART's, nor in TREC's format, nor conversations")


def collected(name: str, raw: RawCollection) -> Collection:
    """Join what a reader found.

    Queries keep the ids of their file where all judged ones are among them. Where they are not, as in the
    Cranfield collection, whose relevance counts the queries, they are numbered by position from 1.
    Documents without any text cannot be stored; judgements on them stand and count against every ranking.
    Raises CollectionError for ids that are missing, doubled or too long, where nothing is relevant, and where a query
    is put to one user and answered by a document of another.
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
    new_ids = {old: new for (old, _), (new, _) in zip(raw.queries, numbered, strict=True)}
    asked = {new_ids[query_id]: asked for query_id, asked in raw.asked.items()}
    for query_id in queries:
        user = asked.get(query_id, Asked()).user
        if any(raw.turns.get(doc_id, Turn()).user != user for doc_id in relevant[query_id] & documents.keys()):
            raise CollectionError(f"{name}: query {query_id} is answered by a document of another user")
    return Collection(
        name, documents, queries, {query_id: frozenset(relevant[query_id]) for query_id in queries},
        {doc_id: turn for doc_id, turn in raw.turns.items() if doc_id in documents},
        {query_id: asked[query_id] for query_id in queries if query_id in asked},
    )  # fmt: skip
