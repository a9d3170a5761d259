"""Standard errors and intervals of predictions against dense algebra, closed forms and simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import hlm

from .dense import EVERY, Case, structure


def dense_error(case: Case, fit: hlm.Fit, X: np.ndarray, wide: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Parts (fixed, groups) of the variance of x'γ̂ + Σ z'û, from Cov of all effects; wide: (N, J·q) for each factor."""
    theta = fit.theta.to_numpy()
    V = case.covariance(theta)
    inverse = np.linalg.inv(V)
    full, own = [], []
    for Z, codes, L in zip(case.Z, case.codes, case.factors(theta), strict=True):
        J, q = codes.max() + 1, Z.shape[1]
        matrix = np.zeros((len(V), J * q))
        for level in range(J):
            matrix[codes == level, level * q : (level + 1) * q] = Z[codes == level]
        full.append(matrix)
        own.append(np.kron(np.eye(J), L @ L.T))
    Z, D = np.hstack(full), np.zeros((sum(len(d) for d in own),) * 2)
    at = 0
    for d in own:
        D[at : at + len(d), at : at + len(d)] = d
        at += len(d)
    omega = D - D @ Z.T @ inverse @ Z @ D
    C = np.hstack(wide)
    left = X - C @ D @ Z.T @ inverse @ case.X
    S = case.X.T @ inverse @ case.X
    fixed = np.einsum("ni,ij,nj->n", left, np.linalg.inv(S), left) if len(S) else np.zeros(len(X))
    return fit.sigma**2 * fixed, fit.sigma**2 * np.einsum("ni,ij,nj->n", C, omega, C)


def spread(case: Case, rows: np.ndarray, chosen: list[int]) -> list[np.ndarray]:
    out = []
    for k, (Z, codes) in enumerate(zip(case.Z, case.codes, strict=True)):
        J, q = codes.max() + 1, Z.shape[1]
        matrix = np.zeros((len(rows), J * q))
        for n, row in enumerate(rows):
            if k in chosen:
                matrix[n, codes[row] * q : (codes[row] + 1) * q] = Z[row]
        out.append(matrix)
    return out


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("wide", "six nested", "four nested")])
def test_variance_of_the_error_against_dense_algebra(name: str) -> None:
    case = structure(name, seed=2)
    fit = case.model().fit()
    everything = np.arange(len(case.y))
    names = [f"f{k}" for k in range(len(case.Z))]
    for chosen in (list(range(len(names))), [len(names) - 1], []):
        effects = [names[k] for k in chosen] if chosen else "population"
        found = fit.predict(effects=effects, interval="confidence", theta_uncertainty=False)
        fixed, groups = dense_error(case, fit, case.X, spread(case, everything, chosen))
        np.testing.assert_allclose(found["var_fixed"], fixed, rtol=1e-6, atol=1e-9 * fit.sigma**2)
        np.testing.assert_allclose(found["var_groups"], groups, rtol=1e-6, atol=1e-8 * fit.sigma**2)
        np.testing.assert_allclose(found["se"], np.sqrt(fixed + groups), rtol=1e-6, atol=1e-6 * fit.sigma)
        new = fit.predict(effects=effects, interval="prediction", theta_uncertainty=False)
        other = sum(
            (
                ((Z @ fit.covariances[f"f{k}"].to_numpy()) * Z).sum(axis=1)
                for k, Z in enumerate(case.Z)
                if k not in chosen
            ),
            np.zeros(len(case.y)),
        )
        np.testing.assert_allclose(new["var_new_groups"], other, rtol=1e-12)
        np.testing.assert_allclose(new["var_residual"], fit.sigma**2)
        np.testing.assert_allclose(new["se"] ** 2, fixed + groups + other + fit.sigma**2, rtol=1e-6)
        half = norm.ppf(0.975) * new["se"]
        np.testing.assert_allclose(new["upper"] - new["predicted"], half)
        np.testing.assert_allclose(new["predicted"] - new["lower"], half)


@pytest.mark.parametrize("name", ["slope", "two nested", "crossed slopes"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_what_the_estimation_of_theta_adds(name: str, reml: bool) -> None:
    """g'Ag with g and A by differences of dense algebra in the entries of Λ."""
    cases = ((case, case.model().fit(reml=reml)) for case in (structure(name, seed) for seed in range(30)))
    case, fit = next((case, fit) for case, fit in cases if not fit.is_singular)
    found = fit.predict(interval="confidence")

    def predicted(theta: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(case.covariance(theta))
        beta = np.linalg.solve(case.X.T @ inverse @ case.X, case.X.T @ inverse @ case.y)
        out = case.X @ beta
        for Z, codes, u in zip(case.Z, case.codes, case.posterior(theta, False)[0], strict=True):
            out += (Z * u[codes]).sum(axis=1)
        return out

    theta = fit.theta.to_numpy()
    free = np.arange(len(theta))
    step = 1e-4
    g, H = [], np.zeros((len(free), len(free)))
    unit = step * np.eye(len(theta))[free]
    for a, e in enumerate(unit):
        g.append((predicted(theta + e) - predicted(theta - e)) / (2 * step))
        for b, f in enumerate(unit):
            corners = [case.criterion(theta + s * e + t * f, reml) * s * t for s in (1, -1) for t in (1, -1)]
            H[a, b] = sum(corners) / (4 * step**2)
    g = np.array(g)
    expected = np.einsum("an,ab,bn->n", g, 2 * np.linalg.inv(H), g)
    np.testing.assert_allclose(found["var_theta"], expected, rtol=2e-3, atol=1e-6 * expected.max())


def test_known_and_new_groups_of_a_table() -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    new = pd.DataFrame({"Days": [0.0, 4.0, 12.0], "Subject": [data["Subject"][0], "someone", "someone"]})
    found = fit.predict(new, new_levels="population", interval="prediction")
    T = fit.covariances["Subject"].to_numpy()
    for row, days in ((1, 4.0), (2, 12.0)):
        z = np.array([1.0, days])
        assert found["var_new_groups"][row] == pytest.approx(z @ T @ z)
        assert found["var_groups"][row] == found["var_theta"][row] - found["var_theta"][row] == 0
        assert found["var_fixed"][row] == pytest.approx(z @ fit.cov_params().to_numpy() @ z)
    assert found["var_new_groups"][0] == 0
    known = fit.predict(data.iloc[:1], interval="confidence")
    assert known["var_groups"].iloc[0] == pytest.approx(found["var_groups"][0])
    with pytest.raises(hlm.DataError, match="someone"):
        fit.predict(new, interval="prediction")
    absent = fit.predict(new, new_levels="nan", interval="prediction")
    assert absent.iloc[1:].isna().all().all()
    # a population prediction needs no grouping column
    alone = fit.predict(new[["Days"]], effects="population", interval="prediction")
    np.testing.assert_allclose(alone["se"][1:], found["se"][1:], rtol=1e-9)
    mean = fit.predict(new, new_levels="population", interval="prediction", mean_of=4)
    np.testing.assert_allclose(mean["var_residual"], fit.sigma**2 / 4)


def test_balanced_one_way_layout_in_closed_form() -> None:
    """Var(μ̂ + û - μ - u) = τ²(1 - λ) + (1 - λ)² (τ² + σ²/n) / J, λ the reliability (Searle et al. 1992)."""
    rng = np.random.default_rng(3)
    J, n = 12, 5
    groups = np.repeat(np.arange(J), n)
    data = pd.DataFrame({"y": 2 * rng.normal(size=J)[groups] + rng.normal(size=J * n), "g": groups})
    fit = hlm.Model("y ~ 1 + (1 | g)", data).fit()
    tau, sigma2 = fit.covariances["g"].iloc[0, 0], fit.sigma**2
    reliability = tau / (tau + sigma2 / n)
    found = fit.predict(interval="confidence", theta_uncertainty=False)
    expected = tau * (1 - reliability) + (1 - reliability) ** 2 * (tau + sigma2 / n) / J
    np.testing.assert_allclose(found["se"] ** 2, expected, rtol=1e-9)


def test_coverage_for_known_and_new_groups() -> None:
    """30 groups of 6: intervals of 90 % hold about what they promise, for rows of known and of new groups."""
    rng = np.random.default_rng(7)
    J, n = 30, 6
    groups = np.repeat(np.arange(J), n)
    x = rng.normal(size=J * n)
    model = hlm.Model.from_arrays(np.arange(J * n) % 7.0, np.column_stack([np.ones(J * n), x]), [hlm.Random(groups)])
    known, fresh = [], []
    for _ in range(300):
        u = 0.8 * rng.normal(size=J)
        fit = model.with_response(1 + x + u[groups] + rng.normal(size=J * n)).fit()
        found = fit.predict(interval="prediction", alpha=0.1).iloc[::n]
        y = 1 + x[::n] + u + rng.normal(size=J)
        known.append(np.mean((found["lower"] < y) & (y < found["upper"])))
        found = fit.predict(effects="population", interval="prediction", alpha=0.1).iloc[::n]
        y = 1 + x[::n] + 0.8 * rng.normal(size=J) + rng.normal(size=J)
        fresh.append(np.mean((found["lower"] < y) & (y < found["upper"])))
    for shares in (known, fresh):
        assert np.mean(shares) == pytest.approx(0.9, abs=0.015)  # normal quantiles with 30 groups; error 0.004


def test_dropped_rows_weights_and_arguments() -> None:
    data = hlm.datasets.load("sleepstudy")
    data["w"] = np.where(np.arange(180) % 2, 4.0, 1.0)
    data.loc[5, "Days"] = np.nan
    fit = hlm.Model("Reaction ~ Days + (1 | Subject)", data, weights="w").fit()
    found = fit.predict(interval="prediction")
    assert found.loc[5].isna().all()
    np.testing.assert_allclose(found["var_residual"].drop(5), fit.sigma**2 / data["w"].drop(5))
    with pytest.raises(hlm.DataError, match="interval"):
        fit.predict(interval="credible")
    with pytest.raises(hlm.DataError, match="mean_of"):
        fit.predict(interval="prediction", mean_of=0)
    with pytest.raises(hlm.DataError, match="alpha"):
        fit.predict(interval="prediction", alpha=1)


def test_models_without_groups_are_ols() -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days", data).fit()
    found = fit.predict(interval="prediction")
    X = np.column_stack([np.ones(180), data["Days"]])
    hat = np.einsum("ni,ij,nj->n", X, np.linalg.inv(X.T @ X), X)
    np.testing.assert_allclose(found["se"], fit.sigma * np.sqrt(1 + hat), rtol=1e-9)


def test_structures_and_known_variances() -> None:
    data = hlm.datasets.load("sleepstudy")
    formula = "Reaction ~ Days + (Days | Subject)"
    free = hlm.Model(formula, data).fit()
    # the same model with σ and T known at the estimates: nothing is added for θ, the rest is the same
    known = hlm.Model(formula, data).fit(fixed={"sigma": free.sigma, "Subject": free.covariances["Subject"]})
    one, other = (fit.predict(interval="prediction") for fit in (free, known))
    assert (other["var_theta"] == 0).all()
    assert (one["var_theta"] > 0).all()
    for part in ("fixed", "groups", "residual"):
        np.testing.assert_allclose(other[f"var_{part}"], one[f"var_{part}"], rtol=1e-6)
    # "diagonal" is `||` in other words
    apart = hlm.Model("Reaction ~ Days + (Days || Subject)", data).fit().predict(interval="confidence")
    structured = hlm.Model(formula, data, covariance={"Subject": "diagonal"}).fit().predict(interval="confidence")
    np.testing.assert_allclose(structured, apart, rtol=1e-4)
