"""New responses of a prepared design against fits from scratch; responses drawn from a model; right-hand sides."""

import pickle

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.sides import sides, transformed
from hlm.simulation import Simulator

from .dense import EVERY, structure


def agree(one: hlm.Fit, other: hlm.Fit) -> None:
    """The same optimum: criteria to rounding, the rest as flat as the criterion is there (its square root)."""
    assert one.criterion == pytest.approx(other.criterion, abs=1e-8)
    se = other.bse.to_numpy()
    np.testing.assert_allclose((one.params - other.params) / se, 0, atol=1e-5)
    np.testing.assert_allclose(one.bse, other.bse, rtol=1e-5)
    assert one.sigma == pytest.approx(other.sigma, rel=1e-5)
    for name, T in other.covariances.items():
        size = np.sqrt(np.outer(np.diag(T), np.diag(T))) + other.sigma**2
        np.testing.assert_allclose((one.covariances[name] - T) / size, 0, atol=1e-5)
    np.testing.assert_allclose(one.fittedvalues, other.fittedvalues, atol=1e-4 * other.sigma)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "wide"])
def test_refit_is_the_fit_from_scratch(name: str) -> None:
    case = structure(name, seed=2)
    model = case.model()
    rng = np.random.default_rng(5)
    for shift, reml in ((0.0, True), (1e6, False)):
        y = shift * (case.X.shape[1] > 0) + 3 * rng.normal(size=len(case.y))
        y += rng.normal(size=case.codes[0].max() + 1)[case.codes[0]]
        case.y = y
        agree(model.with_response(y).fit(reml=reml), case.model().fit(reml=reml))


def test_a_response_far_from_zero_loses_nothing() -> None:
    """The same digits whatever is added: the OLS residual comes from the rows."""
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    exact = np.round(data["Reaction"].to_numpy() * 64) / 64  # so that adding 1e9 rounds nothing
    near, far = fit.refit(exact), fit.refit(exact + 2.0**30)
    assert far.criterion == pytest.approx(near.criterion, abs=1e-9)
    assert far.sigma == pytest.approx(near.sigma, rel=1e-10)


def test_weights_offset_and_dropped_rows() -> None:
    rng = np.random.default_rng(1)
    n = 90
    data = pd.DataFrame({"x": rng.normal(size=n), "g": np.arange(n) % 9, "o": rng.normal(size=n)})
    data["y"] = data["x"] + data["o"] + rng.normal(size=9)[data["g"]] + rng.normal(size=n)
    data["w"] = rng.uniform(0.5, 2, n)
    data.loc[3, "x"] = np.nan
    formula = "y ~ x + offset(o) + (x | g)"
    fit = hlm.Model(formula, data, weights="w").fit()
    other = data.assign(y=rng.normal(size=n))
    again = fit.refit(other["y"])
    agree(again, hlm.Model(formula, other, weights="w").fit())
    assert np.isnan(again.fittedvalues[3])
    assert again.resid.dropna().shape == (n - 1,)
    copy = pickle.loads(pickle.dumps(again))
    assert copy.criterion == pytest.approx(again.criterion, abs=1e-10)
    np.testing.assert_allclose(copy.params, again.params, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda y: y[:-1], "must have 180 values"),
        (lambda y: np.where(np.arange(180) == 7, np.nan, y), "missing"),
        (lambda y: np.where(np.arange(180) == 7, np.inf, y), "infinite"),
        (lambda y: 0 * y + 3, "reproduced exactly"),
    ],
)
def test_responses_that_cannot_be(change: object, match: str) -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    with pytest.raises(hlm.HLMError, match=match):
        fit.refit(change(data["Reaction"].to_numpy()))


def test_one_seed_one_answer_and_the_moments_of_what_is_drawn() -> None:
    case = structure("three nested")
    fit = case.model().fit()
    pd.testing.assert_frame_equal(fit.simulate(3, seed=4), fit.simulate(3, seed=4))
    count = 4000
    drawn = fit.simulate(count, seed=1).to_numpy()
    V = fit.sigma**2 * case.covariance(fit.theta.to_numpy())
    error = np.sqrt(np.diag(V) / count)
    assert np.abs((drawn.mean(axis=1) - case.X @ fit.params) / error).max() < 5  # a hundred rows at 5 sigma
    spread = np.sqrt(np.outer(np.diag(V), np.diag(V)) + V**2) / np.sqrt(count)
    assert np.abs((np.cov(drawn) - V) / spread).max() < 6


def test_simulate_refuses() -> None:
    data = hlm.datasets.load("sleepstudy")
    model = hlm.Model("Reaction ~ Days + (Days | Subject)", data)
    with pytest.raises(hlm.DataError, match="positive semidefinite"):
        Simulator(model, [1.0, 2.0], {"Subject": [[1, 2], [2, 1]]}, 1.0)
    with pytest.raises(hlm.DataError, match="keys"):
        Simulator(model, [1.0, 2.0], {}, 1.0)
    with pytest.raises(hlm.DataError, match="params"):
        Simulator(model, [1.0], {"Subject": np.eye(2)}, 1.0)
    with pytest.raises(hlm.DataTypeError, match="seed"):
        model.fit().simulate(1, seed="one")
    with pytest.raises(hlm.DataError, match="frequencies"):
        hlm.Model("Reaction ~ Days + (1 | Subject)", data, frequencies=np.full(180, 2)).fit().simulate()


@pytest.mark.parametrize("name", [name for name in EVERY if "no fixed" not in name])
def test_other_right_hand_sides(name: str) -> None:
    """What the factor leaves of any combinations of [X y] is c'V⁻¹c."""
    case = structure(name, seed=1)
    problem = case.model().problem
    rng = np.random.default_rng(3)
    tail = len(problem.coordinates.total)
    basis = rng.normal(size=(tail, tail + 2))
    rows = problem.statistics.rows(problem.coordinates.basis)
    criterion = problem.criterion(False)
    theta = rng.normal(size=criterion.m)
    criterion.value(theta)
    assert sides(problem)[-1].shape[2] == tail
    expected = basis.T @ criterion.schur @ basis
    wide = transformed(problem, basis[:, :tail], len(rows), False)
    wide.value(theta)
    np.testing.assert_allclose(wide.schur, expected[:tail, :tail], rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    narrow = transformed(problem, basis[:, :1], len(rows), False)
    narrow.value(theta)
    np.testing.assert_allclose(narrow.schur, expected[:1, :1], rtol=1e-9)
