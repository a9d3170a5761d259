"""Meta-analysis with known sampling variances: empirical Bayes as printed, and in closed form."""

import json

import numpy as np
import pandas as pd
import pytest

import hlm

from ..reference import DATA

KNOWN = json.loads((DATA / "known_values.json").read_text(encoding="utf-8"))


def teacher_expectancy() -> pd.DataFrame:
    about = KNOWN["teacher_expectancy"]
    data = pd.DataFrame(about["rows"], columns=about["columns"])
    return data.assign(weeks_c=np.minimum(data["weeks"], 3).astype(float))


def printed(key: str) -> np.ndarray:
    text = KNOWN["published"]["vknown_uncond"]["printed"][key]
    return np.array([float(number) for number in text.split()])


def test_empirical_bayes_of_raudenbush_and_bryk() -> None:
    """Raudenbush and Bryk (1985), Figure 2: estimates and 95 % intervals of the 19 studies, by metafor's tests."""
    data = teacher_expectancy()
    fit = hlm.Model("d ~ 1 + (1 | study)", data, sampling_variance="V").fit()
    got = fit.empirical_bayes("study")
    # printed for a tau² to the digits at which metafor's scoring stops: 1e-4, as for the modes
    np.testing.assert_allclose(got.estimates["Intercept"], printed("EB delta*"), atol=1e-4)
    lower = got.conf_int()[("Intercept", "lower")]
    np.testing.assert_allclose(lower, printed("EB delta* 95% lower"), atol=2e-4)
    table = fit.residual_table("study")
    np.testing.assert_allclose(
        table["eb.Intercept"] - 1.959963984540054 * np.sqrt(table["pv.Intercept"]),
        printed("EB u* 95% lower"),
        atol=2e-4,
    )
    tau2, V = fit.covariances["study"].iloc[0, 0], data["V"].to_numpy()
    np.testing.assert_allclose(fit.reliabilities("study")["Intercept"], tau2 / (tau2 + V), rtol=1e-9)
    np.testing.assert_allclose(fit.ols("study").estimates["Intercept"], data["d"], rtol=1e-12)
    np.testing.assert_allclose(fit.ols("study").cov[:, 0, 0], V, rtol=1e-12)
    # the precision-weighted regression of what each study says is the fit: one solve
    regression = fit.ols("study").regression("total")
    np.testing.assert_allclose(regression.params, fit.params, rtol=1e-9)
    np.testing.assert_allclose(regression.bse, fit.bse, rtol=1e-9)


def test_homogeneity_of_effects() -> None:
    """Q about the mean without variance between studies, which the paper prints as 35.85 from more rounded weights."""
    data = teacher_expectancy()
    none = hlm.Model("d ~ 1 + (1 | study)", data, sampling_variance="V").fit(fixed={"study": 0.0})
    found = none.variance_tests().loc[("study", "Intercept")]
    text, df = KNOWN["published"]["vknown_uncond"]["printed"]["Q"].split(" (")[0], 18
    assert found["chi2"] == pytest.approx(float(text), abs=5.1e-5)
    assert found["df"] == df
    weeks = hlm.Model("d ~ weeks_c + (1 | study)", data, sampling_variance="V").fit()
    found = weeks.variance_tests().loc[("study", "Intercept")]
    text = KNOWN["published"]["vknown_weeks"]["printed"]["Q_E"].split(" (")[0]
    assert found["chi2"] == pytest.approx(float(text), abs=5.1e-5)
    assert found["df"] == 17


@pytest.mark.parametrize("tau", [1.0, 5.0, 20.0])
def test_eight_schools_given_tau(tau: float) -> None:
    """Gelman et al., *Bayesian Data Analysis*, (5.17) and (5.20): posterior of θ_j given τ, μ integrated out."""
    about = KNOWN["eight_schools"]["data"]
    y, s = np.array(about["y"], dtype=float), np.array(about["s"], dtype=float)
    data = pd.DataFrame({"school": about["school"], "y": y, "v": s**2})
    fit = hlm.Model("y ~ 1 + (1 | school)", data, sampling_variance="v").fit(fixed={"school": tau**2})
    V_mu = 1 / (1 / (s**2 + tau**2)).sum()
    mu = V_mu * (y / (s**2 + tau**2)).sum()
    precision = 1 / s**2 + 1 / tau**2
    got = fit.empirical_bayes("school")
    np.testing.assert_allclose(got.estimates["Intercept"], (y / s**2 + mu / tau**2) / precision, rtol=1e-10)
    np.testing.assert_allclose(got.cov[:, 0, 0], 1 / precision + (1 / tau**2 / precision) ** 2 * V_mu, rtol=1e-10)
    ranks = fit.ranks("school", of="coefficients")
    # E rank = 1 + Σ P(θ_k > θ_j), from the joint posterior of pairs
    joint = np.diag(1 / precision) + np.outer(1 / tau**2 / precision, 1 / tau**2 / precision) * V_mu
    i, j = np.triu_indices(8, 1)
    table = fit.comparisons("school", of="coefficients")
    np.testing.assert_allclose(table["std. error"] ** 2, joint[i, i] + joint[j, j] - 2 * joint[i, j], rtol=1e-9)
    expected = np.ones(8)
    np.add.at(expected, i, 1 - table["P(first > second)"].to_numpy())
    np.add.at(expected, j, table["P(first > second)"].to_numpy())
    np.testing.assert_allclose(ranks.expected, expected, atol=1e-4)


def test_new_studies_need_their_sampling_variance() -> None:
    data = teacher_expectancy()
    old, new = data[data["study"] < 15], data[data["study"] >= 15]
    fit = hlm.Model("d ~ 1 + (1 | study)", old, sampling_variance="V").fit()
    with pytest.raises(hlm.errors.DataError, match="sampling_variance"):
        fit.score_groups(new)
    got = fit.score_groups(new, weights="V")["study"]
    tau2, V = fit.covariances["study"].iloc[0, 0], new["V"].to_numpy()
    share = tau2 / (tau2 + V)
    np.testing.assert_allclose(got.effects["Intercept"], share * (new["d"] - fit.params.iloc[0]), rtol=1e-9)
    np.testing.assert_allclose(got.cov[:, 0, 0], tau2 * (1 - share) + share**2 * fit.cov_params().iloc[0, 0], rtol=1e-9)


def test_constrained_models() -> None:
    """Known γ and T: what follows from them is as if they had been estimated there, without their uncertainty."""
    data = hlm.datasets.load("hsb")
    model = hlm.Model("mathach ~ cses * sector + (cses | school)", data)
    fit = model.fit(fixed={"cses": 2.5})
    got = fit.empirical_bayes("school")
    Z = fit.ols("school")._equation.Z
    np.testing.assert_allclose(
        got.estimates, Z @ fit.params.to_numpy() + fit.random_effects["school"].to_numpy(), rtol=1e-9
    )
    assert (got.bse.to_numpy() > 0).all()
    table = fit.standard_errors()
    assert np.isnan(table.loc["cses", "design effect"])
    assert table.loc["cses", ["OLS", "naive", "model"]].tolist() == [2.5, 0.0, 0.0]
    X = fit.model.design.X
    others = [0, 2, 3]
    beta = np.linalg.lstsq(X[:, others], data["mathach"] - 2.5 * data["cses"], rcond=None)[0]
    np.testing.assert_allclose(table["OLS"].to_numpy()[others], beta, rtol=1e-8)
    with pytest.raises(hlm.errors.DesignError, match="known or constrained"):
        fit.poolings()
    free = model.fit()
    held = model.fit(fixed={"school": free.covariances["school"].to_numpy(), "sigma": free.sigma})
    for one, other in ((free.empirical_bayes("school"), held.empirical_bayes("school")),):
        np.testing.assert_allclose(one.estimates, other.estimates, rtol=1e-7)
        np.testing.assert_allclose(one.cov, other.cov, rtol=1e-6)
    np.testing.assert_allclose(free.reliabilities("school"), held.reliabilities("school"), rtol=1e-7)
    new = data.assign(school=data["school"].astype(str) + "'")
    one, other = free.score_groups(new)["school"], held.score_groups(new)["school"]
    np.testing.assert_allclose(one.effects, other.effects, rtol=1e-6, atol=1e-9)
    # what is known adds nothing; a structure that holds anyway adds what the plain model adds
    both = held.empirical_bayes("school", theta_uncertainty=True), held.empirical_bayes("school")
    np.testing.assert_array_equal(both[0].cov, both[1].cov)
    formula = "mathach ~ cses * sector + (1 | school)"
    plain, structured = hlm.Model(formula, data), hlm.Model(formula, data, covariance={"school": "identity"})
    one, other = (m.fit().empirical_bayes("school", theta_uncertainty=True) for m in (plain, structured))
    np.testing.assert_allclose(one.cov, other.cov, rtol=1e-7)
    assert (one.cov > plain.fit().empirical_bayes("school").cov)[:, 0, 0].all()
    tied = hlm.Model("mathach ~ cses * sector + (cses || school)", data).fit(constraints="var(cses|school) = 0.1")
    assert (tied.empirical_bayes("school", theta_uncertainty=True).bse.to_numpy() > 0).all()
