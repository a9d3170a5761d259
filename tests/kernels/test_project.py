"""Rows in other coordinates, against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

import hlm
from hlm.criterion import make_problem
from hlm_ext import set_num_threads
from hlm_ext.columns import Columns
from hlm_ext.partition import get_num_threads
from hlm_ext.project import project


def exact(columns: list[np.ndarray], shift: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    rows = []
    for values in zip(*columns, strict=True):
        deviations = [Fraction(float(x)) - Fraction(float(s)) for x, s in zip(values, shift, strict=True)]
        rows.append(
            [float(sum(d * Fraction(float(c)) for d, c in zip(deviations, by, strict=True))) for by in coefficients.T]
        )
    return np.array(rows)


def test_cancelling_combinations_are_exact() -> None:
    """Columns that agree to 13 digits and far from zero: each difference is right to its own last digit."""
    rng = np.random.default_rng(3)
    n = 700  # several blocks of rows
    x = 1e6 + rng.normal(size=n)
    columns = [x, x + 1e-7 * rng.normal(size=n), np.broadcast_to(np.ones(1), (n,)), rng.normal(size=(n, 3))[:, 1]]
    shift = np.array([x.mean(), 0.3, 0.0, 1e5])
    factor = np.array([2.0, 0.25, 1.0, 2.0**-20])
    basis = np.array([[1.0, 0.3, 0.0], [-8.0, 0.0, 0.0], [2e6 + 0.1, -1 / 3, 0.0], [1 / 7, 0.0, 0.0]])
    got = project(Columns(columns), shift, factor, basis)
    want = exact(columns, shift, factor[:, None] * basis)
    np.testing.assert_allclose(got, want, rtol=2**-52, atol=0)


def test_same_bits_for_any_number_of_threads() -> None:
    rng = np.random.default_rng(5)
    columns = Columns(list(rng.normal(size=(4, 5000))))
    arguments = np.zeros(4), np.ones(4), rng.normal(size=(4, 6))
    before = get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            set_num_threads(threads)
            results.append(project(columns, *arguments))
    finally:
        set_num_threads(before)
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_shapes_are_checked() -> None:
    columns = Columns([np.ones(3), np.zeros(3)])
    with pytest.raises(ValueError, match="must have 2 entries"):
        project(columns, np.zeros(1), np.ones(2), np.ones((2, 1)))
    with pytest.raises(ValueError, match="must have 2 entries"):
        project(columns, np.zeros(2), np.ones(2), np.ones((3, 1)))
    assert project(columns, np.zeros(2), np.ones(2), np.ones((2, 0))).shape == (3, 0)


def test_basis_of_the_coordinates() -> None:
    """The engine's statistics are the cross-products of the rows that `basis` gives."""
    rng = np.random.default_rng(8)
    n = 120
    a = np.repeat(np.arange(20), 6)
    b = a // 4
    x = 5 + rng.normal(size=n)
    y = rng.normal(size=n) + x
    weights = rng.uniform(0.5, 2, n)
    X = np.column_stack([np.ones(n), x, rng.normal(size=n)])
    random = [hlm.Random(a, np.column_stack([np.ones(n), x]), name="a"), hlm.Random(b, name="b")]
    problem = make_problem(hlm.Model.from_arrays(y, X, random, weights=weights).design)
    E = problem.statistics.rows(problem.coordinates.basis) * np.sqrt(weights)[:, None]
    np.testing.assert_allclose(E[:, 3:].T @ E[:, 3:], problem.coordinates.total, atol=1e-11)
    for k, (codes, columns) in enumerate([(a, [0, 1]), (b, [2])]):
        levels = problem.statistics.hierarchy.levels[k]
        want = [E[codes == level][:, columns].T @ E[codes == level][:, columns[0] :] for level in levels]
        np.testing.assert_allclose(problem.coordinates.blocks[k], want, atol=1e-11)
