"""The main job on real text, over HTTP, as a product would do it: index, ask, be cited, stay apart."""

from __future__ import annotations

import email.message
import http.client
import importlib.metadata
import json
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote, urlsplit

from django.conf import settings

from memory.auth.mint import mint
from memory.limits import TEXT_MAX_BYTES
from memory.maintenance.progress import Progress

# Each with the document that answers it, which comes first with no reranker either: a test holds them to it.
QUESTIONS = (
    ("What implements RFC 7519, JSON Web Tokens?", "pypi/PyJWT"),
    ("Which WSGI HTTP server for UNIX uses a pre-fork worker model?", "pypi/gunicorn"),
    ("How can I get the nearest neighbors of a vector with L2 distance in SQLAlchemy?", "pypi/pgvector"),
)
NOT_RERANKED = (
    "These answers were not reranked: the cross-encoder's weights are not here, and the service does without.\n"
    "It fetches them itself where it may; how to bring them otherwise: deploy/runbooks/gpu.md"
)
STILL_LOADING = (
    "These answers were not reranked: the cross-encoder is still being loaded. Where its weights cannot be had, the\n"
    "service goes on without; how to bring them: deploy/runbooks/gpu.md"
)
# Whichever of these are installed come before the questions, the rest after them: the answers are among them, and two
# cores index them in some ten seconds.
FIRST_PACKAGES = (
    *(
        "PyJWT",
        "gunicorn",
        "pgvector",
        "Django",
        "djangorestframework",
        "psycopg",
        "cryptography",
        "numpy",
        "tokenizers",
    ),
    *("asgiref", "cffi", "requests", "sqlparse", "onnxruntime", "openai", "prometheus_client", "tqdm", "PyYAML"),
    *("packaging", "Jinja2"),
)
BOBS_PACKAGES = ("gunicorn", "PyJWT", "cffi")
# Enough real text to search in, and all of it within two minutes on two cores.
DOCUMENT_MAX_CHARS = 12_000
QUOTE_SHOWN_CHARS = 220
TIMEOUT_SECONDS = 120
TOKEN_SECONDS = 3600


class DemoError(Exception):
    """The service did not answer as it should; the message says how."""


@dataclass(frozen=True)
class Document:
    """A package's own description."""

    doc_id: str
    text: str
    version: str

    @property
    def package(self) -> str:
        return self.doc_id.partition("/")[2]


class Person:
    """One user's side of the HTTP connection."""

    def __init__(self, url: str, user_id: str):
        address = urlsplit(url)
        self.user_id = user_id
        self._connection = http.client.HTTPConnection(
            address.hostname or "localhost", address.port or 80, timeout=TIMEOUT_SECONDS
        )
        self._token = mint(
            user_id, secret=settings.MEMORY_JWT_SECRET, algorithm="HS256", issuer=settings.MEMORY_JWT_ISSUER,
            audience=settings.MEMORY_JWT_AUDIENCE, key_id=settings.MEMORY_JWT_KEY_ID or None,
            ttl_seconds=min(TOKEN_SECONDS, settings.MEMORY_JWT_MAX_SECONDS or TOKEN_SECONDS),
        )  # fmt: skip

    def call(self, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
        """(status, answer). Raises DemoError for anything but 2xx and 404."""
        raw = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        self._connection.request(method, f"/api/v1/memory/{path}", raw, headers)
        response = self._connection.getresponse()
        answer = json.loads(response.read() or b"{}")
        if response.status >= 300 and response.status != 404:
            raise DemoError(f"{method} {path}: {response.status} {answer.get('code')}: {answer.get('detail')}")
        return response.status, answer


def run_demo(url: str, say: Callable[[str], object], progress: Progress) -> None:
    """Index the first documents, ask, and print as it goes. Raises DemoError when isolation or an answer fails."""
    alice, bob, stranger = (Person(url, name) for name in ("alice", "bob", "mallory"))
    documents, _ = first_and_rest()
    index(alice, documents, say, progress)
    index(bob, [document for document in documents if document.package in BOBS_PACKAGES], say, progress)

    skipped = set()
    for question, _ in QUESTIONS:
        _, answer = alice.call("POST", "query", {"query": question})
        if not answer["results"]:
            raise DemoError("alice's question found nothing")
        skipped.add(answer["rerank"]["skipped"])
        say(f"\nalice asks: {question}")
        say("  " + "  ".join(f"{stage} {elapsed_ms:.1f} ms" for stage, elapsed_ms in answer["took_ms"].items()))
        for rank, result in enumerate(answer["results"], 1):
            citation = result["citation"]
            passage = textwrap.shorten(citation["quote"], QUOTE_SHOWN_CHARS, placeholder=" …")
            say(f"  {rank}. {result['score']:.3f}  {citation['doc_id']} [{citation['start']}:{citation['end']}]")
            say(textwrap.indent(textwrap.fill(passage, 100), "       "))

    if word := word_on_reranking(skipped):
        say(f"\n{word}")
    say("")
    for question, _ in QUESTIONS:
        _, answer = stranger.call("POST", "query", {"query": question})
        say(f"{stranger.user_id} asks: {question}  -> {len(answer['results'])} results")
        if answer["results"]:
            raise DemoError("a user who stored nothing was shown something")
    status, _ = stranger.call("GET", f"documents/{quote(documents[0].doc_id)}")
    say(f"{stranger.user_id} reads alice's {documents[0].doc_id}  -> {status}")
    if status != 404:
        raise DemoError("a user was shown another user's document")


def word_on_reranking(skipped: set[str | None]) -> str:
    """A word where answers were not reranked for want of a model, by why they were not; else ''."""
    return NOT_RERANKED if "no_backend" in skipped else STILL_LOADING if "loading" in skipped else ""


def index_rest(url: str, say: Callable[[str], object], progress: Progress) -> None:
    """Index for alice what `run_demo` has left; begun again, it goes on where it was."""
    index(Person(url, "alice"), first_and_rest()[1], say, progress)


def index(person: Person, documents: list[Document], say: Callable[[str], object], progress: Progress) -> None:
    """Index what the service does not hold yet in this version."""
    started = time.perf_counter()
    label = f"{person.user_id}: documents"
    new_documents = new_chunks = 0
    progress(label, 0, len(documents))
    for number, document in enumerate(documents, 1):
        status, stored = person.call("GET", f"documents/{quote(document.doc_id)}")
        if status != 200 or stored["metadata"].get("version") != document.version:
            metadata = {"version": document.version}
            body = {"doc_id": document.doc_id, "text": document.text, "source": "pypi", "metadata": metadata}
            _, indexed = person.call("POST", "index", body)
            new_documents, new_chunks = new_documents + 1, new_chunks + indexed["chunks"]
        progress(label, number, len(documents))
    progress.end()
    say(
        f"{person.user_id}: {len(documents)} documents, {new_documents} of them new "
        f"({new_chunks} chunks) in {time.perf_counter() - started:.1f} s"
    )


def first_and_rest() -> tuple[list[Document], list[Document]]:
    """The descriptions of FIRST_PACKAGES, in that order, and all others."""
    described = {document.package: document for document in package_descriptions()}
    first = [described.pop(package) for package in FIRST_PACKAGES if package in described]
    return first, list(described.values())


def package_descriptions() -> Iterator[Document]:
    """The long descriptions of the Python packages installed beside this one, by name."""
    seen = set()
    for package in sorted(importlib.metadata.distributions(), key=lambda package: package.name.lower()):
        # A message indeed, though its declared type promises less.
        described = cast(email.message.Message, package.metadata)
        payload = described.get_payload()
        text = ((payload if isinstance(payload, str) else "") or described.get("Description") or "").strip()
        text = text[:DOCUMENT_MAX_CHARS].replace("\x00", "")
        if len(text) < 200 or package.name in seen or len(text.encode(errors="replace")) > TEXT_MAX_BYTES:
            continue
        seen.add(package.name)
        yield Document(f"pypi/{package.name}", text, package.version)
