"""Residuals, deletion of groups, exogeneity and the report, against dense algebra, refits and simulation."""

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.diagnostics.deletion import refit_without

from ..dense import STRUCTURES, Case, make_case, structure

NESTED = [name for name in STRUCTURES if name not in ("wide", "six nested")]


@pytest.mark.parametrize("name", NESTED)
def test_residuals_against_dense_algebra(name: str) -> None:
    case = structure(name, seed=1)
    fit = case.model().fit()
    beta = fit.params.to_numpy()
    marginal = case.y - case.X @ beta
    np.testing.assert_allclose(fit.residuals("marginal"), marginal, atol=1e-9)
    np.testing.assert_allclose(fit.residuals(), fit.resid, atol=1e-12)
    np.testing.assert_allclose(fit.residuals("pearson"), fit.resid / fit.sigma, atol=1e-12)
    hierarchy = fit._problem.statistics.hierarchy
    order = np.arange(len(case.y)) if hierarchy.rows is None else hierarchy.rows
    V = case.covariance(fit.theta.to_numpy())[np.ix_(order, order)]
    expected = np.linalg.solve(np.linalg.cholesky(V), marginal[order]) / fit.sigma
    np.testing.assert_allclose(fit.residuals("cholesky").to_numpy()[order], expected, rtol=1e-7, atol=1e-8)


def test_scaled_residuals_with_weights_and_rows_in_any_order() -> None:
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"x": rng.normal(size=60), "g": rng.integers(0, 9, 60), "w": rng.uniform(0.3, 3, 60)})
    data["y"] = data["x"] + rng.normal(size=9)[data["g"]] + rng.normal(size=60)
    fit = hlm.Model("y ~ x + (x | g)", data, weights="w").fit()
    Z = np.column_stack([np.ones(60), data["x"]])
    D = fit.covariances["g"].to_numpy() / fit.sigma**2
    same = data["g"].to_numpy()[:, None] == data["g"].to_numpy()[None]
    V = np.diag(1 / data["w"]) + (Z @ D @ Z.T) * same
    hierarchy = fit._problem.statistics.hierarchy
    e = fit.residuals("marginal").to_numpy()[hierarchy.rows]
    L = np.linalg.cholesky(V[np.ix_(hierarchy.rows, hierarchy.rows)])
    scaled = fit.residuals("cholesky").to_numpy()[hierarchy.rows]
    np.testing.assert_allclose(scaled, np.linalg.solve(L, e) / fit.sigma, rtol=1e-8)


def test_leverages_are_the_diagonal_of_the_hat_matrix() -> None:
    for name in ("slope", "two nested", "crossed slopes"):
        case = structure(name, seed=1)
        fit = case.model().fit()
        inverse = np.linalg.inv(case.covariance(fit.theta.to_numpy()))
        VX = inverse @ case.X
        H = np.eye(len(case.y)) - inverse + VX @ np.linalg.solve(case.X.T @ VX, VX.T)
        np.testing.assert_allclose(fit.leverages, np.diag(H), rtol=1e-6, atol=1e-9)
        assert fit.leverages.sum() == pytest.approx(fit.conditional_aic.df, rel=1e-6)


@pytest.mark.parametrize("name", ["intercept", "slope", "three columns", "no fixed part"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_deletion_of_groups_at_fixed_theta_is_exact(name: str, reml: bool) -> None:
    case = make_case(*STRUCTURES[name], seed=3, tops=25, most=5)
    fit = case.model().fit(reml=reml)
    found = fit.influence()
    V = case.covariance(fit.theta.to_numpy())
    for g in (0, 7, 24):
        keep = case.codes[0] != g
        inverse = np.linalg.inv(V[np.ix_(keep, keep)])
        X, y = case.X[keep], case.y[keep]
        S = X.T @ inverse @ X
        beta = np.linalg.solve(S, X.T @ inverse @ y) if len(S) else np.zeros(0)
        np.testing.assert_allclose(found.fixed_theta_params.iloc[g], beta, rtol=1e-7, atol=1e-9)
        e = y - X @ beta
        sigma2 = e @ inverse @ e / (len(y) - reml * len(S))
        assert found.table["sigma"].iloc[g] == pytest.approx(np.sqrt(sigma2), rel=1e-8)
        if len(S):
            change = fit.params.to_numpy() - beta
            own = np.linalg.inv(fit.cov_params().to_numpy())
            assert found.table["cooks_d"].iloc[g] == pytest.approx(change @ own @ change / len(S), rel=1e-6)
            se = np.sqrt(sigma2 * np.diag(np.linalg.inv(S)))
            np.testing.assert_allclose(found.dfbetas.iloc[g], change / se, rtol=1e-6, atol=1e-9)


def in_engine(fit: hlm.Fit, case: Case, theta: np.ndarray) -> np.ndarray:
    """The engine's θ from that of a fit."""
    roots = zip(fit._problem.maps, case.factors(theta), strict=True)
    return fit._problem.template.theta_of_covariances(
        [root @ root.T for root in (np.linalg.solve(M, L) for M, L in roots)]
    )


@pytest.mark.parametrize("name", ["intercept", "slope", "no fixed part"])
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_the_newton_step_is_that_of_the_rows_left(name: str, reml: bool) -> None:
    """The same step from the criterion of a model that was built without the group's rows."""
    case = make_case(*STRUCTURES[name], seed=4, tops=25, most=5)
    fit = case.model().fit(reml=reml)
    assert not fit.is_singular
    found = fit.influence()
    for g in (1, 10):
        other = refit_without(fit, case.codes[0] != g)
        problem = other._problem
        criterion = problem.criterion(reml)
        bridge = [np.linalg.solve(new, old) for new, old in zip(problem.maps, fit._problem.maps, strict=True)]

        def in_other(theta: np.ndarray, problem: object = problem, bridge: list = bridge) -> np.ndarray:
            D = [b @ L @ L.T @ b.T for b, L in zip(bridge, fit._problem.template.factors_of(theta), strict=True)]
            return problem.template.theta_of_covariances(D)

        def value(theta: np.ndarray, criterion: object = criterion, in_other: object = in_other) -> float:
            return criterion.value(in_other(theta))

        here, step, m = fit._point, 1e-3, len(fit._point)
        unit = step * np.eye(m)
        gradient = np.array([(value(here + e) - value(here - e)) / (2 * step) for e in unit])
        hessian = np.array(
            [[sum(s * t * value(here + s * e + t * f) for s in (1, -1) for t in (1, -1)) for f in unit] for e in unit]
        ) / (4 * step**2)
        newton = -np.linalg.solve(hessian, gradient)
        # differences with a step of 1e-3 of a function of order one: errors of about its square
        there = in_engine(fit, case, found.theta.iloc[g].to_numpy())
        np.testing.assert_allclose(there - here, newton, atol=1e-4 * np.abs(newton).max() + 1e-6)
        decrement = found.table["decrement"].iloc[g]
        assert decrement == pytest.approx(-0.5 * gradient @ newton, rel=1e-3, abs=1e-9)
        start, end = in_other(here), in_other(there)
        # and it is much nearer to the refit than no step is
        optimum = other._point
        assert np.linalg.norm(end - optimum) < 0.35 * np.linalg.norm(start - optimum) + 1e-6
        assert found.table["trusted"].iloc[g] == (decrement < 0.05)


@pytest.mark.parametrize(("name", "group"), [("two nested", "f1"), ("two crossed", "f1"), ("three nested", "f0")])
def test_deletion_in_models_with_several_factors(name: str, group: str) -> None:
    case = structure(name, seed=2)
    fit = case.model().fit()
    found, again = fit.influence(group), fit.influence(group, "all")
    V = case.covariance(fit.theta.to_numpy())
    codes = case.codes[int(group[1])]
    for g in (0, 2):
        keep = codes != g
        inverse = np.linalg.inv(V[np.ix_(keep, keep)])
        X, y = case.X[keep], case.y[keep]
        beta = np.linalg.solve(X.T @ inverse @ X, X.T @ inverse @ y)
        np.testing.assert_allclose(found.fixed_theta_params.iloc[g], beta, rtol=1e-6, atol=1e-8)
        other = refit_without(fit, keep)
        np.testing.assert_allclose(again.params.iloc[g], other.params, rtol=1e-9)
        # where the step is to be trusted it comes near to the refit
        if found.table["trusted"].iloc[g] and not other.is_singular:
            assert (np.abs(found.params.iloc[g] - other.params.to_numpy()) < 0.1 * other.bse.to_numpy()).all()


def test_one_factor_by_rows_is_the_same_as_by_subtraction() -> None:
    from hlm.diagnostics import influence as room

    # unbalanced, so that γ̂ depends on θ
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", hlm.datasets.load("sleepstudy")[::3]).fit()
    factor = fit.model.design.factors[0]
    fast, slow = room.subtract_groups(fit, fit._criterion), room._delete_rows(fit, factor)
    for name in ("fixed", "bse", "log_volume", "sigma"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=1e-7)
    # the coordinates of the steps differ, and the decrement with them, by the size of the step
    np.testing.assert_allclose(fast.decrement, slow.decrement, rtol=0.02, atol=1e-6)
    # γ̂ there to first order
    np.testing.assert_allclose(fast.moved, slow.moved, rtol=2e-3)
    moves = fast.moved - fast.fixed, slow.moved - slow.fixed
    assert np.linalg.norm(moves[0] - moves[1]) < 0.3 * np.linalg.norm(moves[1])
    np.testing.assert_allclose(fast.theta, slow.theta, rtol=0.1, atol=0.01)


def test_a_step_brings_fixed_effects_nearer_to_a_refit() -> None:
    """Unbalanced data, where γ̂ depends on θ: the step explains most of what θ̂ without the group changes in it."""
    rng = np.random.default_rng(11)
    sizes = rng.integers(1, 12, 30)
    g = np.repeat(np.arange(30), sizes)
    x = rng.normal(size=len(g)) + rng.normal(size=30)[g]
    data = pd.DataFrame({"y": x + rng.normal(size=30)[g] + rng.normal(size=len(g)), "x": x, "g": g})
    fit = hlm.Model("y ~ x + (x | g)", data).fit()
    step, again = fit.influence(), fit.influence(refit="all")
    trusted = step.table["trusted"]
    missing = (step.params - again.params)[trusted]
    whole = (step.fixed_theta_params - again.params)[trusted]
    assert np.linalg.norm(missing) < 0.3 * np.linalg.norm(whole)


def test_refits_on_request() -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    step, again = fit.influence(), fit.influence(refit="all")
    assert again.table["refitted"].all()
    some = fit.influence(refit="untrusted")
    assert (some.table["refitted"] == ~some.table["trusted"]).all()
    for subject in (data["Subject"].iloc[0], data["Subject"].iloc[-1]):
        left = hlm.Model("Reaction ~ Days + (Days | Subject)", data[data["Subject"] != subject]).fit()
        np.testing.assert_allclose(again.params.loc[subject], left.params, rtol=1e-6)
        assert again.table.loc[subject, "sigma"] == pytest.approx(left.sigma, rel=1e-6)
        # one step moves γ̂ to within a twentieth of a standard error of the refit
        assert (np.abs(step.params.loc[subject] - left.params) < 0.05 * left.bse).all()


def test_an_outlying_group_is_the_most_influential() -> None:
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"x": rng.normal(size=200), "g": np.arange(200) % 20})
    data["y"] = data["x"] + rng.normal(size=20)[data["g"]] + rng.normal(size=200)
    data.loc[data["g"] == 13, "y"] += 5 * data.loc[data["g"] == 13, "x"] + 4
    found = hlm.Model("y ~ x + (1 | g)", data).fit().influence()
    assert found.table["cooks_d"].idxmax() == 13
    assert found.table["cooks_d_full"].idxmax() == 13
    assert found.dfbetas["x"].abs().idxmax() == 13


def test_many_groups_in_chunks_are_the_same() -> None:
    from hlm.diagnostics import subtraction as room

    case = make_case([2], 3, seed=6, tops=40, most=4)
    fit = case.model().fit()
    whole = fit.influence()
    size = room.CHUNK_DOUBLES
    try:
        room.CHUNK_DOUBLES = 1000
        parts = fit.influence()
    finally:
        room.CHUNK_DOUBLES = size
    np.testing.assert_allclose(parts.theta, whole.theta, rtol=1e-9)
    np.testing.assert_allclose(parts.table.drop(columns=["trusted", "refitted"]), whole.table.iloc[:, :5], rtol=1e-8)


def test_exogeneity_against_a_model_with_means() -> None:
    data = hlm.datasets.load("hsb")
    fit = hlm.Model("mathach ~ ses + (1 | school)", data).fit()
    found = fit.exogeneity()
    data["mean"] = data.groupby("school")["ses"].transform("mean")
    other = hlm.Model("mathach ~ ses + mean + (1 | school)", data).fit()
    z = other.params["mean"] / other.bse["mean"]
    assert found.statistic == pytest.approx(z**2, rel=1e-5)
    assert found.df == 1
    assert found.table.loc["ses", "contextual"] == pytest.approx(other.params["mean"], rel=1e-5)
    assert found.table.loc["ses", "within"] == pytest.approx(other.params["ses"], rel=1e-6)
    assert found.pvalue < 1e-10
    # without random slopes the slope within is the fixed-effects estimate
    centred = data["ses"] - data["mean"]
    y = data["mathach"] - data.groupby("school")["mathach"].transform("mean")
    assert found.table.loc["ses", "within"] == pytest.approx((centred @ y) / (centred @ centred), rel=1e-6)
    with pytest.raises(hlm.DesignError, match="nothing to test"):
        other.exogeneity()


def test_report() -> None:
    data = hlm.datasets.load("hsb")
    fit = hlm.Model("mathach ~ ses + (1 | school)", data).fit()
    found = fit.check()
    text = str(found)
    assert "center(ses, school)" in text
    assert "level-1 variance" in text
    assert set(found.normality.index) == {"rows", "Intercept | school"}
    values = fit.residuals("cholesky")
    assert found.normality.loc["rows", "skewness"] == pytest.approx(values.skew(), rel=1e-3)
    assert found.normality.loc["rows", "kurtosis"] == pytest.approx(values.kurt(), abs=5e-3)


def test_normality_is_calibrated() -> None:
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(60), 8)
    x = rng.normal(size=480)
    model = hlm.Model.from_arrays(rng.normal(size=480), np.column_stack([np.ones(480), x]), [hlm.Random(groups)])
    pvalues = []
    for _ in range(150):
        y = x + rng.normal(size=60)[groups] + rng.normal(size=480)
        pvalues.append(model.with_response(y).fit().check().normality["p"])
    shares = (np.array(pvalues) < 0.1).mean(axis=0)
    # 0.1 wanted; Jarque and Bera's statistic rejects less often in samples as small as 60
    assert (shares < 0.2).all()
    assert shares[0] > 0.02
    y = x + rng.normal(size=60)[groups] + rng.standard_t(2, size=480)
    assert model.with_response(y).fit().check().normality["p"].iloc[0] < 1e-6


def test_refused_or_skipped() -> None:
    crossed = structure("two crossed").model().fit()
    with pytest.raises(hlm.DesignError, match="nested groups"):
        crossed.residuals("cholesky")
    with pytest.raises(hlm.DesignError, match="choose a grouping factor"):
        crossed.influence()
    assert "scaled residuals (conditional ones instead)" in crossed.check().skipped
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit()
    with pytest.raises(hlm.DataError, match="kind"):
        fit.residuals("studentised")
    with pytest.raises(hlm.DataError, match="refit"):
        fit.influence(refit="some")
    plain = hlm.Model("Reaction ~ Days", data).fit()
    with pytest.raises(hlm.DesignError, match="without groups"):
        plain.exogeneity()
    assert "exogeneity" in plain.check().skipped


def test_what_takes_independent_errors_or_groups_says_so() -> None:
    data = hlm.datasets.load("sleepstudy")
    serial = hlm.Model("Reaction ~ Days + (1 | Subject)", data, residual=hlm.residuals.AR1("Days")).fit()
    subjects = data["Subject"].nunique()
    K = 0.3 + 0.7 * np.eye(subjects)
    related = hlm.Model("Reaction ~ Days + (1 | Subject)", data, between={"Subject": K}).fit()
    absorbed = hlm.Model("Reaction ~ Days", data).fit()
    assert absorbed.check().skipped
    for call in (serial.influence, lambda: serial.predict(interval="prediction"), lambda: serial.leverages):
        with pytest.raises(hlm.DesignError, match=r"independent|structure|correlated"):
            call()
    with pytest.raises(hlm.DesignError):
        related.residuals("cholesky")
    assert "equal variances" in serial.check().skipped
