"""Precision weights, frequencies and offsets: against rows written out, closed forms and dense algebra."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import hlm
from tests.dense import Case, structure

# Same numbers by another order of sums; iterates that end within rounding of each other.
EQUAL = {"rtol": 1e-10, "atol": 1e-10}
FORMULAS = [
    "y ~ x * kind + (x | school)",
    "y ~ x + (1 | school/class)",
    "y ~ center(x) + poly(z, 2) + (scale(x) || school) + offset(scale(z))",
    "center(y) ~ ns(x, 3) + bs(z, 4) + (1 | school)",
    "y ~ x",
]


@pytest.fixture
def data() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 180
    school = np.repeat(np.arange(15), 12)
    frame = pd.DataFrame(
        {
            "school": [f"s{j}" for j in school],
            "class": np.tile(np.repeat(["a", "b", "c"], 4), 15),
            "x": rng.normal(size=n),
            "z": rng.uniform(size=n),
            "kind": rng.choice(["a", "b", "c"], n),
            "w": rng.uniform(0.2, 4, n),
            "f": rng.integers(1, 5, n),
        }
    )
    frame["y"] = 1 + frame["x"] + (rng.normal(size=(15, 2))[school] * np.c_[np.ones(n), frame["x"]]).sum(axis=1)
    frame["y"] += rng.normal(size=n) / np.sqrt(frame["w"])
    return frame


def same(fit: hlm.Fit, other: hlm.Fit) -> None:
    """Everything that a fit reports of a model, without its rows."""
    for name in ("nobs", "df_model", "df_resid"):
        assert getattr(fit, name) == getattr(other, name)
    for name in ("criterion", "aic", "bic", "sigma"):
        assert getattr(fit, name) == pytest.approx(getattr(other, name), rel=1e-10)
    np.testing.assert_allclose(fit.params, other.params, **EQUAL)
    np.testing.assert_allclose(fit.bse, other.bse, **EQUAL)
    # the optimum is flat: variances are found to the root of what the criterion is
    for factor, covariance in fit.covariances.items():
        np.testing.assert_allclose(covariance, other.covariances[factor], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(fit.random_effects[factor], other.random_effects[factor], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(
            fit.random_effects_cov[factor], other.random_effects_cov[factor], rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_frequencies_are_rows_written_out(data: pd.DataFrame, formula: str, weights: str | None, reml: bool) -> None:
    expanded = data.loc[data.index.repeat(data["f"])]
    fit = hlm.Model(formula, data, weights=weights, frequencies="f").fit(reml=reml)
    other = hlm.Model(formula, expanded.reset_index(drop=True), weights=weights).fit(reml=reml)
    same(fit, other)
    np.testing.assert_allclose(np.repeat(fit.fittedvalues, data["f"]), other.fittedvalues, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(fit.predict(data.head(9)), fit.fittedvalues.head(9), rtol=1e-10)


def test_frequencies_of_arrays(data: pd.DataFrame) -> None:
    X = np.column_stack([np.ones(180), data["x"]])
    random = [hlm.Random(data["school"], X, name="school")]
    one = hlm.Model.from_arrays(data["y"], X, random, weights=data["w"], frequencies=data["f"]).fit()
    same(one, hlm.Model("y ~ x + (x | school)", data, weights="w", frequencies="f").fit())


def test_the_summary_tells_rows_from_what_they_stand_for(data: pd.DataFrame) -> None:
    data.loc[5, "x"] = np.nan
    data.loc[[7, 8], "f"] = 0
    fit = hlm.Model("y ~ x + (1 | school)", data, frequencies="f").fit()
    total = int(data["f"].sum() - data.loc[5, "f"])
    assert fit.nobs == total
    assert fit.model.design.dropped == {"x": 1, "frequencies = 0": 2}
    assert (
        f"177 rows of 180; 3 dropped for zero weights or missing values (x 1, frequencies = 0 2), standing for {total}"
        in (str(fit))
    )
    largest = data.drop(index=5).groupby("school")["f"].sum()
    assert str(int(largest.max())) in str(fit)


@pytest.mark.parametrize("kind", ["weights", "frequencies"])
def test_zero_is_left_out(data: pd.DataFrame, kind: str) -> None:
    column = kind[0]
    zero = (data.index % 7 == 3) | (data["school"] == "s4")
    data.loc[zero, column] = 0
    # neither categories nor missing values of rows that are left out count
    data.loc[3, "kind"] = "seen nowhere else"
    data.loc[10, "x"] = np.inf
    data.loc[17, ["x", "school"]] = None
    left = data[~zero]
    formula = "y ~ center(x) + kind + (x | school)"
    fit = hlm.Model(formula, data, **{kind: column}).fit()
    same(fit, hlm.Model(formula, left, **{kind: column}).fit())
    assert "s4" not in fit.random_effects["school"].index
    assert fit.model.design.dropped == {f"{kind} = 0": int(zero.sum())}
    assert fit.fittedvalues.index.equals(data.index)
    assert fit.fittedvalues.isna().tolist() == zero.tolist()
    assert fit.resid.isna().tolist() == zero.tolist()

    frame = data.fillna({"x": 0.0, "school": "s0"}).replace(np.inf, 0.0)
    X = np.column_stack([np.ones(180), frame["x"]])
    random = hlm.Random(frame["school"], X, name="school")
    fit = hlm.Model.from_arrays(frame["y"], X, random, **{kind: frame[column]}).fit()
    same(fit, hlm.Model("y ~ x + (x | school)", left, **{kind: column}).fit())
    assert fit.fittedvalues.isna().tolist() == zero.tolist()
    assert fit.model.design.dropped == {f"{kind} = 0": int(zero.sum())}


def test_rows_in_messages_are_those_of_the_input(data: pd.DataFrame) -> None:
    """Errors found after rows were dropped still count them."""
    data.loc[[2, 4], "x"] = np.nan
    with pytest.raises(hlm.DataError, match=r"log\(x\) is not finite in \d+ rows \(first: row (\d+)\)") as caught:
        hlm.Model("y ~ log(x) + (1 | school)", data)
    assert caught.value.row == int(np.argmax(data["x"] < 0))
    assert f"first: row {caught.value.row})" in str(caught.value)
    X = np.column_stack([np.ones(180), data["z"]])
    X[20, 1] = np.inf
    weights = np.r_[np.zeros(10), np.ones(170)]
    with pytest.raises(hlm.DataError, match=r"column 'x1' has 1 infinite value \(row 20\)"):
        hlm.Model.from_arrays(data["y"], X, hlm.Random(data["school"]), weights=weights).fit()


def test_weights_are_weighted_least_squares(data: pd.DataFrame) -> None:
    """No random part: γ̂ = (X'WX)⁻¹X'Wy; the ML criterion is -2 Σ f log N(y; Xγ̂, σ̂²/w)."""
    X = np.column_stack([np.ones(180), data["x"], data["z"]])
    for f in (np.ones(180), data["f"].to_numpy()):
        n, w = f.sum(), data["w"].to_numpy()
        weight = w * f
        inverse = np.linalg.inv(X.T @ (X * weight[:, None]))
        gamma = inverse @ X.T @ (weight * data["y"])
        residual = data["y"] - X @ gamma
        fit = hlm.Model("y ~ x + z", data, weights="w", frequencies=f).fit()
        np.testing.assert_allclose(fit.params, gamma, rtol=1e-10)
        s2 = (weight * residual**2).sum() / (n - 3)
        np.testing.assert_allclose(fit.bse, np.sqrt(s2 * np.diag(inverse)), rtol=1e-10)
        assert fit.sigma == pytest.approx(np.sqrt(s2), rel=1e-10)
        ml = hlm.Model("y ~ x + z", data, weights="w", frequencies=f).fit(reml=False)
        sigma = np.sqrt((weight * residual**2).sum() / n)
        logs = norm.logpdf(data["y"], X @ gamma, sigma / np.sqrt(w))
        assert ml.criterion == pytest.approx(-2 * (f * logs).sum(), rel=1e-12)
        assert ml.bic == pytest.approx(ml.criterion + np.log(n) * 4, rel=1e-12)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", ["slope", "two nested"])
def test_weights_are_those_of_dense_algebra(name: str, reml: bool) -> None:
    """V = W⁻¹ + ZΛΛ'Z' for rows written out: the same as for √w times every column, less Σ log w."""
    case = structure(name, seed=2)
    rng = np.random.default_rng(0)
    n = len(case.y)
    w, f = rng.uniform(0.5, 3, n), rng.integers(0, 4, n)
    random = [hlm.Random(codes, Z, name=f"f{k}") for k, (codes, Z) in enumerate(zip(case.codes, case.Z, strict=True))]
    fit = hlm.Model.from_arrays(case.y, case.X, random, weights=w, frequencies=f).fit(reml=reml)
    rows = np.repeat(np.arange(n), f)
    root = np.sqrt(w[rows])
    codes = [np.unique(c[rows], return_inverse=True)[1] for c in case.codes]
    dense = Case(case.y[rows] * root, case.X[rows] * root[:, None], [Z[rows] * root[:, None] for Z in case.Z], codes)
    theta = fit.theta.to_numpy()
    assert fit.criterion == pytest.approx(dense.criterion(theta, reml) - np.log(w[rows]).sum(), abs=1e-8)
    for k, modes in enumerate(dense.posterior(theta, beta_known=True)[0]):
        np.testing.assert_allclose(fit.random_effects[f"f{k}"], modes, rtol=1e-7, atol=1e-9)


def test_offset_with_weights_and_frequencies(data: pd.DataFrame) -> None:
    fit = hlm.Model("y ~ x + offset(2 * z) + (1 | school)", data, weights="w", frequencies="f").fit()
    moved = data.assign(y=data["y"] - 2 * data["z"])
    same(fit, hlm.Model("y ~ x + (1 | school)", moved, weights="w", frequencies="f").fit())
    plain = hlm.Model("y ~ x + (1 | school)", moved, weights="w", frequencies="f").fit()
    np.testing.assert_allclose(fit.resid, plain.resid, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fit.fittedvalues, plain.fittedvalues + 2 * data["z"], rtol=1e-9)
    new = data.head(7).assign(z=5.0)
    np.testing.assert_allclose(fit.predict(new), plain.predict(new) + 10, rtol=1e-9)
    np.testing.assert_allclose(
        fit.predict(new, effects="population"), plain.predict(new, effects="population") + 10, rtol=1e-9
    )


def put(position: int, value: float) -> Callable[[np.ndarray], Any]:
    def change(values: np.ndarray) -> Any:
        values = values.astype(float)
        values[position] = value
        return values

    return change


@pytest.mark.parametrize("kind", ["weights", "frequencies"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (put(4, -1), hlm.DataError, r"must be >= 0; row 4 has -1"),
        (put(4, np.inf), hlm.DataError, r"has 1 infinite value \(row 4\)"),
        (put(4, np.nan), hlm.DataError, r"has 1 missing value \(row 4\)"),
        (lambda f: f[:-1], hlm.DataError, "has length 179, data has 180 rows"),
        (lambda f: f * 0, hlm.DataError, "are zero"),
        (lambda f: f.astype(str), hlm.DataTypeError, "must be numeric, got strings"),
        (lambda f: f + 0j, hlm.DataTypeError, "is complex"),
        (lambda f: [*f[:-1], "many"], hlm.DataTypeError, "row 179 holds 'many'"),
        (lambda f: np.column_stack([f, f]), hlm.DataTypeError, "must be one-dimensional"),
        (lambda f: 3, hlm.DataTypeError, "must be a sequence of values, got int"),
    ],
)
def test_errors_name_what_is_wrong(
    data: pd.DataFrame, kind: str, change: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    values = change(data["f"].to_numpy())
    with pytest.raises(error, match=f"{kind}'? .*{message}|all {kind} {message}"):
        hlm.Model("y ~ x + (1 | school)", data, **{kind: values})
    with pytest.raises(error, match=f"{kind}'? .*{message}|all {kind} {message}"):
        hlm.Model.from_arrays(data["y"], np.ones((180, 1)), hlm.Random(data["school"]), **{kind: values})
    if np.shape(values) == (180,):
        with pytest.raises(error, match=f"{kind} 'given' .*{message}|all {kind} 'given' {message}"):
            hlm.Model("y ~ x + (1 | school)", data.assign(given=values), **{kind: "given"})


def test_frequencies_are_whole(data: pd.DataFrame) -> None:
    data["f"] = data["f"].astype(float)
    data.loc[4, "f"] = 1.5
    with pytest.raises(hlm.DataError, match=r"frequencies 'f' must be whole numbers; row 4 has 1.5"):
        hlm.Model("y ~ x + (1 | school)", data, frequencies="f")
    with pytest.raises(hlm.DataError, match=r"scale\(x\) is learnt from rows written out, which are too many"):
        hlm.Model("y ~ scale(x) + (1 | school)", data, frequencies=np.full(180, 1e9))
    with pytest.raises(hlm.DataError, match=r"weights must be 0 or at least 1e-307; row 4 has 4.94066e-324"):
        hlm.Model("y ~ x + (1 | school)", data, weights=put(4, 5e-324)(np.ones(180)))
    with pytest.raises(hlm.DataError, match="add up to more than"):
        hlm.Model("y ~ x + (1 | school)", data, frequencies=np.full(180, 1e15))
    with pytest.raises(hlm.DataError, match="formula names 'nope', which is not a column"):
        hlm.Model("y ~ x + (1 | school)", data, frequencies="nope")


def test_a_missing_weight_is_an_error_only_where_the_row_is_used(data: pd.DataFrame) -> None:
    """A weight is not guessed, and a row is not lost for it; a row that goes for another reason needs none."""
    data.loc[6, ["w", "x"]] = np.nan
    fit = hlm.Model("y ~ x + (1 | school)", data, weights="w").fit()
    assert fit.nobs == 179
    assert fit.model.design.dropped == {"x": 1}
    assert hlm.Model("y ~ x + (1 | school)", data, weights=data["w"].to_numpy()).fit().criterion == fit.criterion


def test_nullable_and_decimal_weights_are_read(data: pd.DataFrame) -> None:
    expected = hlm.Model("y ~ x + (1 | school)", data, weights="w", frequencies="f").fit()
    for w, f in (
        (data["w"].astype("Float64"), data["f"].astype("Int16")),
        (data["w"].tolist(), data["f"].to_numpy()[::1]),
    ):
        assert hlm.Model("y ~ x + (1 | school)", data, weights=w, frequencies=f).fit().criterion == expected.criterion
