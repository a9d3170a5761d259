"""Poolings against dense algebra; the model's estimate as their precision-weighted mean; the bias of ML."""

import numpy as np
import pandas as pd
import pytest

import hlm

from ..dense import STRUCTURES, make_case


def unbalanced(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(25), rng.integers(2, 9, 25))
    W = rng.normal(size=25)
    x = W[groups] + rng.normal(size=len(groups))
    y = 1 + 0.5 * x + 2 * W[groups] + rng.normal(size=25)[groups] + 1.5 * rng.normal(size=len(groups))
    return pd.DataFrame({"y": y, "x": x, "w": W[groups], "g": groups})


def test_random_intercept_within_and_between_by_hand() -> None:
    """Maddala (1971): within is OLS on deviations from group means, between weighted least squares on the means."""
    data = unbalanced()
    fit = hlm.Model("y ~ x + w + (1 | g)", data).fit()
    found = fit.poolings()
    tau, sigma2 = fit.covariances["g"].iloc[0, 0], fit.sigma**2
    rows = data.groupby("g")
    n, means = rows.size().to_numpy(), rows[["y", "x", "w"]].mean()
    dx, dy = data["x"] - rows["x"].transform("mean"), data["y"] - rows["y"].transform("mean")
    assert found.table.loc["x", "within"] == pytest.approx((dx @ dy) / (dx @ dx), rel=1e-9)
    assert found.table.loc[["Intercept", "w"], "within"].isna().all()
    X = np.column_stack([np.ones(25), means["x"], means["w"]])
    weight = 1 / (tau + sigma2 / n)
    between = np.linalg.solve(X.T @ (weight[:, None] * X), X.T @ (weight * means["y"]))
    np.testing.assert_allclose(found.table["between"], between, rtol=1e-8)
    np.testing.assert_allclose(found.between, X.T @ (weight[:, None] * X), rtol=1e-8)
    assert found.within.loc["x", "x"] == pytest.approx(dx @ dx / sigma2, rel=1e-8)
    pooled = np.linalg.lstsq(np.column_stack([np.ones(len(data)), data[["x", "w"]]]), data["y"], rcond=None)[0]
    np.testing.assert_allclose(found.table["pooled"], pooled, rtol=1e-9)
    # HLM as precision-weighted mean of the two, both of which say something of x only
    B, W = found.between.to_numpy(), found.within.to_numpy()
    mean = np.linalg.solve(B + W, B @ between + W @ np.r_[0.0, found.table.loc["x", "within"], 0.0])
    np.testing.assert_allclose(mean, fit.params, rtol=1e-8)
    slope_alone = found.table.loc["x"]
    assert min(slope_alone["within"], slope_alone["between"]) <= slope_alone["HLM"]
    assert slope_alone["HLM"] <= max(slope_alone["within"], slope_alone["between"])


@pytest.mark.parametrize("name", ["intercept", "slope", "three columns", "two nested", "three nested"])
@pytest.mark.parametrize("every", [False, True], ids=["intercept", "all effects"])
def test_information_splits_as_dense_algebra_says(name: str, every: bool) -> None:
    case = make_case(*STRUCTURES[name], seed=3, tops=25, most=4)
    fit = case.model().fit()
    k = len(case.Z) - 1
    Z, codes = case.Z[k], case.codes[k]
    q = Z.shape[1] if every else 1
    chosen = ["Intercept", *(f"z{j}" for j in range(1, q))]
    found = fit.poolings(chosen if every else None)
    V = fit.sigma**2 * case.covariance(fit.theta.to_numpy())
    inverse = np.linalg.inv(V)
    J = codes.max() + 1
    dummies = np.zeros((len(case.y), J * q))
    for j in range(J):
        dummies[codes == j, j * q : (j + 1) * q] = Z[codes == j, :q]
    ZV = dummies.T @ inverse
    swept = ZV.T @ np.linalg.pinv(ZV @ dummies, rcond=1e-11, hermitian=True) @ ZV
    size = np.abs(case.X.T @ inverse @ case.X).max()
    np.testing.assert_allclose(found.between, case.X.T @ swept @ case.X, rtol=1e-6, atol=1e-7 * size)
    np.testing.assert_allclose(found.within, case.X.T @ (inverse - swept) @ case.X, rtol=1e-6, atol=1e-7 * size)
    both = np.linalg.solve(found.between + found.within, found.between_score + found.within_score)
    np.testing.assert_allclose(both, fit.params, rtol=1e-7, atol=1e-9)
    ok = found.table["within"].notna().to_numpy()
    if ok.any():
        H = found.within.to_numpy()
        np.testing.assert_allclose(
            (np.linalg.pinv(H, rcond=1e-9, hermitian=True) @ found.within_score)[ok],
            found.table["within"][ok],
            rtol=1e-5,
        )


def test_all_effects_free_leaves_the_regression_of_least_squares() -> None:
    """Random coefficients: HLM = (Σ 𝐙'Δ⁻¹𝐙)⁻¹ Σ 𝐙'Δ⁻¹β̂_OLS, Δ_j = T + V_j: the mean of no-pooling estimates."""
    fit = hlm.Model("mathach ~ cses * meanses + (cses | school)", hlm.datasets.load("hsb")).fit()
    found = fit.poolings(["Intercept", "cses"])
    assert found.table["within"].isna().all()
    np.testing.assert_allclose(found.table["between"], fit.params, rtol=1e-8)
    np.testing.assert_allclose(fit.ols("school").regression("total").params, fit.params, rtol=1e-8)
    plain = fit.ols("school").regression().params
    np.testing.assert_array_equal(found.table["no pooling"], plain)
    anova = hlm.Model("mathach ~ cses + (cses | school)", hlm.datasets.load("hsb")).fit()
    average = anova.ols("school").estimates.mean()
    np.testing.assert_allclose(anova.poolings().table["no pooling"], average, rtol=1e-9)
    with pytest.raises(hlm.errors.DataError, match="no random effect 'ses'"):
        fit.poolings(["ses"])
    with pytest.raises(hlm.errors.DesignError, match="no random effects"):
        hlm.Model("mathach ~ cses", hlm.datasets.load("hsb")).fit().poolings()


@pytest.mark.parametrize("reml", [True, False])
def test_bias_of_ml_in_a_balanced_design(reml: bool) -> None:
    """One-way: REML has (MSB - MSW)/n, ML ((1 - 1/J) MSB - MSW)/n, both MSW within (Searle et al. 1992, ch. 4)."""
    rng = np.random.default_rng(0)
    J, n = 8, 5
    y = 2 * rng.normal(size=J)[np.repeat(np.arange(J), n)] + rng.normal(size=J * n)
    table = y.reshape(J, n)
    msw, msb = table.var(axis=1, ddof=1).mean(), n * table.mean(axis=1).var(ddof=1)
    model = hlm.Model.from_arrays(y, np.ones((J * n, 1)), [hlm.Random(np.repeat(np.arange(J), n))])
    bias = model.fit(reml=reml).ml_bias()
    tau = bias.loc[("g", "Intercept", "")]
    assert tau["REML"] == pytest.approx((msb - msw) / n, rel=1e-8)
    assert tau["ML"] == pytest.approx(((1 - 1 / J) * msb - msw) / n, rel=1e-8)
    assert tau["difference"] == pytest.approx(-msb / J / n, rel=1e-7)
    assert tau["ratio"] == pytest.approx(tau["ML"] / tau["REML"])
    assert bias.loc[("residual", "", ""), "ML"] == pytest.approx(msw, rel=1e-9)
