"""Tables that `test_published` leaves: HLM's reliabilities, Pinheiro & Bates, Snijders & Bosker."""

import numpy as np
import pytest

import hlm

from .reference import frame, printed_data, published
from .test_published import agrees


def check_fit(fit: hlm.Fit, printed: dict[str, str]) -> None:
    assert agrees(fit.llf, printed["logLik"])
    for name, value in (("AIC", fit.aic), ("BIC", fit.bic)):
        if name in printed:
            assert agrees(value, printed[name]), name


def bic_of_nlme(fit: hlm.Fit) -> float:
    """Under REML nlme counts n - p observations."""
    return fit.criterion + np.log(fit.nobs - len(fit.params)) * fit.df_model


def test_reliability_of_hlm() -> None:
    """HLM 6.04 prints .901 for the one-way ANOVA of High School & Beyond."""
    fit = hlm.Model("mathach ~ 1 + (1 | school)", hlm.datasets.load("hsb")).fit()
    printed = published("hsb_anova_hlm")["printed"]
    assert agrees(fit.reliability().loc[("school", "Intercept"), "reliability"], printed["reliability"]["INTRCPT1"])


def test_description_of_hsb() -> None:
    data, printed = hlm.datasets.load("hsb"), published("hsb_desc")["printed"]
    schools = data.groupby("school")[["sector", "meanses"]].first()
    for column, entry in (
        (data["mathach"], "MATHACH"),
        (data["ses"], "SES"),
        (schools["sector"], "SECTOR (160 schools)"),
        (schools["meanses"], "MEANSES (160 schools)"),
    ):
        assert agrees(column.mean(), printed[entry]["mean"]), entry
        assert agrees(column.std(ddof=1), printed[entry]["sd"]), entry


def test_where_hlm_stopped() -> None:
    """Why HLM's table of intercepts and slopes as outcomes (Raudenbush & Bryk 2002, Table 4.5) is not the optimum's.

    The table was recalled, not seen, and without its covariance (0.19 is the optimum's). Its slope variance is 0.15,
    that of the REML optimum 0.101 (lme4 has the same). At HLM's own variances everything else that it prints comes out:
    γ, standard errors, reliabilities, and χ² within the rounding of these variances. The criterion there is 0.05 above
    the optimum: its EM had not converged.
    """
    data = hlm.datasets.load("hsb")
    data["c"] = data["ses"] - data.groupby("school")["ses"].transform("mean")
    model = hlm.Model("mathach ~ c * (meanses + sector) + (c | school)", data)
    best = model.fit()
    T = np.array([[2.38, 0.19], [0.19, 0.15]])
    at_hlm = model.fit(fixed={"school": T, "sigma": np.sqrt(36.70)})
    assert best.converged
    assert 0.04 < at_hlm.criterion - best.criterion < 0.06
    names = ["Intercept", "meanses", "sector", "c", "c:meanses", "c:sector"]
    estimates = ["12.096", "5.333", "1.226", "2.938", "1.034", "-1.641"]
    for estimate, text in zip(at_hlm.params[names], estimates, strict=True):
        assert agrees(estimate, text)
    for error, text in zip(at_hlm.bse[names], ["0.199", "0.369", "0.306", "0.157", "0.303", "0.243"], strict=True):
        assert agrees(error, text)
    for value, text in zip(at_hlm.reliability()["reliability"], ("0.733", "0.073"), strict=True):
        assert agrees(value, text)
    # χ² is proportional to 1/σ², of which four digits are printed
    np.testing.assert_allclose(at_hlm.variance_tests()["chi2"], [605.30, 162.31], rtol=0.005 / 36.70)
    assert (at_hlm.variance_tests()["df"] == 157).all()


MACHINES = {
    "pb_machine1": "score ~ Machine + (1 | Worker)",
    "pb_machine2": "score ~ Machine + (1 | Worker/Machine)",
    "pb_machine3": "score ~ Machine + (0 + Machine | Worker)",
}


@pytest.mark.parametrize("id", MACHINES)
def test_machines(id: str) -> None:
    data, printed = printed_data("Machines"), published(id)["printed"]
    fit = hlm.Model(MACHINES[id], data).fit()
    assert agrees(fit.llf, printed["fit"]["logLik"])
    assert agrees(fit.aic, printed["fit"]["AIC"])
    assert agrees(bic_of_nlme(fit), printed["fit"]["BIC"])
    for (name, text), estimate in zip(printed["fixed"].items(), fit.params, strict=True):
        assert agrees(estimate, text.split()[0]), name
        if "(" in text:
            assert agrees(fit.bse.iloc[list(printed["fixed"]).index(name)], text.split("(")[1].split(")")[0])
    sd = {name: np.sqrt(np.diag(T)) for name, T in fit.covariances.items()}
    if id == "pb_machine3":
        found = dict(zip("ABC", sd["Worker"], strict=True))
        correlation = fit.covariances["Worker"].to_numpy() / np.outer(sd["Worker"], sd["Worker"])
        for (i, j), text in zip(((0, 1), (0, 2), (1, 2)), printed["corr"].values(), strict=True):
            assert agrees(correlation[i, j], text)
    else:
        found = {"Worker": sd["Worker"][0], "Machine in Worker": sd.get("Worker:Machine", [np.nan])[0]}
    for name, text in printed["sd"].items():
        assert agrees(fit.sigma if name == "Residual" else found[name], text), name


def test_machines_compared_and_recoded() -> None:
    data = printed_data("Machines")
    one, two, three = (hlm.Model(formula, data).fit() for formula in MACHINES.values())
    assert agrees(one.criterion - two.criterion, published("pb_machine2")["printed"]["LRT vs fm1"].split(",")[0])
    assert agrees(two.criterion - three.criterion, published("pb_machine3")["printed"]["LRT vs fm2"].split(",")[0])
    # the REML criterion depends on the coding
    for id, effects in (("pb_machine1", "(1 | Worker)"), ("pb_machine2", "(1 | Worker/Machine)")):
        printed = published(id)["printed"]
        helmert = printed.get("contr.helmert", printed.get("with contr.helmert (sec. 2.4)"))
        fit = hlm.Model(f"score ~ C(Machine, contr.helmert) + {effects}", data).fit()
        assert agrees(fit.llf, helmert["logLik"])
        if "(Intercept)" in helmert:
            texts = [helmert[name] for name in ("(Intercept)", "Machine1", "Machine2")]
            for text, estimate, error in zip(texts, fit.params, fit.bse, strict=True):
                assert agrees(estimate, text.split()[0])
                assert agrees(error, text.split("(")[1].split(")")[0])
                assert agrees(estimate / error, text.split(" t ")[1])
        if "AIC" in helmert:
            assert agrees(fit.aic, helmert["AIC"])
            assert agrees(bic_of_nlme(fit), helmert["BIC"])


def test_machines_with_rows_deleted() -> None:
    data = printed_data("Machines")
    gone = [2, 3, 6, 8, 9, 12, 19, 20, 27, 33]
    fit = hlm.Model("score ~ Machine + (1 | Worker/Machine)", data.drop(index=[row - 1 for row in gone])).fit()
    printed = published("pb_machine_unbal")["printed"]
    assert fit.nobs == 44
    assert agrees(fit.llf, printed["fit"]["logLik"])
    assert all(agrees(b, text) for b, text in zip(fit.params, printed["fixed"].values(), strict=True))
    for value, name in (
        (np.sqrt(fit.covariances["Worker"].iloc[0, 0]), "Worker"),
        (np.sqrt(fit.covariances["Worker:Machine"].iloc[0, 0]), "Machine"),
        (fit.sigma, "Residual"),
    ):
        # nlme stopped within its tolerance: it prints 4.7387 where the optimum is 4.738752
        assert value == pytest.approx(float(printed["sd"][name].split()[0]), abs=6e-5), name


def test_oats() -> None:
    data = printed_data("Oats")
    fit = hlm.Model("yield ~ nitro + (1 | Block/Variety)", data).fit()
    printed = published("pb_oats4")["printed"]
    assert agrees(fit.llf, printed["fit"]["logLik"])
    assert agrees(fit.aic, printed["fit"]["AIC"])
    assert agrees(bic_of_nlme(fit), printed["fit"]["BIC"])
    assert agrees(np.sqrt(fit.covariances["Block"].iloc[0, 0]), printed["sd"]["Block"])
    equivalent = printed["pdBlocked equivalent (sec. 4.2)"]
    for (b, se), text in zip(zip(fit.params, fit.bse, strict=True), equivalent.split(";")[0].split(", "), strict=True):
        assert agrees(b, text.split()[-2])
        assert agrees(se, text.split("(")[1][:-1])
    sds = [np.sqrt(fit.covariances[name].iloc[0, 0]) for name in ("Block", "Block:Variety")]
    assert all(agrees(sd, text) for sd, text in zip([*sds, fit.sigma], ["14.5", "11", "12.9"], strict=True))
    fit = hlm.Model("yield ~ C(nitro, contr.poly) + Variety + (1 | Block/Variety)", data).fit()
    printed = published("pb_oats2")["printed"]
    check_fit(fit, {"logLik": printed["fit"]["logLik"], "AIC": printed["fit"]["AIC"]})
    assert agrees(bic_of_nlme(fit), printed["fit"]["BIC"])
    for name, text in printed["sd"].items():
        value = (
            fit.sigma if name == "Residual" else np.sqrt(fit.covariances[{"Variety": "Block:Variety"}.get(name, name)])
        )
        assert agrees(float(np.squeeze(value)), text), name
    for text, name in zip(printed["fixed"].split("; "), fit.params.index, strict=True):
        estimate, error = text.split(" (")
        assert agrees(fit.params[name], estimate.split()[-1]), name
        assert agrees(fit.bse[name], error[:-1]), name


SNIJDERS = {
    "sb_null": ("1 + (1 | schoolNR)", True, []),
    "sb_iq": ("IQ_ver_cen + (1 | schoolNR)", True, ["Intercept", "IQ_ver_cen"]),
    "sb_avgiq": ("IQ_ver_cen + avg_IQ_ver_cen + (1 | schoolNR)", True, ["Intercept", "IQ_ver_cen", "avg_IQ_ver_cen"]),
    "sb_slope": (
        "IQ_ver_cen + avg_IQ_ver_cen + (IQ_ver_cen | schoolNR)",
        False,
        ["Intercept", "IQ_ver_cen", "avg_IQ_ver_cen"],
    ),
    "sb_class": (
        "avg_IQ_ver_cen + IQ_ver_cen * grpSiz_cen + (IQ_ver_cen | schoolNR)",
        False,
        ["Intercept", "avg_IQ_ver_cen", "IQ_ver_cen", "grpSiz_cen", "IQ_ver_cen:grpSiz_cen"],
    ),
}


@pytest.mark.parametrize("id", SNIJDERS)
def test_snijders_and_bosker(id: str) -> None:
    """Chapters 4 and 5, language scores of 2287 pupils in 131 schools, as nlme prints them."""
    right, reml, names = SNIJDERS[id]
    printed = published(id)["printed"]
    fit = hlm.Model(f"langPOST ~ {right}", frame("bdf")).fit(reml=reml)
    assert agrees(fit.criterion, printed["deviance"])
    if "logLik" in printed:
        assert agrees(fit.llf, printed["logLik"])
    if "AIC" in printed:
        assert agrees(fit.aic, printed["AIC"])
        assert agrees(bic_of_nlme(fit) if reml else fit.bic, printed["BIC"])
    T = fit.covariances["schoolNR"].to_numpy()
    # With random slopes nlme stopped within its tolerance: it prints 7.91916 for tau00 of sb_slope, whose optimum is
    # 7.919042 by lme4 too (reference/bdf.json, rs.ML).
    near = 1.5e-4 if "tau11" in printed else 0.0
    for value, name in ((T[0, 0], "tau00"), (fit.sigma**2, "sigma2")):
        assert agrees(value, printed[name]) or value == pytest.approx(float(printed[name]), rel=near), name
    if "tau11" in printed:
        assert T[1, 1] == pytest.approx(float(printed["tau11"]), rel=near)
        assert agrees(T[0, 1] / np.sqrt(T[0, 0] * T[1, 1]), printed["corr"])
    n, p = fit.nobs, len(fit.params)
    for name, text in zip(names, printed.get("fixed", "").split("; ") if names else [], strict=True):
        estimate, error = text.split(" (")
        assert agrees(fit.params[name], estimate.split()[-1]), name
        # nlme's standard errors under ML carry sqrt(n / (n - p))
        value, digits = fit.bse[name] * (1 if reml else np.sqrt(n / (n - p))), float(error[:-1])
        assert agrees(value, error[:-1]) or value == pytest.approx(digits, rel=near), name
