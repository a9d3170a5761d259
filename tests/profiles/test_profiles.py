"""Profile likelihood against R, dense algebra and its own definition; intervals of variances."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, norm

import hlm
from hlm.profiles.intervals import chosen, intervals
from hlm.profiles.parameters import parameters
from hlm.profiles.profile import Profile

from ..dense import EVERY, make_case, structure
from ..hard_cases import families
from ..reference import frame, model

VALUES = json.loads((Path(__file__).parents[1] / "data" / "comparison.json").read_text())
PROFILES = [(d, i) for d, e in VALUES.items() for i, m in e.get("models", {}).items() if "profile_ci95" in m]


def name_of(found: hlm.Fit, text: str) -> str:
    """R's name of a parameter as here."""
    if "|" not in text:
        return "Intercept" if text == "(Intercept)" else text
    kind, rest = text.split("_", 1)
    effects, group = rest.rsplit("|", 1)
    group = group if group in found.covariances else ":".join(reversed(group.split(":")))
    parts = [effect.replace("(Intercept)", "Intercept") for effect in effects.split(".")]
    return f"{kind}({', '.join(reversed(parts))} | {group})"


@pytest.mark.parametrize(("dataset", "id"), PROFILES)
def test_profile_intervals_against_r(dataset: str, id: str) -> None:
    result, reference = model(dataset, id).result, VALUES[dataset]["models"][id]["profile_ci95"]
    fit = hlm.Model(result["formula"], frame(dataset)).fit(reml=False)
    table = intervals(fit)
    assert (table["note"] == "").all()
    names = [name_of(fit, text) for text in reference["names"]]
    fixed = iter([str(name) for name in fit.params.index])
    names = [name if "|" in name or name == "sigma" else next(fixed) for name in names]
    for name, lower, upper in zip(names, reference["lower"], reference["upper"], strict=True):
        row = table.loc[name]
        if lower is None or upper is None:  # lme4's profile breaks off there
            continue
        # lme4 interpolates between points by splines: good to about 1e-4 of the width; 2e-3 where a limit is at zero
        width = upper - lower
        assert row["lower"] == pytest.approx(lower, abs=2e-3 * width), name
        assert row["upper"] == pytest.approx(upper, abs=2e-3 * width), name


@pytest.mark.parametrize(
    "name", [name for name in EVERY if name not in ("wide", "six nested", "four nested", "several tiles")]
)
def test_limits_are_where_the_deviance_has_risen(name: str) -> None:
    """At each limit inside of the range ζ is the quantile; for every parameter of every structure."""
    case = structure(name, seed=2)
    fit = case.model().fit(reml=False)
    for parameter in parameters(fit):
        if np.isnan(parameter.estimate):
            continue
        profile = Profile(fit, parameter)
        for target in (-1.3, 1.3):
            limit = profile.limit(target)
            assert not np.isnan(limit), profile.note
            if parameter.low < limit < parameter.high:
                assert profile.zeta(limit) == pytest.approx(target, abs=1e-5)
            elif not profile.note:  # else the branch of the estimate ends before
                assert abs(profile.zeta(limit)) <= abs(target)


def test_a_fixed_effect_is_held_by_an_offset() -> None:
    """The profile of γ_j at c is the criterion of the model of y - c x_j without x_j."""
    case = make_case([2], 3, seed=4, tops=15, most=5)
    fit = case.model().fit(reml=False)
    profile = Profile(fit, chosen(fit, "x1")[0])
    for value in (-1.0, 0.5, 3.0):
        case_without = hlm.Model.from_arrays(
            case.y - value * case.X[:, 1], case.X[:, [0, 2]], [hlm.Random(case.codes[0], case.Z[0])]
        ).fit(reml=False)
        assert profile.zeta(value) ** 2 + fit.criterion == pytest.approx(case_without.criterion, abs=1e-7)
    table = fit.conf_int(method="profile")
    assert (table["lower"] < fit.params).all()
    assert (fit.params < table["upper"]).all()
    limits = fit.profile("x1")
    assert limits["zeta"].is_monotonic_increasing
    np.testing.assert_allclose(limits["deviance"], fit.criterion + limits["zeta"] ** 2)


def test_balanced_one_way_layout_in_closed_form() -> None:
    """σ of a balanced layout with variance between: by REML its profile is that of the within mean square."""
    data = frame("Dyestuff")
    fit = hlm.Model("Yield ~ 1 + (1 | Batch)", data).fit()
    mean = data.groupby("Batch", observed=True)["Yield"].transform("mean")
    df, within = 24, ((data["Yield"] - mean) ** 2).sum()
    between = 5 * ((data.groupby("Batch", observed=True)["Yield"].mean() - data["Yield"].mean()) ** 2).sum()

    def deviance(sigma: float) -> float:
        # E of the between mean square is free above σ²
        lam = max(between / 5, sigma**2)
        return df * np.log(sigma**2) + within / sigma**2 + 5 * np.log(lam) + between / lam

    profile = Profile(fit, chosen(fit, "sigma")[0])
    for sigma in (35.0, 45.0, 60.0, 120.0):
        assert profile.zeta(sigma) ** 2 == pytest.approx(deviance(sigma) - deviance(fit.sigma), abs=1e-6)


def test_on_the_boundary_an_interval_starts_at_zero() -> None:
    fit = hlm.Model("Yield ~ 1 + (1 | Batch)", frame("Dyestuff2")).fit()
    row = fit.variance_table().loc["sd(Intercept | Batch)"]
    assert row["estimate"] == row["lower"] == 0
    assert np.isnan(row["se"])
    assert "boundary" in row["note"]
    profile = Profile(fit, chosen(fit, "sd(Intercept | Batch)")[0])
    assert profile.zeta(row["upper"]) == pytest.approx(norm.ppf(0.975), abs=1e-6)
    assert fit.profile("sd(Intercept | Batch)")["value"].min() == 0


def balanced(ratio: float) -> tuple[hlm.Fit, float, float]:
    """A balanced layout of 8 groups of 5 with that ratio of mean squares between and within; its sums of squares."""
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(8), 5)
    noise, means = rng.normal(size=40), rng.normal(size=8)
    noise -= (np.bincount(codes, noise) / 5)[codes]
    means -= means.mean()
    between = 7 * ratio * (noise @ noise) / 32
    y = noise + means[codes] * np.sqrt(between / (5 * means @ means))
    data = pd.DataFrame({"y": y, "g": codes})
    return hlm.Model("y ~ 1 + (1 | g)", data).fit(), between, float(noise @ noise)


def test_what_may_be_zero_has_an_interval_from_zero_on() -> None:
    """Not told from zero by the likelihood ratio: the profile in closed form (REML, balanced), for sd and ICC."""
    fit, between, within = balanced(1.9)

    def deviance(tau: float, sigma: float) -> float:
        lam = sigma**2 + 5 * tau**2
        return float(32 * np.log(sigma**2) + within / sigma**2 + 7 * np.log(lam) + between / lam)

    def profile_at(tau: float) -> float:
        found = minimize_scalar(lambda log: deviance(tau, np.exp(log)), bounds=(-3, 3), options={"xatol": 1e-9})
        return float(found.fun)

    least = deviance(np.sqrt(between / 35 - within / 160), np.sqrt(within / 32))
    goal = least + norm.ppf(0.975) ** 2
    assert profile_at(0.0) < goal
    row = fit.variance_table().loc["sd(Intercept | g)"]
    assert row["estimate"] > 0
    assert row["se"] > 0
    assert row["lower"] == 0
    assert "may be zero" in row["note"]
    assert profile_at(row["upper"]) == pytest.approx(goal, abs=1e-6)
    icc = fit.icc().loc["g"]
    assert icc["lower"] == 0

    def at_ratio(log: float) -> float:
        return deviance(np.sqrt(icc["upper"] / (1 - icc["upper"])) * np.exp(log), np.exp(log))

    assert minimize_scalar(at_ratio, bounds=(-3, 3), options={"xatol": 1e-9}).fun == pytest.approx(goal, abs=1e-6)
    far, between, within = balanced(4.0)
    least = deviance(np.sqrt(between / 35 - within / 160), np.sqrt(within / 32))
    assert profile_at(0.0) > least + norm.ppf(0.975) ** 2
    row = far.variance_table().loc["sd(Intercept | g)"]
    assert row["lower"] == pytest.approx(row["estimate"] * np.exp(-norm.ppf(0.975) * row["se"] / row["estimate"]))
    assert far.icc()["lower"].iloc[0] > 0


def test_correlation_with_what_may_be_zero_is_any() -> None:
    """The model without the slope is a point of every profile of the correlation."""
    data = hlm.datasets.load("sleepstudy").iloc[:80].copy()
    data["x"] = np.random.default_rng(2).normal(size=80)
    fit = hlm.Model("Reaction ~ Days + x + (x | Subject)", data).fit()
    without = hlm.Model("Reaction ~ Days + x + (1 | Subject)", data).fit()
    assert 0 < without.criterion - fit.criterion < norm.ppf(0.975) ** 2
    for method in ("wald", "profile"):
        table = fit.variance_table(method=method)
        assert table.loc["sd(x | Subject)", "lower"] == 0
        row = table.loc["cor(Intercept, x | Subject)"]
        assert -1 < row["estimate"] < 1
        assert row[["lower", "upper"]].tolist() == [-1, 1]
        assert method == "profile" or "any" in row["note"]


def test_wald_intervals_are_those_of_the_logarithm() -> None:
    """Standard errors of σ and sd in the balanced layout, in closed form (REML: mean squares are independent χ²)."""
    data = frame("Dyestuff")
    fit = hlm.Model("Yield ~ 1 + (1 | Batch)", data).fit()
    table = fit.variance_table(alpha=0.1)
    within, tau = fit.sigma**2, fit.covariances["Batch"].iloc[0, 0]
    between = within + 5 * tau
    variance_tau = (2 * between**2 / 5 + 2 * within**2 / 24) / 25
    assert table.loc["sigma", "se"] == pytest.approx(np.sqrt(2 * within**2 / 24) / (2 * fit.sigma), rel=1e-6)
    row = table.loc["sd(Intercept | Batch)"]
    assert row["se"] == pytest.approx(np.sqrt(variance_tau / tau) / 2, rel=1e-6)
    square = fit.variance_table(alpha=0.1, scale="variance").loc["var(Intercept | Batch)"]
    assert square["estimate"] == pytest.approx(tau)
    assert square["se"] == pytest.approx(np.sqrt(variance_tau), rel=1e-6)
    assert square["upper"] == pytest.approx(row["upper"] ** 2)
    half = norm.ppf(0.95) * row["se"] / row["estimate"]
    assert row["upper"] == pytest.approx(row["estimate"] * np.exp(half), rel=1e-9)


def test_correlation_and_its_standard_error() -> None:
    """The delta method by differences of the dense likelihood would be long: against the profile near its estimate."""
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit(reml=False)
    table = fit.variance_table()
    for name in ("cor(Intercept, Days | Subject)", "sd(Days | Subject)", "sigma"):
        profile = Profile(fit, chosen(fit, name)[0])
        estimate, se = table.loc[name, ["estimate", "se"]]
        step = 0.01 * se
        # the profile's second derivative at the estimate is that of the marginal information
        assert profile.zeta(estimate + step) == pytest.approx(step / se, rel=0.02)
        assert profile.zeta(estimate - step) == pytest.approx(-step / se, rel=0.02)


def test_perfect_correlation_has_no_standard_error() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        data = pd.DataFrame({"x": rng.normal(size=200), "g": np.arange(200) % 20})
        data["y"] = rng.normal(size=20)[data["g"]] * (1 + data["x"]) + 2 * rng.normal(size=200)
        fit = hlm.Model("y ~ x + (x | g)", data).fit()
        if fit.is_singular and fit.covariances["g"].iloc[0, 1] > 0.1:
            break
    row = fit.variance_table().loc["cor(Intercept, x | g)"]
    assert row["estimate"] == pytest.approx(1)
    assert row["upper"] == 1
    assert row["lower"] < 1
    assert np.isnan(row["se"])


def test_a_correlation_that_a_variance_near_zero_explains() -> None:
    """The branch of the estimate ends where quite other standard deviations are better; the note says so."""
    result = model("Orthodont", "rs_sex.ML").result
    fit = hlm.Model(result["formula"], frame("Orthodont")).fit(reml=False)
    row = fit.variance_table(alpha=1e-4, method="profile").loc["cor(Intercept, age | Subject)"]
    without = hlm.Model("distance ~ age * Sex + (1 | Subject)", frame("Orthodont")).fit(reml=False)
    assert without.criterion - fit.criterion < chi2.isf(1e-4, 1)
    assert row["lower"] == -1
    assert "a standard deviation of zero is best" in row["note"]


def test_refused() -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    with pytest.raises(hlm.DataError, match="reml=False"):
        fit.conf_int(method="profile")
    with pytest.raises(hlm.DataError, match="no profile"):
        fit.profile("sd(Days)")
    with pytest.raises(hlm.DataError, match="method"):
        fit.variance_table(method="likelihood")
    with pytest.raises(hlm.DataError, match="alpha"):
        fit.variance_table(alpha=2)
    with pytest.raises(hlm.DataError, match="scale"):
        fit.variance_table(scale="log")


@pytest.mark.filterwarnings("ignore::hlm.RankDeficientWarning")
def test_aliased_columns_have_no_interval() -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + I(2*Days) + (1 | Subject)", data).fit(reml=False)
    table = fit.conf_int(method="profile")
    assert table.isna().any(axis=1).sum() == 1
    plain = hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit(reml=False).conf_int(method="profile")
    np.testing.assert_allclose(table.loc["Days"], plain.loc["Days"], rtol=1e-6)


@pytest.mark.filterwarnings("ignore::hlm.RankDeficientWarning")
@pytest.mark.parametrize("family", list(families()))
def test_hard_cases_have_limits_or_a_reason(family: str) -> None:
    """Each interval holds its estimate, and what is not found is explained."""
    fit = families()[family][1].fit()
    table = fit.variance_table(method="profile")
    known = table.dropna(subset=["lower", "upper", "estimate"])
    slack = 1e-9 * known["estimate"].abs()
    assert (known["lower"] <= known["estimate"] + slack).all()
    assert (known["estimate"] - slack <= known["upper"]).all()
    missing = table[table[["lower", "upper"]].isna().any(axis=1)]
    assert (missing["note"] != "").all()
    assert len(missing) < len(table)
