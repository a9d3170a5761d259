"""Residual tables beside computations by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import chi2

import hlm
from hlm.empirical_bayes.residual_tables import expected_chi2


def test_table_of_groups(hsb: pd.DataFrame) -> None:
    fit = hlm.Model("mathach ~ cses * meanses + (cses | school)", hsb).fit()
    table = fit.residual_table("school")
    rows = hsb.groupby("school")
    np.testing.assert_array_equal(table["n"], rows.size())
    assert (table["rank"] == 2).all()
    np.testing.assert_allclose(table["ln_sd_total"], np.log(rows["mathach"].std(ddof=1)), rtol=1e-10)
    fixed = fit.predict(effects="population")
    error = (hsb["mathach"] - fixed).groupby(hsb["school"])
    np.testing.assert_allclose(table["ln_sd_model"], np.log(np.sqrt(error.apply(lambda e: (e**2).mean()))), rtol=1e-9)
    np.testing.assert_allclose(table["ln_sd_ols"], np.log(fit.ols("school").sigma), rtol=1e-10)
    for effect in ("Intercept", "cses"):
        np.testing.assert_array_equal(table[f"eb.{effect}"], fit.random_effects["school"][effect])
        np.testing.assert_allclose(
            table[f"coefficient.{effect}"], fit.empirical_bayes("school").estimates[effect], rtol=1e-12
        )
    np.testing.assert_array_equal(table["pv.cses.Intercept"], fit.random_effects_cov["school"][:, 1, 0])
    np.testing.assert_array_equal(table["meanses"], rows["meanses"].first())
    assert not {"cses", "cses:meanses"} & set(table.columns)
    order = np.argsort(table["mahalanobis"])
    np.testing.assert_array_equal(table["expected_chi2"].to_numpy()[order], expected_chi2(160, 2))


def test_table_of_rows(hsb: pd.DataFrame) -> None:
    data = hsb.copy()
    data.loc[data.index[3], "cses"] = np.nan
    fit = hlm.Model("mathach ~ cses + (cses | school)", data).fit()
    table = fit.residual_table()
    assert len(table) == len(data) - 1
    np.testing.assert_allclose(table["l1resid"] + table["fitval"], data["mathach"].drop(data.index[3]), rtol=1e-12)
    np.testing.assert_array_equal(table["school"], data["school"].drop(data.index[3]))
    np.testing.assert_allclose(table["population"], fit.params["Intercept"] + fit.params["cses"] * table["cses"])
    assert (table["sigma"] == fit.sigma).all()


@pytest.mark.parametrize("J", [1, 2, 7, 160, 3000])
def test_expected_order_statistics_of_the_exponential(J: int) -> None:
    """Chi-square on two degrees of freedom is an exponential distribution: E X_(i) = 2 Σ 1/k, k = J - i + 1 … J."""
    exact = 2 * np.cumsum(1 / np.arange(J, 0, -1))
    np.testing.assert_allclose(expected_chi2(J, 2), exact, rtol=1e-8)


@pytest.mark.parametrize("df", [1, 2, 5])
def test_expected_order_statistics_of_a_large_sample(df: int) -> None:
    """The expansion in the middle of a large sample continues the integrals at its ends."""
    got = expected_chi2(20_000, df)
    assert (np.diff(got) > 0).all()
    assert got.mean() == pytest.approx(df, rel=1e-6)
    if df == 2:
        np.testing.assert_allclose(got, 2 * np.cumsum(1 / np.arange(20_000, 0, -1)), rtol=1e-6)


@pytest.mark.parametrize("df", [1, 3])
def test_expected_order_statistics_sum_to_the_mean(df: int) -> None:
    got = expected_chi2(25, df)
    assert got.mean() == pytest.approx(df, rel=1e-8)
    largest = quad(lambda x: 1 - chi2.cdf(x, df) ** 25, 0, 200, limit=400)[0]
    assert got[-1] == pytest.approx(largest, rel=1e-8)


def test_levels_of_three(hsb: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    district, school = np.repeat(np.arange(10), 24), np.repeat(np.arange(40), 6)
    y = rng.normal(size=10)[district] + 0.7 * rng.normal(size=40)[school] + rng.normal(size=240)
    data = pd.DataFrame({"y": y, "district": district, "school": school, "income": rng.normal(size=10)[district]})
    fit = hlm.Model("y ~ income + (1 | district/school)", data).fit()
    upper, lower = fit.residual_table("district"), fit.residual_table("district:school")
    np.testing.assert_allclose(
        upper["fitted.Intercept"], fit.params["Intercept"] + fit.params["income"] * upper["income"]
    )
    # the table of a level leaves out what the levels above explain: û shrinks the own estimate of its level only
    share = fit.reliabilities("district:school")["Intercept"]
    np.testing.assert_allclose(lower["eb.Intercept"], share * lower["ols.Intercept"], rtol=1e-7, atol=1e-10)
    share = fit.reliabilities("district")["Intercept"]
    np.testing.assert_allclose(upper["eb.Intercept"], share * upper["ols.Intercept"], rtol=1e-7, atol=1e-10)
