"""The textbook's special cases by name, and fixed intercepts absorbed instead of dummies."""

import pickle

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm import cases
from hlm.errors import DataError, DesignError, FormulaError

X, W = ["cses", "minority"], ["meanses", "sector"]
NAMED = {
    "one_way_anova": ((), "mathach ~ 1 + (1 | school)"),
    "means_as_outcomes": ((W,), "mathach ~ meanses + sector + (1 | school)"),
    "varying_intercept": ((X, W), "mathach ~ cses + minority + meanses + sector + (1 | school)"),
    "random_coefficients": ((X,), "mathach ~ cses + minority + (cses + minority | school)"),
    "intercepts_and_slopes_as_outcomes": (
        ("cses", W),
        "mathach ~ cses + meanses + sector + cses:meanses + cses:sector + (cses | school)",
    ),
    "varying_slopes": (("cses", W), "mathach ~ cses + meanses + sector + (0 + cses | school)"),
    "nonrandomly_varying_slopes": (
        ("cses", W),
        "mathach ~ cses + meanses + sector + cses:meanses + cses:sector + (1 | school)",
    ),
}


@pytest.mark.parametrize("name", list(NAMED))
def test_cases_are_their_formulas(hsb: pd.DataFrame, name: str) -> None:
    arguments, formula = NAMED[name]
    model, other = getattr(cases, name)(hsb, "mathach", "school", *arguments), hlm.Model(formula, hsb)
    assert model.design.names == other.design.names
    fit, expected = model.fit(), other.fit()
    assert fit.criterion == expected.criterion
    assert fit.params.equals(expected.params)
    # and by the equations that it prints
    again = hlm.Model.from_equations(model.equations(), hsb)
    assert again.equations() == model.equations()
    assert again.fit().criterion == fit.criterion


def test_units_in_a_table_of_their_own(hsb: pd.DataFrame) -> None:
    pupils, schools = hlm.datasets.load("hsb_pupils"), hlm.datasets.load("hsb_schools")
    model = cases.intercepts_and_slopes_as_outcomes(pupils, "mathach", "school", "cses", W, units=schools)
    joined = cases.intercepts_and_slopes_as_outcomes(hsb, "mathach", "school", "cses", W)
    assert model.fit().criterion == joined.fit().criterion


def test_without_random_effects(hsb: pd.DataFrame) -> None:
    """Least squares, by NumPy."""
    y = hsb["mathach"].to_numpy()
    for model, columns in (
        (cases.pooled_ols(hsb, "mathach", ["cses", "meanses"]), ["cses", "meanses"]),
        (cases.varying_intercept(hsb, "mathach", "school", "cses", "meanses", error=False), ["cses", "meanses"]),
    ):
        design = np.column_stack([np.ones(len(hsb)), hsb[columns]])
        expected, rss = np.linalg.lstsq(design, y, rcond=None)[:2]
        fit = model.fit()
        assert fit.params.to_numpy() == pytest.approx(expected, rel=1e-10)
        assert fit.sigma**2 == pytest.approx(float(rss[0]) / (len(y) - 3), rel=1e-10)


@pytest.mark.parametrize("weighting", [None, "weights", "frequencies"])
@pytest.mark.parametrize("reml", [True, False])
def test_absorbed_intercepts_are_those_of_dummies(hsb: pd.DataFrame, weighting: str | None, reml: bool) -> None:
    """The regression on J dummies is the independent computation; sums are added up in another order."""
    frame = hsb[hsb["school"].isin(hsb["school"].unique()[:25])].reset_index(drop=True)
    frame["w"] = np.arange(len(frame)) % 3 + 1
    options = {} if weighting is None else {weighting: "w"}
    fit = cases.ancova(frame, "mathach", "school", X, **options).fit(reml=reml)
    dummies = hlm.Model("mathach ~ 0 + school + cses + minority", frame, **options).fit(reml=reml)
    assert fit.criterion == pytest.approx(dummies.criterion, rel=1e-12)
    assert fit.sigma == pytest.approx(dummies.sigma, rel=1e-12)
    assert (fit.df_resid, fit.df_model, fit.aic) == (dummies.df_resid, dummies.df_model, pytest.approx(dummies.aic))
    assert fit.params.to_numpy() == pytest.approx(dummies.params[X].to_numpy(), rel=1e-10)
    assert fit.bse.to_numpy() == pytest.approx(dummies.bse[X].to_numpy(), rel=1e-10)
    intercepts = fit.group_intercepts()
    assert intercepts["estimate"].to_numpy() == pytest.approx(dummies.params[:25].to_numpy(), rel=1e-10)
    assert intercepts["std. error"].to_numpy() == pytest.approx(dummies.bse[:25].to_numpy(), rel=1e-10)
    assert fit.fittedvalues.to_numpy() == pytest.approx(dummies.fittedvalues.to_numpy(), rel=1e-10)
    assert fit.resid.to_numpy() == pytest.approx(dummies.resid.to_numpy(), abs=1e-10)
    new = frame.iloc[[3, 700, 40]].drop(columns="mathach")
    assert fit.predict(new).to_numpy() == pytest.approx(dummies.predict(new).to_numpy(), rel=1e-10)
    assert pickle.loads(pickle.dumps(fit)).criterion == fit.criterion


def test_absorbed_intercepts_by_equations(hsb: pd.DataFrame) -> None:
    text = "mathach = b0 + b1*cses\nb0 = fixed[school]"
    model = hlm.Model.from_equations(text, hsb)
    fit = model.fit()
    within = hsb[["mathach", "cses"]] - hsb.groupby("school")[["mathach", "cses"]].transform("mean")
    slope = (within["cses"] @ within["mathach"]) / (within["cses"] @ within["cses"])
    assert fit.params["cses"] == pytest.approx(slope, rel=1e-10)
    assert fit.df_resid == 7185 - 160 - 1
    assert "160 fixed intercepts of 'school' absorbed" in str(fit)
    assert hlm.Model.from_equations(model.equations(), hsb).fit().criterion == fit.criterion
    assert "β₀ⱼ = αⱼ" in model.equations("unicode")
    with pytest.raises(DataError, match="no intercept for school 'x'"):
        fit.predict({"school": ["x"], "cses": [0.0]})
    with pytest.raises(DesignError, match="has no ladder"):
        model.ladder()
    with pytest.raises(DesignError, match="takes no other response"):
        fit.refit(hsb["mathach"])
    with pytest.raises(DesignError, match="absorbs no intercepts"):
        hlm.Model("mathach ~ cses", hsb).fit().group_intercepts()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mathach = b0 + b1*meanses\nb0 = fixed[school]", "'meanses' is constant in every school"),
        ("mathach = b0 + b1*cses\nb0 = g00 + fixed[school]", "'g00' is an intercept beside"),
        ("mathach = b0 + b1*cses\nb0 = fixed[school]\nb1 = g10 + u1[school]", "random errors beside"),
        ("mathach = b0 + b1*cses\nb0 = g00\nb1 = fixed[school]", "stands for intercepts"),
    ],
)
def test_what_cannot_be_absorbed(hsb: pd.DataFrame, text: str, message: str) -> None:
    with pytest.raises((FormulaError, DesignError), match=message):
        hlm.Model.from_equations(text, hsb)
