"""Likelihood-ratio tests against R, dense algebra, published results and simulations; what is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, ks_2samp

import hlm
from hlm.comparison import spectral

from ..dense import make_case, structure
from ..reference import frame, model

VALUES = json.loads((Path(__file__).parents[1] / "data" / "comparison.json").read_text())
EXACT = [(d, i) for d, e in VALUES.items() for i, m in e.get("models", {}).items() if "exact_rlrt" in m]
PAIRS = [(d, pair) for d, e in VALUES.items() for pair in e.get("lrt", []) if d not in ("star", "Chem97", "InstEval")]


def fitted(dataset: str, id: str, **change: object) -> hlm.Fit:
    result = model(dataset, id).result
    return hlm.Model(result["formula"], frame(dataset), weights=result["weights"]).fit(reml=result["reml"])


@pytest.mark.filterwarnings("ignore::hlm.RankDeficientWarning")
@pytest.mark.parametrize(("dataset", "pair"), PAIRS, ids=[f"{d}:{p['null']}<{p['alternative']}" for d, p in PAIRS])
def test_statistic_and_naive_p_against_r(dataset: str, pair: dict) -> None:
    null, alternative = (fitted(dataset, pair[key] + ".ML") for key in ("null", "alternative"))
    found = hlm.compare(alternative, null)
    assert found.statistic == pytest.approx(pair["statistic"], abs=2e-6)
    assert found.df == pair["df"]
    assert found.naive_pvalue == pytest.approx(pair["p_naive"], rel=1e-5, abs=1e-12)
    assert found.pvalue <= found.naive_pvalue * (1 + 1e-9) or found.statistic == 0


@pytest.mark.parametrize(("dataset", "id"), EXACT)
def test_exact_rlrt_against_rlrsim(dataset: str, id: str) -> None:
    reference = VALUES[dataset]["models"][id]["exact_rlrt"]
    fit = fitted(dataset, id)
    formula = fit.model.formula.split("+ (")[0].split("(1 |")[0].rstrip("+ ")
    small = hlm.Model(formula, frame(dataset)).fit()
    found = hlm.compare(small, fit, "exact", count=50_000, seed=1)
    assert found.statistic == pytest.approx(reference["statistic"], abs=2e-6)
    # at a statistic of zero the probability to reach it is 1 (RLRsim counts what exceeds it)
    p = 1.0 if reference["statistic"] < 1e-9 else reference["p"]
    error = np.hypot(np.sqrt(p * (1 - p) / reference["nsim"]), found.error)
    assert found.pvalue == pytest.approx(p, abs=5 * error + 1e-5)


@pytest.mark.parametrize("name", ["intercept", "crossed slopes", "two nested, one across", "three nested"])
def test_spectrum_against_dense_eigenvalues(name: str) -> None:
    case = structure(name, seed=4)
    fit = case.model().fit()
    problem = fit._problem
    X = case.X
    project = np.eye(len(X)) - X @ np.linalg.solve(X.T @ X, X.T)
    for place, factor in enumerate(problem.design.factors):
        k = problem.template.order.index(place)
        found = spectral.spectrum(problem, fit.model._prepared, k, 0)
        # the first column of a factor is only scaled in the engine's coordinates
        Z = (factor.codes[:, None] == np.arange(factor.size)) * factor.columns[0][:, None]
        mu = np.linalg.eigvalsh(Z.T @ project @ Z)
        mu = mu[mu > 1e-9 * mu.max()]
        mine = np.sort(np.repeat(found.mu, found.mu_count.astype(int)))
        assert len(mine) == len(mu)
        np.testing.assert_allclose(mine / mine[-1], mu / mu[-1], rtol=1e-7)
        xi = np.sort(np.repeat(found.xi, found.xi_count.astype(int)))
        np.testing.assert_allclose(xi / mine[-1], np.sort((Z * Z).sum(axis=0)) / mu[-1], rtol=1e-7)


@pytest.mark.parametrize("reml", [True, False])
def test_exact_distribution_is_that_of_the_bootstrap(reml: bool) -> None:
    """Without variances the null model is pivotal: fits to simulated responses have the exact distribution."""
    case = make_case([1], 2, seed=6, tops=6, most=3)
    large = case.model().fit(reml=reml)
    small = hlm.Model.from_arrays(case.y, case.X if reml else case.X[:, :1]).fit(reml=reml)
    exact = hlm.compare(small, large, "exact", count=20_000, seed=2).draws
    bootstrap = hlm.compare(small, large, "bootstrap", count=1500, seed=3)
    assert not bootstrap.failures
    # the point mass at zero first, then what is above
    zero = (exact < 1e-8).mean()
    assert (bootstrap.draws < 1e-8).mean() == pytest.approx(zero, abs=4 * np.sqrt(zero * (1 - zero) / 1500) + 1e-9)
    assert ks_2samp(exact[exact > 1e-8], bootstrap.draws[bootstrap.draws > 1e-8]).pvalue > 1e-3


def test_stram_and_lee() -> None:
    """q against q + 1 correlated effects: ½χ²(q) + ½χ²(q + 1); one variance: critical values 2.71 and (q = 1) 5.14."""
    data = hlm.datasets.load("sleepstudy")
    none = hlm.Model("Reaction ~ Days", data).fit()
    intercept = hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit()
    slope = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    square = hlm.Model("Reaction ~ Days + (Days + I(Days^2) | Subject)", data).fit()
    apart = hlm.Model("Reaction ~ Days + (Days || Subject)", data).fit()
    for small, large, low in ((none, intercept, 0), (intercept, slope, 1), (slope, square, 2), (intercept, apart, 0)):
        weights = hlm.compare(small, large).weights
        np.testing.assert_allclose(weights, 0.5)
        assert list(weights.index) == [low, low + 1]
    for small, large, critical in ((none, intercept, 2.71), (intercept, slope, 5.14)):
        weights = hlm.compare(small, large).weights
        p = sum(w * chi2.sf(critical, k) for k, w in weights.items() if k)
        assert p == pytest.approx(0.05, abs=2e-4)  # critical values are printed with two decimals
    correlation = hlm.compare(apart, slope)
    assert correlation.distribution == "1·χ²(1)"
    assert correlation.pvalue == correlation.naive_pvalue


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + (1 | g) + (1 | h)", "y ~ x + (1 | g) + (0 + x | g)"])
def test_mixture_against_the_bootstrap(formula: str) -> None:
    """Everything at once against nothing, with enough groups that the limit is near: p-values of many responses."""
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"x": rng.normal(size=600), "g": np.arange(600) % 60, "h": np.arange(600) // 15})
    data["y"] = data["x"] + rng.normal(size=600)
    small, large = hlm.Model("y ~ x", data).fit(), hlm.Model(formula, data).fit()
    limit = hlm.compare(small, large, seed=1)
    assert limit.weights.sum() == pytest.approx(1)
    draws = hlm.compare(small, large, "bootstrap", count=800, seed=2).draws
    for value in (1.0, 3.0, 5.0):
        p = sum(w * chi2.sf(value, k) for k, w in limit.weights.items() if k)
        # 800 draws, and a limit that 60 groups are near to
        assert (draws >= value).mean() == pytest.approx(p, abs=4 * np.sqrt(p / 800) + 0.01)


def test_both_models_on_the_boundary() -> None:
    """A smaller model without variance of its own: differences of projections, against the bootstrap."""
    rng = np.random.default_rng(21)
    data = pd.DataFrame({"x": rng.normal(size=400), "g": np.arange(400) % 40})
    small = None
    for _ in range(20):
        data["y"] = rng.normal(size=400)
        small = hlm.Model("y ~ x + (1 | g)", data).fit()
        if small.is_singular:
            break
    large = hlm.Model("y ~ x + (1 | g) + (0 + x | g)", data).fit()
    found = hlm.compare(small, large, seed=1)
    assert "boundary" in found.distribution
    draws = hlm.compare(small, large, "bootstrap", count=600, seed=2).draws
    for value in (0.3, 1.0, 2.0):
        p = (found.draws >= value).mean()
        assert (draws >= value).mean() == pytest.approx(p, abs=4 * np.sqrt(p / 600) + 0.01)


def test_restricted_likelihoods_in_other_units_of_x() -> None:
    data = hlm.datasets.load("sleepstudy")
    slope = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    plain = hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit()
    other = hlm.Model("Reaction ~ I(1000*Days + 7) + (1 | Subject)", data).fit()
    assert plain.criterion != pytest.approx(other.criterion, abs=1)
    assert hlm.compare(other, slope).statistic == pytest.approx(hlm.compare(plain, slope).statistic, abs=1e-7)


def test_columns_in_another_form_are_nested() -> None:
    data = hlm.datasets.load("sleepstudy")
    slope = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    shifted = hlm.Model("Reaction ~ Days + (0 + I(Days + 3) | Subject)", data).fit()
    found = hlm.compare(shifted, slope)
    assert found.df == 2
    np.testing.assert_allclose(found.weights, 0.5)


REFUSED = {
    "REML beside ML": (
        ("Reaction ~ Days + (1 | Subject)", True),
        ("Reaction ~ Days + (Days | Subject)", False),
        "alike",
    ),
    "REML, other X": (("Reaction ~ 1 + (1 | Subject)", True), ("Reaction ~ Days + (1 | Subject)", True), "reml=False"),
    "other columns": (
        ("Reaction ~ log(Days + 1) + (1 | Subject)", False),
        ("Reaction ~ Days + (Days | Subject)", False),
        "not nested",
    ),
    "other random columns": (
        ("Reaction ~ Days + (0 + log(Days + 1) | Subject)", False),
        ("Reaction ~ Days + (Days | Subject)", False),
        "varies over 'Subject'",
    ),
    "other groups": (
        ("Reaction ~ Days + (1 | half)", False),
        ("Reaction ~ Days + (Days | Subject)", False),
        "no random effects over 'half'",
    ),
    "correlated beside uncorrelated": (
        ("Reaction ~ Days + (Days | Subject)", False),
        ("Reaction ~ Days + (1 | Subject) + (0 + Days | Subject) + (1 | half)", False),
        "does not allow",
    ),
    "the same": (("Reaction ~ Days + (1 | Subject)", True), ("Reaction ~ Days + (1 | Subject)", True), "the same"),
    "other response": (
        ("half ~ Days + (1 | Subject)", True),
        ("Reaction ~ Days + (Days | Subject)", True),
        "responses",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_compared_is_refused(what: str) -> None:
    data = hlm.datasets.load("sleepstudy")
    data["half"] = np.arange(180) % 9
    one, other, match = REFUSED[what]
    fits = [hlm.Model(formula, data).fit(reml=reml) for formula, reml in (one, other)]
    with pytest.raises(hlm.HLMError, match=match):
        hlm.compare(*fits)


def test_rows_weights_and_arguments_are_checked() -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit()
    slope = "Reaction ~ Days + (Days | Subject)"
    with pytest.raises(hlm.DataError, match="180 and 179"):
        hlm.compare(fit, hlm.Model(slope, data.iloc[1:]).fit())
    with pytest.raises(hlm.DataError, match="weights"):
        hlm.compare(fit, hlm.Model(slope, data, weights=np.full(180, 2.0)).fit())
    with pytest.raises(hlm.DataTypeError, match="two fits"):
        hlm.compare(fit, slope)
    large = hlm.Model(slope, data).fit()
    with pytest.raises(hlm.DataError, match="method"):
        hlm.compare(fit, large, "wald")
    with pytest.raises(hlm.DataError, match="count"):
        hlm.compare(fit, large, "bootstrap", count=3)
    with pytest.raises(hlm.DesignError, match="one variance"):
        hlm.compare(fit, large, "exact")


def test_one_seed_one_answer_and_what_is_printed() -> None:
    data = hlm.datasets.load("sleepstudy")
    one = hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit()
    other = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    first, second = (hlm.compare(one, other, "bootstrap", count=100, seed=9) for _ in range(2))
    np.testing.assert_array_equal(first.draws, second.draws)
    assert first.pvalue == second.pvalue
    assert "Monte Carlo error" in str(first)


# ---- homogeneity of the level-1 variance ----------------------------------------------------------------------------


def test_homogeneity_against_a_loop_over_groups() -> None:
    data = hlm.datasets.load("hsb")
    fit = hlm.Model("mathach ~ cses * (meanses + sector) + (cses | school)", data).fit()
    found = fit.homogeneity(least_df=20)
    table = []
    for _, rows in data.groupby("school"):
        X = np.column_stack([np.ones(len(rows)), rows["cses"]])
        left = rows["mathach"] - X @ np.linalg.lstsq(X, rows["mathach"], rcond=None)[0]
        table.append((len(rows) - 2, left @ left / (len(rows) - 2)))
    df, variance = np.array([row for row in table if row[0] >= 20]).T
    logs = np.log(variance)
    d = np.sqrt(df / 2) * (logs - (df @ logs) / df.sum())
    assert found.statistic == pytest.approx(d @ d, rel=1e-9)
    assert found.df == len(df) - 1
    assert found.pvalue == pytest.approx(chi2.sf(d @ d, len(df) - 1))
    assert "homogeneity" in str(found).lower()


def test_homogeneity_is_calibrated_and_sees_a_difference() -> None:
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"x": rng.normal(size=1200), "g": np.arange(1200) % 40})
    pvalues = []
    for _ in range(60):
        data["y"] = data["x"] + rng.normal(size=40)[data["g"]] + rng.normal(size=1200)
        pvalues.append(hlm.Model("y ~ x + (1 | g)", data).fit().homogeneity().pvalue)
    assert 0 <= np.mean(np.array(pvalues) < 0.1) <= 0.25  # 0.1 expected, 60 responses
    data["y"] += (data["g"] < 20) * 2 * rng.normal(size=1200)
    assert hlm.Model("y ~ x + (1 | g)", data).fit().homogeneity().pvalue < 1e-6


def test_homogeneity_needs_groups_of_some_size() -> None:
    data = hlm.datasets.load("sleepstudy")
    with pytest.raises(hlm.DesignError, match="two are needed"):
        hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit().homogeneity(least_df=30)
    with pytest.raises(hlm.DesignError, match="without groups"):
        hlm.Model("Reaction ~ Days", data).fit().homogeneity()


# ---- structures and known values ------------------------------------------------------------------------------------


def test_smaller_models_with_structures_or_known_values() -> None:
    data = frame("Orthodont")
    full = hlm.Model("distance ~ age + (age | Subject)", data).fit(reml=False)
    known = hlm.Model("distance ~ age + (age | Subject)", data).fit(reml=False, fixed={"age": 0.5})
    found = hlm.compare(known, full)
    assert found.df == found.weights.index[0] == 1
    z = (full.params["age"] - 0.5) / full.bse["age"]
    assert found.statistic == pytest.approx(z**2, rel=0.15)  # Wald's statistic is a quadratic approximation
    again = known.refit(data["distance"])
    assert again.criterion == pytest.approx(known.criterion, abs=1e-8)
    assert again.params["age"] == 0.5
    same = hlm.Model("distance ~ age + (age | Subject)", data, covariance={"Subject": "identity"}).fit(reml=False)
    with pytest.raises(hlm.DesignError, match="bootstrap"):
        hlm.compare(same, hlm.Model("distance ~ age + (age + I(age^2) | Subject)", data).fit(reml=False))
    assert same.refit(data["distance"]).criterion == pytest.approx(same.criterion, abs=1e-8)
    within = hlm.compare(same, full)
    assert within.distribution == "χ²(2)"
    with pytest.raises(hlm.DesignError, match="larger one has"):
        hlm.compare(same, hlm.Model("distance ~ age", data).fit(reml=False))
