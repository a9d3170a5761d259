"""Fits with a residual structure: against R and dense algebra, and what a Fit has of it."""

import json
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import chi2, norm

import hlm
from hlm.residuals import AR1, ByStratum, CompoundSymmetry, LogLinear, Residual, Unstructured

from ..reference import DATA, frame
from .dense import KINDS, Structured, structured

NLME = json.loads((DATA / "residual_structures.json").read_text(encoding="utf-8"))
REML = pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])


# ---- R and books ----------------------------------------------------------------------------------------------------


def of_nlme(result: dict[str, Any]) -> hlm.Model:
    """The model of a result of nlme."""
    residual: Residual
    if result["stratum"]:
        residual = ByStratum(result["stratum"])
    elif result["correlation"] == "ar1":
        residual = AR1(group=result["group"])
    else:
        residual = CompoundSymmetry(group=result["group"])
    formula = result["fixed"]
    if result["random"]:
        terms, diagonal = result["random"].removeprefix("pdDiag ").lstrip("~").split(" | ")[0], "pdDiag"
        formula += f" + ({terms} {'||' if diagonal in result['random'] else '|'} {result['group']})"
    return hlm.Model(formula, frame(result["dataset"]), residual=residual)


@pytest.mark.parametrize("method", ["newton", "ecme", "em"])
@pytest.mark.parametrize("result", NLME, ids=lambda m: f"{m['dataset']}:{m['id']}")
def test_nlme(result: dict[str, Any], method: str) -> None:
    fit = of_nlme(result).fit(reml=result["reml"], method=method, accelerate=method != "newton")
    assert fit.converged
    assert fit.criterion == pytest.approx(result["criterion"], abs=1e-7)
    assert fit.df_model == len(result["fixef"]) + result["parameters"]
    # EM stops when 1e-9 of the criterion is left, which leaves some 1e-5 of a variance
    rtol = 1e-6 if method == "newton" else 1e-4
    assert fit.sigma == pytest.approx(result["sigma"], rel=rtol)
    np.testing.assert_allclose(fit.params, result["fixef"], rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(fit.cov_params(), result["vcov"], rtol=rtol, atol=rtol * np.max(result["vcov"]))
    natural = result["sd_ratio"]["values"][1:] if result["sd_ratio"] else [result["rho"]]
    np.testing.assert_allclose(fit.residual.params, natural, rtol=rtol)
    if result["T"]:
        T = np.array(result["T"])
        np.testing.assert_allclose(fit.covariances[result["group"]], T, rtol=rtol, atol=rtol * T.max())
        modes = fit.random_effects[result["group"]]
        expected = pd.DataFrame(result["ranef"]["mode"], index=result["ranef"]["levels"])
        found = modes.set_axis(modes.index.astype(str)).loc[expected.index]
        np.testing.assert_allclose(found, expected, rtol=10 * rtol, atol=10 * rtol * np.abs(expected).to_numpy().max())


def test_growth_with_an_unstructured_covariance() -> None:
    """Potthoff and Roy's growth data, Jennrich and Schluchter's (1986) second model, by ML.

    The covariance, -2 log-likelihood and standard errors are those that the SAS/STAT User's Guide prints for them
    (MIXED, example "Repeated Measures"), to its digits; recalled, not copied from there.
    """
    model = hlm.Model("distance ~ age * Sex", frame("Orthodont"), residual=Unstructured("age", group="Subject"))
    fit = model.fit(reml=False)
    assert fit.converged
    assert fit.criterion == pytest.approx(419.5, abs=0.05)
    assert fit.aic == pytest.approx(447.5, abs=0.05)
    np.testing.assert_allclose(fit.residual.sd**2, [5.1192, 3.9279, 5.9798, 4.6180], atol=5e-5)
    sd = fit.residual.sd.to_numpy()
    assert fit.residual.params["cor(8.0, 10.0)"] * sd[0] * sd[1] == pytest.approx(2.4409, abs=5e-5)
    np.testing.assert_allclose(fit.bse.iloc[[0, 1]], [1.1284, 0.0954], atol=5e-5)
    for method in ("em", "ecme"):
        assert model.fit(reml=False, method=method).criterion == pytest.approx(fit.criterion, abs=1e-6)


# ---- dense algebra --------------------------------------------------------------------------------------------------


def dense_optimum(s: Structured, fit: hlm.Fit, reml: bool) -> float:
    """The lowest criterion that a search from the fit finds in the definition."""
    problem, estimated = fit._problem, fit._problem.residual
    assert estimated is not None
    m = problem.template.m

    def value(x: np.ndarray) -> float:
        roots = problem.template.factors_of(x[:m])
        return s.criterion([M @ L @ L.T @ M.T for M, L in zip(problem.maps, roots, strict=True)], x[m:], reml)

    start = np.concatenate([fit._point, estimated.phi])
    return min(value(start), float(minimize(value, start, method="BFGS", options={"gtol": 1e-6}).fun))


@REML
@pytest.mark.parametrize("kind", KINDS)
def test_no_lower_point_near(kind: str, reml: bool) -> None:
    s = structured(kind, [1, 1] if kind != "unstructured" else [], seed=11)
    fit = s.model().fit(reml=reml)
    assert fit.converged
    # BFGS on differences of a value known to some 1e-11 cannot get lower than that
    assert fit.criterion == pytest.approx(dense_optimum(s, fit, reml), abs=1e-8)


@REML
@pytest.mark.parametrize("kind", KINDS)
def test_em_finds_the_same(kind: str, reml: bool) -> None:
    s = structured(kind, [1] if kind != "unstructured" else [], seed=12)
    best = s.model().fit(reml=reml)
    for method in ("em", "ecme"):
        for accelerate in (False, True):
            fit = s.model().fit(reml=reml, method=method, accelerate=accelerate)
            falls = np.diff(fit.trace["criterion"])
            assert (falls <= 1e-12 * abs(fit.criterion)).all()
            assert fit.criterion == pytest.approx(best.criterion, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_effects_and_covariances(kind: str) -> None:
    s = structured(kind, [2], seed=13, weighted=True)
    fit = s.model().fit()
    estimated = fit._problem.residual
    assert estimated is not None
    case, T = s.case, fit.covariances["f0"].to_numpy()
    V = fit.sigma**2 * s.covariance(estimated.phi)
    V += (case.Z[0] @ T @ case.Z[0].T) * (case.codes[0][:, None] == case.codes[0][None, :])
    inverse = np.linalg.inv(V)
    C = np.linalg.inv(case.X.T @ inverse @ case.X)
    beta = C @ case.X.T @ inverse @ case.y
    np.testing.assert_allclose(fit.params, beta, rtol=1e-9)
    np.testing.assert_allclose(fit.cov_params(), C, rtol=1e-8, atol=1e-12)
    e = inverse @ (case.y - case.X @ beta)
    u = np.array([T @ case.Z[0][case.codes[0] == j].T @ e[case.codes[0] == j] for j in range(case.codes[0].max() + 1)])
    np.testing.assert_allclose(fit.random_effects["f0"], u, rtol=1e-7, atol=1e-9)
    mean = case.X @ beta + (case.Z[0] * u[case.codes[0]]).sum(axis=1)
    np.testing.assert_allclose(fit.fittedvalues, mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(fit.predict(effects="population"), case.X @ beta, rtol=1e-8, atol=1e-9)
    C_white = np.linalg.inv(s.covariance(estimated.phi)) / fit.sigma**2
    white = fit.residual.white().to_numpy()
    assert white @ white == pytest.approx((case.y - mean) @ C_white @ (case.y - mean), rel=1e-8)


@pytest.mark.parametrize("kind", ["strata", "ar1", "cs"])
def test_standard_errors(kind: str) -> None:
    """Twice the inverse of the second differences of the criterion as it is defined."""
    s = structured(kind, [1], seed=14)
    fit = s.model().fit(reml=False)
    problem, estimated = fit._problem, fit._problem.residual
    assert estimated is not None
    x = np.concatenate([fit._point, estimated.phi])

    def value(x: np.ndarray) -> float:
        D = problem.maps[0] @ np.array([[x[0] ** 2]]) @ problem.maps[0].T
        return s.criterion([D], x[1:], False)

    step = 1e-3
    steps = step * np.eye(len(x))
    H = np.array(
        [
            [(value(x + a + b) - value(x + a - b) - value(x - a + b) + value(x - a - b)) / (4 * step**2) for a in steps]
            for b in steps
        ]
    )
    expected = 2 * np.linalg.inv(H)[1:, 1:]
    # second differences: error of the order step²
    np.testing.assert_allclose(estimated.covariance, expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["strata", "ar1"])
def test_beside_known_values(kind: str) -> None:
    s = structured(kind, [1], seed=17)
    free = s.model().fit(reml=False)
    again = s.model().fit(reml=False, fixed={"sigma": free.sigma})
    assert again.criterion == pytest.approx(free.criterion, abs=1e-7)
    np.testing.assert_allclose(again.residual.params, free.residual.params, rtol=1e-4)
    known = s.model().fit(reml=False, fixed={"sigma": 1.2 * free.sigma, "f0": 0.5})
    assert known.converged
    assert known.covariances["f0"].to_numpy() == pytest.approx(0.5)
    estimated, case = known._problem.residual, s.case
    assert estimated is not None

    def value(phi: np.ndarray) -> float:
        V = known.sigma**2 * s.covariance(phi) + 0.5 * (case.codes[0][:, None] == case.codes[0][None, :])
        inverse = np.linalg.inv(V)
        e = case.y - case.X @ np.linalg.solve(case.X.T @ inverse @ case.X, case.X.T @ inverse @ case.y)
        return float(np.linalg.slogdet(V)[1] + len(e) * np.log(2 * np.pi) + e @ inverse @ e)

    assert known.criterion == pytest.approx(value(estimated.phi), abs=1e-9)
    best = minimize(value, estimated.phi, method="BFGS", options={"gtol": 1e-7})
    assert known.criterion == pytest.approx(best.fun, abs=1e-8)


def test_beside_a_structure_of_the_random_effects() -> None:
    """A diagonal covariance asked for as a structure is that of uncorrelated terms."""
    data = frame("Ovary")
    formula = "follicles ~ sin(2 * pi * Time) + cos(2 * pi * Time) + (sin(2 * pi * Time) {} Mare)"
    one = hlm.Model(formula.format("||"), data, residual=AR1()).fit()
    other = hlm.Model(formula.format("|"), data, covariance={"Mare": "diagonal"}, residual=AR1()).fit()
    assert other.converged
    assert other.criterion == pytest.approx(one.criterion, abs=1e-7)
    np.testing.assert_allclose(other.residual.params, one.residual.params, rtol=1e-5)


# ---- what a Fit has of it -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pupils() -> pd.DataFrame:
    return hlm.datasets.load("hsb")


def test_strata_are_a_log_linear_model_of_their_indicators(pupils: pd.DataFrame) -> None:
    formula = "mathach ~ cses + (cses | school)"
    by = hlm.Model(formula, pupils, residual=ByStratum("female")).fit()
    linear = hlm.Model(formula, pupils, residual=LogLinear("~ female")).fit()
    assert linear.criterion == pytest.approx(by.criterion, abs=1e-8)
    assert linear.residual.params["female"] == pytest.approx(2 * np.log(by.residual.params.iloc[0]), rel=1e-5)
    share = (pupils["female"] == 1).mean()
    assert linear.sigma == pytest.approx(by.residual.sd[0] ** (1 - share) * by.residual.sd[1] ** share, rel=1e-6)
    table = by.residual.table(alpha=0.1)
    half = norm.ppf(0.95) * table["std. error"]
    np.testing.assert_allclose(np.log(table["upper"] / table["estimate"]), half)
    np.testing.assert_allclose(np.log(table["estimate"] / table["lower"]), half)


def test_homogeneity_is_tested_against_the_plain_model(pupils: pd.DataFrame) -> None:
    formula = "mathach ~ cses + (1 | school)"
    plain = hlm.Model(formula, pupils).fit()
    fit = hlm.Model(formula, pupils, residual=ByStratum("female")).fit()
    test = fit.residual.homogeneity
    assert test.statistic == pytest.approx(plain.criterion - fit.criterion, abs=1e-9)
    assert test.df == 1
    assert test.pvalue == pytest.approx(chi2.sf(test.statistic, 1), rel=1e-10)
    assert fit.df_model == plain.df_model + 1
    assert fit.aic == pytest.approx(fit.criterion + 2 * fit.df_model)
    assert "chi-square" in str(test)
    assert "strata" in str(fit)
    assert "sd(1) / sd(0)" in fit._repr_html_()
    with pytest.raises(hlm.DesignError, match="residual="):
        plain.residual  # noqa: B018


def test_frequencies_stand_for_rows(pupils: pd.DataFrame) -> None:
    few = pupils.iloc[:900].copy()
    few["f"] = np.arange(900) % 3 + 1
    for residual in (ByStratum("female"), LogLinear("~ ses + female")):
        long = few.loc[few.index.repeat(few["f"])]
        one = hlm.Model("mathach ~ cses + (1 | school)", few, frequencies="f", residual=residual).fit()
        other = hlm.Model("mathach ~ cses + (1 | school)", long, residual=residual).fit()
        assert one.criterion == pytest.approx(other.criterion, abs=1e-7)
        np.testing.assert_allclose(one.residual.params, other.residual.params, rtol=1e-5)
        np.testing.assert_allclose(one.residual.bse, other.residual.bse, rtol=1e-4)


def test_units_and_order_of_the_rows_do_not_matter(pupils: pd.DataFrame) -> None:
    few = pupils.iloc[:1500].assign(wave=np.arange(1500) % 7 + 10 * (np.arange(1500) // 7))
    mixed = few.sample(frac=1, random_state=1).assign(
        mathach=lambda d: 1000 * d["mathach"], ses=lambda d: 50 + d["ses"]
    )
    formula = "mathach ~ female + (1 | school)"
    for residual in (AR1("wave"), LogLinear("~ ses")):
        one = hlm.Model(formula, few, residual=residual).fit()
        other = hlm.Model(formula, mixed, residual=residual).fit()
        assert other.sigma == pytest.approx(1000 * one.sigma, rel=1e-6)
        np.testing.assert_allclose(other.residual.params, one.residual.params, rtol=1e-5, atol=1e-8)


def test_arrays_and_formulas_agree(pupils: pd.DataFrame) -> None:
    few = pupils.iloc[:800]
    one = hlm.Model("mathach ~ cses + (1 | school)", few, residual=ByStratum(few["female"])).fit()
    other = hlm.Model.from_arrays(
        few["mathach"],
        np.column_stack([np.ones(800), few["cses"]]),
        [hlm.Random(few["school"], name="school")],
        residual=ByStratum(few["female"].to_numpy()),
    ).fit()
    assert one.criterion == pytest.approx(other.criterion, abs=1e-9)


def test_equations_and_formulas_agree() -> None:
    pupils, schools = hlm.datasets.load("hsb_pupils"), hlm.datasets.load("hsb_schools")
    model = hlm.Model.from_equations(
        """
        mathach = b0 + b1*cses
        b0 = g00 + u0[school]
        b1 = g10
        """,
        pupils,
        school=schools,
        residual=ByStratum("sector"),
    )
    joined = hlm.datasets.load("hsb")
    other = hlm.Model("mathach ~ cses + (1 | school)", joined, residual=ByStratum("sector")).fit()
    assert model.fit().criterion == pytest.approx(other.criterion, abs=1e-8)


def test_missing_strata_drop_their_rows(pupils: pd.DataFrame) -> None:
    few = pupils.iloc[:800].astype({"female": float})
    few.loc[few.index[5], "female"] = np.nan
    fit = hlm.Model("mathach ~ cses + (1 | school)", few, residual=ByStratum("female")).fit()
    assert fit.nobs == 799
    assert fit.model.design.dropped["female"] == 1
    assert np.isnan(fit.residual.white().iloc[5])


def test_a_saved_fit_is_the_same() -> None:
    fit = structured("ar1", [2], seed=15).model().fit()
    again = pickle.loads(pickle.dumps(fit))
    assert again.criterion == fit.criterion
    pd.testing.assert_frame_equal(again.residual.table(), fit.residual.table())
    np.testing.assert_allclose(again.random_effects["f0"], fit.random_effects["f0"], rtol=1e-12)


def test_the_trace_has_all_parameters() -> None:
    fit = structured("unstructured", [1], seed=16).model().fit()
    estimated = fit._problem.residual
    assert estimated is not None
    last = fit.trace.iloc[-1]
    np.testing.assert_allclose(last[list(estimated.pattern.names)].to_numpy(dtype=float), estimated.phi)
    assert last["f0.Intercept"] == pytest.approx(fit.theta["f0.Intercept"])
