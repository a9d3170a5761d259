"""Information criteria, explained variance and intraclass correlations against R, dense algebra and simulation."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hlm

from ..dense import make_case, structure
from ..reference import frame, model

VALUES = json.loads((Path(__file__).parents[1] / "data" / "comparison.json").read_text())
PERFORMANCE = [(d, i) for d, e in VALUES.items() for i, m in e.get("models", {}).items() if "performance" in m]


@pytest.mark.parametrize(("dataset", "id"), PERFORMANCE)
def test_icc_and_nakagawa_against_r(dataset: str, id: str) -> None:
    result, reference = model(dataset, id).result, VALUES[dataset]["models"][id]["performance"]
    fit = hlm.Model(result["formula"], frame(dataset)).fit()
    found = fit.r_squared()
    # variances are good to 1e-5 where R's theta is (tests/test_reference.py)
    assert found["marginal"] == pytest.approx(reference["r2_marginal"], rel=2e-5, abs=1e-12)
    assert found["conditional"] == pytest.approx(reference["r2_conditional"], rel=2e-5)
    table = fit.icc()
    assert table["share"].sum() == pytest.approx(reference["icc_adjusted"], rel=2e-5)
    assert (table["lower"] < table["icc"]).all()
    assert (table["icc"] < table["upper"]).all()
    if len(table) == 1:
        assert table["icc"].iloc[0] == pytest.approx(reference["icc_adjusted"], rel=2e-5)


@pytest.mark.parametrize("name", ["slope", "two nested", "crossed slopes", "no fixed part"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_effective_df_are_the_trace_of_the_hat_matrix(name: str, reml: bool) -> None:
    case = structure(name, seed=2)
    fit = case.model().fit(reml=reml)
    inverse = np.linalg.inv(case.covariance(fit.theta.to_numpy()))
    VX = inverse @ case.X
    P = inverse - (VX @ np.linalg.solve(case.X.T @ VX, VX.T) if case.X.shape[1] else 0)
    found = fit.conditional_aic
    assert found.df == pytest.approx(len(P) - np.trace(P), rel=1e-6)
    n = len(case.y)
    e = P @ case.y
    expected = n * np.log(2 * np.pi * fit.sigma**2) + e @ e / fit.sigma**2
    assert found.deviance == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["slope", "two nested", "two crossed"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_estimated_df_are_what_predictions_move_with_responses(name: str, reml: bool) -> None:
    """tr(∂ŷ/∂y) by refitting with each response moved a little."""
    case = structure(name, seed=3)
    fit = case.model().fit(reml=reml)
    step = 1e-4 * fit.sigma
    trace = 0.0
    for i in range(len(case.y)):
        change = step * (np.arange(len(case.y)) == i)
        above, below = fit.refit(case.y + change), fit.refit(case.y - change)
        trace += (above.fittedvalues[i] - below.fittedvalues[i]) / (2 * step)
    # θ is good to about 1e-8 at each refit, so a difference over 1e-4 is good to 1e-4 or so for each row
    assert fit.conditional_aic.estimated_df == pytest.approx(trace, rel=1e-3)
    assert fit.conditional_aic.estimated_df > fit.conditional_aic.df


def test_without_random_effects_the_df_are_those_of_ols() -> None:
    data = hlm.datasets.load("sleepstudy")
    found = hlm.Model("Reaction ~ Days", data).fit(reml=False).conditional_aic
    assert found.df == found.estimated_df == 2
    # Sugiura's (1978) AICc for 3 parameters
    assert found.vaida_blanchard == pytest.approx(found.deviance + 2 * 3 * 180 / (180 - 3 - 1), abs=1e-9)


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_penalty_by_simulation(reml: bool) -> None:
    """With D known the penalty is exact: what -2 log f of new rows of the same groups has more than that of the old."""
    rng = np.random.default_rng(1)
    case = make_case([1], 2, seed=1, tops=6, most=2)
    n, p = case.X.shape
    theta = np.array([0.8])
    V = case.covariance(theta)
    inverse = np.linalg.inv(V)
    VX = inverse @ case.X
    P = inverse - VX @ np.linalg.solve(case.X.T @ VX, VX.T)
    rho = n - np.trace(P)
    count = 40_000
    u = theta[0] * rng.normal(size=(count, case.codes[0].max() + 1))
    mean = (case.Z[0][:, 0] * u[:, case.codes[0]]).reshape(count, n)
    y, new = (mean + rng.normal(size=(count, n)) for _ in range(2))
    e = y @ P
    s2 = (y * e).sum(axis=1) / (n - p if reml else n)
    gap = (((new - y + e) ** 2).sum(axis=1) - (e * e).sum(axis=1)) / s2
    penalty = 2 * ((n - p - 1) * (rho + 1) + p + 1) / (n - p - 2) * (1 if reml else n / (n - p))
    assert gap.mean() == pytest.approx(penalty, abs=4 * gap.std() / np.sqrt(count))


def test_rights_and_sterba_add_up() -> None:
    data = hlm.datasets.load("hsb")
    fit = hlm.Model("mathach ~ cses * (meanses + sector) + (cses | school)", data).fit()
    found = fit.r_squared("rights-sterba")
    assert found["total f1"] + found["total f2"] == pytest.approx(found["total f"])
    eta = fit.predict(effects="population")
    means = eta.groupby(data["school"]).transform("mean")
    Z = np.column_stack([np.ones(len(data)), data["cses"]])
    T = fit.covariances["school"].to_numpy()
    within = ((eta - means) ** 2).mean()
    slopes = T[1, 1] * data["cses"].groupby(data["school"]).transform(lambda x: x - x.mean()).var(ddof=0)
    total = eta.var(ddof=0) + np.mean(np.einsum("ni,ij,nj->n", Z, T, Z)) + fit.sigma**2
    assert found["total f1"] == pytest.approx(within / total)
    assert found["total v"] == pytest.approx(slopes / total)
    assert found["total fvm"] == pytest.approx(1 - fit.sigma**2 / total)
    assert found["within f1v"] == pytest.approx((within + slopes) / (within + slopes + fit.sigma**2))
    nakagawa = fit.r_squared()  # the same parts, but for the divisor n - 1
    assert found["total f"] == pytest.approx(nakagawa["marginal"], rel=1e-3)


def test_reductions_against_a_base() -> None:
    data = hlm.datasets.load("hsb")
    null = hlm.Model("mathach ~ 1 + (1 | school)", data).fit()
    fit = hlm.Model("mathach ~ cses + meanses + (1 | school)", data).fit()
    tau0, tau = (f.covariances["school"].iloc[0, 0] for f in (null, fit))
    bryk = fit.r_squared("raudenbush-bryk", base=null)
    assert bryk["residual"] == pytest.approx(1 - fit.sigma**2 / null.sigma**2)
    assert bryk["Intercept | school"] == pytest.approx(1 - tau / tau0)
    sizes = data.groupby("school").size()
    n = len(sizes) / (1 / sizes).sum()
    snijders = fit.r_squared("snijders-bosker", base=null)
    assert snijders["level 1"] == pytest.approx(1 - (tau + fit.sigma**2) / (tau0 + null.sigma**2))
    assert snijders["school"] == pytest.approx(1 - (tau + fit.sigma**2 / n) / (tau0 + null.sigma**2 / n))


def test_icc_of_nested_levels_and_its_error() -> None:
    data = frame("Oxide")
    fit = hlm.Model("Thickness ~ 1 + (1 | Lot/Wafer)", data).fit()
    table = fit.icc()
    lot, wafer = (fit.covariances[name].iloc[0, 0] for name in ("Lot", "Lot:Wafer"))
    total = lot + wafer + fit.sigma**2
    assert table.loc["Lot", "icc"] == pytest.approx(lot / total)
    assert table.loc["Lot:Wafer", "icc"] == pytest.approx((lot + wafer) / total)
    assert table.loc["Lot", "design_effect"] == pytest.approx(1 + 8 * lot / total)
    covariance = fit.information().covariance.to_numpy()
    values = fit.information().values.to_numpy()
    gradient = np.zeros(3)
    for a in range(3):
        step = 1e-5 * values * (np.arange(3) == a)
        up, down = values + step, values - step
        place = next(i for i, name in enumerate(fit.information().values.index) if name[0] == "Lot")
        gradient[a] = (up[place] / up.sum() - down[place] / down.sum()) / (2 * step[a])
    assert table.loc["Lot", "se"] == pytest.approx(np.sqrt(gradient @ covariance @ gradient), rel=1e-6)


def test_icc_on_the_boundary() -> None:
    fit = hlm.Model("Yield ~ 1 + (1 | Batch)", frame("Dyestuff2")).fit()
    row = fit.icc().loc["Batch"]
    assert row["icc"] == row["lower"] == 0
    theta = np.sqrt(row["upper"] / (1 - row["upper"])) / fit._problem.maps[0][0, 0]
    rise = fit._problem.criterion(True).value(np.array([theta])) - fit.criterion
    assert rise == pytest.approx(1.959964**2, abs=1e-5)


def test_refused() -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit()
    with pytest.raises(hlm.DataError, match="method"):
        fit.r_squared("adjusted")
    with pytest.raises(hlm.DataTypeError, match="base"):
        fit.r_squared("raudenbush-bryk")
    with pytest.raises(hlm.DataError, match="other rows"):
        fit.r_squared("raudenbush-bryk", base=hlm.Model("Reaction ~ Days", data.iloc[1:]).fit())
    with pytest.raises(hlm.DesignError, match="without groups"):
        hlm.Model("Reaction ~ Days", data).fit().icc()
    crossed = pd.DataFrame({"y": data["Reaction"], "a": np.arange(180) % 7, "b": np.arange(180) % 11})
    with pytest.raises(hlm.DesignError, match="choose a grouping factor"):
        hlm.Model("y ~ 1 + (1 | a) + (1 | b)", crossed).fit().r_squared("rights-sterba")
