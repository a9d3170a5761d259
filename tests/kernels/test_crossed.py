"""The core of crossed designs: singular covariances, sparse tiles, and the tile kernels themselves."""

import numpy as np
import pytest

from hlm_ext.crossed import CrossedForest
from hlm_ext.tiles import Tiles, product

from ..dense import CROSSED, Case, structure
from .test_criterion import dense_products, directions, some_theta

every_crossed = pytest.mark.parametrize("name", CROSSED)


def without(case: Case, theta: np.ndarray, which: str) -> np.ndarray:
    """θ with Λ = 0 for all factors, for one kind of factor, or without its last column for each."""
    out, at = theta.copy(), 0
    for k, q in enumerate(case.widths):
        size = q * (q + 1) // 2
        core = k >= len(case.widths) - case.core
        if which == "all" or (which == "core" and core) or (which == "peeled" and not core):
            out[at : at + size] = 0
        elif which == "last column" and q > 1:
            out[at + size - 1] = 0
        elif which == "last factor" and k == len(case.widths) - 1:
            out[at : at + size] = 0
        at += size
    return out


@every_crossed
@pytest.mark.parametrize("which", ["all", "core", "peeled", "last column", "last factor"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_a_singular_covariance_is_an_ordinary_point(name: str, which: str, reml: bool) -> None:
    case = structure(name)
    theta = without(case, some_theta(case), which)
    kernel = case.kernel(reml)
    assert kernel.value(theta) == pytest.approx(case.criterion(theta, reml), rel=1e-11)
    traces, forms, products = kernel.quadratic_forms()
    inverse = np.linalg.inv(case.covariance(theta))
    VX = inverse @ case.X
    P = inverse - (VX @ np.linalg.solve(case.X.T @ VX, VX.T) if case.X.shape[1] else 0.0)
    K = P if reml else inverse
    e = P @ case.y
    V = directions(case)
    np.testing.assert_allclose(traces, [np.sum(K * v) for v in V], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(forms, [e @ v @ e for v in V], rtol=1e-9, atol=1e-9)
    expected = dense_products(case, theta, reml)
    np.testing.assert_allclose(products, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())
    kernel.derivatives("average")
    s2, freedom = kernel.sigma2, kernel.freedom
    average = np.array([[(v @ e) @ P @ (w @ e) for w in V] for v in V]) / s2 - np.outer(forms, forms) / (
        freedom * s2**2
    )
    np.testing.assert_allclose(kernel.second_derivatives, average, rtol=1e-8, atol=1e-10 * np.abs(average).max())
    modes, covariances = kernel.effects(True)
    expected_modes, expected_covariances = case.posterior(theta, beta_known=False)
    for got, want in zip(modes + covariances, expected_modes + expected_covariances, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


def banded(seed: int = 0) -> Case:
    """Units that move only between neighbours: a core whose factor is sparse."""
    rng = np.random.default_rng(seed)
    n, units, places = 900, 300, 260
    unit = rng.permutation(np.repeat(np.arange(units), n // units))
    place = np.clip(unit * places // units + rng.integers(-2, 3, n), 0, places - 1)
    place = np.unique(place, return_inverse=True)[1]
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = rng.normal(size=n) + rng.normal(size=units)[unit] + rng.normal(size=places)[place]
    return Case(y, X, [X[:, :1], X], [unit, place], 1)


def test_sparse_and_dense_cores_agree() -> None:
    case = banded()
    theta = some_theta(case)
    dense, sparse = case.kernel(True), case.kernel(True, "sparse")
    assert isinstance(dense.forest, CrossedForest)
    assert isinstance(sparse.forest, CrossedForest)
    assert dense.forest.core.tiles.dense()
    assert sparse.forest.core.tiles.count < 0.5 * dense.forest.core.tiles.count
    assert sparse.value(theta) == pytest.approx(dense.value(theta), rel=1e-13)
    for got, want in zip(sparse.derivatives("average"), dense.derivatives("average"), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10 * np.abs(want).max())
    for got, want in zip(sparse.effects(True)[1] or [], dense.effects(True)[1] or [], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)
    assert sparse.value(theta) == pytest.approx(case.criterion(theta, True), rel=1e-11)


@pytest.mark.parametrize("side", [1, 7, 64])
def test_tiles_against_numpy(side: int) -> None:
    rng = np.random.default_rng(side)
    count = 5
    cols, rows = np.triu_indices(count)
    tiles = Tiles(rows, cols, side)
    A = rng.normal(size=(count * side, count * side))
    A = A @ A.T + np.eye(len(A))
    S = np.ascontiguousarray(A.reshape(count, side, count, side).transpose(0, 2, 1, 3)[rows, cols])
    np.testing.assert_array_equal(tiles.full(S), A)
    X = rng.normal(size=(len(A), 70))
    np.testing.assert_allclose(tiles.times(S, X), A @ X, rtol=1e-12, atol=1e-10)
    logdet, failed = tiles.factor(S.copy())
    assert failed == -1
    assert logdet == pytest.approx(np.linalg.slogdet(A)[1], rel=1e-12)
    inverse = np.linalg.inv(A)
    scale = np.abs(inverse).max()
    np.testing.assert_allclose(tiles.full(tiles.inverse()), inverse, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(tiles.solve(X), np.linalg.solve(A, X), rtol=1e-8, atol=1e-10 * scale)
    half = tiles.half_solve(X)
    np.testing.assert_allclose(half.T @ half, X.T @ np.linalg.solve(A, X), rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(product(A, X), A @ X, rtol=1e-12, atol=1e-10)


def test_a_pivot_that_is_not_positive_is_named() -> None:
    tiles = Tiles(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    S = np.array([np.eye(2), np.zeros((2, 2)), np.diag([1.0, -1.0])])
    assert tiles.factor(S)[1] == 3


@pytest.mark.parametrize(
    ("rows", "cols", "message"),
    [
        ([0, 2, 2], [0, 1, 2], r"tile \(1, 1\) is missing"),
        ([0, 0, 1], [0, 1, 1], "on or below the diagonal"),
        ([0, 1, 2, 1, 2], [0, 0, 0, 1, 2], "not closed under elimination"),
    ],
)
def test_a_wrong_pattern_is_refused(rows: list[int], cols: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiles(np.array(rows), np.array(cols), 3)
