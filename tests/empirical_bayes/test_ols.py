"""Least squares within groups and the level-2 regressions, against NumPy on each group."""

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.empirical_bayes.level_one import level_one

MODELS = {
    "anova": "mathach ~ 1 + (1 | school)",
    "means": "mathach ~ meanses + (1 | school)",
    "coefficients": "mathach ~ cses + (cses | school)",
    "outcomes": "mathach ~ cses * (meanses + sector) + (cses | school)",
}


def by_hand(data: pd.DataFrame, columns: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Coefficients of each school, and (L'L)⁻¹."""
    estimates, inverses = [], []
    for _, rows in data.groupby("school"):
        L = np.column_stack([np.ones(len(rows)), *(rows[c] for c in columns)])
        estimates.append(np.linalg.lstsq(L, rows["mathach"], rcond=None)[0])
        inverses.append(np.linalg.inv(L.T @ L))
    return np.array(estimates), inverses


@pytest.mark.parametrize("name", MODELS)
def test_high_school_and_beyond_by_dense_algebra(hsb: pd.DataFrame, name: str) -> None:
    """Reliabilities, HLM's chi-square, OLS and the regressions on level 2 of the book's four models, once more."""
    fit = hlm.Model(MODELS[name], hsb).fit()
    slopes = ["cses"] if "cses |" in MODELS[name] else []
    estimates, inverses = by_hand(hsb, slopes)
    V, T, gamma = fit.sigma**2 * np.array(inverses), fit.covariances["school"].to_numpy(), fit.params
    schools = hsb.groupby("school")[["meanses", "sector"]].first().to_numpy()
    predictors = {"anova": [], "means": [0], "coefficients": [], "outcomes": [0, 1]}[name]
    W = np.column_stack([np.ones(160), schools[:, predictors]])
    q, s = len(slopes) + 1, W.shape[1]
    order = ["Intercept", *(["meanses", "sector"][i] for i in predictors)]
    order += [c if c == "cses" else f"cses:{c}" for c in ["cses", *order[1:]]] if slopes else []
    Z = np.zeros((160, q, q * s))
    for a in range(q):
        Z[:, a, a * s : (a + 1) * s] = W
    names = [n if n in gamma.index else ":".join(n.split(":")[::-1]) for n in order]
    expected = Z @ gamma[names].to_numpy()

    ols = fit.ols("school")
    np.testing.assert_allclose(ols.estimates, estimates, rtol=1e-9)
    np.testing.assert_allclose(ols.cov, V, rtol=1e-8, atol=1e-12)
    assert (ols.flag == "").all()
    own = hsb.groupby("school")["mathach"].std(ddof=1) if not slopes else None
    if own is not None:
        np.testing.assert_allclose(ols.sigma, own, rtol=1e-9)

    share = np.array([np.diag(T) / (np.diag(T) + np.diag(v)) for v in V])
    np.testing.assert_allclose(fit.reliabilities("school"), share, rtol=1e-7)
    np.testing.assert_allclose(fit.reliability()["reliability"], share.mean(axis=0), rtol=1e-7)
    tests = fit.variance_tests()
    np.testing.assert_allclose(
        tests["chi2"], ((estimates - expected) ** 2 / np.diagonal(V, axis1=1, axis2=2)).sum(axis=0), rtol=1e-7
    )
    assert (tests["df"] == 160 - s).all()

    table = fit.residual_table("school")
    for a, effect in enumerate(fit.covariances["school"].columns):
        np.testing.assert_allclose(table[f"ols.{effect}"], (estimates - expected)[:, a], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(table[f"fitted.{effect}"], expected[:, a], rtol=1e-9)
    distance = [e @ np.linalg.solve(T + v, e) for e, v in zip(estimates - expected, V, strict=True)]
    np.testing.assert_allclose(table["mahalanobis"], distance, rtol=1e-6)

    for weights, cov in (("sampling", V), ("total", T + V)):
        inverse = np.linalg.inv(cov)
        information = np.einsum("jar,jab,jbs->rs", Z, inverse, Z)
        right = np.einsum("jar,jab,jb->r", Z, inverse, estimates)
        got = ols.regression(weights)
        np.testing.assert_allclose(got.params[names], np.linalg.solve(information, right), rtol=1e-8)
        np.testing.assert_allclose(got.bse[names] ** 2, np.diag(np.linalg.inv(information)), rtol=1e-7)
    # every school has an estimate of its own: HLM's γ̂ is their precision-weighted regression
    if name != "means":
        np.testing.assert_allclose(got.params, fit.params, rtol=1e-8)
        np.testing.assert_allclose(got.cov, fit.cov_params(), rtol=1e-7, atol=1e-12)
    plain = ols.regression()
    for a in range(q):
        beta, rss = np.linalg.lstsq(W, estimates[:, a], rcond=None)[:2]
        mine = names[a * s : (a + 1) * s]
        np.testing.assert_allclose(plain.params[mine], beta, rtol=1e-8)
        errors = np.sqrt(rss[0] / (160 - s) * np.diag(np.linalg.inv(W.T @ W)))
        np.testing.assert_allclose(plain.bse[mine], errors, rtol=1e-8)
    assert plain.groups == 160


def small() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(12), [1, 2, 3, 8, 9, 7, 6, 8, 9, 8, 7, 9])
    x = 1e6 + rng.normal(size=len(groups))
    x[groups == 3] = 1e6
    w = rng.normal(size=12)[groups]
    y = rng.normal(size=12)[groups] + 0.3 * (x - 1e6) * (1 + w) + rng.normal(size=len(groups))
    return pd.DataFrame({"y": y, "x": x, "z": rng.normal(size=len(groups)), "w": w, "g": groups})


def test_groups_without_an_estimate_are_flagged() -> None:
    data = small()
    fit = hlm.Model("y ~ x * w + z + (x | g)", data).fit()
    ols = fit.ols("g")
    assert list(ols.estimates.columns) == ["Intercept", "x", "z"]
    assert list(ols.flag[:5]) == ["1 row for 3 coefficients", "2 rows for 3 coefficients", "", "collinear: x", ""]
    assert ols.estimates.iloc[[0, 1, 3]].isna().all(axis=None)
    assert np.isnan(ols.cov[[0, 1, 3]]).all()
    assert np.isnan(ols.sigma[2])
    for g, rows in data.groupby("g"):
        if ols.flag[g]:
            continue
        L = np.column_stack([np.ones(len(rows)), rows["x"] - 1e6, rows["z"]])
        a, b, c = np.linalg.lstsq(L, rows["y"], rcond=None)[0]
        # x has seven digits before those that vary inside groups
        np.testing.assert_allclose(ols.estimates.loc[g], [a - 1e6 * b, b, c], rtol=1e-7)
    used = ols.regression("total").groups
    assert used == 9
    assert fit.variance_tests()["groups"].tolist() == [10, 10], "two rows are enough for two random coefficients"
    assert list(ols.n) == data.groupby("g").size().tolist()


def test_equation_of_a_group_is_found_whatever_the_door() -> None:
    data = small()
    data["within"] = data["x"] - data.groupby("g")["x"].transform("mean")
    fit = hlm.Model("y ~ within * w + z + z:w + (x | g)", data).fit()
    equation = level_one(fit, fit.model.design.factor("g"))
    assert equation.names == ["Intercept", "x", "z"]
    assert equation.fixed == ["Intercept", "within", "w", "z", "within:w", "w:z"]
    X, L = fit.model.design.X, np.column_stack(equation.columns)
    for g in range(12):
        rows = (data["g"] == g).to_numpy()
        if g in (0, 1, 3):  # too few rows, or values of x, to tell how `within` or its product with w splits
            continue
        # x near 1e6 cancels against its mean
        np.testing.assert_allclose(L[rows] @ equation.Z[g], X[rows], atol=1e-7)
    w = data.groupby("g")["w"].first()
    np.testing.assert_array_equal(equation.Z[:, 0, 2], w)
    np.testing.assert_allclose(equation.Z[4:, 2, 5], w[4:], rtol=1e-14)


def test_weights_and_frequencies_count() -> None:
    rng = np.random.default_rng(5)
    data = small().query("g > 3")
    data["x"] -= 1e6
    data["p"], data["f"] = rng.uniform(0.5, 2, len(data)), rng.integers(1, 4, len(data))
    fit = hlm.Model("y ~ x + (x | g)", data, weights="p", frequencies="f").fit()
    ols = fit.ols("g")
    long = data.loc[data.index.repeat(data["f"])]
    for g, rows in long.groupby("g"):
        root = np.sqrt(rows["p"].to_numpy())
        L = root[:, None] * np.column_stack([np.ones(len(rows)), rows["x"]])
        beta, rss = np.linalg.lstsq(L, root * rows["y"], rcond=None)[:2]
        np.testing.assert_allclose(ols.estimates.loc[g], beta, rtol=1e-9)
        assert ols.sigma[g] == pytest.approx(np.sqrt(rss[0] / (len(rows) - 2)), rel=1e-9)
        assert ols.n[g] == len(rows)


def test_where_least_squares_has_no_meaning() -> None:
    rng = np.random.default_rng(1)
    school = np.repeat(np.arange(8), 12)
    klass = np.repeat(np.arange(24), 4)
    y = rng.normal(size=8)[school] + rng.normal(size=24)[klass] + rng.normal(size=96)
    fit = hlm.Model("y ~ 1 + (1 | school/klass)", pd.DataFrame({"y": y, "school": school, "klass": klass})).fit()
    with pytest.raises(hlm.errors.DesignError, match="share the effects of 'school:klass'"):
        fit.ols("school")
    assert len(fit.ols("school:klass").estimates) == 24
    with pytest.raises(hlm.errors.DesignError, match="no grouping factor 'pupil'"):
        fit.ols("pupil")
    with pytest.raises(hlm.errors.DataError, match="weights must be"):
        fit.ols("school:klass").regression("V")
    # HLM's level-2 test compares classes within schools
    tests = fit.variance_tests()
    means = pd.Series(y).groupby(klass).mean()
    inside = means - means.groupby(np.arange(24) // 3).transform("mean")
    assert tests.loc[("school:klass", "Intercept"), "chi2"] == pytest.approx(4 * (inside**2).sum() / fit.sigma**2)
    assert tests.loc[("school:klass", "Intercept"), "df"] == 16
    assert tests.loc[("school", "Intercept"), "df"] == 7


def test_level_equations_with_regressors_of_their_own(hsb: pd.DataFrame) -> None:
    pupils = hsb[["school", "mathach", "cses"]]
    schools = hsb.groupby("school")[["meanses", "sector"]].first().reset_index()
    equations = """
        mathach = b0 + b1*cses
        b0 = g00 + g01*meanses + g02*sector + u0[school]
        b1 = g10 + g11*meanses + u1[school]
    """
    fit = hlm.Model.from_equations(equations, pupils, school=schools).fit()
    equation = level_one(fit, fit.model.design.factor("school"))
    assert equation.names == ["Intercept", "cses"]
    W = np.column_stack([np.ones(160), schools["meanses"], schools["sector"]])
    gamma = fit.params[["Intercept", "meanses", "sector"]].to_numpy(), fit.params[["cses", "cses:meanses"]].to_numpy()
    expected = np.column_stack([W @ gamma[0], W[:, :2] @ gamma[1]])
    got = fit.empirical_bayes("school").estimates
    np.testing.assert_allclose(got - fit.random_effects["school"], expected, rtol=1e-9)
    # J' - S - 1 with the predictors of each equation
    assert fit.variance_tests()["df"].tolist() == [157, 158]
    formula = hlm.Model("mathach ~ meanses + sector + cses + cses:meanses + (cses | school)", hsb).fit()
    np.testing.assert_allclose(got, formula.empirical_bayes("school").estimates, rtol=1e-9)
    np.testing.assert_allclose(
        fit.empirical_bayes("school").cov, formula.empirical_bayes("school").cov, rtol=1e-7, atol=1e-12
    )
    new = hsb.assign(school="n" + hsb["school"].astype(str))
    np.testing.assert_allclose(
        fit.score_groups(new)["school"].effects, fit.random_effects["school"], rtol=1e-6, atol=1e-9
    )
