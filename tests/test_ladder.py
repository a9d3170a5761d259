"""The ladder against the same models fitted one by one from formulas."""

import numpy as np
import pandas as pd
import pytest

import hlm

from .test_published import agrees

FULL = "mathach ~ cses * (meanses + sector) + (cses | school)"
STEPS = {
    "null": "mathach ~ 1 + (1 | school)",
    "random intercept": "mathach ~ cses + (1 | school)",
    "random coefficients": "mathach ~ cses + (cses | school)",
    "means as outcomes": "mathach ~ cses + meanses + sector + (cses | school)",
    "full": FULL,
}


@pytest.fixture(scope="module")
def ladder(hsb: pd.DataFrame) -> hlm.ladder.Ladder:
    return hlm.Model(FULL, hsb).ladder()


def test_steps(hsb: pd.DataFrame, ladder: hlm.ladder.Ladder) -> None:
    assert list(ladder.fits) == list(STEPS)
    singles = {step: hlm.Model(formula, hsb) for step, formula in STEPS.items()}
    before = None
    for step, model in singles.items():
        fit, ml = model.fit(), model.fit(reml=False)
        assert ladder.fits[step].criterion == fit.criterion
        assert ladder.table.loc[step, "criterion"] == fit.criterion
        assert ladder.table.loc[step, "-2 log-likelihood (ML)"] == ml.criterion
        T = fit.covariances["school"]
        assert ladder.variances.loc[step, "level 1"] == fit.sigma**2
        assert ladder.variances.loc[step, "school: Intercept"] == T.loc["Intercept", "Intercept"]
        new = hsb.iloc[[5, 3000]].drop(columns="mathach")
        assert np.array_equal(ladder.fits[step].predict(new), fit.predict(new))
        assert hlm.Model(str(ladder.fits[step].model.formula), hsb).fit().criterion == fit.criterion
        if before is not None:
            # only the third step adds nothing but variances, which REML can test
            pair = (before[0], fit) if step == "random coefficients" else (before[1], ml)
            test = hlm.compare(*pair)
            row = ladder.table.loc[step]
            assert (row["statistic"], row["df"], row["p"]) == (test.statistic, test.df, test.pvalue)
            assert row["statistic"] == pytest.approx(pair[0].criterion - pair[1].criterion, rel=1e-9)
        before = (fit, ml)
    assert ladder.table.loc["random coefficients", "null distribution"] == "0.5·χ²(1) + 0.5·χ²(2)"
    # published.json: lme4's refits of the textbook's models
    for step, printed in (("null", "47116.79"), ("random coefficients", "46714.2"), ("full", "46503.67")):
        assert agrees(ladder.table.loc[step, "criterion"], printed)


def test_proportions_explained(ladder: hlm.ladder.Ladder) -> None:
    """Raudenbush and Bryk's (τ(base) - τ(model)) / τ(base)."""
    v = ladder.variances
    null, coefficients, full = v.loc["null"], v.loc["random coefficients"], v.loc["full"]
    explained = ladder.explained
    name = "school: Intercept"
    assert explained.loc["full", name] == pytest.approx((null[name] - full[name]) / null[name], rel=1e-12)
    name = "school: cses"
    assert explained.loc["full", name] == pytest.approx(
        (coefficients[name] - full[name]) / coefficients[name], rel=1e-12
    )
    assert np.isnan(explained.loc["null", name])
    since = ladder.explained_since("random coefficients").loc["full", "school: Intercept"]
    assert since == pytest.approx(1 - full["school: Intercept"] / coefficients["school: Intercept"], rel=1e-12)
    assert "Proportion explained" in str(ladder)
    assert "<h4>Variances</h4>" in ladder._repr_html_()


def test_every_door_has_the_ladder(hsb: pd.DataFrame, ladder: hlm.ladder.Ladder) -> None:
    model = hlm.Model(FULL, hsb)
    again = hlm.Model.from_equations(model.equations(), hsb).ladder()
    assert again.table.equals(ladder.table)
    design = model.design
    random = hlm.Random(hsb["school"], design.Z("school"), name="school", effects=["Intercept", "cses"])
    arrays = hlm.Model.from_arrays(design.y, design.X, [random], names=list(design.names)).ladder()
    assert arrays.table.equals(ladder.table)


def test_three_levels_by_maximum_likelihood() -> None:
    rng = np.random.default_rng(6)
    school, x = np.arange(900) % 90, rng.normal(size=900)
    district = school % 15
    z, w = rng.normal(size=90)[school], rng.normal(size=15)[district]
    y = z + w + x * (1 + w + rng.normal(size=90)[school]) + rng.normal(size=90)[school] + rng.normal(size=15)[district]
    frame = pd.DataFrame(
        {"y": y + rng.normal(size=900), "x": x, "z": z, "w": w, "school": school, "district": district}
    )
    model = hlm.Model("y ~ x * w + z + (x | school) + (x | district)", frame)
    ladder = model.ladder(reml=False)
    assert [str(fit.model.formula) for fit in ladder.fits.values()] == [
        "y ~ 1 + (1 | school) + (1 | district)",
        "y ~ 1 + x + (1 | school) + (1 | district)",
        "y ~ 1 + x + (1 + x | school) + (1 + x | district)",
        "y ~ 1 + x + w + z + (1 + x | school) + (1 + x | district)",
        "y ~ 1 + x + w + z + x:w + (1 + x | school) + (1 + x | district)",
    ]
    assert ladder.fits["full"].criterion == pytest.approx(model.fit(reml=False).criterion, rel=1e-12)
    assert (ladder.table["criterion"] == ladder.table["-2 log-likelihood (ML)"]).all()
    assert list(ladder.variances.columns) == [
        "level 1",
        "school: Intercept",
        "school: x",
        "district: Intercept",
        "district: x",
    ]


def test_steps_that_add_nothing_are_left_out(hsb: pd.DataFrame) -> None:
    assert list(hlm.Model("mathach ~ meanses + (1 | school)", hsb).ladder().fits) == ["null", "means as outcomes"]
    assert list(hlm.Model("mathach ~ cses + (0 + cses | school)", hsb).ladder().fits) == [
        "null",
        "random intercept",
        "random coefficients",
    ]
    assert list(hlm.Model("mathach ~ 1 + (1 | school)", hsb).ladder().fits) == ["null"]


def test_new_rows_of_a_step_are_read_as_those_of_the_whole_model(hsb: pd.DataFrame) -> None:
    formula = "scale(mathach) ~ cses * meanses + (cses | school)"
    step = hlm.Model(formula, hsb).ladder().fits["random intercept"]
    own = hlm.Model("scale(mathach) ~ cses + (1 | school)", hsb).fit()
    new = hsb[hsb["school"].isin(["1224", "1288"])].assign(school=lambda rows: "new " + rows["school"])
    pd.testing.assert_frame_equal(
        step.predict(new.drop(columns="school"), effects="population", interval="prediction"),
        own.predict(new.drop(columns="school"), effects="population", interval="prediction"),
    )
    scored, alone = (fit.score_groups(new)["school"] for fit in (step, own))
    pd.testing.assert_frame_equal(scored.effects, alone.effects)
