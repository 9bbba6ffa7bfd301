"""A user's secret rotation of the vector space.

It obfuscates the searchable vectors: all angles within one user stay as they are, and two users'
vectors have nothing to do with each other. It is not encryption; about 50 known texts of the
same user undo it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
# Measured over 40 keys at 384 dimensions: with 5 rounds no entry of the matrix is above 5.3
# standard deviations, as of a dense random one (kurtosis 3.0); with 4 some are at 6.1.
ROUNDS = 5
_INFO = b"memory vector rotation v1 d="


class Rotation:
    """The orthogonal matrix of one key, never written out: 5 rounds of sign flips, a permutation
    and normalised Hadamard transforms (after the fast Johnson-Lindenstrauss transform, Ailon and
    Chazelle 2009).

    A Hadamard transform needs a power of two. In each round one covers the first and one the
    last `p` coordinates, `p` the largest power of two that fits, so each reaches all of them.
    The same key and dimension give the same matrix for ever; `v1` in the label names it.
    """

    def __init__(self, key: bytes, dimension: int):
        """`key`: 32 bytes, used for this alone. `dimension`: at least 2. Else `ValueError`."""
        if len(key) != KEY_BYTES:
            raise ValueError("the rotation key must be 32 bytes")
        if dimension < 2:
            raise ValueError("a rotation needs at least 2 dimensions")
        self.dimension = dimension
        self._block = 1 << (dimension.bit_length() - 1)
        self._rounds = _draw_rounds(key, dimension)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Rotate float32[n, d] or [d]; the same shape, float32, lengths and angles kept.

        Computed in float64, so that the result is exact but for its last rounding. Raises
        `ValueError` on another dimension.
        """
        rotated = self._rows(vectors)
        for signs, order, _ in self._rounds:
            rotated = (rotated * signs)[:, order]
            self._mix(rotated, slice(0, self._block))
            if self._block < self.dimension:
                self._mix(rotated, slice(self.dimension - self._block, self.dimension))
        return rotated.astype(np.float32).reshape(np.shape(vectors))

    def inverse(self, vectors: np.ndarray) -> np.ndarray:
        """Undo `apply`: float32[n, d] or [d], the same shape. Raises as `apply` does."""
        restored = self._rows(vectors)
        for signs, _, unorder in reversed(self._rounds):
            if self._block < self.dimension:
                self._mix(restored, slice(self.dimension - self._block, self.dimension))
            self._mix(restored, slice(0, self._block))
            restored = restored[:, unorder] * signs
        return restored.astype(np.float32).reshape(np.shape(vectors))

    def __repr__(self) -> str:
        return f"Rotation(dimension={self.dimension})"

    def _rows(self, vectors: np.ndarray) -> np.ndarray:
        rows = np.array(vectors, dtype=np.float64, ndmin=2)
        if rows.ndim != 2 or rows.shape[1] != self.dimension:
            raise ValueError(f"expected vectors of {self.dimension} dimensions")
        return rows

    def _mix(self, rows: np.ndarray, block: slice) -> None:
        """The normalised Hadamard transform of one block, in place; it is its own inverse.

        H(a*b) is the Kronecker product of H(a) and H(b): two products with small matrices,
        where the textbook's log2(p) passes would each cost a call.
        """
        left, right = _hadamard_factors(self._block)
        grid = rows[:, block].reshape(len(rows), len(left), len(right))
        rows[:, block] = (left @ (grid @ right)).reshape(len(rows), self._block)


def _draw_rounds(key: bytes, dimension: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Signs (float64[d]), permutation and its inverse (int64[d]) of each round, from the key.

    The bytes are the AES-256-CTR keystream from counter 0 under an HKDF-SHA256 sub-key; per
    round d sort keys (uint64, little-endian; a stable argsort makes the permutation), then d
    bytes whose lowest bit is the sign.
    """
    info = _INFO + str(dimension).encode()
    stream_key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)
    encryptor = Cipher(algorithms.AES256(stream_key), modes.CTR(bytes(16))).encryptor()
    stream = encryptor.update(bytes(ROUNDS * dimension * 9))
    rounds = []
    for i in range(ROUNDS):
        part = stream[i * dimension * 9 : (i + 1) * dimension * 9]
        order = np.argsort(np.frombuffer(part, dtype="<u8", count=dimension), kind="stable")
        sign_bits = np.frombuffer(part, dtype=np.uint8, offset=dimension * 8) & 1
        unorder = np.empty_like(order)
        unorder[order] = np.arange(dimension)
        rounds.append((1.0 - 2.0 * sign_bits, order, unorder))
    return rounds


@lru_cache(maxsize=8)
def _hadamard_factors(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised Hadamard matrices of a and b, a * b = `size`, a <= b (Sylvester's)."""
    bits = size.bit_length() - 1
    factors = []
    for factor_bits in (bits // 2, bits - bits // 2):
        matrix = np.ones((1, 1))
        for _ in range(factor_bits):
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        factors.append(matrix / np.sqrt(len(matrix)))
    return factors[0], factors[1]
