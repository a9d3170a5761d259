"""Information of the variance parameters against dense algebra: every structure, weights, the boundary."""

import numpy as np
import pytest

import hlm
from hlm.inference.information import differences

from ..dense import EVERY, STRUCTURES, Case, make_case, structure
from .dense_fit import covariance_of, dense

KINDS = ["observed", "expected", "average"]


def interior(name: str) -> hlm.Fit:
    """A fit of that structure, with more levels, that is not on the boundary: effects of some size are put in."""
    case = make_case(*STRUCTURES[name], tops=15) if name in STRUCTURES else structure(name)
    rng = np.random.default_rng(1)
    y = rng.normal(size=len(case.y))
    for codes, Z in zip(case.codes, case.Z, strict=True):
        y += (2 * Z * rng.normal(size=(codes.max() + 1, Z.shape[1]))[codes]).sum(axis=1)
    return Case(y, case.X, case.Z, case.codes, case.core).model().fit()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("kind", ["expected", "average"])
def test_information_in_all_entries_is_that_of_dense_algebra(name: str, reml: bool, kind: str) -> None:
    fit = structure(name).model().fit(reml=reml)
    found = fit.information(kind, "all").matrix.to_numpy()
    expected = 0.5 * dense(fit).second(kind)
    # relative to the diagonal: entries of T may differ in size; dense inverses lose some digits
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(found / np.outer(scale, scale), expected / np.outer(scale, scale), atol=1e-7)


@pytest.mark.parametrize("name", ["intercept", "slope", "two nested", "three crossed", "several tiles"])
@pytest.mark.parametrize("kind", KINDS)
def test_inside_the_boundary_no_direction_is_left_out(name: str, kind: str) -> None:
    fit = interior(name)
    assert not fit.is_singular
    found = fit.information(kind)
    assert found.free == len(found.values)
    assert found.note == ""
    expected = 0.5 * dense(fit).second(kind)
    scale = np.sqrt(np.diag(expected))
    # observed information lacks ⟨G, ∂²D⟩, which is zero but for what the optimiser left of the gradient
    np.testing.assert_allclose(
        found.matrix.to_numpy() / np.outer(scale, scale), expected / np.outer(scale, scale), atol=1e-6
    )
    np.testing.assert_allclose(found.matrix @ found.covariance, np.eye(len(expected)), atol=1e-8)
    np.testing.assert_allclose(found.bse, np.sqrt(np.diag(np.linalg.inv(expected))), rtol=1e-5)
    T = np.concatenate([t.to_numpy().T[np.triu_indices(len(t))] for t in fit.covariances.values()])
    np.testing.assert_allclose(found.values, [*T, fit.sigma**2], rtol=1e-12)


def test_weights_and_uncorrelated_terms() -> None:
    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(15), 6)
    x, w = rng.normal(size=90), rng.uniform(0.5, 3, 90)
    u = rng.normal(size=(15, 2))
    y = u[codes, 0] + u[codes, 1] * x + rng.normal(size=90) / np.sqrt(w)
    data = {"y": y, "x": x, "g": codes, "w": w}
    fit = hlm.Model("y ~ x + (x || g)", data, weights="w").fit()
    found = fit.information("observed")
    assert list(found.values.index) == [
        ("g", "Intercept", "Intercept"),
        ("g", "x", "x"),
        ("residual", "", ""),
    ]
    expected = 0.5 * dense(fit).second("observed")
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


def singular_fit() -> hlm.Fit:
    """Intercepts and slopes that are one and the same effect."""
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(20), 5)
    x = rng.normal(size=100)
    u = rng.normal(size=20)
    y = u[codes] * (1 + 0.5 * x) + rng.normal(size=100)
    fit = hlm.Model("y ~ x + (x | g)", {"y": y, "x": x, "g": codes}).fit()
    assert fit.is_singular
    return fit


def test_on_the_boundary_directions_of_no_variance_count_as_known() -> None:
    """T of rank 1: second derivatives of -2 log L in (a, b, σ²), T = (a, b)(a, b)', by differences of dense values."""
    fit = singular_fit()
    found = fit.information("observed")
    assert found.free == 3
    assert "boundary" in found.note
    problem = dense(fit)
    T = fit.covariances["g"].to_numpy()
    a = np.sqrt(T[0, 0])
    at = np.array([a, T[1, 0] / a, fit.sigma**2])

    def value(z: np.ndarray) -> float:
        V = covariance_of(fit, [np.outer(z[:2], z[:2])], z[2])
        inverse = np.linalg.inv(V)
        S = problem.X.T @ inverse @ problem.X
        r = problem.y - problem.X @ np.linalg.solve(S, problem.X.T @ inverse @ problem.y)
        return float(np.linalg.slogdet(V)[1] + np.linalg.slogdet(S)[1] + r @ inverse @ r)

    H = np.zeros((3, 3))
    h = 1e-3
    E = np.eye(3) * h
    for i in range(3):
        for j in range(3):
            H[i, j] = (
                value(at + E[i] + E[j]) - value(at + E[i] - E[j]) - value(at - E[i] + E[j]) + value(at - E[i] - E[j])
            ) / (4 * h * h)
    R = np.array([[2 * at[0], 0, 0], [at[1], at[0], 0], [0, 2 * at[1], 0], [0, 0, 1]])
    # differences with a step of 1e-3 are good to about 1e-5
    np.testing.assert_allclose(found.covariance, R @ (2 * np.linalg.inv(H)) @ R.T, rtol=1e-4, atol=1e-7)


def test_differences_of_the_gradient_tell_their_error() -> None:
    for name in ("three crossed", *list(STRUCTURES)[:3]):
        kernel = structure(name).kernel(True)
        theta = 0.5 + 0.1 * np.cos(np.arange(kernel.m))
        kernel.value(theta)
        exact = kernel.derivatives("observed")[1]
        found, error = differences(kernel)
        assert np.array_equal(kernel.theta, theta)
        scale = np.sqrt(np.abs(np.outer(np.diag(exact), np.diag(exact))))
        assert error < 1e-3
        assert np.abs((found - exact) / scale).max() <= max(0.1 * error, 1e-7)


def test_wrong_questions_are_errors() -> None:
    fit = singular_fit()
    with pytest.raises(hlm.DataError, match="'observed', 'expected', 'average'"):
        fit.information("fisher")
    with pytest.raises(hlm.DataError, match="'free' or 'all'"):
        fit.information("observed", "none")
    with pytest.raises(hlm.DataError, match="across the boundary"):
        fit.information("observed", "all")
