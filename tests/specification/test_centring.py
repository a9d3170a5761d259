"""Deviations from means of groups, and the means: what they are, and what new rows get."""

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.errors import DataError, FormulaError

from .examples import build, matrix
from .test_equations import same


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    school = rng.permutation(np.repeat([f"s{k}" for k in range(12)], 15))
    x = rng.normal(size=180) + np.array([int(s[1:]) for s in school]) / 4
    y = x + 2 * pd.Series(x).groupby(school).transform("mean").to_numpy() + rng.normal(size=180)
    return pd.DataFrame({"school": school, "x": x, "z": rng.normal(size=180), "y": y})


def test_means_of_groups(frame: pd.DataFrame) -> None:
    means = frame.groupby("school")["x"].transform("mean")
    columns, _ = build("center(x, school) + mean(x, school) + I(center(x, school)^2) + center(mean(x, school))", frame)
    expected = [np.ones(180), frame["x"] - means, means, (frame["x"] - means) ** 2, means - means.mean()]
    # pandas adds up in another order
    assert matrix(columns) == pytest.approx(np.column_stack(expected), rel=1e-12, abs=1e-13)
    both, _ = build("within_between(x, school)", frame)
    assert both.names == ("Intercept", "center(x, school)", "mean(x, school)")
    assert np.array_equal(matrix(both), matrix(columns)[:, :3])


def test_means_of_the_fit_are_kept(frame: pd.DataFrame) -> None:
    _, encoder = build("center(x, school) + mean(x, school)", frame)
    means = frame.groupby("school")["x"].mean()
    new = pd.DataFrame({"school": ["s3", "s1", "s3"], "x": [100.0, 5.0, 0.0]})
    expected = means[new["school"]].to_numpy()
    found = matrix(encoder.encode(new))
    assert found[:, 2] == pytest.approx(expected, rel=1e-12)
    assert found[:, 1] == pytest.approx(new["x"] - expected, rel=1e-12)


def test_a_new_group_has_the_mean_of_its_rows_or_as_declared(frame: pd.DataFrame) -> None:
    new = pd.DataFrame({"school": ["new", "s1", "new", "other", None], "x": [1.0, 2.0, 5.0, np.nan, 1.0]})
    known, grand = frame.loc[frame["school"] == "s1", "x"].mean(), frame["x"].mean()
    means = build("mean(x, school)", frame)[1].encode(new).values[1]
    assert means == pytest.approx([3.0, known, 3.0, grand, np.nan], rel=1e-12, nan_ok=True)
    means = build("mean(x, school, new = 'grand')", frame)[1].encode(new).values[1]
    assert means == pytest.approx([grand, known, grand, grand, np.nan], rel=1e-12, nan_ok=True)
    strict = build('center(x, school, new = "error")', frame)[1]
    with pytest.raises(DataError, match="has no mean for 'new', which was not in the fit") as caught:
        strict.encode(new)
    assert caught.value.group == "new"


def test_frequencies_count(frame: pd.DataFrame) -> None:
    frame["f"] = np.arange(180) % 3 + 1
    long = frame.loc[frame.index.repeat(frame["f"])].reset_index(drop=True)
    formula = "y ~ within_between(x, school) + (center(x, school) | school)"
    fit, other = hlm.Model(formula, frame, frequencies="f").fit(), hlm.Model(formula, long).fit()
    # the same sums in another order
    assert fit.criterion == pytest.approx(other.criterion, rel=1e-12)
    assert fit.params.to_numpy() == pytest.approx(other.params.to_numpy(), rel=1e-9)


def test_equations_know_centring(frame: pd.DataFrame) -> None:
    text = """
        y  = b0 + b1*center(x, school)
        b0 = g00 + g01*mean(x, school) + u0[school]
        b1 = g10 + g11*mean(x, school) + u1[school]
    """
    model = hlm.Model.from_equations(text, frame)
    same(model, hlm.Model("y ~ center(x, school) * mean(x, school) + (center(x, school) | school)", frame))
    assert model.equations().startswith("# level 1: rows\ny = b0 + b1*center(x, school) + e\n")
    assert dict(model.levels["level"]) == {"center(x, school)": 1, "mean(x, school)": 2}
    units = pd.DataFrame({"school": frame["school"].unique()})
    same(hlm.Model.from_equations(text, frame, school=units), model)
    fit = model.fit()
    new = pd.DataFrame({"school": ["t", "t"], "x": [1.0, 3.0]})
    g = fit.params
    expected = [
        g["Intercept"]
        + 2 * g["mean(x, school)"]
        + d * (g["center(x, school)"] + 2 * g["center(x, school):mean(x, school)"])
        for d in (-1, 1)
    ]
    assert fit.predict(new, new_levels="population").to_numpy() == pytest.approx(expected, rel=1e-12)


def test_within_and_between_effects_are_those_of_the_two_regressions(frame: pd.DataFrame) -> None:
    """Balanced groups: the within slope is that of the deviations, the between slope that of the means."""
    fit = hlm.Model("y ~ within_between(x, school) + (1 | school)", frame).fit()
    means = frame.groupby("school")[["x", "y"]].mean()
    within = frame[["x", "y"]] - frame.groupby("school")[["x", "y"]].transform("mean")
    slope = (within["x"] @ within["y"]) / (within["x"] @ within["x"])
    assert fit.params["center(x, school)"] == pytest.approx(slope, rel=1e-10)
    assert fit.params["mean(x, school)"] == pytest.approx(np.polyfit(means["x"], means["y"], 1)[0], rel=1e-10)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("mean(x)", "needs a grouping column"),
        ("within_between(x)", "needs a grouping column"),
        ("center(x, 3)", "'by' must be a grouping column"),
        ("center(x, school, 'often')", "'new' must be what a group"),
        ("log(within_between(x, school))", "only be a term of its own"),
        ("center(x, school, 'own', 1)", "too many arguments"),
    ],
)
def test_what_cannot_be_centred(frame: pd.DataFrame, term: str, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        build(term, frame)


def test_both_parts_are_not_of_one_level(frame: pd.DataFrame) -> None:
    with pytest.raises(FormulaError, match=r"line 1: write center\(x, school\) in the equation of level 1 and mean"):
        hlm.Model.from_equations("y = b0 + b1*within_between(x, school)\nb0 = g + u[school]", frame)
    with pytest.raises(DataError, match="formula names 'class', which is not a column"):
        hlm.Model("y ~ center(x, class)", frame)
