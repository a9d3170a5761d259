"""What else a fit with a residual structure offers, and what it refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

import hlm
from hlm.residuals import AR1, ByStratum, LogLinear, Unstructured

from ..reference import frame
from .dense import KINDS, Structured, structured


def full_deviance(s: Structured, z: np.ndarray, reml: bool) -> float:
    """-2 log-likelihood in (variance of the intercept, φ, σ²), β profiled or integrated out."""
    case = s.case
    V = z[-1] * s.covariance(z[1:-1]) + z[0] * (case.codes[0][:, None] == case.codes[0][None, :])
    n, p = case.X.shape
    inverse = np.linalg.inv(V)
    S = case.X.T @ inverse @ case.X
    e = case.y - case.X @ np.linalg.solve(S, case.X.T @ inverse @ case.y)
    value = np.linalg.slogdet(V)[1] + (np.linalg.slogdet(S)[1] if reml else 0.0)
    return float(value + (n - p if reml else n) * np.log(2 * np.pi) + e @ inverse @ e)


def second_differences(f: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    steps = np.diag(1e-3 * np.maximum(np.abs(x), 0.3))
    return np.array(
        [
            [(f(x + a + b) - f(x + a - b) - f(x - a + b) + f(x - a - b)) / (4 * a.sum() * b.sum()) for a in steps]
            for b in steps
        ]
    )


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("kind", ["strata", "log-linear", "ar1", "cs", "ar1*strata"])
def test_information_has_the_uncertainty_of_the_structure(kind: str, reml: bool) -> None:
    s = structured(kind, [1], seed=14, weighted=True)
    fit = s.model().fit(reml=reml)
    estimated = fit._problem.residual
    assert estimated is not None
    z = np.concatenate([fit.covariances["f0"].to_numpy()[0], estimated.phi, [fit.sigma**2]])
    expected = 2 * np.linalg.inv(second_differences(lambda z: full_deviance(s, z, reml), z))
    at = [0, len(z) - 1]
    # second differences: error of the order step²
    np.testing.assert_allclose(fit.information().covariance, expected[np.ix_(at, at)], rtol=1e-3)
    np.testing.assert_allclose(estimated.covariance, expected[1:-1, 1:-1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["strata", "ar1", "unstructured", "cs*strata"])
def test_slopes_of_the_covariance_of_fixed_effects(kind: str) -> None:
    s = structured(kind, [1, 1] if kind != "unstructured" else [], seed=20)
    fit = s.model().fit()
    problem, estimated = fit._problem, fit._problem.residual
    assert estimated is not None
    T = [fit.covariances[f"f{k}"].to_numpy() / fit.sigma**2 for k in range(len(s.case.Z))]

    def covariance(phi: np.ndarray) -> np.ndarray:
        V = s.covariance(phi)
        for Z, codes, D in zip(s.case.Z, s.case.codes, T, strict=True):
            V = V + (Z @ D @ Z.T) * (codes[:, None] == codes[None, :])
        return np.linalg.inv(s.case.X.T @ np.linalg.solve(V, s.case.X))

    M = problem.coordinates.beta_map / problem.coordinates.scale
    for a, found in enumerate(estimated.cross_slopes):
        step = 1e-5 * np.eye(len(estimated.phi))[a]
        expected = (covariance(estimated.phi + step) - covariance(estimated.phi - step)) / 2e-5
        # two central differences, each with an error of the order step²
        np.testing.assert_allclose(M @ found @ M.T, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_responses_have_the_covariance_of_the_model(kind: str) -> None:
    s = structured(kind, [1] if kind != "unstructured" else [], seed=19)
    fit = s.model().fit()
    estimated = fit._problem.residual
    assert estimated is not None
    draws = fit.simulate(4000, seed=1).to_numpy()
    V = fit.sigma**2 * s.covariance(estimated.phi)
    for Z, codes, name in zip(s.case.Z, s.case.codes, fit.covariances, strict=True):
        V += (Z @ fit.covariances[name].to_numpy() @ Z.T) * (codes[:, None] == codes[None, :])
    found = np.cov(draws)
    error = np.sqrt((V**2 + np.outer(np.diag(V), np.diag(V))) / 4000)
    assert np.abs((found - V) / error).max() < 6  # the largest of some thousand standard normal deviates
    again = fit.refit(fit.simulate(1, seed=3)[0])
    assert again.model.design.residual is fit.model.design.residual
    assert again.residual.params.shape == fit.residual.params.shape


def parameters(fit: hlm.Fit) -> np.ndarray:
    """(variance of the intercept, φ, σ²) of a fit with one."""
    estimated = fit._problem.residual
    assert estimated is not None
    return np.concatenate([fit.covariances["f0"].to_numpy()[0], estimated.phi, [fit.sigma**2]])


def dense_fit(s: Structured, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """γ̂, its covariance and û at given variances."""
    case = s.case
    same = (case.codes[0][:, None] == np.arange(case.codes[0].max() + 1)).astype(float)
    inverse = np.linalg.inv(z[-1] * s.covariance(z[1:-1]) + z[0] * same @ same.T)
    C = np.linalg.inv(case.X.T @ inverse @ case.X)
    beta = C @ case.X.T @ inverse @ case.y
    return beta, C, z[0] * same.T @ inverse @ (case.y - case.X @ beta)


def slopes(f: Callable[[np.ndarray], np.ndarray], z: np.ndarray) -> np.ndarray:
    steps = np.diag(1e-4 * np.maximum(np.abs(z), 0.3))
    return np.array([(f(z + e) - f(z - e)) / (2 * e.sum()) for e in steps])


@pytest.mark.parametrize("kind", ["strata", "ar1", "cs", "ar1*strata"])
def test_degrees_of_freedom_have_the_uncertainty_of_the_structure(kind: str) -> None:
    s = structured(kind, [1], seed=14)
    fit = s.model().fit()
    z = parameters(fit)
    A = 2 * np.linalg.inv(second_differences(lambda z: full_deviance(s, z, True), z))
    C = dense_fit(s, z)[1]
    dC = slopes(lambda z: np.diag(dense_fit(s, z)[1]), z)
    expected = 2 * np.diag(C) ** 2 / np.einsum("zi,zx,xi->i", dC, A, dC)
    found = fit.inference("satterthwaite").degrees(fit._problem.coordinates.beta_map)
    # second differences of the deviance: error of the order step²
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("kind", ["strata", "ar1", "cs", "ar1*strata"])
def test_predictions_have_the_uncertainty_of_the_structure(kind: str) -> None:
    s = structured(kind, [1], seed=14)
    fit = s.model().fit()
    z, codes = parameters(fit), s.case.codes[0]
    A = 2 * np.linalg.inv(second_differences(lambda z: full_deviance(s, z, True), z))

    def predicted(z: np.ndarray) -> np.ndarray:
        beta, _, u = dense_fit(s, z)
        return np.asarray(s.case.X @ beta + u[codes])

    g = slopes(predicted, z)
    found = fit.predict(interval="confidence")
    np.testing.assert_allclose(found["predicted"], predicted(z), rtol=1e-8, atol=1e-10)
    # second differences of the deviance: error of the order step²
    np.testing.assert_allclose(found["var_theta"], np.einsum("zi,zx,xi->i", g, A, g), rtol=5e-3, atol=1e-8)
    known = fit.empirical_bayes("f0").cov[:, 0, 0]
    open_ = fit.empirical_bayes("f0", theta_uncertainty=True).cov[:, 0, 0]
    h = slopes(lambda z: dense_fit(s, z)[0][0] + dense_fit(s, z)[2], z)
    np.testing.assert_allclose(open_ - known, np.einsum("zi,zx,xi->i", h, A, h), rtol=5e-3, atol=1e-8)


@pytest.mark.parametrize("kind", ["strata", "ar1", "cs", "ar1*strata"])
def test_robust_covariances(kind: str) -> None:
    s = structured(kind, [1], seed=14)
    fit = s.model().fit()
    case, z = s.case, parameters(fit)
    beta, C, _ = dense_fit(s, z)
    codes = case.codes[0]
    V = z[-1] * s.covariance(z[1:-1]) + z[0] * (codes[:, None] == codes[None, :])
    weighted, e = np.linalg.solve(V, case.X), case.y - case.X @ beta
    meat = np.zeros((len(beta), len(beta)))
    for j in range(codes.max() + 1):
        own = weighted[codes == j].T @ e[codes == j]
        meat += np.outer(own, own)
    np.testing.assert_allclose(fit.cov_params("CR0"), C @ meat @ C, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("kind", ["strata", "ar1", "unstructured", "cs*strata"])
def test_scaled_residuals(kind: str) -> None:
    s = structured(kind, [1, 1] if kind != "unstructured" else [], seed=20)
    fit = s.model().fit()
    estimated = fit._problem.residual
    assert estimated is not None
    V = fit.sigma**2 * s.covariance(estimated.phi)
    for Z, codes, name in zip(s.case.Z, s.case.codes, fit.covariances, strict=True):
        V += (Z @ fit.covariances[name].to_numpy() @ Z.T) * (codes[:, None] == codes[None, :])
    e = s.case.y - s.case.X @ fit.params.to_numpy()
    white = fit.residuals("cholesky").to_numpy()
    assert white @ white == pytest.approx(e @ np.linalg.solve(V, e), rel=1e-8)
    sd = fit.sigma * np.sqrt(np.diag(s.covariance(estimated.phi)))
    np.testing.assert_allclose(fit.residuals("pearson"), fit.resid / sd, rtol=1e-9)


@pytest.mark.parametrize("kind", ["strata", "ar1", "cs"])
def test_degrees_of_freedom_of_predictions_have_the_uncertainty_of_the_structure(kind: str) -> None:
    s = structured(kind, [1], seed=14, weighted=True)
    fit = s.model().fit()
    z, codes = parameters(fit), s.case.codes[0]
    A = 2 * np.linalg.inv(second_differences(lambda z: full_deviance(s, z, True), z))
    same = (codes[:, None] == codes[None, :]).astype(float)

    def variance(z: np.ndarray, known: bool, response: bool) -> np.ndarray:
        errors = z[-1] * s.covariance(z[1:-1])
        inverse = np.linalg.inv(errors + z[0] * same)
        C = z[0] * same if known else np.zeros_like(same)
        left = s.case.X - C @ inverse @ s.case.X
        fixed = np.einsum("ni,ij,nj->n", left, np.linalg.inv(s.case.X.T @ inverse @ s.case.X), left)
        own = np.diag(C) - np.einsum("ij,jk,ki->i", C, inverse, C)
        return np.asarray(fixed + own + (np.diag(errors) + (0.0 if known else z[0]) if response else 0.0))

    for known, response in ((True, False), (False, False), (False, True), (True, True)):
        if known and response and kind != "strata":
            continue
        found = fit.predict(
            effects="all" if known else "population",
            interval="prediction" if response else "confidence",
            method="satterthwaite",
            theta_uncertainty=False,
        )
        v, g = variance(z, known, response), slopes(lambda z: variance(z, known, response), z)  # noqa: B023
        np.testing.assert_allclose(found["se"] ** 2, v, rtol=1e-8)
        # second differences of the deviance: error of the order step²
        np.testing.assert_allclose(found["df"], 2 * v**2 / np.einsum("zi,zx,xi->i", g, A, g), rtol=2e-3)


def test_prediction_intervals() -> None:
    data = hlm.datasets.load("hsb").iloc[:900]
    fit = hlm.Model("mathach ~ cses + (1 | school)", data, residual=ByStratum("female")).fit()
    found = fit.predict(interval="prediction")
    np.testing.assert_allclose(found["var_residual"], fit.residual.sd.loc[data["female"]].to_numpy() ** 2, rtol=1e-12)
    pd.testing.assert_frame_equal(fit.predict(data, interval="prediction"), found)
    serial = hlm.Model("mathach ~ cses + (1 | school)", data, residual=AR1()).fit()
    for rows in (data.head(), None):
        with pytest.raises(hlm.DesignError, match="a row of a known group"):
            serial.predict(rows, interval="prediction")
    with pytest.raises(hlm.DesignError, match="the mean of several rows"):
        serial.predict(effects="population", interval="prediction", mean_of=2)
    fresh = serial.predict(data.head(), effects="population", interval="prediction")
    np.testing.assert_allclose(fresh["var_residual"], serial.sigma**2, rtol=1e-12)
    np.testing.assert_allclose(fresh["var_new_groups"], serial.covariances["school"].iloc[0, 0], rtol=1e-12)


def test_prediction_intervals_of_new_rows_have_the_variance_of_their_covariates() -> None:
    data = hlm.datasets.load("hsb").iloc[:900]
    new = pd.DataFrame({"cses": [0.0, 1.0, 2.0], "ses": [0.5, -1.0, np.nan], "school": data["school"].iloc[0]})
    fit = hlm.Model("mathach ~ cses + (1 | school)", data, residual=LogLinear("~ ses + female")).fit()
    found = fit.predict(new.assign(female=[0, 1, 1]), interval="prediction", method="satterthwaite")
    α = fit.residual.params
    shift = (new["ses"] - data["ses"].mean()) * α["ses"] + (np.array([0, 1, 1]) - data["female"].mean()) * α["female"]
    np.testing.assert_allclose(found["var_residual"], fit.sigma**2 * np.exp(shift), rtol=1e-9)
    assert found.loc[2, ["se", "df", "lower"]].isna().all()  # the variance of that row is not known
    rows = data.iloc[:20]
    both = (fit.predict(rows, interval="prediction"), fit.predict(interval="prediction").iloc[:20])
    pd.testing.assert_frame_equal(*both)
    strata = hlm.Model("mathach ~ cses + (1 | school)", data, residual=ByStratum("female")).fit()
    with pytest.raises(hlm.DataError, match=r"stratum 2 of 'female' \(row 1\)"):
        strata.predict(new.assign(female=[0, 2, 1]), interval="prediction")
    missing = strata.predict(new.assign(female=[0, np.nan, 1]), interval="prediction")
    assert missing["se"].isna().tolist() == [False, True, False]
    with pytest.raises(hlm.DataError, match="female"):
        strata.predict(new, interval="prediction")
    for structure in (ByStratum(data["female"].to_numpy()), LogLinear(data[["ses"]].to_numpy())):
        arrays = hlm.Model("mathach ~ cses + (1 | school)", data, residual=structure).fit()
        with pytest.raises(hlm.DataError, match="name a column of the data"):
            arrays.predict(new, interval="prediction")


def test_prediction_intervals_of_occasions() -> None:
    data = frame("Orthodont")
    fit = hlm.Model("distance ~ age", data, residual=Unstructured("age", "Subject")).fit()
    new = pd.DataFrame({"age": [8.0, 14.0]})
    found = fit.predict(new, effects="population", interval="prediction", method="satterthwaite")
    np.testing.assert_allclose(found["var_residual"], fit.residual.sd.loc[[8.0, 14.0]] ** 2, rtol=1e-9)
    with pytest.raises(hlm.DesignError, match="effects='population' predicts one row of a new group"):
        fit.predict(new, interval="prediction")
    with pytest.raises(hlm.DataError, match=r"occasion 9.0 of 'age' \(row 0\)"):
        fit.predict(new + 1, effects="population", interval="prediction")


def test_exogeneity_keeps_the_structure() -> None:
    data = hlm.datasets.load("hsb").iloc[:900]
    fit = hlm.Model("mathach ~ ses + (1 | school)", data, residual=ByStratum("female")).fit()
    assert fit.exogeneity().fit.residual.params.shape == (1,)
    assert "exogeneity" in str(fit.check())


def test_tests_of_fixed_effects() -> None:
    data = frame("BodyWeight")
    one = hlm.Model("weight ~ Time + Diet + (Time | Rat)", data, residual=AR1()).fit(reml=False)
    other = hlm.Model("weight ~ Time * Diet + (Time | Rat)", data, residual=AR1()).fit(reml=False)
    found = hlm.compare(one, other)
    assert found.statistic == pytest.approx(one.criterion - other.criterion, abs=1e-9)
    assert found.pvalue == pytest.approx(chi2.sf(found.statistic, 2), rel=1e-9)
    less = hlm.Model("weight ~ Time + Diet + (1 | Rat)", data, residual=AR1()).fit(reml=False)
    with pytest.raises(hlm.DesignError, match="tests of variances"):
        hlm.compare(less, one)


def test_standard_deviations_of_the_rows() -> None:
    data = hlm.datasets.load("hsb").iloc[:900]
    fit = hlm.Model("mathach ~ cses + (1 | school)", data, residual=ByStratum("female")).fit()
    expected = fit.residual.sd.loc[data["female"]].to_numpy()
    np.testing.assert_allclose(fit.residual_table()["sigma"], expected, rtol=1e-12)


INDEPENDENT: list[Callable[[hlm.Fit], Any]] = [
    lambda fit: fit.ols("Subject"),
    lambda fit: fit.residual_table("Subject"),
    lambda fit: fit.score_groups(hlm.datasets.load("sleepstudy")),
    lambda fit: fit.within_covariance("Subject", {"Days": 0}, {"Days": 1}),
    lambda fit: fit.standard_errors(),
    lambda fit: fit.poolings(),
    lambda fit: fit.conditional_aic(),
    lambda fit: fit.icc(),
    lambda fit: fit.variance_function({"Days": [0, 1]}),
    lambda fit: fit.influence(),
    lambda fit: fit.leverages,
]
ONE_VARIANCE: list[Callable[[hlm.Fit], Any]] = [lambda fit: fit.r_squared()]


def test_what_takes_errors_to_be_independent_is_refused() -> None:
    data = hlm.datasets.load("sleepstudy")
    data["late"] = data["Days"] > 4
    formula = "Reaction ~ Days + (Days | Subject)"
    serial = hlm.Model(formula, data, residual=AR1("Days")).fit()
    strata = hlm.Model(formula, data, residual=ByStratum("late")).fit()
    for ask in INDEPENDENT:
        for fit in (serial, strata):
            with pytest.raises(hlm.DesignError, match="takes the level-1 errors to be independent"):
                ask(fit)
    for ask in ONE_VARIANCE:
        ask(serial)
        with pytest.raises(hlm.DesignError, match="has one level-1 variance"):
            ask(strata)
    for fit in (serial, strata):
        assert fit.variance_table().loc["sigma", "se"] > 0
        assert fit.reliability().notna().all(axis=None)
        assert len(fit.variance_tests()) == 2


def test_predictions_beside_crossed_factors_have_the_uncertainty_of_the_structure() -> None:
    rng = np.random.default_rng(5)
    n, sizes = 90, (8, 6)
    codes = [np.r_[np.arange(J), rng.integers(0, J, n - J)] for J in sizes]
    stratum = np.arange(n) % 2
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    effects = sum(1.5 * rng.normal(size=J)[c] for J, c in zip(sizes, codes, strict=True))
    y = X.sum(axis=1) + effects + (1 + stratum) * rng.normal(size=n)
    same = [(c[:, None] == c[None, :]).astype(float) for c in codes]
    fit = hlm.Model.from_arrays(
        y, X, [hlm.Random(c, name=f"f{k}") for k, c in enumerate(codes)], residual=ByStratum(stratum)
    ).fit()
    assert fit._problem.residual is not None
    T = [fit.covariances[f"f{k}"].iloc[0, 0] for k in range(2)]
    z = np.array([*T, *fit._problem.residual.phi, fit.sigma**2])

    def deviance(z: np.ndarray) -> float:
        V = z[0] * same[0] + z[1] * same[1] + z[3] * np.diag(np.exp(2 * z[2] * stratum))
        S = X.T @ np.linalg.solve(V, X)
        e = y - X @ np.linalg.solve(S, X.T @ np.linalg.solve(V, y))
        return float(np.linalg.slogdet(V)[1] + np.linalg.slogdet(S)[1] + e @ np.linalg.solve(V, e))

    def variance(z: np.ndarray) -> np.ndarray:
        """Of a prediction interval, the effect of f0 known, that of f1 new."""
        errors = z[3] * np.exp(2 * z[2] * stratum)
        inverse = np.linalg.inv(z[0] * same[0] + z[1] * same[1] + np.diag(errors))
        left = X - z[0] * same[0] @ inverse @ X
        fixed = np.einsum("ni,ij,nj->n", left, np.linalg.inv(X.T @ inverse @ X), left)
        own = z[0] - z[0] ** 2 * np.einsum("ij,jk,ki->i", same[0], inverse, same[0])
        return np.asarray(fixed + own + z[1] + errors)

    A, v, g = 2 * np.linalg.inv(second_differences(deviance, z)), variance(z), slopes(variance, z)
    found = fit.predict(effects=["f0"], interval="prediction", method="satterthwaite", theta_uncertainty=False)
    np.testing.assert_allclose(found["se"] ** 2, v, rtol=1e-7)
    # second differences of the deviance: error of the order step²
    np.testing.assert_allclose(found["df"], 2 * v**2 / np.einsum("zi,zx,xi->i", g, A, g), rtol=2e-3)


def test_prediction_intervals_of_correlated_errors_whose_variances_differ() -> None:
    data = frame("Orthodont")
    residual = AR1("age", "Subject", variance=ByStratum("Sex"))
    fit = hlm.Model("distance ~ age", data, residual=residual).fit()
    found = fit.predict(data.head(60), effects="population", interval="prediction", method="satterthwaite")
    np.testing.assert_allclose(found["var_residual"], fit.residual.sd.loc[data["Sex"][:60]] ** 2, rtol=1e-9)
    rows = fit.predict(effects="population", interval="prediction", method="satterthwaite").iloc[:60]
    pd.testing.assert_frame_equal(found, rows)


@pytest.mark.parametrize("residual", [AR1("age", "Subject"), ByStratum("Sex"), Unstructured("age", "Subject")])
def test_kenward_roger_of_predictions_knows_the_structure(residual: Any) -> None:
    data = frame("Orthodont")
    fit = hlm.Model("distance ~ age * Sex", data, residual=residual).fit()
    view = fit.inference("kenward-roger")
    found = view.predict(data, effects="population")
    expected = view.test(fit.model.design.X).rows
    np.testing.assert_allclose(found["se"], expected["se"], rtol=1e-8)
    np.testing.assert_allclose(found["df"], expected["df"], rtol=1e-6)
    response = view.predict(data, effects="population", interval="prediction")
    np.testing.assert_allclose(response["se"] ** 2, found["se"] ** 2 + response["var_residual"], rtol=1e-9)
    # equal where each stratum has a regression of its own
    assert (response["df"] > (1 - 1e-6) * found["df"]).all()


def test_kenward_roger_of_predicted_effects_beside_a_structure_is_refused() -> None:
    data = hlm.datasets.load("hsb").iloc[:300]
    fit = hlm.Model("mathach ~ cses + (1 | school)", data, residual=ByStratum("female")).fit()
    with pytest.raises(hlm.DesignError, match="use 'satterthwaite'"):
        fit.predict(interval="confidence", method="kenward-roger")
    assert fit.predict(effects="population", interval="prediction", method="kenward-roger")["se"].notna().all()
