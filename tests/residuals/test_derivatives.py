"""Value, gradient and Hessian of the criterion with a residual structure, against n x n matrices."""

import numpy as np
import pytest

from hlm.residuals.criterion import Gathered, JointCriterion, gathered
from hlm.residuals.pieces import Combination, Pieces, RowPieces

from .dense import KINDS, Structured, structured

LEVELS = pytest.mark.parametrize("widths", [[], [2], [1, 2], [2, 1, 1]], ids=["none", "two", "three", "four"])
METHODS = pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])


def joint(s: Structured, reml: bool) -> JointCriterion:
    model = s.model()
    assert model.design.residual is not None
    return JointCriterion(gathered(model.problem, model.design.residual), reml)


def dense_value(s: Structured, criterion: JointCriterion, x: np.ndarray, reml: bool) -> float:
    """The criterion at the engine's x, from the definition."""
    theta, phi = criterion.split(x)
    problem = criterion.gathered.problem
    roots = problem.template.factors_of(theta)
    covariances = [M @ L @ L.T @ M.T for M, L in zip(problem.maps, roots, strict=True)]
    return s.criterion(covariances, phi, reml)


def point(s: Structured, criterion: JointCriterion, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([0.7 * rng.normal(size=criterion.gathered.problem.template.m), s.random_phi(rng)])


@LEVELS
@METHODS
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_derivatives(kind: str, widths: list[int], reml: bool) -> None:
    s = structured(kind, widths, seed=len(widths), weighted=reml)
    criterion = joint(s, reml)
    for seed in range(2):
        x = point(s, criterion, seed)
        # rounding of the dense algebra
        assert criterion.value(x) == pytest.approx(dense_value(s, criterion, x, reml), abs=1e-9 * len(s.case.y))
        gradient, hessian = criterion.derivatives()
        np.testing.assert_allclose(criterion.gradient(), gradient, rtol=1e-10, atol=1e-9)
        step = 1e-4
        steps = step * np.eye(len(x))
        ends = [[dense_value(s, criterion, x + sign * e, reml) for sign in (1, -1)] for e in steps]
        # central differences: error of the order step², here some 1e-7 of third derivatives of order 10 to 100
        expected = np.array([(up - down) / (2 * step) for up, down in ends])
        np.testing.assert_allclose(gradient, expected, atol=2e-6 * max(1.0, np.abs(expected).max()))
        moved = []
        for e in steps:
            sides = []
            for sign in (1, -1):
                criterion.value(x + sign * e)
                sides.append(criterion.gradient())
            moved.append((sides[0] - sides[1]) / (2 * step))
        np.testing.assert_allclose(hessian, moved, atol=2e-6 * max(1.0, np.abs(hessian).max()))


@METHODS
def test_the_same_from_rows_and_from_distinct_covariates(reml: bool) -> None:
    s = structured("log-linear", [2, 1], seed=3)
    criterion = joint(s, reml)
    assert isinstance(criterion.gathered, Gathered)
    errors = criterion.gathered.errors
    assert isinstance(errors, Combination)
    assert isinstance(errors.pieces, RowPieces)
    x = point(s, criterion, 1)
    value, gradient = criterion.value(x), criterion.gradient()
    old = errors.pieces
    other = joint(s, reml)
    assert isinstance(other.gathered, Gathered)
    other.gathered.errors = Combination(
        errors.coefficients, Pieces(old.layout, old.rows, old.leaf, old.kind, old.count)
    )
    assert other.value(x) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(other.gradient(), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_white_and_coloured(kind: str) -> None:
    s = structured(kind, [2], seed=5)
    model = s.model()
    pattern = model.design.residual
    assert pattern is not None
    phi = s.random_phi(np.random.default_rng(2))
    n = len(s.case.y)
    C = s.covariance(phi)
    root = np.column_stack([pattern.color(e, phi) for e in np.eye(n)])
    np.testing.assert_allclose(root @ root.T, C, atol=1e-12)
    W = pattern.whiten(np.eye(n), phi)
    np.testing.assert_allclose(W @ C @ W.T, np.eye(n), atol=1e-10)
    assert pattern.log_determinant(phi)[0] == pytest.approx(np.linalg.slogdet(C)[1], abs=1e-10)


def test_digits_at_the_least_correlation() -> None:
    """Compound symmetry near -1/(M - 1): the smallest eigenvalue of C keeps its digits."""
    s = structured("cs", [2], seed=7)
    pattern = s.model().design.residual
    assert pattern is not None
    sizes = np.bincount(s.group)
    whole = np.exp(-60.0) + sizes.max() - 1
    eigenvalues = [(sizes.max() / whole, m - 1, (m * np.exp(-60.0) + float(sizes.max() - m)) / whole) for m in sizes]
    expected = sum(free * np.log(within) + np.log(between) for within, free, between in eigenvalues)
    assert pattern.log_determinant(np.array([-60.0]))[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_digits_at_strong_structures(kind: str) -> None:
    """Correlations near 1 and variances that differ by many orders lose nothing to cancellation."""
    s = structured(kind, [2], seed=7)
    criterion = joint(s, False)
    pattern = criterion.pattern
    x = np.concatenate([np.zeros(3), np.full(pattern.size, 4.0 if kind != "unstructured" else 1.0)])
    assert criterion.value(x) == pytest.approx(dense_value(s, criterion, x, False), rel=1e-9)
