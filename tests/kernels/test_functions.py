"""The plain functions of hlm_ext: arrays in, arrays out, without the Python layer."""

import numpy as np
import pytest

from hlm_ext import functions
from hlm_ext.columns import Columns
from hlm_ext.gather import gather, scan, transform
from hlm_ext.structure import compact_codes, first_rows, parents, sort_rows

from ..dense import Case, make_case


def statistics(case: Case) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Blocks, children and total of a case whose codes are sorted, by `gather` alone."""
    columns = Columns([*(column for Z in case.Z for column in Z.T), *case.X.T, case.y])
    q = sum(case.widths)
    first = np.r_[0, np.cumsum(np.bincount(case.codes[0]))].astype(np.intp)
    zero, one = np.zeros(columns.count), np.ones(columns.count)
    total, products = gather(columns, None, first, zero, one, np.arange(q, dtype=np.intp))
    blocks, children, at = [], [], 0
    for k, width in enumerate(case.widths):
        if k:
            above = parents(case.codes[k - 1], first_rows(case.codes[k - 1], len(products)), case.codes[k])[0]
            children.append(np.r_[0, np.cumsum(np.bincount(above))].astype(np.intp))
            products = np.add.reduceat(products, children[-1][:-1], axis=0)
        left = np.zeros((q, width))
        left[at : at + width] = np.eye(width)
        right = np.zeros((products.shape[2], columns.count - at))
        right[at : columns.count] = np.eye(columns.count - at)
        blocks.append(transform(products, left, right))
        at += width
    return blocks, children, np.ascontiguousarray(total[q:, q:])


@pytest.fixture
def case() -> Case:
    return make_case([2, 1], 3, seed=7, tops=20)


@pytest.fixture
def lambdas() -> list[np.ndarray]:
    return [np.array([[0.8, 0.0], [-0.3, 0.5]]), np.array([[0.6]])]


def stacked(lambdas: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([L[np.triu_indices(len(L))[::-1]] for L in lambdas])


@pytest.mark.parametrize("reml", [True, False])
def test_from_rows_to_profile_and_moments(case: Case, lambdas: list[np.ndarray], reml: bool) -> None:
    blocks, children, total = statistics(case)
    n = len(case.y)
    got = functions.profile(blocks, children, total, lambdas, n, reml)
    assert got.criterion == pytest.approx(case.criterion(stacked(lambdas), reml), abs=1e-8)
    moments = functions.moments(blocks, children, total, lambdas, n, reml)
    modes, covariances = case.posterior(stacked(lambdas), beta_known=False)
    for a, b in zip(moments.effects + moments.covariances, modes + covariances, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def test_gradient_and_information(case: Case, lambdas: list[np.ndarray]) -> None:
    blocks, children, total = statistics(case)
    n, theta, h = len(case.y), stacked(lambdas), 1e-6
    in_lambda, in_covariance = functions.gradient(blocks, children, total, lambdas, n)
    numeric = [(case.criterion(theta + h * e, True) - case.criterion(theta - h * e, True)) / (2 * h) for e in np.eye(4)]
    np.testing.assert_allclose(stacked(in_lambda), numeric, rtol=1e-5, atol=1e-5)
    assert [G.shape for G in in_covariance] == [(2, 2), (1, 1)]
    observed, average, expected = (
        functions.information(blocks, children, total, lambdas, n, kind=kind)
        for kind in ("observed", "average", "expected")
    )
    for matrix in (average, expected):
        assert (np.linalg.eigvalsh(matrix) > 0).all()
    assert observed.shape == (4, 4)
    with pytest.raises(ValueError, match="information must be"):
        functions.information(blocks, children, total, lambdas, n, kind="exact")


def test_em_never_raises_the_criterion(case: Case, lambdas: list[np.ndarray]) -> None:
    blocks, children, total = statistics(case)
    moved, values = functions.em(blocks, children, total, lambdas, len(case.y), steps=200)
    assert (np.diff(values) <= 1e-11 * abs(values[0])).all()
    assert values[-1] == pytest.approx(case.model().fit().criterion, abs=1e-3)
    assert all(np.array_equal(L, np.tril(L)) for L in moved)


def test_shapes_that_do_not_fit_are_errors(case: Case, lambdas: list[np.ndarray]) -> None:
    blocks, children, total = statistics(case)
    n = len(case.y)
    with pytest.raises(ValueError, match="one \\(q, q\\) array for each block"):
        functions.profile(blocks, children, total, lambdas[:1], n)
    with pytest.raises(ValueError, match="block 1 must have 5 columns, got 4"):
        functions.profile([blocks[0], blocks[1][:, :, :4]], children, total, lambdas, n)
    with pytest.raises(ValueError, match="need 1 arrays of children"):
        functions.profile(blocks, [], total, lambdas, n)
    with pytest.raises(ValueError, match="increasing offsets"):
        functions.profile(blocks, [children[0][::-1].copy()], total, lambdas, n)


def test_gather_against_numpy_for_any_layout_and_order() -> None:
    rng = np.random.default_rng(0)
    n = 10_000
    wide = rng.normal(size=(n, 11))
    weights = rng.uniform(0.5, 2, n)
    codes, labels = compact_codes(rng.integers(-5, 700, n).astype(np.intp), -5, 700)
    order, first = sort_rows(codes, np.arange(len(labels), dtype=np.intp))
    chosen = np.array([0, 3], dtype=np.intp)
    for matrix in (np.ascontiguousarray(wide), np.asfortranarray(wide), np.repeat(wide, 2, axis=1)[:, ::2]):
        columns = Columns(list(matrix.T))
        mean, spread = scan(columns)
        np.testing.assert_allclose(mean, wide.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(spread, wide.std(axis=0), rtol=1e-12)
        total, products = gather(columns, order, first, mean, 1 / spread, chosen, weights)
        scaled = (wide - mean) / spread
        np.testing.assert_allclose(total, scaled.T @ (scaled * weights[:, None]), rtol=1e-9, atol=1e-8)
        for level in (0, 17, len(labels) - 1):
            rows = codes == level
            expected = scaled[rows][:, chosen].T @ (scaled[rows] * weights[rows, None])
            np.testing.assert_allclose(products[level, :, :11], expected, rtol=1e-9, atol=1e-9)
        assert (products[:, :, 11:] == 0).all()


def test_scan_sees_constants_and_numbers_that_are_not_finite() -> None:
    columns = Columns([np.full(5000, 1e12), 1e12 + np.arange(5000.0), np.r_[np.zeros(4999), np.nan]])
    mean, spread = scan(columns)
    assert spread[0] == 0
    assert mean[0] == 1e12
    assert spread[1] == pytest.approx(np.arange(5000.0).std(), rel=1e-12)
    assert np.isnan(spread[2])


def test_columns_are_checked() -> None:
    with pytest.raises(ValueError, match="column 1 has 3 rows"):
        Columns([np.zeros(4), np.zeros(3)])
    with pytest.raises(TypeError, match="column 0 must be"):
        Columns([np.zeros(4, dtype=np.float32)])
    with pytest.raises(ValueError, match="no columns"):
        Columns([])


def test_columns_that_are_not_aligned_are_copied() -> None:
    record = np.zeros(6, dtype=[("flag", "i1"), ("x", "f8")])
    record["x"] = np.arange(6)
    mean, _ = scan(Columns([record["x"]]))
    assert mean[0] == 2.5


def test_parents_find_the_row_that_is_crossed() -> None:
    child = np.array([0, 0, 1, 1, 0], dtype=np.intp)
    parent = np.array([0, 0, 1, 1, 1], dtype=np.intp)
    assert parents(child, first_rows(child, 2), parent)[1] == 4
    assert parents(child[:4], first_rows(child[:4], 2), parent[:4])[1] == -1


def test_rows_that_are_sorted_are_left_alone() -> None:
    codes = np.repeat(np.arange(5, dtype=np.intp), 3)
    order, first = sort_rows(codes, np.arange(5, dtype=np.intp))
    assert order is None
    np.testing.assert_array_equal(first, np.arange(0, 16, 3))
    order, _ = sort_rows(codes[::-1].copy(), np.arange(5, dtype=np.intp))
    np.testing.assert_array_equal(codes[::-1][order], codes)
