"""What a registered embedding space is."""

from __future__ import annotations

from dataclasses import dataclass

from memory.embedding.embedder import Embedder

# Raised when chunking, rotation or sealing of vectors changes so that old and new must not mix.
SCHEME_VERSION = 1


@dataclass(frozen=True)
class Chunking:
    """A space's limits of a chunk: tokens with the two special ones, tokens two neighbours share, characters."""

    max_tokens: int
    overlap_tokens: int
    max_chars: int


@dataclass(frozen=True)
class Space:
    """A registered space, as its row has it."""

    number: int
    fingerprint: str
    description: dict
    is_default: bool
    tenant_key_check: bytes

    @property
    def dimension(self) -> int:
        """How many dimensions its vectors have."""
        dimension: int = self.description["dimension"]
        return dimension

    @property
    def chunking(self) -> Chunking:
        """How its texts are cut."""
        said = self.description
        return Chunking(said["chunk_tokens"], said["chunk_overlap"], said["chunk_max_chars"])

    @property
    def model(self) -> tuple:
        """What makes two spaces' vectors of one text the same, before they are protected."""
        return tuple(self.description[name] for name in ("scheme", "weights_sha256", "dimension"))

    def is_served_by(self, embedder: Embedder) -> bool:
        """Whether a loaded model makes this space's vectors, of chunks as long as its own."""
        is_same = self.model == (SCHEME_VERSION, embedder.weights_sha256, embedder.dimension)
        return is_same and self.chunking.max_tokens <= embedder.max_tokens
