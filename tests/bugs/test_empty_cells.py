"""Tables and means where a cell of two factors is empty: what has an estimate is told, and only that."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import hlm

pytestmark = pytest.mark.filterwarnings("ignore::hlm.RankDeficientWarning")


def data(unit: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    rows = pd.DataFrame({"g": np.repeat(np.arange(12), 10), "x": rng.normal(size=120)})
    rows["a"] = rng.choice(["k", "l", "m"], 120)
    rows["b"] = rng.choice(["s", "t"], 120)
    rows["sex"] = np.where(rows["g"] % 2 == 0, "f", "m")
    rows["y"] = rng.normal(size=120) + rng.normal(size=12)[rows["g"]] + 0.5 * (rows["a"] == "l")
    return rows[(rows["a"] != "l") | (rows["b"] != "t")].assign(z=lambda rows: rows["x"] * unit)


def fitted(formula: str, rows: pd.DataFrame | None = None) -> hlm.Fit:
    return hlm.Model(formula, data() if rows is None else rows).fit()


def test_the_last_term_is_tested_beyond_the_others_by_every_type() -> None:
    fit = fitted("y ~ sex + a * b + (1 | g)")
    rows = [fit.anova(kind).table.loc["a:b"] for kind in ("I", "II", "III")]
    direct = fit.test("a[T.m]:b[T.t] = 0")
    for row in rows:
        assert row["num_df"] == 1
        assert row["F"] == pytest.approx(direct.statistic, rel=1e-9)


def test_type_ii_and_iii_test_the_part_that_has_an_estimate() -> None:
    fit = fitted("y ~ sex + a * b + (1 | g)")
    with_both = fit.marginal_means("a").contrasts({"k - m": [1, 0, -1]}).iloc[0]  # "l" has no mean over "b"
    third = fit.anova("III")
    assert third.table.loc["a", "num_df"] == 1
    assert third.table.loc["a", "F"] == pytest.approx(with_both["t"] ** 2, rel=1e-9)
    assert third.table.loc["b", "num_df"] == 0
    assert np.isnan(third.table.loc["b", "F"])
    assert "only that part" in third.statement
    # beyond the terms that do not contain it: those of the model without the interaction, in which nothing is aliased
    second, sums = fit.anova("II").table, fitted("y ~ sex + a + b + (1 | g)").anova("II").table
    assert second.loc[["sex", "a", "b"], "num_df"].tolist() == sums["num_df"].tolist()


def test_a_term_made_of_others_has_nothing_of_its_own() -> None:
    rows = data()
    rows["copy"] = np.where(rows["a"] == "k", "one", "two")  # in "a" already
    table = fitted("y ~ a + copy + (1 | g)", rows).anova("II").table
    assert table["num_df"].tolist() == [1.0, 0.0]
    assert fitted("y ~ copy + a + (1 | g)", rows).anova("II").table["F"]["a"] == pytest.approx(
        table["F"]["a"], rel=1e-8
    )


def test_means_without_an_estimate_are_nan_and_their_differences_may_have_one() -> None:
    fit = fitted("y ~ sex + a * b + (1 | g)")
    means = fit.marginal_means("a")
    assert means.table["estimate"].isna().tolist() == [False, True, False]
    assert "a[T.l]:b[T.t]" in means.about
    pairs = means.contrasts(adjust="bonferroni")
    assert pairs["p"].isna().tolist() == [True, False, True]
    assert pairs["p"][1] == means.contrasts(adjust="none")["p"][1]  # one comparison is left
    sexes = fit.marginal_means("sex")
    assert sexes.table["estimate"].isna().all()
    assert sexes.contrasts()["estimate"][0] == pytest.approx(-fit.params["sex[T.m]"])
    with pytest.raises(hlm.DataError, match=r"'s - t' has no estimate: it depends on 'a\[T.l\]:b\[T.t\]'"):
        fit.marginal_means("b").contrasts()


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_what_has_an_estimate_does_not_depend_on_units(unit: float) -> None:
    rows = data(unit)
    rows["sum"] = rows["z"] * 2
    fit = fitted("y ~ a * b + z + sum + (1 | g)", rows)
    assert fit.marginal_means("a", at={"z": 0.3 * unit, "sum": 0.0}).table["estimate"].isna().all()
    found = fit.marginal_means("a", at={"z": 0.3 * unit, "sum": 0.6 * unit}).table
    expected = fitted("y ~ a * b + z + (1 | g)", rows).marginal_means("a", at={"z": 0.3 * unit}).table
    pd.testing.assert_frame_equal(found, expected, rtol=1e-7)


def test_slopes_of_products_keep_their_parts_in_any_unit() -> None:
    rows = data()
    rows["w"] = 1e13 * (1 + rows["g"] % 3)
    fit = fitted("y ~ x * w + (1 | g)", rows)
    at = fit.slopes("x", at={"w": 2e13}).table["estimate"][0]
    assert at == pytest.approx(fit.params["x"] + 2e13 * fit.params["x:w"], rel=1e-8)


def test_rows_of_an_empty_cell_have_a_warning_and_no_interval() -> None:
    fit = fitted("y ~ a * b + x + (1 | g)")
    new = data().head(3).assign(a=["k", "l", "l"], b=["t", "t", "s"])
    with pytest.warns(hlm.RankDeficientWarning, match="row 1: .* taken for zero"):
        plain = fit.predict(new)
    with pytest.warns(hlm.RankDeficientWarning, match="row 1: .* taken for zero"):
        found = fit.predict(new, interval="prediction")
    np.testing.assert_array_equal(found["predicted"], plain)
    assert plain.notna().all()
    for column in ("se", "lower", "upper"):
        assert found[column].isna().tolist() == [False, True, False]
    seen = data().assign(x=[np.nan, *data()["x"][1:]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(fit.predict(seen)[1:], fit.predict()[1:], rtol=1e-12)


def test_aliased_splines_are_predicted_beyond_the_data() -> None:
    rows = data()
    fit = fitted("y ~ x + bs(x, df=5) + (1 | g)", rows)
    plain = fitted("y ~ bs(x, df=5) + (1 | g)", rows)
    new = rows.head(4).assign(x=[-5.0, 0.0, 4.0, 30.0])
    np.testing.assert_allclose(fit.predict(new), plain.predict(new), rtol=1e-7)
