"""Naive, robust and model-based standard errors against dense algebra."""

import numpy as np
import pandas as pd
import pytest

import hlm

from ..dense import EVERY, structure


@pytest.mark.parametrize("name", [name for name in EVERY if "no fixed" not in name and name != "wide"])
def test_against_dense_algebra(name: str) -> None:
    case = structure(name, seed=1)
    fit = case.model().fit()
    X, y, (n, p) = case.X, case.y, case.X.shape
    bread = np.linalg.inv(X.T @ X)
    beta = bread @ X.T @ y
    error = y - X @ beta
    table = fit.standard_errors("f0")
    np.testing.assert_allclose(table["OLS"], beta, rtol=1e-8, atol=1e-10)
    naive = error @ error / (n - p) * bread
    np.testing.assert_allclose(table["naive"] ** 2, np.diag(naive), rtol=1e-9)
    V = fit.sigma**2 * case.covariance(fit.theta.to_numpy())
    model = bread @ X.T @ V @ X @ bread
    np.testing.assert_allclose(table["OLS, model"] ** 2, np.diag(model), rtol=1e-8)
    np.testing.assert_allclose(table["design effect"], np.diag(model) / np.diag(naive), rtol=1e-8)
    J = case.codes[0].max() + 1
    meat = sum(np.outer(s, s) for s in (X[case.codes[0] == j].T @ error[case.codes[0] == j] for j in range(J)))
    robust = bread @ meat @ bread * J / (J - 1) * (n - 1) / (n - p)
    np.testing.assert_allclose(table["robust"] ** 2, np.diag(robust), rtol=1e-7)
    np.testing.assert_array_equal(table["model"], fit.bse)
    np.testing.assert_array_equal(table["HLM"], fit.params)


def test_weights_and_an_aliased_column() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(15), 6)
    data = pd.DataFrame({"g": groups, "x": rng.normal(size=90), "w": rng.uniform(0.5, 2, 90)})
    data["y"] = data["x"] + rng.normal(size=15)[groups] + rng.normal(size=90) / np.sqrt(data["w"])
    data["again"] = 2 * data["x"]
    with pytest.warns(hlm.errors.RankDeficientWarning):
        fit = hlm.Model("y ~ x + again + (1 | g)", data, weights="w").fit()
    table = fit.standard_errors()
    assert list(table.index) == ["Intercept", "x"]
    X, W = np.column_stack([np.ones(90), data["x"]]), np.diag(data["w"])
    bread = np.linalg.inv(X.T @ W @ X)
    beta = bread @ X.T @ W @ data["y"]
    error = data["y"].to_numpy() - X @ beta
    np.testing.assert_allclose(table["OLS"], beta, rtol=1e-10)
    np.testing.assert_allclose(table["naive"] ** 2, error @ W @ error / 88 * np.diag(bread), rtol=1e-9)
    V = fit.sigma**2 * np.linalg.inv(W) + fit.covariances["g"].iloc[0, 0] * (groups[:, None] == groups)
    np.testing.assert_allclose(table["OLS, model"] ** 2, np.diag(bread @ X.T @ W @ V @ W @ X @ bread), rtol=1e-9)
    score = pd.DataFrame(X * (data["w"].to_numpy() * error)[:, None]).groupby(groups).sum().to_numpy()
    robust = bread @ score.T @ score @ bread * 15 / 14 * 89 / 88
    np.testing.assert_allclose(table["robust"] ** 2, np.diag(robust), rtol=1e-9)


def test_design_effect_of_a_balanced_design() -> None:
    """Kish: 1 + (n - 1) ICC for a mean, at the naive variance that the model expects; below 1 within groups."""
    rng = np.random.default_rng(2)
    J, n = 40, 10
    groups = np.repeat(np.arange(J), n)
    x = np.tile(np.linspace(-1, 1, n), J)
    y = rng.normal(size=J)[groups] + x + rng.normal(size=J * n)
    fit = hlm.Model("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": groups})).fit()
    tau, sigma2 = fit.covariances["g"].iloc[0, 0], fit.sigma**2
    s2 = ((y - np.polyval(np.polyfit(x, y, 1), x)) ** 2).sum() / (J * n - 2)
    table = fit.standard_errors()
    assert table.loc["Intercept", "design effect"] == pytest.approx((sigma2 + n * tau) / s2, rel=1e-9)
    assert table.loc["x", "design effect"] == pytest.approx(sigma2 / s2, rel=1e-9)
    with pytest.raises(hlm.errors.DesignError, match="no grouping factor 'h'"):
        fit.standard_errors("h")
    with pytest.raises(hlm.errors.DesignError, match="no random effects"):
        hlm.Model("y ~ x", pd.DataFrame({"y": y, "x": x})).fit().standard_errors()
