"""Columns of terms: what they are, what they are called, and that new rows are treated as the training rows were."""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hlm.errors import DataError, DataTypeError
from hlm.specification.formula import parse
from tests.specification.examples import build, matrix, rows

# ---- bare numeric columns


def test_plain_columns_are_views() -> None:
    block = np.asfortranarray(np.random.default_rng(0).normal(size=(50, 3)))
    for values in (block, np.ascontiguousarray(block)):
        frame = pd.DataFrame(values, columns=["a", "b", "c"], copy=False)
        columns, _ = build("a + c", frame)
        assert columns.names == ("Intercept", "a", "c")
        assert np.shares_memory(columns.values[1], values)
        assert np.array_equal(columns.values[2], values[:, 2])
        assert columns.values[0].tolist() == [1.0] * 50
        assert columns.values[0].strides == (0,)  # the intercept takes no memory


def test_numbers_of_any_kind_become_float64() -> None:
    values = [3.0, 1.0, 2.0]
    kinds = [np.float16, np.float32, np.longdouble, np.int8, np.uint64, ">f8", "<i4", "Int64", "Float32", object]
    frame = pd.DataFrame({f"c{j}": pd.Series(values).astype(kind) for j, kind in enumerate(kinds)})
    columns, _ = build("0 + " + " + ".join(frame.columns), frame)
    for column in columns.values:
        assert column.dtype == np.float64
        assert column.dtype.isnative
        assert column.tolist() == values


def test_unaligned_columns_are_copied() -> None:
    packed = np.zeros(4, dtype=[("a", "f4"), ("b", "f8")])["b"]
    frame = pd.DataFrame({"b": packed}, copy=False)
    assert build("b", frame)[0].values[1].strides == (8,)


def test_products_and_booleans() -> None:
    frame = rows()
    columns, _ = build("x*z*flag", frame)
    assert columns.names == ("Intercept", "x", "z", "flag", "x:z", "x:flag", "z:flag", "x:z:flag")
    assert np.array_equal(columns.values[-1], frame["x"] * frame["z"] * frame["flag"])
    assert set(columns.values[3]) == {0.0, 1.0}


def test_numeric_formulas_do_not_import_formulaic() -> None:
    code = """
import sys, pandas as pd
from hlm.specification.columns import encode
from hlm.specification.formula import parse
encode(parse("y ~ x*z + log(z) + scale(x) + I(x^2)").fixed, pd.DataFrame({"x": [1.0, 2.0], "z": [3, 4]}))
sys.exit("formulaic" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- categories


@pytest.mark.parametrize(
    ("right", "names"),
    [
        ("sex", "Intercept sex[T.Male]"),
        ("0 + sex", "sex[Female] sex[Male]"),
        ("0 + x + sex", "x sex[Female] sex[Male]"),
        ("arm", "Intercept arm[T.low] arm[T.high]"),
        ("sex*x", "Intercept sex[T.Male] x sex[T.Male]:x"),
        ("x:sex", "Intercept x:sex[Female] x:sex[Male]"),
        ("0 + sex + arm", "sex[Female] sex[Male] arm[T.low] arm[T.high]"),
        (
            "sex*arm",
            "Intercept sex[T.Male] arm[T.low] arm[T.high] sex[T.Male]:arm[T.low] sex[T.Male]:arm[T.high]",
        ),
        (
            "0 + sex:arm",
            "sex[Female]:arm[none] sex[Male]:arm[none] sex[Female]:arm[low] sex[Male]:arm[low] "
            "sex[Female]:arm[high] sex[Male]:arm[high]",
        ),
        (
            "sex + sex:arm",
            "Intercept sex[T.Male] sex[Female]:arm[T.low] sex[Male]:arm[T.low] "
            "sex[Female]:arm[T.high] sex[Male]:arm[T.high]",
        ),
        ("C(sex,Sum)", "Intercept C(sex,_Sum)[S.Female]"),
        ("C(arm,contr.helmert)", "Intercept C(arm,_contr.helmert)[H.low] C(arm,_contr.helmert)[H.high]"),
        ("C(k,Treatment(2))", " ".join(["Intercept", *(f"C(k,_Treatment(2))[T.{k}]" for k in (0, 1, 3, 4))])),
    ],
)
def test_names_of_categories_and_their_order(right: str, names: str) -> None:
    columns, _ = build(right, rows())
    assert columns.names == tuple(name.replace(",_", ", ") for name in names.split())
    X = matrix(columns)
    assert np.linalg.matrix_rank(X) == X.shape[1]


# the matrices of R's contr.treatment, contr.sum, contr.helmert and contr.poly for three levels
CODINGS = {
    "C(g)": [[0, 0], [1, 0], [0, 1]],
    "C(g, 'treatment')": [[0, 0], [1, 0], [0, 1]],
    "C(g, Treatment('b'))": [[1, 0], [0, 0], [0, 1]],
    "C(g, Treatment(reference='c'))": [[1, 0], [0, 1], [0, 0]],
    "C(g, contr.treatment, base=2)": [[1, 0], [0, 0], [0, 1]],
    "C(g, contr.treatment(3, base=2))": [[1, 0], [0, 0], [0, 1]],
    "C(g, Sum)": [[1, 0], [0, 1], [-1, -1]],
    "C(g, contr.sum)": [[1, 0], [0, 1], [-1, -1]],
    "C(g, Helmert)": [[-1, -1], [1, -1], [0, 2]],
    "C(g, Poly)": [[-(0.5**0.5), 6**-0.5], [0, -2 * 6**-0.5], [0.5**0.5, 6**-0.5]],
    "factor(g, levels = c('c', 'a', 'b'))": [[1, 0], [0, 1], [0, 0]],
    "as.factor(g)": [[0, 0], [1, 0], [0, 1]],
}


@pytest.mark.parametrize("right", CODINGS)
def test_codings_are_those_of_r(right: str) -> None:
    columns, _ = build(right, pd.DataFrame({"g": ["a", "b", "c"]}))
    assert matrix(columns)[:, 1:] == pytest.approx(np.array(CODINGS[right]), abs=1e-15)


def test_categories_are_sorted_by_code_point_unless_they_have_an_order() -> None:
    words = ["b", "Z", "ä", "a", "10", "9"]
    assert build("0 + g", pd.DataFrame({"g": words}))[0].names == ("g[10]", "g[9]", "g[Z]", "g[a]", "g[b]", "g[ä]")
    ordered = pd.Categorical(words, categories=words)
    assert build("0 + g", pd.DataFrame({"g": ordered}))[0].names == tuple(f"g[{word}]" for word in words)


@pytest.mark.parametrize("dtype", [object, "str", "string", "category"])
def test_odd_category_names(dtype: str) -> None:
    words = ["NaN", "Intercept", "None", "", "a:b", "x[T.y]", "{field}"]
    columns, _ = build("0 + g", pd.DataFrame({"g": pd.Series(words * 2).astype(dtype)}))
    assert columns.names == tuple(f"g[{word}]" for word in sorted(words))
    assert matrix(columns).sum(axis=1).tolist() == [1.0] * 14


@pytest.mark.parametrize(
    "name", ["class", "lambda", "my x", "log", "C", "x.1", "_z", "v0", "np", "__import__", "a:b", "été"]
)
def test_odd_column_names(name: str) -> None:
    frame = rows().rename(columns={"x": name})
    columns, _ = build(f"`{name}`*sex + exp(`{name}`)", frame)
    assert np.array_equal(columns.values[1], frame[name])
    assert columns.names[-1] == f"{name}:sex[T.Male]" or name in columns.names[-1]


def test_a_single_category_has_nothing_to_compare() -> None:
    frame = pd.DataFrame({"g": ["only"] * 3})
    assert build("0 + g", frame)[0].names == ("g[only]",)
    with pytest.raises(DataError, match="'g' has one category") as caught:
        build("g", frame)
    assert caught.value.column == "g"


@pytest.mark.parametrize(
    ("right", "part"),
    [
        ("C(sex, Treatment('no'))", "reference 'no'"),
        ("C(sex, base=3)", "not between 1 and 2"),
        ("factor(sex, levels='Male')", "'Female'"),
        ("factor(sex, levels=c('Male', 'Female', 'Male'))", "repeat"),
    ],
)
def test_codings_that_do_not_fit_the_data(right: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        build(right, rows())


# ---- new rows

EVERYTHING = [
    "x*z",
    "sex*arm + x:sex",
    "C(arm, Sum)*poly(x, 3)",
    "C(k, Poly) + C(sex, Treatment('Male'))",
    "scale(x) + center(z) + I(center(x)^2):sex",
    "ns(x, 3) + bs(z, df=5)",
    "cr(x, df=4, constraints='center')*sex",
    "poly(x, 2, raw=TRUE):flag",
    "ns(scale(log(z)), 2)",
]


@pytest.mark.parametrize("right", EVERYTHING)
def test_new_rows_get_the_columns_of_the_training_rows(right: str) -> None:
    frame = rows()
    columns, encoder = build(right, frame)
    X = matrix(columns)
    assert np.isfinite(X).all()
    again = pickle.loads(pickle.dumps(encoder))
    for part in ([3], [10, 2, 2, 59], list(range(60))[::-1]):
        new = frame.iloc[part][frame.columns[::-1]]
        new = new.assign(
            sex=new["sex"].astype("category"), arm=pd.Categorical(new["arm"], ["odd", "high", "none", "low"])
        )
        for encoded in (encoder.encode(new), again.encode(new)):
            assert encoded.names == columns.names
            # sums of splines and polynomials may be added in another order
            assert matrix(encoded) == pytest.approx(X[part], rel=1e-13, abs=1e-13)
    empty = encoder.encode(frame.iloc[:0])
    assert empty.names == columns.names
    assert all(values.shape == (0,) for values in empty.values)


@pytest.mark.parametrize("right", EVERYTHING)
def test_missing_values_in_new_rows_stay_in_their_row(right: str) -> None:
    frame = rows()
    _, encoder = build(right, frame)
    used = parse(f"y ~ {right}").fixed.columns
    new = frame.astype({"k": float, "flag": object, "sex": object})
    new.loc[[4, 7], list(used)] = None
    X = matrix(encoder.encode(new))
    lost = np.isnan(X)
    assert lost[[4, 7], 1:].all()
    assert not lost[np.r_[:4, 5:7, 8:60]].any()
    assert not lost[:, 0].any()


def test_a_missing_category_spoils_only_its_own_columns() -> None:
    frame = rows()
    _, encoder = build("x + sex + arm:x", frame)
    new = frame.iloc[:2].assign(sex=[None, "Male"])
    X = matrix(encoder.encode(new))
    assert np.isnan(X[0]).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("change", "error", "part", "column"),
    [
        ({"sex": "Other"}, DataError, "'Other'", "sex"),
        ({"sex": pd.Categorical(["Other"] * 60)}, DataError, "'Other'", "sex"),
        ({"sex": 1.0}, DataError, "1.0", "sex"),
        ({"arm": "odd"}, DataError, "'odd'", "arm"),
        ({"x": "a"}, DataTypeError, "'x' must be numeric, got strings", "x"),
        ({"x": pd.Categorical(["a"] * 60)}, DataTypeError, "got categories", "x"),
        ({"x": pd.Timestamp("2020-01-01")}, DataTypeError, "datetime", "x"),
        ({"z": -1.0}, DataError, r"log\(z\) is not finite in 60 rows", "log(z)"),
        ({"z": None}, None, "", ""),
    ],
)
def test_new_rows_that_do_not_fit(
    change: dict[str, Any], error: type[Exception] | None, part: str, column: str
) -> None:
    frame = rows()
    _, encoder = build("x + sex + arm + log(z)", frame)
    new = frame.assign(**change)
    if error is None:
        assert np.isnan(encoder.encode(new).values[-1]).all()
        return
    with pytest.raises(error, match=part) as caught:
        encoder.encode(new)
    assert caught.value.column == column  # type: ignore[attr-defined]


@pytest.mark.parametrize("column", ["x", "sex", "z"])
def test_a_column_that_new_rows_lack_is_named(column: str) -> None:
    frame = rows()
    _, encoder = build("x + sex + log(z)", frame)
    with pytest.raises(DataError, match=f"lack column '{column}'"):
        encoder.encode(frame.drop(columns=column))


def test_numbers_as_categories_match_by_value() -> None:
    frame = rows()
    columns, encoder = build("factor(k) + C(flag)", frame)
    new = frame.assign(k=frame["k"].astype(float), flag=frame["flag"].astype(object))
    assert np.array_equal(matrix(encoder.encode(new)), matrix(columns))


def test_equal_names_are_refused() -> None:
    with pytest.raises(DataError, match="named 'Intercept'"):
        build("Intercept", pd.DataFrame({"Intercept": [1.0, 2.0]}))


def test_the_frame_is_not_changed() -> None:
    frame = rows()
    before = frame.copy(deep=True)
    build("sex*arm + scale(x) + ns(z, 3) + C(k)", frame)
    pd.testing.assert_frame_equal(frame, before)
