"""Degrees of freedom and adjusted variances of predictions: dense algebra, closed forms, R, simulation."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

import hlm

from .dense import CROSSED, EVERY, make_crossed, structure
from .inference.dense_fit import covariance_of, dense
from .reference import DATA, frame

NESTED_AND_CROSSED = "small, nested and crossed"


def entries_of(fit: hlm.Fit) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Entries of T that the model estimates and σ², and where they stand."""
    places = [
        (k, i, j)
        for k, factor in enumerate(fit.model.design.factors)
        for block in factor.blocks
        for c, j in enumerate(block)
        for i in block[c:]
    ]
    T = [fit.covariances[factor.name].to_numpy() for factor in fit.model.design.factors]
    return np.array([*(T[k][i, j] for k, i, j in places), fit.sigma**2]), places


def dense_variance(fit: hlm.Fit, parameters: np.ndarray, known: list[str], response: bool) -> np.ndarray:
    """v (n,) of the error of prediction of each row of the fit, at entries of T and σ², with n × n matrices."""
    design = fit.model.design
    places, T = entries_of(fit)[1], [np.zeros((factor.width,) * 2) for factor in design.factors]
    for value, (k, i, j) in zip(parameters, places, strict=False):
        T[k][i, j] = T[k][j, i] = value
    V = covariance_of(fit, T, parameters[-1])
    C, G = np.zeros_like(V), np.zeros(len(V))  # of the data with what is predicted; of that itself
    fresh = np.zeros(len(V))
    for factor, own in zip(design.factors, T, strict=True):
        Z = design.Z(factor.name)
        if factor.name in known:
            C += (Z @ own @ Z.T) * (factor.codes[:, None] == factor.codes[None, :])
            G += np.einsum("ni,ij,nj->n", Z, own, Z)
        elif response:
            fresh += np.einsum("ni,ij,nj->n", Z, own, Z)
    inverse, X = np.linalg.inv(V), design.X
    left = X - C @ inverse @ X
    fixed = np.einsum("ni,ij,nj->n", left, np.linalg.inv(X.T @ inverse @ X), left) if X.shape[1] else 0.0
    return G - np.einsum("ij,jk,ki->i", C, inverse, C) + fixed + fresh + (parameters[-1] if response else 0.0)


def derivatives(fit: hlm.Fit, known: list[str], response: bool, step: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """First (m, n) and second (m, m, n) derivatives of v by central differences."""
    at = entries_of(fit)[0]
    size = np.abs(at[-1]) * step
    unit = size * np.eye(len(at))

    def v(step: np.ndarray) -> np.ndarray:
        return dense_variance(fit, at + step, known, response)

    first = np.array([(v(e) - v(-e)) / (2 * size) for e in unit])
    second = np.array([[(v(e + f) - v(e - f) - v(f - e) + v(-e - f)) / (4 * size**2) for f in unit] for e in unit])
    return first, second


@cache
def interior(name: str) -> hlm.Fit:
    """A fit of that structure whose T has full rank, far enough from the boundary for differences."""
    for seed in range(60):
        case = (
            make_crossed([1, 1, 1], [18, 5, 4], 2, 1, 60, seed) if name == NESTED_AND_CROSSED else structure(name, seed)
        )
        fit = case.model().fit()
        if min(np.linalg.eigvalsh(T).min() for T in fit.covariances.values()) > 0.05 * fit.sigma**2:
            return fit
    raise AssertionError(name)


@pytest.mark.parametrize("response", [False, True], ids=["confidence", "prediction"])
@pytest.mark.parametrize("name", ["slope", "no fixed part", "two nested", "crossed slopes", NESTED_AND_CROSSED])
def test_satterthwaite_against_differences_of_dense_variances(name: str, response: bool) -> None:
    fit = interior(name)
    A = 2 * np.linalg.inv(dense(fit).second("observed"))
    names = [factor.name for factor in fit.model.design.factors]
    for known in (names, names[-1:], []):
        found = fit.inference("satterthwaite").predict(
            effects=known or "population", interval="prediction" if response else "confidence"
        )
        v = dense_variance(fit, entries_of(fit)[0], known, response)
        g = derivatives(fit, known, response)[0]
        own = found.filter(regex="var_").drop(columns="var_theta").sum(axis=1)
        np.testing.assert_allclose(own, v, rtol=1e-6)
        expected = 2 * v**2 / np.maximum(np.einsum("an,ab,bn->n", g, A, g), 1e-300)
        # differences are good to about the square of their step; where v is 0 there is nothing to have a df
        some = v > 1e-9 * fit.sigma**2
        np.testing.assert_allclose(found["df"][some], expected[some], rtol=1e-4)
        half = student.ppf(0.975, found["df"]) * found["se"]
        np.testing.assert_allclose((found["upper"] - found["lower"])[some] / 2, half[some], rtol=1e-9)
        assert (found["var_theta"] > 0).all() if known else (found["var_theta"] == 0).all()


@pytest.mark.parametrize("response", [False, True], ids=["confidence", "prediction"])
@pytest.mark.parametrize("name", ["slope", "no fixed part", "two nested", "crossed slopes", NESTED_AND_CROSSED])
def test_kenward_roger_is_the_variance_less_its_bias(name: str, response: bool) -> None:
    """v is concave: v̂ is too small by half of tr(A ∂²v), and the mean squared error is larger than v by as much."""
    fit = interior(name)
    A = 2 * np.linalg.inv(dense(fit).second("expected"))
    names = [factor.name for factor in fit.model.design.factors]
    for known in (names, names[-1:], []):
        found = fit.inference("kenward-roger").predict(
            effects=known or "population", interval="prediction" if response else "confidence"
        )
        g, H = derivatives(fit, known, response)
        v = dense_variance(fit, entries_of(fit)[0], known, response)
        adjustment = -np.einsum("ab,abn->n", A, H)
        np.testing.assert_allclose(found["var_theta"], adjustment, rtol=1e-4, atol=1e-7 * fit.sigma**2)
        np.testing.assert_allclose(found["se"] ** 2, v + found["var_theta"], rtol=1e-6)
        expected = 2 * v**2 / np.maximum(np.einsum("an,ab,bn->n", g, A, g), 1e-300)
        some = v > 1e-9 * fit.sigma**2
        np.testing.assert_allclose(found["df"][some], expected[some], rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("wide", "several tiles")])
@pytest.mark.parametrize("method", ["z", "satterthwaite", "kenward-roger", "between-within", "hlm", "CR2"])
def test_expected_responses_are_judged_as_combinations_of_coefficients(name: str, method: str) -> None:
    """On the boundary too; "z" without what it adds for θ."""
    fit = structure(name, seed=2).model().fit()
    design = fit.model.design
    if not design.columns or (method == "between-within" and name in CROSSED):
        pytest.skip("nothing to compare")
    view = fit.inference(method)
    found = view.predict(effects="population", theta_uncertainty=False if method == "z" else None)
    expected = view.test(design.X[:10]).rows
    np.testing.assert_allclose(found["se"][:10], expected["se"], rtol=1e-7)
    np.testing.assert_allclose(found["df"][:10], expected["df"], rtol=1e-6)
    np.testing.assert_allclose(found["predicted"][:10], expected["estimate"], rtol=1e-9)


@pytest.mark.parametrize("crossed", [False, True])
def test_kenward_roger_of_predicted_effects_without_variance(crossed: bool) -> None:
    """On the boundary û = 0 for sure given θ̂: all of its uncertainty is that of a variance estimated as zero."""
    rng = np.random.default_rng(8)
    codes = [np.repeat(np.arange(6), 8), np.tile(np.arange(8), 6)][: 2 if crossed else 1]
    x = rng.normal(size=48)
    for _ in range(50):
        y = x + rng.normal(size=48)
        random = [hlm.Random(code, name=f"f{k}") for k, code in enumerate(codes)]
        fit = hlm.Model.from_arrays(y, np.column_stack([np.ones(48), x]), random).fit()
        if all(T.iloc[0, 0] == 0 for T in fit.covariances.values()):
            break
    found = fit.inference("kenward-roger").predict(effects=["f0"])
    A = 2 * np.linalg.inv(dense(fit).second("expected"))
    g, H = derivatives(fit, ["f0"], False, step=2e-4)
    v = dense_variance(fit, entries_of(fit)[0], ["f0"], False)
    assert (found["var_groups"] == 0).all()
    np.testing.assert_allclose(found["se"] ** 2, v - np.einsum("ab,abn->n", A, H), rtol=1e-4)
    np.testing.assert_allclose(found["df"], 2 * v**2 / np.einsum("an,ab,bn->n", g, A, g), rtol=1e-4)


def one_way(J: int, n: int, tau: float, seed: int) -> tuple[hlm.Fit, float, float]:
    """A balanced one-way layout, with its mean squares between and within."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(J), n)
    data = pd.DataFrame({"y": tau * rng.normal(size=J)[groups] + rng.normal(size=J * n), "g": groups})
    means = data.groupby("g")["y"].mean()
    between = n * means.var()
    within = ((data["y"] - means[groups].to_numpy()) ** 2).sum() / (J * (n - 1))
    return hlm.Model("y ~ 1 + (1 | g)", data).fit(), between, within


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
def test_balanced_one_way_layout_in_closed_form(method: str) -> None:
    """The mean has J - 1 degrees of freedom; a new group's row the sum of two mean squares (Satterthwaite 1946)."""
    J, n = 7, 4
    fit, between, within = one_way(J, n, 2.0, seed=3)
    new = pd.DataFrame({"g": ["new"]})
    view = fit.inference(method)
    mean = view.predict(new, new_levels="population").iloc[0]
    assert mean["df"] == pytest.approx(J - 1, rel=1e-6)
    assert mean["se"] ** 2 == pytest.approx(between / (J * n), rel=1e-6)
    for m in (1, 5):
        row = view.predict(new, new_levels="population", interval="prediction", mean_of=m).iloc[0]
        # σ² = within, τ² = (between - within) / n
        first, second = (1 + 1 / J) * between / n, (1 / m - 1 / n) * within
        assert row["se"] ** 2 == pytest.approx(first + second, rel=1e-6)
        df = (first + second) ** 2 / (first**2 / (J - 1) + second**2 / (J * (n - 1)))
        assert row["df"] == pytest.approx(df, rel=1e-5)


def test_balanced_groups_have_prasad_and_raos_adjustment() -> None:
    """tr(AG) of a known group's mean: (1 - 1/J) Var(λ̂) of the group's deviation, λ = 1 - within / between."""
    J, n = 7, 4
    fit, between, within = one_way(J, n, 2.0, seed=3)
    found = fit.inference("kenward-roger").predict()
    # λ = 1 - within / between; Var of its estimate by the delta method with Var(MS) = 2 MS² / df
    spread = (within / between) ** 2 * (2 / (J - 1) + 2 / (J * (n - 1)))
    np.testing.assert_allclose(found["var_theta"], 2 * (1 - 1 / J) * between / n * spread, rtol=1e-6)


@pytest.mark.parametrize("method", ["satterthwaite", "between-within", "hlm", "kenward-roger"])
def test_models_without_groups_have_the_t_intervals_of_regression(method: str) -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days", data).fit()
    X = np.column_stack([np.ones(180), data["Days"]])
    hat = np.einsum("ni,ij,nj->n", X, np.linalg.inv(X.T @ X), X)
    for interval, factor in (("confidence", hat), ("prediction", 1 + hat)):
        found = fit.predict(interval=interval, method=method)
        np.testing.assert_allclose(found["df"], 178, rtol=1e-9)
        half = student.ppf(0.975, 178) * fit.sigma * np.sqrt(factor)
        np.testing.assert_allclose(found["upper"] - found["predicted"], half, rtol=1e-9)


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
def test_expected_responses_against_r(method: str) -> None:
    """emmeans with lmerTest and pbkrtest; numerical derivatives and optimum there, good to about 1e-5."""
    expected = json.loads((DATA / "predictions.json").read_text())[method]
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", hlm.datasets.load("sleepstudy")).fit()
    new = pd.DataFrame({"Days": expected["sleepstudy"].pop("Days")})
    found = fit.predict(new, effects="population", interval="confidence", method=method)
    for column, values in expected["sleepstudy"].items():
        np.testing.assert_allclose(found[column], values, rtol=2e-5)
    fit = hlm.Model("diameter ~ 1 + (1 | plate) + (1 | sample)", frame("Penicillin")).fit()
    found = fit.predict(effects="population", interval="confidence", method=method).iloc[0]
    for column, value in expected["Penicillin"].items():
        assert found[column] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("method", ["between-within", "hlm", "CR1"])
def test_counted_and_robust_methods_judge_new_groups_by_the_fixed_part(method: str) -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    view = fit.inference(method)
    found = view.predict(data, effects="population", interval="prediction").iloc[:5]
    rows = view.test(np.column_stack([np.ones(5), data["Days"][:5]])).rows
    np.testing.assert_allclose(found["df"], rows["df"], rtol=1e-9)
    np.testing.assert_allclose(found["var_fixed"], rows["se"] ** 2, rtol=1e-9)
    model = fit.predict(data, effects="population", interval="prediction").iloc[:5]
    for part in ("var_new_groups", "var_residual"):
        np.testing.assert_array_equal(found[part], model[part])
    with pytest.raises(hlm.DataError, match="effects='population'"):
        view.predict(data)
    with pytest.raises(hlm.DataError, match="theta_uncertainty"):
        view.predict(data, effects="population", theta_uncertainty=True)


def test_one_way_to_ask_and_what_is_refused() -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    one = fit.inference("CR0", cluster="Subject").predict(effects="population", interval="prediction", alpha=0.1)
    other = fit.predict(effects="population", interval="prediction", alpha=0.1, method="CR0", cluster="Subject")
    pd.testing.assert_frame_equal(one, other)
    # "z" is as it was without a method
    pd.testing.assert_frame_equal(fit.predict(interval="prediction"), fit.inference("z").predict(interval="prediction"))
    assert np.isinf(fit.predict(interval="prediction")["df"]).all()
    for wrong in ({"method": "satterthwaite"}, {"theta_uncertainty": True}, {"cluster": "Subject"}):
        with pytest.raises(hlm.DataTypeError, match="give interval="):
            fit.predict(**wrong)
    with pytest.raises(hlm.DataError, match="method must be one of"):
        fit.predict(interval="confidence", method="exact")
    with pytest.raises(hlm.DataTypeError, match="theta_uncertainty must be"):
        fit.predict(interval="confidence", theta_uncertainty="yes")
    with pytest.raises(hlm.DataError, match="leave theta_uncertainty out"):
        fit.predict(interval="confidence", method="kenward-roger", theta_uncertainty=False)
    with pytest.raises(hlm.DataError, match="interval must be one of"):
        fit.inference("z").predict(interval="credible")
    open_ = fit.predict(interval="confidence", method="satterthwaite", effects="population", theta_uncertainty=True)
    assert (open_["var_theta"] > 0).all()
    closed = fit.predict(interval="confidence", method="satterthwaite", theta_uncertainty=False)
    assert (closed["var_theta"] == 0).all()


def test_rows_that_are_not_predicted_have_no_interval() -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    new = pd.DataFrame({"Days": [1.0, np.nan, 2.0], "Subject": [data["Subject"][0], data["Subject"][0], "someone"]})
    for method in ("z", "satterthwaite", "kenward-roger"):
        found = fit.predict(new, interval="prediction", method=method, new_levels="nan")
        assert found.iloc[0].notna().all()
        assert found.iloc[1:].isna().all().all()


def test_many_rows_at_once_are_the_same_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    data = hlm.datasets.load("sleepstudy")
    view = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit().inference("kenward-roger")
    whole = view.predict(interval="prediction")
    monkeypatch.setattr("hlm.prediction_error.CHUNK", 7)
    pd.testing.assert_frame_equal(view.predict(interval="prediction"), whole, rtol=1e-12)
