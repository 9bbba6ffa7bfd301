"""The secret rotation keeps angles, spreads every coordinate, and never changes for a key."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.embedding.rotation import Rotation

KEY = bytes(range(32))
# The first three and the last coordinate of arange(1, d + 1) / d, rotated under KEY. Stored
# vectors depend on these: if they change, every user's vectors must be rotated anew.
FROZEN = {
    2: [1.06066012, 0.35355338, 0.35355338],
    7: [-0.07812501, 1.03125, 0.74553573, -0.46986607],
    384: [0.34424645, -0.51081586, 0.40056998, -0.4580493],
    1000: [-0.33120421, -0.24828981, 0.07304437, -0.16639324],
}

keys = st.binary(min_size=32, max_size=32)


def unit_vectors(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def matrix(key: bytes, dimension: int) -> np.ndarray:
    return Rotation(key, dimension).apply(np.eye(dimension, dtype=np.float32)).astype(np.float64).T


@pytest.mark.parametrize("dimension", FROZEN)
def test_the_rotation_of_a_key_is_frozen(dimension):
    vector = np.arange(1, dimension + 1, dtype=np.float32) / dimension
    rotated = Rotation(KEY, dimension).apply(vector)
    assert [*rotated[:3], rotated[-1]] == pytest.approx(FROZEN[dimension], abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(keys, st.integers(2, 1100), st.integers(1, 5))
def test_cosines_are_kept_and_the_inverse_undoes_it(key, dimension, rows):
    vectors = unit_vectors(rows, dimension, seed=dimension)
    rotation = Rotation(key, dimension)
    rotated = rotation.apply(vectors)
    assert rotated.dtype == np.float32
    assert rotated.shape == vectors.shape
    before, after = vectors.astype(np.float64), rotated.astype(np.float64)
    assert np.abs(after @ after.T - before @ before.T).max() < 1e-6
    assert np.abs(rotation.inverse(rotated) - vectors).max() < 1e-6
    assert np.abs(rotation.apply(rotation.inverse(vectors)) - vectors).max() < 1e-6


@pytest.mark.parametrize("dimension", [384, 768, 1000, 1024])
def test_each_coordinate_spreads_over_all_as_in_a_dense_random_rotation(dimension):
    entries = matrix(KEY, dimension) * np.sqrt(dimension)
    assert np.abs(entries).max() < 6.5
    assert np.mean(entries**4) / np.mean(entries**2) ** 2 == pytest.approx(3.0, abs=0.1)
    for axis in (0, 1):
        # No coordinate keeps to a part of the vector: each half holds about half of its length.
        half = np.sum(np.split(entries**2 / dimension, [dimension // 2], axis=axis)[0], axis=axis)
        assert half.min() > 0.3
        assert half.max() < 0.7


def test_two_users_vectors_of_the_same_texts_have_nothing_to_do_with_each_other():
    vectors = unit_vectors(8, 384)
    rotated = [Rotation(bytes([n]) * 32, 384).apply(vectors) for n in range(20)]
    across = [a @ b.T for i, a in enumerate(rotated) for b in rotated[:i]]
    assert np.std(across) == pytest.approx(1 / np.sqrt(384), rel=0.1)
    assert np.abs(np.mean(across)) < 0.005
    assert np.abs(across).max() < 0.35


def test_one_bit_of_the_key_changes_everything():
    other = bytes([KEY[0] ^ 1]) + KEY[1:]
    assert np.abs(np.sum(matrix(KEY, 384) * matrix(other, 384), axis=0)).max() < 0.35


def test_one_vector_is_rotated_as_in_a_batch_and_the_input_is_left_alone():
    vectors = unit_vectors(3, 384)
    original = vectors.copy()
    rotation = Rotation(KEY, 384)
    together = rotation.apply(vectors)
    alone = rotation.apply(vectors[1])
    assert alone.shape == (384,)
    assert np.abs(alone - together[1]).max() < 1e-6
    assert np.array_equal(vectors, original)
    assert rotation.apply(vectors[:0]).shape == (0, 384)


def test_the_key_is_not_shown():
    assert KEY.hex() not in repr(Rotation(KEY, 4)) and repr(KEY) not in repr(Rotation(KEY, 4))


@pytest.mark.parametrize(("key", "dimension"), [(KEY[:31], 384), (KEY + b"x", 384), (KEY, 1)])
def test_wrong_keys_and_dimensions_are_refused(key, dimension):
    with pytest.raises(ValueError):
        Rotation(key, dimension)


@pytest.mark.parametrize("shape", [(383,), (2, 385), (1, 1, 384)])
def test_vectors_of_another_dimension_are_refused(shape):
    with pytest.raises(ValueError):
        Rotation(KEY, 384).apply(np.zeros(shape, dtype=np.float32))
