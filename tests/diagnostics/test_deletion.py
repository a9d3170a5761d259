"""Deletion of groups under structures, known values, constraints and related levels, against dense algebra."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.diagnostics.deletion import refit_without

LEVELS = 20


def make_data(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(LEVELS), rng.integers(4, 14, LEVELS))
    g = g[rng.permutation(len(g))]
    n = len(g)
    x, z = rng.normal(size=(2, n))
    v = rng.uniform(0.3, 2, n)
    effects = rng.normal(size=(LEVELS, 2)) * [1.0, 0.5]
    y = 1 + x + effects[g, 0] + effects[g, 1] * x + np.sqrt(v) * rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "z": z, "g": g, "v": v})


def family(seed: int = 1) -> pd.DataFrame:
    """Covariance of relatives: half of what parents have, from random parents among the earlier levels."""
    rng = np.random.default_rng(seed)
    K = np.eye(LEVELS)
    for i in range(2, LEVELS):
        a, b = rng.choice(i, 2, replace=False)
        K[i, :i] = K[:i, i] = 0.5 * (K[a, :i] + K[b, :i])
        K[i, i] = 1 + 0.5 * K[a, b]
    return pd.DataFrame(K, index=range(LEVELS), columns=range(LEVELS))


# formula, arguments of Model, arguments of fit, whether σ is held too, and constraints on γ as (R, r)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], bool, tuple[Any, Any] | None]] = {
    "ar1": ("(x | g)", {"covariance": {"g": "ar1"}}, {}, False, None),
    "cs": ("(x | g)", {"covariance": {"g": "cs"}}, {}, False, None),
    "identity": ("(x | g)", {"covariance": {"g": "identity"}}, {}, False, None),
    "known coefficient": ("(x | g)", {}, {"fixed": {"x": 1.0}}, False, ([[0, 1, 0]], [1])),
    "constraint on coefficients": ("(x | g)", {}, {"constraints": "x = 2*z + 1"}, False, ([[0, 1, -2]], [1])),
    "constraint of two kinds": (
        "(x | g)",
        {},
        {"constraints": ["x + z = 1", "var(x | g) = 0.25*sigma2"]},
        False,
        ([[0, 1, 1]], [1]),
    ),
    "known covariance": ("(x | g)", {}, {"fixed": {"g": [[1.0, 0.1], [0.1, 0.25]]}}, True, None),
    "known element": ("(x | g)", {}, {"fixed": {"g": {"x": 0.25}}}, True, None),
    "known sigma": ("(1 | g)", {}, {"fixed": {"sigma": 1.1}}, True, None),
    "known sampling variances": ("(1 | g)", {"sampling_variance": "v"}, {}, True, None),
    "relatives": ("(1 | g)", {"between": {"g": family()}}, {}, False, None),
    "relatives, ML": ("(x | g)", {"between": {"g": family()}}, {"reml": False}, False, None),
}


def fitted(name: str) -> tuple[pd.DataFrame, hlm.Fit]:
    random, given, asked, _, _ = CASES[name]
    data = make_data()
    return data, hlm.Model(f"y ~ x + z + {random}", data, **given).fit(**asked)


def covariance(data: pd.DataFrame, fit: hlm.Fit, given: dict[str, Any], T: np.ndarray) -> np.ndarray:
    """V / σ² for T / σ²."""
    K = given["between"]["g"].to_numpy() if "between" in given else np.eye(LEVELS)
    Z = np.column_stack([np.ones(len(data)), data["x"]])[:, : len(T)]
    g = data["g"].to_numpy()
    rows = data["v"].to_numpy() if "sampling_variance" in given else np.ones(len(data))
    return np.diag(rows) + (Z @ T @ Z.T) * K[np.ix_(g, g)]


@pytest.mark.parametrize("name", CASES)
def test_at_fixed_theta_against_dense_algebra(name: str) -> None:
    _, given, asked, sigma_held, constraint = CASES[name]
    data, fit = fitted(name)
    found = fit.influence()
    V = covariance(data, fit, given, fit.covariances["g"].to_numpy() / fit.sigma**2)
    X = np.column_stack([np.ones(len(data)), data["x"], data["z"]])
    R, r = (np.zeros((0, 3)), np.zeros(0)) if constraint is None else map(np.array, constraint)
    N = np.linalg.svd(R)[2][len(R) :].T if len(R) else np.eye(3)
    start = np.linalg.pinv(R) @ r if len(R) else np.zeros(3)
    volumes = []
    for g in (0, 5, LEVELS - 1, None):
        keep = (data["g"] != g).to_numpy()
        inverse = np.linalg.inv(V[np.ix_(keep, keep)])
        XN, y = X[keep] @ N, (data["y"] - X @ start).to_numpy()[keep]
        S = XN.T @ inverse @ XN
        delta = np.linalg.solve(S, XN.T @ inverse @ y)
        e = y - XN @ delta
        freedom = len(y) - (N.shape[1] if asked.get("reml", True) else 0)
        sigma2 = fit.sigma**2 if sigma_held else e @ inverse @ e / freedom
        own, gamma = sigma2 * np.linalg.inv(S), start + N @ delta
        volumes.append(np.linalg.slogdet(own)[1])
        if g is None:
            break
        np.testing.assert_allclose(found.fixed_theta_params.loc[g], gamma, rtol=1e-6, atol=1e-9)
        assert found.table.loc[g, "sigma"] == pytest.approx(np.sqrt(sigma2), rel=1e-7)
        change = N.T @ (fit.params.to_numpy() - gamma)
        se = np.sqrt(np.einsum("ij,jk,ik->i", N, own, N))
        free = se > 1e-12
        np.testing.assert_allclose(found.dfbetas.loc[g][free], ((N @ change) / np.where(free, se, 1))[free], rtol=1e-5)
        assert found.dfbetas.loc[g][~free].isna().all()
        # of the whole fit, along the constraints
        whole = np.linalg.inv(N.T @ fit.cov_params().to_numpy() @ N)
        assert found.table.loc[g, "cooks_d"] == pytest.approx(change @ whole @ change / len(change), rel=1e-5)
    ratios = np.exp(np.array(volumes[:-1]) - volumes[-1])
    np.testing.assert_allclose(found.table["covratio"].iloc[[0, 5, -1]], ratios, rtol=1e-5)


@pytest.mark.parametrize("name", ["identity", "known sigma", "known sampling variances", "relatives"])
def test_the_newton_step_of_one_parameter(name: str) -> None:
    """θ is one standard deviation here: the step is that of the dense criterion of the rows that are left."""
    _, given, _, sigma_held, _ = CASES[name]
    data, fit = fitted(name)
    found = fit.influence()
    X = np.column_stack([np.ones(len(data)), data["x"], data["z"]])
    q = 2 if name == "identity" else 1

    def criterion_without(g: int) -> Callable[[float], float]:
        keep = (data["g"] != g).to_numpy()
        y = data["y"].to_numpy()[keep]

        def value(theta: float) -> float:
            V = covariance(data, fit, given, theta**2 * np.eye(q))[np.ix_(keep, keep)]
            inverse = np.linalg.inv(V)
            S = X[keep].T @ inverse @ X[keep]
            e = y - X[keep] @ np.linalg.solve(S, X[keep].T @ inverse @ y)
            r2, nu = e @ inverse @ e, len(y) - 3
            fit_of_y = r2 / fit.sigma**2 if sigma_held else nu * np.log(r2)
            return np.linalg.slogdet(V)[1] + np.linalg.slogdet(S)[1] + fit_of_y

        return value

    for g in (1, 7):
        value, here, h = criterion_without(g), float(fit.theta.iloc[0]), 1e-3
        left, middle, right = (value(here + s * h) for s in (-1, 0, 1))
        slope, curvature = (right - left) / (2 * h), (right - 2 * middle + left) / h**2
        assert found.theta.loc[g].item() == pytest.approx(here - slope / curvature, abs=2e-4)
        assert found.table.loc[g, "decrement"] == pytest.approx(0.5 * slope**2 / curvature, rel=2e-3, abs=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_steps_come_near_to_refits_that_keep_what_was_asked(name: str) -> None:
    fit = fitted(name)[1]
    step, again = fit.influence(), fit.influence(refit="all")
    other = refit_without(fit, fit.model.design.factors[0].codes != 3)
    np.testing.assert_allclose(again.params.loc[3], other.params, rtol=1e-9)
    np.testing.assert_allclose(again.theta.loc[3], other.theta, rtol=1e-9, atol=1e-12)
    assert other.restrictions == fit.restrictions
    if name == "known covariance":
        np.testing.assert_allclose(other.covariances["g"], [[1.0, 0.1], [0.1, 0.25]], rtol=1e-12)
    trusted = step.table["trusted"]
    assert trusted.sum() >= 3
    missing, whole = step.params - again.params, step.fixed_theta_params - again.params
    # half of the groups: a refit may find another optimum, far away
    sizes = [np.median(np.linalg.norm(change[trusted], axis=1)) for change in (missing, whole)]
    assert sizes[0] < 0.5 * sizes[1]


def test_refits_of_relatives_are_those_of_the_data_without_the_level() -> None:
    data, fit = fitted("relatives")
    again = fit.influence(refit="all")
    for g in (0, 8):
        left = hlm.Model("y ~ x + z + (1 | g)", data[data["g"] != g], between={"g": family()}).fit()
        np.testing.assert_allclose(again.params.loc[g], left.params, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(again.theta.loc[g], left.theta, rtol=1e-5)


def test_a_group_without_which_the_model_cannot_be_fitted_is_nan() -> None:
    data = make_data()
    data["only"] = (data["g"] == 4) * data["x"]
    for given, asked in [({}, {}), ({"covariance": {"g": "identity"}}, {})]:
        fit = hlm.Model("y ~ x + only + (x | g)", data, **given).fit(**asked)
        for refit in ("none", "all"):
            found = fit.influence(refit=refit)
            assert found.params.loc[4].isna().all()
            assert found.fixed_theta_params.loc[4].isna().all()
            assert found.table.loc[4, "decrement"] == np.inf
            assert not found.table.loc[4, ["trusted", "refitted"]].any()
            assert found.fixed_theta_params.drop(index=4).notna().all(axis=None)


@pytest.mark.parametrize("refit", ["none", "untrusted", "all"])
@pytest.mark.parametrize("given", [{}, {"covariance": {"g": "identity"}}])
def test_nothing_is_said_where_one_level_would_be_left(given: dict[str, Any], refit: str) -> None:
    data = make_data()
    two = hlm.Model("y ~ x + (1 | g)", data[data["g"] < 2], **given).fit()
    found = two.influence(refit=refit)
    assert found.params.isna().all(axis=None)
    assert found.fixed_theta_params.isna().all(axis=None)
    assert (found.table["decrement"] == np.inf).all()
    assert not found.table[["trusted", "refitted"]].any(axis=None)


@pytest.mark.parametrize("refit", ["none", "all"])
@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", "y ~ x + (1 | g) + (1 | h)"])
def test_nothing_is_said_where_variances_could_not_be_told_from_the_residual(formula: str, refit: str) -> None:
    rng = np.random.default_rng(2)
    g = np.concatenate([[0] * 4, np.arange(1, 12)])  # one row in each group but the first
    data = pd.DataFrame(
        {"g": g, "h": np.arange(len(g)) % 3, "x": rng.normal(size=len(g)), "y": rng.normal(size=len(g))}
    )
    found = hlm.Model(formula, data).fit().influence("g", refit=refit)
    assert found.params.loc[0].isna().all()
    assert found.fixed_theta_params.loc[0].isna().all()
    assert not found.table.loc[0, ["trusted", "refitted"]].any()
    assert found.fixed_theta_params.drop(index=0).notna().all(axis=None)
    with pytest.raises(hlm.DesignError, match="as many levels"):
        hlm.Model(formula, data[data["g"] > 0]).fit()
