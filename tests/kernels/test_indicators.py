"""Sums of indicators with each left out, against convolution without it."""

import numpy as np
import pytest

from hlm_ext.indicators import leave_one_out
from hlm_ext.partition import get_num_threads, set_num_threads


def by_convolution(p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    out = np.zeros((p.shape[1], p.shape[1]))
    for j in range(p.shape[1]):
        for node in range(len(p)):
            f = np.ones(1)
            for q in np.delete(p[node], j):
                f = np.convolve(f, [1 - q, q])
            out[j] += weight[node, j] * f
    return out


@pytest.mark.parametrize("J", [1, 2, 7, 60])
def test_against_convolution(J: int) -> None:
    rng = np.random.default_rng(J)
    p, weight = rng.uniform(size=(9, J)), rng.uniform(size=(9, J))
    p[0], p[1, 0], p[2, -1] = 0.5, 0.0, 1.0
    weight[3] = 0.0
    np.testing.assert_allclose(leave_one_out(p, weight), by_convolution(p, weight), rtol=1e-11, atol=1e-15)


def test_same_bits_for_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    p, weight = rng.uniform(size=(100, 80)), rng.uniform(size=(100, 80))
    before = get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            set_num_threads(threads)
            results.append(leave_one_out(p, weight))
    finally:
        set_num_threads(before)
    assert all(np.array_equal(results[0], other) for other in results)


def test_shapes() -> None:
    with pytest.raises(ValueError, match="weight must be"):
        leave_one_out(np.zeros((3, 4)), np.zeros((4, 3)))
    assert leave_one_out(np.zeros((0, 4)), np.zeros((0, 4))).tolist() == np.zeros((4, 4)).tolist()
