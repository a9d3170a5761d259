"""Which optimum is found where there are several."""

import numpy as np
import pytest
from scipy.optimize import minimize

import hlm

from .long_double import Term, criterion


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_the_lowest_of_several_optima_on_a_handful_of_rows(seed: int, reml: bool) -> None:
    """One degree of freedom beside those of all effects: a second optimum explains nearly everything with the groups.

    The only parameter is tried at many values, so the lowest of its optima is known.
    """
    rng = np.random.default_rng(seed)
    groups = np.resize(np.arange(4), 12)
    X = np.column_stack([np.ones(12), rng.normal(size=(12, 6))])
    y = X @ rng.normal(size=7) + rng.normal(size=4)[groups] + rng.normal(size=12)
    model = hlm.Model.from_arrays(y, X, [hlm.Random(groups)])
    fit = model.fit(reml=reml)
    assert fit.converged
    criterion = model.problem.criterion(reml)
    lowest = min(criterion.value(np.array([theta])) for theta in [0.0, *np.geomspace(1e-3, 1e6, 400)])
    assert fit.criterion <= lowest + 1e-9


@pytest.mark.parametrize("reml", [True, False])
def test_more_random_effects_than_rows(reml: bool) -> None:
    """Most groups have one row; the ones with rows to spare tell the residual, so the model is an ordinary one."""
    rng = np.random.default_rng(5)
    groups = np.concatenate([np.repeat(np.arange(10), 6), np.arange(10, 70)])
    X = np.column_stack([np.ones(120), rng.normal(size=120)])
    y = X @ [1.0, 0.5] + (X * rng.normal(size=(70, 2))[groups]).sum(axis=1) + 0.7 * rng.normal(size=120)
    fit = hlm.Model.from_arrays(y, X, [hlm.Random(groups, X)]).fit(reml=reml)
    assert fit.converged
    T, sigma2 = fit.covariances["g"].to_numpy(), fit.sigma**2

    def value(T: np.ndarray, sigma2: float) -> float:
        return criterion(y, X, [Term(groups, X, T)], sigma2, reml)

    at = value(T, sigma2)
    assert fit.criterion == pytest.approx(at, abs=1e-8)
    # lowest among neighbours in every direction: a hundredth of each parameter costs more than rounding
    L = np.linalg.cholesky(T)
    for i, j in ((0, 0), (1, 0), (1, 1)):
        for step in (-0.01, 0.01):
            moved = L.copy()
            moved[i, j] += step * L[i, i]
            assert value(moved @ moved.T, sigma2) > at + 1e-8
    assert all(value(T, sigma2 * factor) > at + 1e-8 for factor in (0.99, 1.01))


@pytest.mark.parametrize(
    "formula", ["y ~ 1 + (1 | a)", "y ~ x + (1 | a)", "y ~ x + (x | a)", "y ~ x + (1 | a) + (1 | b)"]
)
@pytest.mark.parametrize("method", ["newton", "fisher"])
def test_response_that_is_constant_within_groups(formula: str, method: str) -> None:
    """σ goes to zero and the likelihood rises for ever: an error, not the point where the digits end."""
    rng = np.random.default_rng(3)
    data = {"a": np.repeat(np.arange(15), 20), "b": rng.integers(0, 8, 300), "x": rng.normal(size=300)}
    data["y"] = data["a"] % 7 + 0.0
    with pytest.raises(hlm.DegenerateError, match="'y' is constant within every level of 'a'"):
        hlm.Model(formula, data).fit(method=method)


@pytest.mark.parametrize("method", ["newton", "fisher"])
def test_the_lower_of_an_optimum_inside_and_one_on_the_boundary(method: str) -> None:
    """One group has most of the rows. The seed is one at which the moments lead to the higher optimum."""
    rng = np.random.default_rng(506)
    groups = np.repeat(np.arange(15), np.r_[120, rng.integers(1, 4, 14)])
    x = rng.normal(size=len(groups))
    X = np.column_stack([np.ones(len(x)), x])
    y = X @ [1.0, 0.5] + (X * (rng.normal(size=(15, 2)) * [1.0, 0.5])[groups]).sum(1) + rng.normal(size=len(x))
    model = hlm.Model.from_arrays(y, X, [hlm.Random(groups, X)])
    fit = model.fit(method=method)
    assert fit.converged
    value = model.problem.criterion(True).value
    starts = np.random.default_rng(1).normal(size=(20, 3)) * 2
    ends = [minimize(value, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}) for start in starts]
    lowest = min(end.fun for end in ends)
    assert max(end.fun for end in ends) > lowest + 1e-3  # there is another one
    assert fit.criterion <= lowest + 1e-8
