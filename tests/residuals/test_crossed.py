"""Variances that differ beside crossed factors: against n x n matrices, and against the nested engine."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

import hlm
from hlm.residuals import AR1, ByStratum, LogLinear
from hlm.residuals.criterion import JointCriterion, gathered
from hlm.residuals.crossed import GatheredRows

from ..dense import Case, make_crossed
from .dense import Structured

METHODS = pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
KINDS = pytest.mark.parametrize("kind", ["strata", "log-linear"])
# widths, levels, and how many of the factors are crossed with the others
DESIGNS = pytest.mark.parametrize(
    ("widths", "sizes", "core"),
    [([1, 1], [12, 5], 1), ([2, 1, 2], [14, 6, 5], 1), ([1, 2, 1], [12, 6, 4], 2)],
    ids=["two", "nested and crossed", "two crossed"],
)


def crossed(kind: str, widths: list[int], sizes: list[int], core: int, seed: int = 0) -> Structured:
    rng = np.random.default_rng(seed)
    made = make_crossed(widths, sizes, 3, core, 70, seed)
    mix = rng.permutation(70)
    case = Case(made.y[mix], made.X[mix], [Z[mix] for Z in made.Z], [c[mix] for c in made.codes], core)
    strata, X = rng.integers(0, 3, 70), np.column_stack([rng.normal(size=70), rng.integers(0, 2, 70)])
    residual = ByStratum(strata) if kind == "strata" else LogLinear(X)
    rows = np.arange(70)
    return Structured(case, residual, kind, rows, rows.astype(float), strata, X, rng.uniform(0.5, 2, 70))


def joint(s: Structured, reml: bool) -> JointCriterion:
    problem = s.model().problem
    assert problem.crossed is not None
    assert problem.design.residual is not None
    return JointCriterion(gathered(problem, problem.design.residual), reml)


def dense_value(s: Structured, criterion: JointCriterion, x: np.ndarray, reml: bool) -> float:
    theta, phi = criterion.split(x)
    problem = criterion.gathered.problem
    roots = problem.template.factors_of(theta)
    return s.criterion([M @ L @ L.T @ M.T for M, L in zip(problem.maps, roots, strict=True)], phi, reml)


@METHODS
@KINDS
@DESIGNS
def test_value_and_derivatives(kind: str, widths: list[int], sizes: list[int], core: int, reml: bool) -> None:
    s = crossed(kind, widths, sizes, core)
    criterion = joint(s, reml)
    assert isinstance(criterion.gathered, GatheredRows)
    rng = np.random.default_rng(1)
    x = np.concatenate([0.7 * rng.normal(size=criterion.gathered.problem.template.m), s.random_phi(rng)])
    # rounding of the dense algebra
    assert criterion.value(x) == pytest.approx(dense_value(s, criterion, x, reml), abs=1e-8)
    gradient, hessian = criterion.derivatives()
    step = 1e-4
    steps = step * np.eye(len(x))
    # central differences: error of the order step²
    slopes = [(dense_value(s, criterion, x + e, reml) - dense_value(s, criterion, x - e, reml)) / 2e-4 for e in steps]
    np.testing.assert_allclose(gradient, slopes, atol=2e-6 * max(1.0, np.abs(slopes).max()))
    moved = []
    for e in steps:
        ends = []
        for sign in (1, -1):
            criterion.value(x + sign * e)
            ends.append(criterion.gradient())
        moved.append((ends[0] - ends[1]) / (2 * step))
    np.testing.assert_allclose(hessian, moved, atol=2e-6 * max(1.0, np.abs(hessian).max()))


@METHODS
@KINDS
def test_fits(kind: str, reml: bool) -> None:
    s = crossed(kind, [1, 1], [12, 5], 1, seed=3)
    fit = s.model().fit(reml=reml)
    assert fit.converged
    estimated, problem = fit._problem.residual, fit._problem
    assert estimated is not None

    def value(x: np.ndarray) -> float:
        roots = problem.template.factors_of(x[:2])
        return s.criterion([M @ L @ L.T @ M.T for M, L in zip(problem.maps, roots, strict=True)], x[2:], reml)

    start = np.concatenate([fit._point, estimated.phi])
    # BFGS on differences of a value known to some 1e-11 cannot get lower than that
    assert fit.criterion == pytest.approx(value(start), abs=1e-9)
    assert minimize(value, start, method="BFGS", options={"gtol": 1e-6}).fun == pytest.approx(fit.criterion, abs=1e-8)
    for method in ("em", "ecme"):
        other = s.model().fit(reml=reml, method=method, accelerate=True)
        assert other.criterion == pytest.approx(fit.criterion, abs=1e-6)
    # what is read off the fit, from the definition
    case = s.case
    V = fit.sigma**2 * s.covariance(estimated.phi)
    for Z, codes, name in zip(case.Z, case.codes, ("f0", "f1"), strict=True):
        V += (Z @ fit.covariances[name].to_numpy() @ Z.T) * (codes[:, None] == codes[None, :])
    C = np.linalg.inv(case.X.T @ np.linalg.solve(V, case.X))
    np.testing.assert_allclose(fit.cov_params(), C, rtol=1e-8, atol=1e-12)
    e = np.linalg.solve(V, case.y - case.X @ fit.params.to_numpy())
    for Z, codes, name in zip(case.Z, case.codes, ("f0", "f1"), strict=True):
        u = [fit.covariances[name].iloc[0, 0] * (Z[codes == j, 0] @ e[codes == j]) for j in range(codes.max() + 1)]
        np.testing.assert_allclose(fit.random_effects[name].iloc[:, 0], u, rtol=1e-7, atol=1e-9)
    parts = fit.predict(interval="confidence", theta_uncertainty=False)
    hat = np.eye(len(V)) - fit.sigma**2 * s.covariance(estimated.phi) @ (
        np.linalg.inv(V) - np.linalg.solve(V, case.X) @ C @ np.linalg.solve(V, case.X).T
    )
    expected = np.diag(hat @ (fit.sigma**2 * s.covariance(estimated.phi)))
    np.testing.assert_allclose(parts["var_fixed"] + parts["var_groups"], expected, rtol=1e-7)


def test_a_crossed_factor_without_variance_is_not_there() -> None:
    data = hlm.datasets.load("hsb").iloc[:1200].copy()
    data["random"] = np.random.default_rng(4).integers(0, 12, 1200)
    nested = hlm.Model("mathach ~ cses + (1 | school)", data, residual=ByStratum("female")).fit()
    model = hlm.Model("mathach ~ cses + (1 | school) + (1 | random)", data, residual=ByStratum("female"))
    fit = model.fit(fixed={"random": 0.0})
    assert fit.criterion == pytest.approx(nested.criterion, abs=1e-7)
    np.testing.assert_allclose(fit.residual.params, nested.residual.params, rtol=1e-5)
    np.testing.assert_allclose(fit.params, nested.params, rtol=1e-5)
    free = model.fit()
    assert free.converged
    assert free.criterion <= fit.criterion + 1e-9
    assert free.inference("satterthwaite").table()["df"].notna().all()


def test_correlated_errors_are_refused() -> None:
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"y": rng.normal(size=80), "g": np.repeat(np.arange(20), 4), "h": rng.integers(0, 5, 80)})
    data["h"] = data.groupby("g")["h"].transform(lambda h: [h.iloc[0], h.iloc[0], h.iloc[2], h.iloc[2]])
    data["cell"] = np.repeat(np.arange(40), 2)
    model = hlm.Model("y ~ 1 + (1 | g) + (1 | h)", data, residual=AR1(group="cell"))
    with pytest.raises(hlm.DesignError, match=r"correlated level-1 errors \(AR\(1\) in groups\) need nested"):
        model.fit()
