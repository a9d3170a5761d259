"""The door of formulas: missing values, labels, nesting, prediction, other frames."""

from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import hlm


@pytest.fixture
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 240
    frame = pd.DataFrame(
        {
            "school": np.repeat([f"s{j}" for j in range(12)], 20),
            "class": np.tile(np.repeat([1, 2, 3, 4], 5), 12),
            "x": rng.normal(size=n),
            "kind": rng.choice(["a", "b", "c"], n),
        }
    )
    school = dict(zip(frame["school"].unique(), rng.normal(size=12), strict=True))
    frame["y"] = 2 + frame["x"] + frame["school"].map(school) + rng.normal(size=n)
    return frame


def test_rows_with_missing_values_are_dropped_counted_and_kept_in_place(data: pd.DataFrame) -> None:
    data.index = [f"row {i}" for i in range(240)]
    data.loc["row 3", "x"] = np.nan
    data.loc["row 7", "y"] = np.nan
    data.loc[["row 7", "row 9"], "school"] = None
    fit = hlm.Model("y ~ x + (1 | school)", data).fit()
    assert fit.nobs == 237
    assert {k: v for k, v in fit.model.design.dropped.items() if v} == {"x": 1, "y": 1, "school": 2}
    assert fit.fittedvalues.index.equals(data.index)
    assert fit.fittedvalues.isna().sum() == fit.resid.isna().sum() == 3
    complete = hlm.Model("y ~ x + (1 | school)", data.dropna()).fit()
    assert fit.criterion == complete.criterion
    np.testing.assert_allclose(fit.fittedvalues.dropna(), complete.fittedvalues)
    assert "237 rows of 240; 3 dropped for missing values" in str(fit)
    with pytest.raises(hlm.DataError, match="missing"):
        hlm.Model("y ~ x + (1 | school)", data, missing="raise")


def test_unused_columns_may_be_missing(data: pd.DataFrame) -> None:
    data["kind"] = None
    assert hlm.Model("y ~ x + (1 | school)", data).fit().nobs == 240


@pytest.mark.parametrize(
    ("nested", "spelt_out"),
    [
        ("(1 | school/class)", "(1 | school) + (1 | school:class)"),
        ("(x | school/class)", "(x | school) + (x | school:class)"),
        ("(x || school)", "(1 | school) + (0 + x | school)"),
        ("(1 + x | school)", "(x | school)"),
    ],
)
def test_two_spellings_of_a_model(data: pd.DataFrame, nested: str, spelt_out: str) -> None:
    one, other = (hlm.Model(f"y ~ x + {random}", data).fit() for random in (nested, spelt_out))
    assert one.criterion == other.criterion
    assert list(one.theta.index) == list(other.theta.index)
    assert list(one.covariances) == list(other.covariances)


def test_nested_levels_are_pairs(data: pd.DataFrame) -> None:
    fit = hlm.Model("y ~ x + (1 | school/class)", data).fit()
    assert list(fit.covariances) == ["school", "school:class"]
    table = fit.random_effects["school:class"]
    assert table.index.names == ["school", "class"]
    assert len(table) == 48
    assert ("s3", 2) in table.index


def test_reused_class_numbers_are_pointed_out(data: pd.DataFrame) -> None:
    assert "(school/class)" in str(hlm.Model("y ~ x + (1 | school) + (1 | class)", data).fit())


def test_predict(data: pd.DataFrame) -> None:
    fit = hlm.Model("y ~ x * kind + (x | school) + (1 | school:class)", data).fit()
    np.testing.assert_allclose(fit.predict(data), fit.fittedvalues, rtol=1e-12)
    np.testing.assert_allclose(fit.predict(), fit.fittedvalues, rtol=1e-12)
    some = data.iloc[[100, 3, 50]]
    np.testing.assert_allclose(fit.predict(some[some.columns[::-1]]), fit.fittedvalues.iloc[[100, 3, 50]], rtol=1e-12)
    assert list(fit.predict(some).index) == [100, 3, 50]
    assert len(fit.predict(data.iloc[:0])) == 0
    broken = data.head(3).copy()
    broken.loc[1, "x"] = np.nan
    assert fit.predict(broken).isna().tolist() == [False, True, False]
    np.testing.assert_allclose(
        fit.predict(data.drop(columns=["school", "class"]), effects="population"), fit.predict(effects="population")
    )
    with pytest.raises(hlm.DataError, match="school"):
        fit.predict(data.drop(columns="school"))
    with pytest.raises(hlm.DataError, match="x"):
        fit.predict(data.drop(columns="x"))
    strange = data.head(2).assign(school=["s1", "nowhere"])
    with pytest.raises(hlm.DataError, match=r"'nowhere' of 'school' \(row 1\)"):
        fit.predict(strange)
    assert fit.predict(strange, new_levels="nan").isna().tolist() == [False, True]
    assert fit.predict(strange, new_levels="population")[1] == pytest.approx(
        fit.predict(strange, effects="population")[1]
    )
    with pytest.raises(hlm.DataError, match="kind"):
        fit.predict(data.head(2).assign(kind="z"))


def test_transforms_remember_the_training_data(data: pd.DataFrame) -> None:
    data["w"] = np.arange(240) % 17
    fit = hlm.Model("y ~ scale(x) + poly(w, 2) + (center(x) | school)", data).fit()
    np.testing.assert_allclose(fit.predict(data.tail(7)), fit.fittedvalues.tail(7), rtol=1e-10)


def test_offset(data: pd.DataFrame) -> None:
    fit = hlm.Model("y ~ x + offset(2 * x) + (1 | school)", data).fit()
    plain = hlm.Model("y ~ x + (1 | school)", data).fit()
    assert fit.params["x"] == pytest.approx(plain.params["x"] - 2)
    np.testing.assert_allclose(fit.fittedvalues, plain.fittedvalues, rtol=1e-9)
    np.testing.assert_allclose(fit.predict(data.head(5)), plain.fittedvalues.head(5), rtol=1e-9)


def test_weights_by_name_and_by_array(data: pd.DataFrame) -> None:
    data["w"] = np.random.default_rng(1).uniform(1, 3, 240)
    one = hlm.Model("y ~ x + (1 | school)", data, weights="w").fit()
    other = hlm.Model("y ~ x + (1 | school)", data, weights=data["w"].to_numpy()).fit()
    assert one.criterion == other.criterion
    with pytest.raises(hlm.DataError, match="weights must be >= 0; row 0 has -1"):
        hlm.Model("y ~ x + (1 | school)", data, weights=-np.ones(240))


@pytest.mark.parametrize("convert", [pl.from_pandas, pa.Table.from_pandas, lambda f: f.to_dict("list")])
def test_other_frames(data: pd.DataFrame, convert: object) -> None:
    expected = hlm.Model("y ~ x + kind + (x | school)", data).fit()
    other = hlm.Model("y ~ x + kind + (x | school)", convert(data)).fit()
    assert other.criterion == expected.criterion


def test_no_random_part_is_ols(data: pd.DataFrame) -> None:
    fit = hlm.Model("y ~ x + kind", data).fit()
    X = np.column_stack([np.ones(240), data["x"], data["kind"] == "b", data["kind"] == "c"])
    np.testing.assert_allclose(fit.params, np.linalg.lstsq(X, data["y"], rcond=None)[0], rtol=1e-9)
    assert fit.random_effects == {}


def test_six_nested_levels() -> None:
    rng = np.random.default_rng(5)
    names = ["world", "country", "district", "school", "class", "pupil"]
    codes = {names[0]: np.arange(6)}
    for outer, inner in pairwise(names):
        repeats = rng.integers(2, 4, len(codes[outer]))
        codes = {name: np.repeat(c, repeats) for name, c in codes.items()}
        codes[inner] = np.concatenate([np.arange(r) for r in repeats])
    sizes = rng.integers(2, 5, len(codes["pupil"]))
    frame = pd.DataFrame({name: np.repeat(c, sizes) for name, c in codes.items()})
    frame["x"] = rng.normal(size=len(frame))
    frame["y"] = frame["x"] + rng.normal(size=len(frame))
    for depth in range(1, 7):
        ids = frame.groupby(names[:depth], sort=False).ngroup()
        frame["y"] += rng.normal(size=ids.max() + 1)[ids] * (1.5 - 0.2 * depth)
    fit = hlm.Model("y ~ x + (1 | world/country/district/school/class/pupil)", frame).fit()
    assert fit.converged
    assert len(fit.covariances) == 6
    assert "nested: rows in world:country:district:school:class:pupil in" in str(fit)
    newton, ecme = fit.criterion, hlm.Model(fit.model.formula, frame).fit(method="ecme", accelerate=True).criterion
    assert abs(newton - ecme) < 1e-6


@pytest.mark.parametrize(
    ("formula", "error", "message"),
    [
        ("y ~ x + (1 | y)", hlm.FormulaError, "cannot also be the grouping column"),
        ("y ~ x + (1 | nope)", hlm.HLMError, "'nope'"),
        ("y ~ __import__('os') + (1 | school)", hlm.FormulaError, "__import__"),
        ("y ~ x + (1 | school) + (x | school)", hlm.DesignError, "'Intercept' varies over 'school' in an earlier term"),
        ("kind ~ x + (1 | school)", hlm.DataTypeError, "kind"),
    ],
)
def test_formula_errors(data: pd.DataFrame, formula: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hlm.Model(formula, data)


@pytest.mark.parametrize(("x_offset", "y_offset"), [(0.0, 0.0), (1e6, 0.0), (0.0, 1e8), (1e6, 1e8)])
def test_all_dummies_take_offsets_as_an_intercept_does(data: pd.DataFrame, x_offset: float, y_offset: float) -> None:
    """`0 + kind` spans the constant without having it; the two codings are the same model."""
    data["x"], data["y"] = np.round(data["x"], 3) + x_offset, np.round(data["y"], 3) + y_offset
    for random in ("(1 | school)", "(x | school)"):
        dummies = hlm.Model(f"y ~ 0 + kind + x + {random}", data).fit()
        intercept = hlm.Model(f"y ~ kind + x + {random}", data).fit()
        assert dummies.aliased == []
        assert dummies.criterion == pytest.approx(intercept.criterion, abs=1e-6)
        assert dummies.params["x"] == pytest.approx(intercept.params["x"], abs=1e-7)
        assert dummies.bse["x"] == pytest.approx(intercept.bse["x"], rel=1e-7)
        b = dummies.params["kind[b]" if "kind[b]" in dummies.params else "kind[T.b]"]
        assert b - dummies.params.iloc[0] == pytest.approx(intercept.params["kind[T.b]"], abs=1e-6)
        np.testing.assert_allclose(dummies.fittedvalues, intercept.fittedvalues, rtol=1e-9, atol=1e-6)


def test_terms_after_the_dummies_that_span_the_constant(data: pd.DataFrame) -> None:
    """The dummies may stand anywhere, and other columns may be aliased beside them."""
    data["twice"] = 2 * data["x"]
    with pytest.warns(hlm.RankDeficientWarning, match="'twice'"):
        fit = hlm.Model("y ~ 0 + x + twice + kind + (1 | school)", data).fit()
    plain = hlm.Model("y ~ kind + x + (1 | school)", data).fit()
    assert fit.aliased == ["twice"]
    assert fit.criterion == pytest.approx(plain.criterion, abs=1e-8)
    np.testing.assert_allclose(fit.fittedvalues, plain.fittedvalues, rtol=1e-9)
    np.testing.assert_allclose(fit.predict(data.head(4)), plain.fittedvalues.head(4), rtol=1e-9)
