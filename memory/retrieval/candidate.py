"""A candidate: one chunk on its way from the search to an answer, with each stage's score. And what is beside it."""

from __future__ import annotations

from dataclasses import dataclass

from memory.retrieval.chunk_row import ChunkRow


@dataclass(slots=True)
class Neighbour(ChunkRow):
    """A chunk that stands beside a result, its sealed text unopened until it is asked for."""

    text_cipher: bytes
    text: str = ""


@dataclass(slots=True)
class Candidate(ChunkRow):
    """A row of the search; what is sealed of it is brought for those that go on, and opened.

    Scores are 0-1, higher is better; None for a stage that did not run. `context` is what that stage has added to
    `fused`, which has it in. Beside them stand what the two legs measured: `distance`, cosine, 0-2, nearer is better;
    `bm25`, 0 where no query term occurs, None where no words were looked for; `spread_bm25`, the same with the
    neighbours in its thread, None where none has any. `speaker_id`: the blind id of who said it.
    `phrased`: the text holds every phrase that the query quotes; True where it quotes none, False where nobody looked.
    `before` and `after`: what stands beside it, in order; None where that was not asked for.
    """

    distance: float
    bm25: float | None = None
    spread_bm25: float | None = None
    speaker_id: int | None = None
    text_cipher: bytes = b""
    meta_cipher: bytes = b""
    document_meta_cipher: bytes | None = None
    document_mac: bytes | None = None
    document_generation: int | None = None
    speaker_cipher: bytes | None = None
    vector: float = 0.0
    lexical: float | None = None
    fused: float = 0.0
    context: float | None = None
    decay: float = 0.0
    rerank: float | None = None
    phrased: bool = True
    text: str = ""
    metadata: dict | None = None
    speaker: str | None = None
    before: list[Neighbour] | None = None
    after: list[Neighbour] | None = None

    @property
    def score(self) -> float:
        """The score of the last stage that ran."""
        return self.decay if self.rerank is None else self.rerank
