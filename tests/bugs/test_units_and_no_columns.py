"""Results that depended on the unit of y or x, and models without fixed effects or without groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hlm


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"g": np.repeat(np.arange(14), 6), "h": rng.integers(0, 3, 84), "x": rng.normal(size=84)})
    table["w"] = rng.normal(size=14)[table["g"]]
    table["y"] = 1 + table["x"] / 2 + rng.normal(size=84) + rng.normal(size=14)[table["g"]]
    return table


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_variance_of_predictions_of_crossed_designs_follows_the_unit_of_y(unit: float) -> None:
    data = rows()
    one = hlm.Model("y ~ x + (1 | g) + (1 | h)", data).fit()
    other = hlm.Model("y ~ x + (1 | g) + (1 | h)", data.assign(y=data["y"] * unit)).fit()
    np.testing.assert_allclose(other.leverages, one.leverages, rtol=1e-8)
    parts = ["var_fixed", "var_groups"]
    found, expected = (fit.predict(interval="confidence", theta_uncertainty=False)[parts] for fit in (other, one))
    np.testing.assert_allclose(found / unit**2, expected, rtol=1e-8)


@pytest.mark.parametrize("method", ["between-within", "hlm"])
def test_counted_degrees_of_freedom_do_not_depend_on_units(method: str) -> None:
    data = rows()
    one = hlm.Model("y ~ x + w + (1 | g)", data).fit().inference(method)
    data["x"] *= 1e12
    data["y"] *= 1e-12
    other = hlm.Model("y ~ x + w + (1 | g)", data).fit().inference(method)
    assert other.df.tolist() == one.df.tolist()
    assert other.test("x = 0").df_den == one.test("x = 0").df_den


@pytest.mark.parametrize("kind", ["I", "II", "III"])
def test_no_fixed_effects_no_terms(kind: str) -> None:
    assert len(hlm.Model("y ~ 0 + (1 | g)", rows()).fit().anova(kind).table) == 0


def test_what_needs_fixed_effects_says_so() -> None:
    fit = hlm.Model("y ~ 0 + (1 | g)", rows()).fit()
    with pytest.raises(hlm.DesignError, match="no fixed effects"):
        fit.standard_errors()
    with pytest.raises(hlm.DataError, match="no fixed effects"):
        fit.ols("g").regression()
    with pytest.raises(hlm.DataError, match="no fixed effects"):
        fit.poolings()
    with pytest.raises(hlm.FormulaError, match="there are none"):
        fit.test("x = 0")


def test_what_needs_groups_says_so() -> None:
    fit = hlm.Model("y ~ x", rows()).fit()
    with pytest.raises(hlm.DesignError, match="without groups"):
        fit.influence()
    with pytest.raises(hlm.DesignError, match="without groups"):
        fit.r_squared("rights-sterba")


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_effects_are_checked_in_any_unit_of_their_regressor(unit: float) -> None:
    data = rows()
    data["y"] += data["x"] * np.random.default_rng(5).normal(size=14)[data["g"]]
    one = hlm.Model("y ~ x + (x | g)", data).fit().check().normality
    other = hlm.Model("y ~ x + (x | g)", data.assign(x=data["x"] * unit)).fit().check().normality
    assert list(other.index) == ["rows", "Intercept | g", "x | g"]
    np.testing.assert_allclose(other["statistic"].to_numpy(float), one["statistic"].to_numpy(float), rtol=1e-5)


def test_a_fit_that_stopped_early_is_reported() -> None:
    fit = hlm.Model("y ~ x + (x | g)", rows()).fit(method="em", max_iter=2)
    assert "did not reach an optimum" in str(fit.check())
    assert "optimum" not in str(fit.model.fit().check())
