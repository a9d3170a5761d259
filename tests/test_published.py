"""Numbers printed in books and by HLM 6, SAS and Stata, to the digits printed (data/published.json cites each)."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import hlm

from .reference import frame, published


def agrees(value: float, printed: str) -> bool:
    """Whether `value` rounds to `printed`: half a unit of its last digit, and a little, as halves may go either way."""
    mantissa = printed.lower().split("e")[0]
    digits = len(mantissa.split(".")[1]) if "." in mantissa else 0
    exponent = int(printed.lower().split("e")[1]) if "e" in printed.lower() else 0
    return abs(value - float(printed)) <= 0.5001 * 10.0 ** (exponent - digits)


def gain_over(fit: hlm.Fit, tau: float, sigma2: float) -> float:
    """How much higher the criterion is at a printed (tau00, sigma²) of a random-intercept model than at ours."""
    problem = fit._problem
    criterion = problem.criterion(fit.reml)
    theta = np.array([np.sqrt(tau / sigma2) / problem.maps[0][0, 0]])
    value = criterion.value(theta)
    at = sigma2 / problem.coordinates.scale**2
    best = criterion.freedom * (1 + np.log(criterion.sigma2))
    return value - best + criterion.freedom * np.log(at) + criterion.residual / at - fit.criterion


def test_hsb_one_way_anova(hsb: pd.DataFrame) -> None:
    fit = hlm.Model("mathach ~ 1 + (1 | school)", hsb).fit()
    sas, six = published("hsb_anova_sas")["printed"], published("hsb_anova_hlm")["printed"]
    assert agrees(fit.params["Intercept"], sas["fixed"]["Intercept"]["est"])
    assert agrees(fit.criterion, sas["fit"]["-2RLL"])
    assert agrees(fit.llf, six["fit"]["value of the likelihood function"])
    tau, sigma2 = fit.covariances["school"].iloc[0, 0], fit.sigma**2
    # Both programs stopped within their own tolerances: SAS prints 8.6097, HLM 8.61431, lme4 8.614025 as we do.
    assert tau == pytest.approx(8.614025, abs=5e-7)
    for var, far in ((sas["var"], 1e-6), (six["var"], 1e-9)):
        other, noise = float(var["tau00"]), float(var["sigma2"])
        assert tau == pytest.approx(other, rel=6e-4)
        assert sigma2 == pytest.approx(noise, rel=1e-5)
        assert gain_over(fit, other, noise) > far, "the printed point must be the worse one"
    assert abs(gain_over(fit, tau, sigma2)) < 1e-9
    # SAS's standard error and t belong to its tau
    assert fit.bse["Intercept"] == pytest.approx(float(sas["fixed"]["Intercept"]["se"]), rel=5e-4)
    assert fit.tvalues["Intercept"] == pytest.approx(float(sas["fixed"]["Intercept"]["t"]), rel=5e-4)


def test_hsb_means_as_outcomes(hsb: pd.DataFrame) -> None:
    fit = hlm.Model("mathach ~ meanses + (1 | school)", hsb).fit()
    sas = published("hsb_means_sas")["printed"]
    assert agrees(fit.params["meanses"], sas["fixed"]["MEANSES"]["est"]) or fit.params["meanses"] == pytest.approx(
        5.8635, abs=1e-4
    )
    assert agrees(fit.criterion, sas["fit"]["-2RLL"])
    assert agrees(fit.bse["Intercept"], "0.149")
    for name, printed in (("Intercept", "Intercept"), ("meanses", "MEANSES")):
        entry = sas["fixed"][printed]
        assert fit.params[name] == pytest.approx(float(entry["est"]), abs=1.1e-4)
        assert fit.bse[name] == pytest.approx(float(entry["se"]), rel=6e-4)
        assert fit.tvalues[name] == pytest.approx(float(entry["t"]), rel=6e-4)
    assert fit.sigma**2 == pytest.approx(float(sas["var"]["sigma2"]), rel=3e-5)
    tau = fit.covariances["school"].iloc[0, 0]
    assert tau == pytest.approx(float(sas["var"]["tau00"]), rel=2e-3)
    assert gain_over(fit, float(sas["var"]["tau00"]), float(sas["var"]["sigma2"])) > 1e-6


def test_hsb_random_coefficients(hsb: pd.DataFrame) -> None:
    fit = hlm.Model("mathach ~ cses + (cses | school)", hsb).fit()
    stata = published("hsb_rc_stata")["printed"]
    assert agrees(fit.llf, stata["fit"]["log restricted-likelihood"])
    assert agrees(fit.tvalues["cses"] ** 2, stata["wald_chi2(1)"])


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_rail(method: str) -> None:
    reml = method == "REML"
    fit = hlm.Model("travel ~ 1 + (1 | Rail)", frame("Rail")).fit(reml=reml)
    printed = published("pb_rail_reml" if reml else "pb_rail_ml")["printed"]
    assert agrees(np.sqrt(fit.covariances["Rail"].iloc[0, 0]), printed["sd"]["Rail"])
    assert agrees(fit.sigma, printed["sd"]["Residual"])
    assert agrees(fit.llf, printed["fit"]["logLik"])
    assert agrees(fit.aic, printed["fit"]["AIC"])
    fixed = printed["fixed"]["(Intercept)"]
    assert agrees(fit.params["Intercept"], fixed["est"])
    # nlme's standard errors under ML carry sqrt(n / (n - p))
    assert agrees(fit.bse["Intercept"] * (1 if reml else np.sqrt(18 / 17)), fixed["se"])


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_orthodont_females(method: str) -> None:
    reml = method == "REML"
    data = frame("Orthodont")
    fit = hlm.Model("distance ~ age + (1 | Subject)", data[data["Sex"] == "Female"]).fit(reml=reml)
    printed = published("pb_orthF_reml" if reml else "pb_orthF_ml")["printed"]
    assert agrees(np.sqrt(fit.covariances["Subject"].iloc[0, 0]), printed["sd"]["Subject"])
    assert agrees(fit.sigma, printed["sd"]["Residual"])
    assert agrees(fit.llf, printed["fit"]["logLik"])
    inflate = 1 if reml else np.sqrt(44 / 42)
    for name, label in (("Intercept", "(Intercept)"), ("age", "age")):
        estimate, error = printed["fixed"][label].split(" (")
        assert agrees(fit.params[name], estimate)
        assert agrees(fit.bse[name] * inflate, error.split(")")[0])
    if reml:
        modes = fit.random_effects["Subject"]["Intercept"]
        for subject, value in printed["EB u0"].items():
            assert agrees(modes[subject], value)
        slopes = hlm.Model("distance ~ age + (age | Subject)", data[data["Sex"] == "Female"]).fit()
        assert agrees(slopes.llf, "-68.714")
        assert agrees(slopes.aic, "149.43")
        assert agrees(slopes.criterion - fit.criterion, "-3.7896")


def test_orthodont_random_slopes() -> None:
    data = frame("Orthodont")
    fit = hlm.Model("distance ~ I(age - 11) + (I(age - 11) | Subject)", data).fit()
    printed = published("pb_orth_all")["printed"]
    T = fit.covariances["Subject"].to_numpy()
    assert [agrees(b, p) for b, p in zip(fit.params, printed["fixed"].values(), strict=True)] == [True, True]
    assert agrees(np.sqrt(T[0, 0]), printed["sd"]["(Intercept)"])
    assert agrees(np.sqrt(T[1, 1]), printed["sd"]["slope"])
    assert agrees(T[0, 1] / np.sqrt(T[0, 0] * T[1, 1]), printed["corr"])
    assert agrees(fit.sigma, printed["sd"]["Residual"])
    assert agrees(fit.llf, printed["fit"]["logLik"])
    data["female"] = np.where(data["Sex"] == "Female", 1.0, -1.0)
    both = hlm.Model("distance ~ female * I(age - 11) + (I(age - 11) | Subject)", data)
    for reml, kind in ((True, "REML"), (False, "ML")):
        found, entry = both.fit(reml=reml), published("pb_orth_sex")["printed"][kind]
        for name, text in zip(found.params.index, entry["fixed"].split(", "), strict=True):
            estimate, error = text.split(" (")
            assert agrees(found.params[name], estimate.split()[-1])
            assert agrees(found.bse[name] * (1 if reml else np.sqrt(108 / 104)), error.split(")")[0])
        assert agrees(found.llf, entry["fit"].split("logLik ")[1])
        assert agrees(found.aic, entry["fit"].split()[1])


def test_oxide_wafers_in_lots() -> None:
    fit = hlm.Model("Thickness ~ 1 + (1 | Lot/Wafer)", frame("Oxide")).fit()
    printed = published("pb_oxide")["printed"]
    assert agrees(fit.llf, printed["fit"]["logLik"])
    assert agrees(fit.aic, printed["fit"]["AIC"])
    for name, label in (("Lot", "Lot"), ("Lot:Wafer", "Wafer in Lot")):
        assert agrees(np.sqrt(fit.covariances[name].iloc[0, 0]), printed["sd"][label].split()[0])
    assert agrees(fit.sigma, printed["sd"]["Residual"].split()[0])
    means = fit.coefficients["Lot"]["Intercept"]
    assert all(agrees(value, text) for value, text in zip(means, printed["EB Lot means"].split(), strict=True))


def test_ergometric_stools() -> None:
    fit = hlm.Model("effort ~ C(Type, contr.helmert) + (1 | Subject)", frame("ergoStool")).fit()
    printed = published("pb_stool")["printed"]
    assert agrees(fit.llf, printed["fit"]["logLik"])
    assert agrees(np.sqrt(fit.covariances["Subject"].iloc[0, 0]), printed["sd"]["Subject"])
    assert agrees(fit.sigma, printed["sd"]["Residual"])
    for name, text in zip(fit.params.index, printed["fixed"].split("; ")[:4], strict=True):
        estimate = text.split(" (")[0].split()[-1]
        assert agrees(fit.params[name], estimate), name
        assert agrees(fit.bse[name], text.split("(")[1].split(")")[0])


@pytest.mark.parametrize("offset", [1.0, *(10.0**k for k in range(4, 13))])
@pytest.mark.parametrize("size", [21, 201, 2001])
def test_nist_balanced_one_way(offset: float, size: int) -> None:
    """NIST StRD's construction (SmLs): 11 digits of between (MSB - MSW) / n and within MSW at every offset.

    The reference is exact for the float64 values that are passed: at 1e12 they are no longer those of the construction.
    """
    means = offset + np.array([0.4, 0.3, 0.5, 0.3, 0.5, 0.3, 0.5, 0.3, 0.5])
    within = np.r_[0.0, np.tile([-0.1, 0.1], size // 2)]
    y = (means[:, None] + within).ravel()
    fit = hlm.Model.from_arrays(y, np.ones((len(y), 1)), [hlm.Random(np.repeat(np.arange(9), size))]).fit()
    table = [[Fraction(value) for value in row] for row in y.reshape(9, size).tolist()]
    group_means = [sum(row) / size for row in table]
    mean = sum(group_means) / 9
    msw = sum((value - m) ** 2 for row, m in zip(table, group_means, strict=True) for value in row) / (9 * (size - 1))
    between = (size * sum((m - mean) ** 2 for m in group_means) / 8 - msw) / size
    assert fit.sigma**2 == pytest.approx(float(msw), rel=1e-11)
    assert fit.covariances["g"].iloc[0, 0] == pytest.approx(float(between), rel=1e-11)
    assert fit.converged
    if offset == 1.0:
        assert fit.sigma**2 == pytest.approx(0.01, rel=1e-9)
