"""Information of variances with structures, known values and constraints: by differences of the dense likelihood."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hlm

from ..dense import criterion_at

J, Q = 30, 3
RNG = np.random.default_rng(4)
CODES = np.repeat(np.arange(J), 6)
N = len(CODES)
Z = np.eye(Q)[np.tile(np.arange(6), J) % Q]
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
ROOT = np.linalg.cholesky(1.5 * 0.6 ** np.abs(np.subtract.outer(np.arange(Q), np.arange(Q))))
Y = X @ [1.0, 2.0] + (Z * (RNG.normal(size=(J, Q)) @ ROOT.T)[CODES]).sum(axis=1) + RNG.normal(size=N)


def ar1(z: np.ndarray) -> np.ndarray:
    return z[0] * z[1] ** np.abs(np.subtract.outer(np.arange(Q), np.arange(Q)))


def symmetric(z: np.ndarray) -> np.ndarray:
    return z[0] * np.eye(Q) + z[1]


# structure, what is held; (T, σ²) as functions of as many numbers as are free; those numbers from (T, σ²)
CASES: dict[str, tuple[Any, dict[str, Any], Callable[..., Any], Callable[..., Any]]] = {
    "ar1": ("ar1", {}, lambda z: (ar1(z), z[2]), lambda T, s: [T[0, 0], T[0, 1] / T[0, 0], s]),
    "ar1, sigma known": (
        "ar1",
        {"fixed": {"sigma": 1.1}},
        lambda z: (ar1(z), 1.21),
        lambda T, s: [T[0, 0], T[0, 1] / T[0, 0]],
    ),
    "cs": ("cs", {}, lambda z: (symmetric(z), z[2]), lambda T, s: [T[0, 0] - T[0, 1], T[0, 1], s]),
    "cs, one covariance known": (
        "cs",
        {"fixed": {"g": {("z0", "z1"): 0.5}}},
        lambda z: (symmetric([z[0], 0.5]), z[1]),
        lambda T, s: [T[0, 0] - T[0, 1], s],
    ),
    "identity": ("identity", {}, lambda z: (z[0] * np.eye(Q), z[1]), lambda T, s: [T[0, 0], s]),
    "ratio to sigma2": (
        "identity",
        {"constraints": "var(z0 | g) = 2*sigma2"},
        lambda z: (2 * z[0] * np.eye(Q), z[0]),
        lambda T, s: [s],
    ),
}


def entries(T: np.ndarray, s: float) -> np.ndarray:
    """Lower triangle column by column, and σ²."""
    return np.append(T.T[np.triu_indices(Q)], s)


def second(f: Callable[[np.ndarray], float], z: np.ndarray) -> np.ndarray:
    """Hessian by central differences, extrapolated once."""

    def plain(h: float) -> np.ndarray:
        unit = h * np.maximum(np.abs(z), 0.1) * np.eye(len(z))
        step = np.diag(unit)
        return np.array(
            [
                [(f(z + a + b) - f(z + a - b) - f(z - a + b) + f(z - a - b)) / (4 * step[i] * step[j])
                 for j, b in enumerate(unit)]
                for i, a in enumerate(unit)
            ]
        )  # fmt: skip

    return (4 * plain(1e-3) - plain(2e-3)) / 3


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_observed_information_is_that_of_the_dense_likelihood(case: str, reml: bool) -> None:
    structure, held, make, read = CASES[case]
    fit = hlm.Model.from_arrays(Y, X, [hlm.Random(CODES, Z, covariance=structure)]).fit(reml=reml, **held)
    found = fit.information()
    z = np.array(read(fit.covariances["g"].to_numpy(), fit.sigma**2))
    assert found.free == len(z)
    assert found.note == ""

    def value(at: np.ndarray) -> float:
        T, s = make(at)
        return criterion_at(Y, X, [(Z, CODES, T)], s, reml)

    covariance = 2 * np.linalg.inv(second(value, z))
    slopes = []
    for a, h in enumerate(1e-6 * np.maximum(np.abs(z), 0.1)):
        step = h * (np.arange(len(z)) == a)
        slopes.append((entries(*make(z + step)) - entries(*make(z - step))) / (2 * h))
    expected = np.array(slopes).T @ covariance @ np.array(slopes)
    np.testing.assert_allclose(found.values, entries(*make(z)), rtol=1e-8, atol=1e-12)
    # differences of values of size 600 with steps of 1e-3: about seven digits
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    bse = np.sqrt(np.maximum(np.diag(expected), 0))
    np.testing.assert_allclose(found.bse, bse, rtol=1e-5, atol=1e-6)
    # average information is the mean of observed and expected where V is linear in z
    if case not in ("ar1", "ar1, sigma known"):
        average, by_expectation = fit.information("average"), fit.information("expected")
        mean = 0.5 * (found.matrix + by_expectation.matrix).to_numpy()
        np.testing.assert_allclose(average.matrix, mean, rtol=1e-6, atol=1e-6 * np.abs(mean).max())


def test_directions_without_meaning_are_refused() -> None:
    fit = hlm.Model.from_arrays(Y, X, [hlm.Random(CODES, Z, covariance="cs")]).fit()
    with pytest.raises(hlm.DesignError, match="boundary='all' has no meaning"):
        fit.information("expected", "all")


@pytest.mark.parametrize("case", CASES)
def test_satterthwaite_is_that_of_the_dense_likelihood(case: str) -> None:
    """df = 2 (l'Cl)² / (g'Ag): A from second differences, g from differences of C = (X'V⁻¹X)⁻¹."""
    structure, held, make, read = CASES[case]
    fit = hlm.Model.from_arrays(Y, X, [hlm.Random(CODES, Z, covariance=structure)]).fit(**held)
    z = np.array(read(fit.covariances["g"].to_numpy(), fit.sigma**2))

    def covariance(at: np.ndarray) -> np.ndarray:
        T, s = make(at)
        V = s * np.eye(N) + (Z @ T @ Z.T) * (CODES[:, None] == CODES)
        return np.linalg.inv(X.T @ np.linalg.solve(V, X))

    def value(at: np.ndarray) -> float:
        T, s = make(at)
        return criterion_at(Y, X, [(Z, CODES, T)], s, True)

    A, slopes = 2 * np.linalg.inv(second(value, z)), []
    for a, h in enumerate(1e-5 * np.maximum(np.abs(z), 0.1)):
        step = h * (np.arange(len(z)) == a)
        slopes.append(np.diag(covariance(z + step) - covariance(z - step)) / (2 * h))
    C, g = np.diag(covariance(z)), np.array(slopes)
    expected = 2 * C**2 / np.einsum("ai,ab,bi->i", g, A, g)
    np.testing.assert_allclose(fit.inference("satterthwaite").df, expected, rtol=1e-4)
