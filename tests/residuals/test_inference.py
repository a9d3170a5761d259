"""Information, Satterthwaite's and Kenward and Roger's methods beside residual structures, against n x n matrices."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.inference import unit_forms
from hlm.residuals import AR1, ByStratum, CompoundSymmetry

from ..reference import frame
from .dense import KINDS, Structured, structured
from .test_crossed import crossed

# Groups of correlated errors without a factor, one factor, two nested ones, and two crossed ones.
CASES: dict[str, Callable[[], Structured]] = {
    **{kind: lambda kind=kind: structured(kind, [2] if kind != "unstructured" else [], seed=21) for kind in KINDS},
    "cs, no factor": lambda: structured("cs", [], seed=22),
    "strata, no factor": lambda: structured("strata", [], seed=22),
    "ar1*strata, nested": lambda: structured("ar1*strata", [1, 1], seed=26, weighted=True),
    "strata, nested": lambda: structured("strata", [1, 1], seed=27, weighted=True),
    "strata, crossed": lambda: crossed("strata", [1, 1], [12, 5], 1, seed=3),
}


def directions(s: Structured, fit: hlm.Fit) -> tuple[np.ndarray, list[np.ndarray]]:
    """V and its derivatives in the entries of T, φ (by differences) and σ²."""
    estimated, sigma2 = fit._problem.residual, fit.sigma**2
    assert estimated is not None
    C = s.covariance(estimated.phi)
    V, out = sigma2 * C, []
    for Z, codes, name in zip(s.case.Z, s.case.codes, fit.covariances, strict=True):
        same = codes[:, None] == codes[None, :]
        V = V + (Z @ fit.covariances[name].to_numpy() @ Z.T) * same
        for j in range(Z.shape[1]):
            for i in range(j, Z.shape[1]):
                half = np.outer(Z[:, i], Z[:, j]) * same
                out.append(half if i == j else half + half.T)
    for step in 1e-5 * np.eye(len(estimated.phi)):
        out.append(sigma2 * (s.covariance(estimated.phi + step) - s.covariance(estimated.phi - step)) / 2e-5)
    return V, [*out, C]


@pytest.mark.parametrize("case", CASES)
def test_kenward_roger(case: str) -> None:
    """Kenward and Roger (1997) with all matrices written out, V linear in its parameters."""
    s = CASES[case]()
    fit = s.model().fit()
    assert fit.converged
    assert not fit.is_singular
    X = s.case.X
    V, dV = directions(s, fit)
    inverse = np.linalg.inv(V)
    C = np.linalg.inv(X.T @ inverse @ X)
    P = inverse - inverse @ X @ C @ X.T @ inverse
    W = np.linalg.inv([[0.5 * np.trace(P @ a @ P @ b) for b in dV] for a in dV])
    slopes = [-X.T @ inverse @ a @ inverse @ X for a in dV]
    bias = np.zeros_like(C)
    for i, a in enumerate(dV):
        for j, b in enumerate(dV):
            Q = X.T @ inverse @ a @ inverse @ b @ inverse @ X
            bias += W[i, j] * (Q - slopes[i] @ C @ slopes[j])
    found = fit.inference("kenward-roger")
    # the derivatives in φ are differences
    np.testing.assert_allclose(found.cov_params(), C + 2 * C @ bias @ C, rtol=1e-6, atol=1e-10)
    for row in np.eye(len(C)):
        g = np.array([row @ C @ slope @ C @ row for slope in slopes])
        df = 2 * (row @ C @ row) ** 2 / (g @ W @ g)
        assert found.degrees((row @ fit._problem.coordinates.beta_map)[None])[0] == pytest.approx(df, rel=1e-5)


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("case", ["log-linear", "car1*log-linear", "strata, nested", "strata, crossed"])
def test_information(case: str, reml: bool) -> None:
    s = CASES[case]()
    fit = s.model().fit(reml=reml)
    assert not fit.is_singular
    X, y = s.case.X, s.case.y
    V, dV = directions(s, fit)
    inverse = np.linalg.inv(V)
    P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    r = len(fit.residual.params)
    at = [*range(len(dV) - r - 1), len(dV) - 1]
    own = P if reml else inverse
    expected = np.array([[np.trace(own @ a @ own @ b) for b in dV] for a in dV])
    average = np.array([[y @ P @ a @ P @ b @ P @ y for b in dV] for a in dV])
    for kind, second in (("expected", expected), ("average", average)):
        # the derivatives in φ are differences
        wanted = (2 * np.linalg.inv(second))[np.ix_(at, at)]
        found = fit.information(kind).covariance
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7 * np.abs(wanted).max())


def test_compound_symmetry_is_a_random_intercept() -> None:
    """The same covariances by other parameters: what is said of the fixed effects is the same."""
    data = frame("Orthodont")
    formula = "distance ~ age * Sex"
    errors = hlm.Model(formula, data, residual=CompoundSymmetry("Subject")).fit()
    effects = hlm.Model(formula + " + (1 | Subject)", data).fit()
    for method in ("satterthwaite", "kenward-roger"):
        one, other = errors.inference(method), effects.inference(method)
        np.testing.assert_allclose(one.table(), other.table(), rtol=1e-4)
        joint = [found.test("Sex[T.Male] = 0, age:Sex[T.Male] = 0") for found in (one, other)]
        assert joint[0].statistic == pytest.approx(joint[1].statistic, rel=1e-5)
        assert joint[0].df_den == pytest.approx(joint[1].df_den, rel=1e-4)


def test_equal_variances_by_stratum_are_those_of_one() -> None:
    """Strata that are copies of each other: the ratio of their variances is 1, and C has no slope in it."""
    data = frame("Orthodont")
    copies = [data.assign(copy=copy, Subject=copy + data["Subject"].astype(str)) for copy in "ab"]
    twice = pd.concat(copies, ignore_index=True)
    fit = hlm.Model("distance ~ age + (1 | Subject)", twice, residual=ByStratum("copy")).fit()
    plain = hlm.Model("distance ~ age + (1 | Subject)", twice).fit()
    assert fit.residual.params.iloc[0] == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(fit.cov_params(), plain.cov_params(), rtol=1e-6)
    found, wanted = (f.inference("satterthwaite").table()["df"] for f in (fit, plain))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_beside_a_known_value() -> None:
    """A covariance that is held at zero is that of uncorrelated terms."""
    data = hlm.datasets.load("sleepstudy")
    one = hlm.Model("Reaction ~ Days + (Days || Subject)", data, residual=AR1("Days")).fit()
    model = hlm.Model("Reaction ~ Days + (Days | Subject)", data, residual=AR1("Days"))
    other = model.fit(fixed={"Subject": {("Intercept", "Days"): 0.0}})
    assert other.criterion == pytest.approx(one.criterion, abs=1e-8)
    wanted = one.information().covariance
    found = other.information().covariance.loc[wanted.index, wanted.index]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).to_numpy().max())
    df = [fit.inference("satterthwaite").table()["df"] for fit in (other, one)]
    np.testing.assert_allclose(df[0], df[1], rtol=1e-5)
    asked: list[Callable[[], object]] = [
        lambda: other.information("expected"),
        lambda: other.inference("kenward-roger"),
    ]
    for ask in asked:
        with pytest.raises(hlm.DesignError, match="expected information is not offered for structures"):
            ask()


def test_beside_a_known_sigma() -> None:
    """Second differences of the deviance in the variance of the intercept and φ, σ² known."""
    s = structured("strata", [1], seed=14)
    sigma = s.model().fit(reml=False).sigma
    fit = s.model().fit(reml=False, fixed={"sigma": 1.1 * sigma})
    estimated = fit._problem.residual
    assert estimated is not None
    case = s.case

    def deviance(z: np.ndarray) -> float:
        V = fit.sigma**2 * s.covariance(z[1:]) + z[0] * (case.codes[0][:, None] == case.codes[0][None, :])
        inverse = np.linalg.inv(V)
        e = case.y - case.X @ np.linalg.solve(case.X.T @ inverse @ case.X, case.X.T @ inverse @ case.y)
        return float(np.linalg.slogdet(V)[1] + e @ inverse @ e)

    z = np.append(fit.covariances["f0"].to_numpy()[0], estimated.phi)
    steps = np.diag(1e-3 * np.maximum(np.abs(z), 0.3))
    H = [
        [
            (deviance(z + a + b) - deviance(z + a - b) - deviance(z - a + b) + deviance(z - a - b))
            / (4 * a.sum() * b.sum())
            for a in steps
        ]
        for b in steps
    ]
    expected = 2 * np.linalg.inv(H)
    # second differences: error of the order step²
    assert fit.information().covariance.iloc[0, 0] == pytest.approx(expected[0, 0], rel=1e-3)
    np.testing.assert_allclose(estimated.covariance, expected[1:, 1:], rtol=1e-3)
    assert np.isfinite(fit.inference("satterthwaite").table()["df"]).all()


@pytest.mark.parametrize("kind", ["CR1", "CR2", "CR3"])
@pytest.mark.parametrize("case", ["strata", "ar1*strata, nested", "strata, crossed"])
def test_robust_covariances(kind: str, case: str) -> None:
    """Bell and McCaffrey's adjustments of white rows with the fitted V as the working model, of the top factor."""
    s = CASES[case]()
    fit = s.model().fit()
    estimated = fit._problem.residual
    assert estimated is not None
    white = np.linalg.inv(np.linalg.cholesky(s.covariance(estimated.phi)))
    V = white @ directions(s, fit)[0] @ white.T
    X, codes = white @ s.case.X, s.case.codes[-1]
    e = white @ (s.case.y - s.case.X @ fit.params.to_numpy())
    H = np.linalg.solve(V, X)
    C = np.linalg.inv(X.T @ H)
    J = codes.max() + 1
    meat = np.zeros_like(C)
    for j in range(J):
        rows = codes == j
        own, Xi, Hi = V[np.ix_(rows, rows)], X[rows], H[rows]
        if kind == "CR1":
            A = np.sqrt(J / (J - 1)) * np.eye(rows.sum())
        elif kind == "CR2":
            L = np.linalg.cholesky(own)
            values, vectors = np.linalg.eigh(L.T @ (own - Xi @ C @ Xi.T) @ L)
            root = np.where(values > 1e-10 * values.max(), 1 / np.sqrt(np.abs(values)), 0.0)
            A = L @ (vectors * root) @ vectors.T @ L.T
        else:
            A = np.linalg.inv(np.eye(rows.sum()) - Xi @ C @ Hi.T)
        score = Hi.T @ A @ e[rows]
        meat += np.outer(score, score)
    options = {"cluster": "f1", "between": "none"} if "crossed" in case else {}
    np.testing.assert_allclose(fit.cov_params(kind, **options), C @ meat @ C, rtol=1e-6, atol=1e-10)


def test_too_many_rows_that_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_forms, "LARGEST", 3)
    fit = hlm.Model("distance ~ age + (1 | Subject)", frame("Orthodont"), residual=ByStratum("Sex")).fit()
    with pytest.raises(hlm.NumericalError, match="4 rows depend on each other"):
        fit.information("expected")
