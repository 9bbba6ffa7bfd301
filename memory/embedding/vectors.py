"""Half-precision vectors as query parameters, in pgvector's binary form.

A 384-dimensional vector is 772 bytes this way and about 4 kB as text, and the server need not
parse it. The type's OID differs from database to database, so the parameter is sent without one
and every statement says `%s::halfvec`.
"""

from __future__ import annotations

import numpy as np
import psycopg
from pgvector import HalfVector
from psycopg.adapt import Dumper
from psycopg.pq import Format

from memory.errors import InvalidEmbedding


class HalfVectorDumper(Dumper):
    """HalfVector -> halfvec_recv's bytes, with the OID left to the statement's cast."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: HalfVector) -> bytes:
        return obj.to_binary()


psycopg.adapters.register_dumper(HalfVector, HalfVectorDumper)


def unit_vectors(vectors, *, rows: int, dimension: int) -> np.ndarray:
    """`vectors` as float32[rows, dimension], each scaled to length 1.

    Raises InvalidEmbedding for another shape, a non-finite value or a vector of length zero: pgvector
    would store all three, and a cosine with them is NaN.
    """
    matrix = np.asarray(vectors, dtype=np.float32)
    if matrix.shape != (rows, dimension) or not np.isfinite(matrix).all():
        raise InvalidEmbedding()
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    if not (norms > 1e-12).all():
        raise InvalidEmbedding()
    return (matrix / norms).astype(np.float32)


def half_vectors(units: np.ndarray) -> list[HalfVector]:
    """One HalfVector a row of float32[n, d]."""
    return [HalfVector(row) for row in units]
