"""Var(Y | x), covariances and ICC against the dense covariance of responses."""

import numpy as np
import pandas as pd
import pytest

import hlm

from ..dense import STRUCTURES, make_case


def rows(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    district, school = np.repeat(np.arange(12), 30), np.repeat(np.arange(60), 6)
    x = rng.normal(size=360)
    y = rng.normal(size=12)[district] + rng.normal(size=60)[school] + x * (1 + rng.normal(size=60)[school])
    y += 0.7 * x * rng.normal(size=12)[district] + rng.normal(size=360)
    return pd.DataFrame({"y": y, "x": x, "district": district, "school": school})


def test_three_levels_against_the_covariance_of_rows() -> None:
    data = rows()
    fit = hlm.Model("y ~ x + (x | district/school)", data).fit()
    design, T = fit.model.design, fit.covariances
    table = fit.variance_function({"x": data["x"]})
    V = fit.sigma**2 * np.eye(360)
    for factor in design.factors:
        Z = np.column_stack(factor.columns)
        V += (Z @ T[factor.name].to_numpy() @ Z.T) * (factor.codes[:, None] == factor.codes[None, :])
    np.testing.assert_allclose(table["variance"], np.diag(V), rtol=1e-12)
    np.testing.assert_allclose(table["std. dev."] ** 2, np.diag(V), rtol=1e-12)
    np.testing.assert_allclose(table[["district", "district:school", "residual"]].sum(axis=1), np.diag(V), rtol=1e-12)
    # rows 0 and 1 share a school, rows 0 and 7 a district only
    for name, other in (("district:school", 1), ("district", 7)):
        got = fit.within_covariance(name, {"x": data["x"][0]}, {"x": data["x"][other]})
        assert got["covariance"].iloc[0] == pytest.approx(V[0, other], rel=1e-12)
        correlation = V[0, other] / np.sqrt(V[0, 0] * V[other, other])
        assert got["correlation"].iloc[0] == pytest.approx(correlation, rel=1e-12)
        same = fit.within_covariance(name, {"x": [0.0, 2.0]}, {"x": [0.0, 2.0]})
        np.testing.assert_allclose(
            same["correlation"], fit.variance_function({"x": [0.0, 2.0]})[f"icc.{name}"], rtol=1e-12
        )


def test_least_variance() -> None:
    fit = hlm.Model("y ~ x + (x | district/school)", rows()).fit()
    T = [matrix.to_numpy() for matrix in fit.covariances.values()]
    x = -sum(t[0, 1] for t in T) / sum(t[1, 1] for t in T)
    found = fit.least_variance("x")
    assert found["x"] == pytest.approx(x, rel=1e-12)
    around = fit.variance_function({"x": [x - 1e-3, x, x + 1e-3]})["variance"]
    assert around[1] < min(around[0], around[2])
    assert found["variance"] == pytest.approx(around[1], rel=1e-14)
    assert found["std. dev."] == pytest.approx(np.sqrt(around[1]))


def test_icc_of_one_way_anova() -> None:
    fit = hlm.Model("mathach ~ 1 + (1 | school)", hlm.datasets.load("hsb")).fit()
    tau = fit.covariances["school"].iloc[0, 0]
    table = fit.variance_function()
    assert table["icc.school"].iloc[0] == pytest.approx(tau / (tau + fit.sigma**2), rel=1e-14)
    assert len(table) == 1


def test_crossed_factors_share_nothing() -> None:
    rng = np.random.default_rng(0)
    g, h = np.repeat(np.arange(12), 8), np.tile(np.arange(8), 12)
    y = rng.normal(size=12)[g] + rng.normal(size=8)[h] + 0.5 * rng.normal(size=96)
    fit = hlm.Model("y ~ 1 + (1 | g) + (1 | h)", pd.DataFrame({"y": y, "g": g, "h": h})).fit()
    table = fit.variance_function().iloc[0]
    for name in ("g", "h"):
        assert table[f"icc.{name}"] == pytest.approx(fit.covariances[name].iloc[0, 0] / table["variance"])


def test_what_is_refused() -> None:
    fit = hlm.Model("y ~ x + (x | school)", rows()).fit()
    with pytest.raises(hlm.errors.DataError, match="'x' is needed"):
        fit.variance_function()
    with pytest.raises(hlm.errors.DataError, match="'z' is no random column"):
        fit.variance_function({"x": 1, "z": 2})
    with pytest.raises(hlm.errors.DataError, match="must be numbers"):
        fit.variance_function({"x": ["a"]})
    with pytest.raises(hlm.errors.DataError, match="differ in length"):
        fit.variance_function({"x": [1, 2], "Intercept": [1, 1, 1]})
    with pytest.raises(hlm.errors.DataError, match="no random column 'z'"):
        fit.least_variance("z")
    with pytest.raises(hlm.errors.DataError, match="2 rows, other has 3"):
        fit.within_covariance("school", {"x": [1, 2]}, {"x": [1, 2, 3]})
    flat = hlm.Model("y ~ x + (1 | school)", rows()).fit()
    with pytest.raises(hlm.errors.DataError, match="no random column 'x'"):
        flat.least_variance("x")
    case = make_case(*STRUCTURES["slope"], seed=3, tops=25)
    case.y -= case.y
    case.y += np.random.default_rng(0).normal(size=len(case.y))
    singular = case.model().fit()
    if singular.covariances["f0"].iloc[1, 1] == 0:
        with pytest.raises(hlm.errors.DegenerateError, match="no variance"):
            singular.least_variance("z1")
