"""The gate: every input of data/bad_inputs.json gets what is wanted of it, and so do some that are told in words."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm import saved
from tests.bad_inputs import BUILDERS, FORMULA, Given, clean

CASES = {case["id"]: case for case in json.loads((Path(__file__).parent / "data" / "bad_inputs.json").read_text())}
FITTED = [case for case in CASES if not case.startswith("p_")]

# What the message names beside one of `message_names`: the column, row or position at fault.
NAMES = {
    "inf_in_y": "column 'y' has 1 infinite value (row 5)",
    "inf_in_x": "column 'x' has 1 infinite value (row 5)",
    "neginf_in_y": "column 'y' has 1 infinite value (row 5)",
    "neginf_in_x": "column 'x' has 1 infinite value (row 5)",
    "all_nan_y": "column 'y' is entirely missing",
    "all_nan_x": "column 'x' is entirely missing",
    "mixed_y": "response 'y' must be numeric, row 4 holds 'bad'",
    "datetime_x": "column 'x' is datetime",
    "y_1e300": "column 'y' holds values too large to be squared (up to 5e+300)",
    "y_1e-300": "column 'y' varies by 8e-300 only: values too small to be squared",
    "const_y": "response 'y' is constant",
    "const_x": "'x' is a linear combination of earlier columns",
    "dup_x": "'z' is a linear combination of earlier columns",
    "const_in_every_group": "'y' is constant within every level of 'g'",
    "one_group": "grouping column 'g' has 1 level",
    "unique_groups": "grouping column 'g' has as many levels (80) as rows",
    "group_is_response": "response 'y' cannot also be the grouping column",
    "too_many_re": "term (Intercept + x + z | g) has 30 random effects for 20 rows",
    "empty": "data has no rows",
    "one_row": "1 row for 3 fixed effects",
    "n_eq_p": "3 rows for 3 fixed effects",
    "n_lt_p": "2 rows for 3 fixed effects",
    "dup_names": "data has 2 columns named 'x'",
    "data_none": "got None",
    "data_list": "got list",
    "ragged_dict": "'x' has 79 rows, 'y' 80",
    "w_short": "weights has length 79, data has 80 rows",
    "w_nan": "weights has 1 missing value (row 79)",
    "w_neg": "weights must be >= 0; row 0 has -1",
    "w_inf": "weights has 1 infinite value (row 79)",
    "w_allzero": "all weights are zero",
    "f_unbalanced": "y ~ x + (1 | g\n            ^",
    "f_no_group": "no grouping column after '|' in (1|)",
    "f_double_op": "y ~ x + * z + (1 | g)\n            ^",
    "f_nul": "invalid character '\\x00' at position 5",
    "f_code": "unknown function '__import__'",
    "f_log_negative": "log(x) is not finite in 39 rows (first: row 3)",
}


def fit(given: Given) -> hlm.Fit:
    return hlm.Model(given.formula, given.data, **given.options).fit()


def judge_message(case: str, text: str) -> None:
    wanted = CASES[case]
    assert any(part in text for part in wanted["message_names"]), text
    assert NAMES.get(case, "") in text


def judge_same(case: str, found: hlm.Fit, given: Given) -> None:
    assert given.same is not None, "accepted in silence"
    expected = fit(given.same)
    assert expected.covariances[next(iter(expected.covariances))].to_numpy().min() > 0.01, "groups must matter"
    assert found.nobs == expected.nobs
    assert found.criterion == pytest.approx(expected.criterion, rel=1e-10)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-7)
    np.testing.assert_allclose(found.sigma, expected.sigma, rtol=1e-7)
    left_out = len(given.data["y"]) - found.model.design.rows
    assert (left_out > 0) == (sum(found.model.design.dropped.values()) == left_out > 0)
    assert (f"; {left_out} dropped for" in str(found)) == (left_out > 0)


def test_every_input_has_a_builder() -> None:
    assert set(BUILDERS) == set(FITTED)
    assert set(NAMES) < set(FITTED)
    assert len(CASES) == 93


@pytest.mark.parametrize("case", FITTED)
def test_input(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given, expect = BUILDERS[case](), CASES[case]["expect"]
    before = given.data.copy(deep=True) if isinstance(given.data, pd.DataFrame) else None
    if expect == "diagnose" and case in ("const_x", "dup_x"):
        with pytest.warns(hlm.RankDeficientWarning) as caught:
            found = fit(given)
        judge_message(case, str(caught[0].message))
        assert f"aliased with earlier columns, not estimated: {found.aliased[0]}" in str(found)
        assert np.isnan(found.params[found.aliased[0]])
    elif expect.startswith("same"):
        try:
            found = fit(given)
        except hlm.HLMError as error:
            assert expect == "same|error"
            judge_message(case, str(error))
        else:
            judge_same(case, found, given)
    else:
        with pytest.raises(hlm.HLMError) as caught_error:
            fit(given)
        assert expect == "diagnose" or isinstance(caught_error.value, (ValueError, TypeError))
        judge_message(case, str(caught_error.value))
    if before is not None:
        # a copy of a big-endian column is little-endian
        pd.testing.assert_frame_equal(given.data, before, check_dtype=case != "bigendian")
    assert list(tmp_path.iterdir()) == []  # no code of a formula was run


# ---- prediction ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> hlm.Fit:
    return hlm.Model(FORMULA, clean()).fit()


def test_p_new_level(fitted: hlm.Fit) -> None:
    new = clean().head(3).assign(g=["a", "new", "b"])
    with pytest.raises(hlm.DataError, match=r"level 'new' of 'g' \(row 1\) was not in the fit"):
        fitted.predict(new)
    chosen = fitted.predict(new, new_levels="population")
    assert chosen[1] == fitted.predict(new, effects="population")[1]
    assert chosen[0] == fitted.predict(clean())[0]


@pytest.mark.parametrize("column", ["z", "g"])
def test_p_missing_column(fitted: hlm.Fit, column: str) -> None:
    new = clean().drop(columns=column)
    with pytest.raises(hlm.DataError, match=f"new data lacks column '{column}'"):
        fitted.predict(new)
    if column == "g":
        pd.testing.assert_series_equal(
            fitted.predict(new, effects="population"), fitted.predict(effects="population"), check_names=False
        )


def test_p_nan(fitted: hlm.Fit) -> None:
    new = clean()
    new.loc[5, "x"] = np.nan
    found = fitted.predict(new)
    assert found.isna().tolist() == [row == 5 for row in range(80)]


def test_p_empty_subset_and_order(fitted: hlm.Fit) -> None:
    full = fitted.predict(clean())
    assert len(fitted.predict(clean().head(0))) == 0
    subset = clean()[clean()["g"] == "c"]
    assert fitted.predict(subset).tolist() == full[subset.index].tolist()
    assert fitted.predict(clean()[["g", "z", "y", "x"]]).tolist() == full.tolist()


def test_p_str_x(fitted: hlm.Fit) -> None:
    with pytest.raises(hlm.DataTypeError, match="column 'x' must be numeric, got strings"):
        fitted.predict(clean().astype({"x": str}))


# ---- told in words ---------------------------------------------------------------------------------------------------


def test_categories_at_predict_go_by_label() -> None:
    """Reordered, unused or fewer categories give the same numbers; unseen ones are named."""
    frame = clean().assign(kind=pd.Categorical(np.resize(["u", "v", "w"], 80)))
    found = hlm.Model("y ~ x + kind + (1 | g)", frame).fit()
    expected = found.predict(frame)
    for categories in (["w", "v", "u"], ["q", "v", "w", "u"]):
        new = frame.assign(kind=frame["kind"].cat.set_categories(categories), g=frame["g"].astype("category"))
        assert found.predict(new).tolist() == expected.tolist()
    assert found.predict(frame.assign(kind=frame["kind"].astype(str)).iloc[[4]]).tolist() == [expected[4]]
    with pytest.raises(hlm.DataError, match=r"column 'kind' holds 'q' \(row 2\), which is none of its categories: 'u'"):
        found.predict(frame.head(5).assign(kind=["u", "v", "q", "u", "q"]))


def test_labels_that_look_like_something_else() -> None:
    """Categories called NaN, Intercept, None or "" are categories; a column called Intercept is told apart."""
    names = ["NaN", "Intercept", "None", ""]
    frame = clean().assign(kind=np.resize(names, 80), plain=np.resize(list("badc"), 80))
    found = hlm.Model("y ~ x + kind + (1 | g)", frame).fit()
    assert found.nobs == 80
    assert sorted(name for name in found.params.index if name.startswith("kind")) == [
        "kind[T.Intercept]",
        "kind[T.NaN]",
        "kind[T.None]",
    ]
    frame["g"] = frame["g"].map(dict(zip("abcdefgh", [*names, "nan", "NA", "<NA>", "null"], strict=True)))
    relabelled = hlm.Model("y ~ x + z + (1 | g)", frame).fit()
    assert relabelled.criterion == hlm.Model(FORMULA, clean()).fit().criterion
    assert set(relabelled.random_effects["g"].index) >= set(names)
    with pytest.raises(hlm.DataError, match="two columns of the model would be named 'Intercept'"):
        hlm.Model("y ~ Intercept + (1 | g)", clean().rename(columns={"x": "Intercept"}))


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ " + "(" * 500 + "x" + ")" * 500 + " + (1 | g)",
        "y ~ I(" + "(" * 500 + "x" + ")" * 500 + ") + (1 | g)",
        "y ~ " + "(" * 500,
        "y ~ x + (1 | " + "(" * 500 + "g" + ")" * 500 + ")",
        "y ~ " + "-" * 5000 + "x",
        "y ~ " + "log(" * 500 + "x" + ")" * 500,
        "y ~ x" + "^9" * 5000,
        "y ~ " + "x:" * 100_000 + "x",
    ],
    ids=range(8),
)
def test_formulas_of_great_depth_end_in_an_error_or_a_fit(formula: str) -> None:
    try:
        model = hlm.Model(formula, clean())
    except hlm.FormulaError as error:
        place = error.position
        assert place is not None
    else:
        assert model.design.nobs == 80


def test_many_levels_and_one_giant_group() -> None:
    """70,000 levels of a grouping column (beyond 16 bits); a million rows, 999,000 of them in one group."""
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(70_000), 2)
    y = rng.normal(size=70_000)[codes] + rng.normal(size=140_000)
    found = hlm.Model("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": codes.astype(str)})).fit()
    # balanced one-way layout: sums of squares are the answer
    means = y.reshape(-1, 2).mean(axis=1)
    within = ((y - np.repeat(means, 2)) ** 2).sum() / 70_000
    assert found.sigma**2 == pytest.approx(within, rel=1e-7)
    assert found.covariances["g"].iloc[0, 0] == pytest.approx(means.var(ddof=1) - within / 2, rel=1e-6)

    codes = np.r_[np.zeros(999_000, dtype=int), 1 + np.arange(1000) // 10]
    y = rng.normal(size=101)[codes] + rng.normal(size=1_000_000)
    found = hlm.Model.from_arrays(y, np.ones((1_000_000, 1)), hlm.Random(codes)).fit()
    assert found.converged
    assert found.sigma == pytest.approx(1, abs=0.01)
    assert found.random_effects["g"].loc[0].item() == pytest.approx(y[:999_000].mean() - found.params.iloc[0], rel=1e-3)


def test_as_many_categories_as_rows_allow_no_fit() -> None:
    with pytest.raises(hlm.DataError, match="80 rows for 80 fixed effects leave no residual degrees of freedom"):
        hlm.Model("y ~ id + (1 | g)", clean().assign(id=[f"id{k}" for k in range(80)]))


@pytest.mark.parametrize(
    ("formula", "columns", "message"),
    [
        ("y ~ x + (1 + c | g)", {}, r"term \(Intercept \+ c \| g\): random column 'c' is a linear combination of 'Int"),
        ("y ~ x + (0 + c | g)", {"c": 0.0}, r"term \(c \| g\): random column 'c' is zero in every row"),
        ("y ~ x + (1 + x + c | g)", {"c": clean()["x"] * 3 - 1}, "'c' is a linear combination of 'Intercept', 'x'"),
        ("y ~ x + (1 + c || g)", {}, "'c' is a multiple of 'Intercept', and both vary over 'g'"),
        ("y ~ x + (1 | g) + (1 | h)", {"h": clean()["g"].str.upper()}, "'g' and 'h' group the rows alike"),
    ],
)
def test_random_effects_that_cannot_be_told_apart(formula: str, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(hlm.DesignError, match=message):
        hlm.Model(formula, clean().assign(**{"c": 3.0} | columns))


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-9])
def test_nearly_dependent_random_columns_are_not_refused(noise: float) -> None:
    """Only what rounding explains counts as dependent; dummies of all categories beside no intercept do not."""
    rng = np.random.default_rng(0)
    frame = clean().assign(c=lambda f: f["x"] + noise * rng.normal(size=80), d=1e6 + np.arange(80))
    for formula in ("y ~ x + (1 + x + c | g)", "y ~ x + (1 + x + c || g)", "y ~ x + (1 + d | g)"):
        assert hlm.Model(formula, frame).design.nobs == 80


def test_columns_too_small_to_be_squared_are_not_taken_for_constants() -> None:
    frame = clean()
    for scale in (1e-200, 1e-320):
        with pytest.raises(hlm.DataError, match=r"column 'x' varies by .* only: values too small to be squared"):
            hlm.Model(FORMULA, frame.assign(x=frame["x"] * scale)).fit()
    with pytest.raises(hlm.DataError, match=r"column 'x' is 5e-324 in every row: values too small to be squared"):
        hlm.Model(FORMULA, frame.assign(x=5e-324)).fit()
    small = hlm.Model(FORMULA, frame.assign(x=frame["x"] * 1e-140, y=frame["y"] * 1e-140)).fit()
    assert small.params["x"] == pytest.approx(hlm.Model(FORMULA, frame).fit().params["x"], rel=1e-9)


def test_columns_named_by_numbers() -> None:
    frame = clean().rename(columns={"x": 0, "z": 1})
    found = hlm.Model("y ~ `0` + `1` + (1 | g)", frame).fit()
    assert found.criterion == hlm.Model(FORMULA, clean()).fit().criterion
    np.testing.assert_allclose(found.predict(frame), found.fittedvalues)
    assert hlm.Model("y ~ `0` + `1` + (1 | g)", dict(frame.items())).fit().criterion == found.criterion
    assert list(frame.columns) == [0, 1, "g", "y"]
    with pytest.raises(hlm.DataError, match=r"formula names '2', which is not a column \(columns: 0, 1, g, y\)"):
        hlm.Model("y ~ `2` + (1 | g)", frame)


def test_arguments_of_the_wrong_kind_are_named(fitted: hlm.Fit) -> None:
    for alpha in ("a", None, [0.1]):
        with pytest.raises(hlm.DataTypeError, match="alpha must be a number"):
            fitted.conf_int(alpha)  # type: ignore[arg-type]
    for alpha in (0, 1, -0.1, 5, np.nan):
        with pytest.raises(hlm.DataError, match="alpha must be between 0 and 1"):
            fitted.conf_int(alpha)
    for name in ("reml", "accelerate"):
        with pytest.raises(hlm.DataTypeError, match=f"{name} must be True or False, got 'no'"):
            fitted.model.fit(**{name: "no"})
    assert fitted.model.fit(reml=np.bool_(False)).reml is False


def test_saved_results_that_were_cut_or_altered_raise() -> None:
    model = hlm.Model("y ~ scale(x) + z + (1 | g)", clean().assign(z=pd.Categorical(np.arange(80) % 3)))
    found = model.fit()
    assert set(vars(found)) == {*saved.KEPT, "_criterion", "_lock"}, "what a Fit has must be saved"
    stored = pickle.dumps(found)
    again = pickle.loads(stored)
    assert again.criterion == found.criterion
    assert str(again) == str(found)
    for length in [*range(0, len(stored), 97), len(stored) - 1]:
        with pytest.raises(Exception):  # noqa: B017, PT011  # pickle's own, of many kinds
            pickle.loads(stored[:length])
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(stored), 400):
        altered = bytearray(stored)
        altered[place] ^= 1 << rng.integers(8)
        try:
            again = pickle.loads(altered)
        except Exception:
            continue
        # what pickle does not need: sizes of its frames, where it remembers what
        assert str(again) == str(found)
        assert again.predict().equals(found.predict())


def test_a_saved_fit_of_another_make_is_refused(fitted: hlm.Fit) -> None:
    state = fitted.__getstate__()
    for key in state:
        with pytest.raises(hlm.DataError, match="saved Fit"):
            hlm.Fit.__new__(hlm.Fit).__setstate__({k: v for k, v in state.items() if k != key})
        with pytest.raises(hlm.DataError, match="saved Fit"):
            hlm.Fit.__new__(hlm.Fit).__setstate__({**state, key: "altered"})
    with pytest.raises(hlm.DataError, match="saved Fit"):
        hlm.Fit.__new__(hlm.Fit).__setstate__([])


def test_labels_that_cannot_be_labels_are_named(fitted: hlm.Fit) -> None:
    lists = [[k // 10] for k in range(80)]
    with pytest.raises(hlm.DataTypeError, match="grouping column 'g' holds what cannot be a label"):
        hlm.Model(FORMULA, clean().assign(g=lists))
    with pytest.raises(hlm.DataTypeError, match="grouping column 'g'"):
        fitted.predict(clean().assign(g=lists))


def test_labels_beyond_the_integers_of_a_float_match_no_other_group() -> None:
    frame = clean().assign(g=2**53 + np.repeat(np.arange(8), 10))
    found = hlm.Model(FORMULA, frame).fit()
    for same in ("Int64", "uint64", object):
        assert found.predict(frame.astype({"g": same})).tolist() == found.fittedvalues.tolist()
    with pytest.raises(hlm.DataError, match=r"level 9007199254740992.0 of 'g' \(row 0\) was not in the fit"):
        found.predict(frame.astype({"g": float}))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit.predict(effects=None), "effects must be 'all', 'population' or names"),
        (lambda fit: fit.predict({"x": {0: 1.0}, "z": [1.0], "g": ["a"]}), "column 'x' must be a sequence"),
        (lambda fit: hlm.Random(np.arange(3), name=None), "name of a Random must be a string, got None"),
        (lambda fit: hlm.Random(np.arange(3), correlated="no"), "correlated must be True or False, got 'no'"),
        (lambda fit: hlm.Model.from_arrays([1.0], [[1.0]], None), "random must be a list of hlm.Random objects"),
        (lambda fit: hlm.Model.from_arrays([1.0], [[1.0]], [3]), "random must hold hlm.Random objects, got int"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(fitted: hlm.Fit, call: Any, message: str) -> None:
    with pytest.raises(hlm.DataTypeError, match=message):
        call(fitted)


def test_big_endian_and_half_precision_columns_are_read_wherever_they_stand() -> None:
    """pandas neither sorts nor takes rows of such columns itself."""
    frame = clean().assign(g=np.repeat(np.arange(8.0), 10), k=np.arange(80) % 3)
    frame.loc[[3, 9], "x"] = np.nan
    formula = "y ~ x + C(k) + (z | g)"
    expected = hlm.Model(formula, frame).fit()
    for sort in (">f8", "float16", "longdouble"):
        odd = frame.assign(**{name: frame[name].to_numpy().astype(sort) for name in "gk"})
        odd["x"] = frame["x"].to_numpy().astype(">f8")
        found = hlm.Model(formula, odd).fit()
        assert found.criterion == expected.criterion
        np.testing.assert_array_equal(found.predict(odd), expected.fittedvalues)
        arrays = hlm.Model.from_arrays(frame["y"], np.ones((80, 1)), hlm.Random(odd["g"].to_numpy())).fit()
        assert arrays.random_effects["g"].index.tolist() == list(range(8))


def test_labels_that_cannot_be_sorted_stay_apart() -> None:
    """Tuples of any length, text and numbers: labels are hashed, and stand in order of appearance if they have none."""
    labels = np.empty(8, dtype=object)
    labels[:] = [(1, 2), (), "a", 3, (1,), frozenset("a"), b"a", (1, "a")]
    frame = clean().assign(g=np.repeat(labels, 10), h=np.resize(labels[:2], 80))
    found = hlm.Model(FORMULA, frame).fit()
    assert found.criterion == hlm.Model(FORMULA, clean()).fit().criterion
    assert found.random_effects["g"].index.tolist() == labels.tolist()
    assert found.predict(frame).tolist() == found.fittedvalues.tolist()
    nested = hlm.Model("y ~ x + (1 | g/h)", frame).fit()
    assert nested.predict(frame).tolist() == nested.fittedvalues.tolist()
    with pytest.raises(hlm.DataTypeError, match="column 'k' holds what cannot be a category"):
        hlm.Model("y ~ C(k) + (1 | g)", frame.assign(k=[[1]] * 80))
