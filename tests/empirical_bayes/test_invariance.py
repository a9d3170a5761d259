"""Units, offsets, the order of rows and the names of groups change nothing but units and order."""

import numpy as np
import pandas as pd
import pytest

import hlm


@pytest.fixture(scope="module")
def fits() -> tuple[hlm.Fit, hlm.Fit]:
    data = hlm.datasets.load("hsb").iloc[:2000]
    changed = data.sample(frac=1, random_state=3)
    changed = changed.assign(
        mathach=1e3 * changed["mathach"] - 5e4, cses=changed["cses"] / 100, school="s" + changed["school"].astype(str)
    )
    formula = "mathach ~ cses * sector + (cses | school)"
    return hlm.Model(formula, data).fit(), hlm.Model(formula, changed).fit()


def test_reliabilities_and_tests(fits: tuple[hlm.Fit, hlm.Fit]) -> None:
    one, other = fits
    for kind in ("hlm", "shrinkage", "prediction"):
        # shrinkage of (intercept, slope) depends on the units of neither; rounding grows with the offset of 5e4
        np.testing.assert_allclose(one.reliability(kind), other.reliability(kind), rtol=1e-5)
    left, right = one.variance_tests(), other.variance_tests()
    np.testing.assert_allclose(left[["chi2", "df", "p"]], right[["chi2", "df", "p"]], rtol=1e-5)


def test_coefficients_and_tables(fits: tuple[hlm.Fit, hlm.Fit]) -> None:
    one, other = fits
    unit = np.array([1e3, 1e5])
    left, right = (
        one.empirical_bayes("school", theta_uncertainty=True),
        other.empirical_bayes("school", theta_uncertainty=True),
    )
    assert ("s" + left.estimates.index.astype(str)).tolist() == right.estimates.index.tolist()
    np.testing.assert_allclose(left.estimates * unit - [5e4, 0.0], right.estimates, rtol=1e-6)
    np.testing.assert_allclose(left.cov * np.outer(unit, unit), right.cov, rtol=1e-4, atol=1e-4 * right.cov.max())
    table, changed = one.residual_table("school"), other.residual_table("school")
    for column in ("n", "rank", "mahalanobis", "expected_chi2"):
        np.testing.assert_allclose(table[column], changed[column], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(table["ols.cses"] * 1e5, changed["ols.cses"], rtol=1e-5, atol=1.0)


def test_ranks_and_comparisons(fits: tuple[hlm.Fit, hlm.Fit]) -> None:
    one, other = fits
    np.testing.assert_allclose(
        one.ranks("school", "cses").probabilities, other.ranks("school", "cses").probabilities, atol=1e-6
    )
    left, right = one.comparisons("school"), other.comparisons("school")
    np.testing.assert_allclose(left["P(first > second)"], right["P(first > second)"], atol=1e-6)


def test_design_effects_and_poolings(fits: tuple[hlm.Fit, hlm.Fit]) -> None:
    one, other = fits
    effects = one.standard_errors()["design effect"], other.standard_errors()["design effect"]
    np.testing.assert_allclose(*(e.drop("Intercept") for e in effects), rtol=1e-6)
    names = ["cses", "sector"]
    left, right = (fit.poolings().table.loc[names] for fit in fits)
    pd.testing.assert_frame_equal(left.mul([1e5, 1e3], axis=0), right, rtol=1e-5)
