"""Joint posterior of a coefficient, ranks and comparisons, against dense algebra, closed forms and simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

import hlm
from hlm.empirical_bayes.posterior import posterior
from hlm.empirical_bayes.ranks import _cubature, _given_gamma, _product_rule

from ..dense import Case
from .test_own_estimates import Dense, crossed, crossed_fit, fitted


def joint(case: Case, fit: hlm.Fit, k: int) -> np.ndarray:
    """Covariance of u - û over all groups and effects of factor k."""
    dense = Dense(case, fit.theta.to_numpy())
    J = case.codes[k].max() + 1
    D, gain = np.kron(np.eye(J), dense.D[k]), dense.gain(k)
    return fit.sigma**2 * (D - gain @ dense.wide[k] @ D)


CROSSED = ["two crossed", "crossed slopes", "no fixed part, crossed", "two nested, one across", "several tiles"]


@pytest.mark.parametrize("name", ["slope", "two nested", "three nested", "four nested", *CROSSED])
def test_joint_posterior(name: str) -> None:
    case, fit = crossed_fit(name) if name in CROSSED else fitted(name)
    for k, Z in enumerate(case.Z):
        q, cov = Z.shape[1], joint(case, fit, k)
        for e in range(q):
            effect = "Intercept" if e == 0 else f"z{e}"
            if fit.covariances[f"f{k}"].loc[effect, effect] == 0:
                continue
            own = cov[e::q, e::q]
            found = posterior(fit, f"f{k}", effect, "effects", None)
            np.testing.assert_allclose(found.total, np.diag(own), rtol=1e-5, atol=1e-7)
            i, j = np.triu_indices(len(own), 1)
            difference, variance = found.difference(i, j)
            size = own[i, i] + own[j, j]
            np.testing.assert_allclose(variance, size - 2 * own[i, j], rtol=1e-5, atol=1e-7 * size.max())
            u = fit.random_effects[f"f{k}"][effect].to_numpy()
            np.testing.assert_allclose(difference, u[i] - u[j], rtol=1e-6, atol=1e-9)
    draws = found.draws(20_000, np.random.default_rng(0))
    # 4.5 standard errors of a simulated variance, over some hundred of them
    np.testing.assert_allclose(np.cov(draws.T), own, atol=4.5 * np.sqrt(2 / 20_000) * np.diag(own).max())


def test_comparisons_of_coefficients() -> None:
    case, fit = fitted("slope")
    table = fit.comparisons("f0", "Intercept", of="coefficients")
    J = case.codes[0].max() + 1
    assert len(table) == J * (J - 1) // 2
    # the level-1 equation of a group is Intercept + ...: γ0 is shared and cancels
    cov = joint(case, fit, 0)[::2, ::2]
    i, j = np.triu_indices(J, 1)
    np.testing.assert_allclose(table["std. error"], np.sqrt(cov[i, i] + cov[j, j] - 2 * cov[i, j]), rtol=1e-5)
    b = fit.empirical_bayes("f0").estimates["Intercept"].to_numpy()
    np.testing.assert_allclose(table["difference"], b[i] - b[j], rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(table["P(first > second)"], ndtr(table["difference"] / table["std. error"]), rtol=1e-9)
    np.testing.assert_allclose((table["upper"] - table["lower"]) / table["std. error"], 2 * 1.959963984540054)
    one = fit.comparisons("f0", reference=3, groups=[1, 3, 5])
    assert one.index.tolist() == [(1, 3), (5, 3)]
    assert one.loc[(1, 3), "difference"] == pytest.approx(table.loc[(1, 3), "difference"])
    pair = fit.comparisons("f0", groups=[7, 2])
    assert pair.index.tolist() == [(7, 2)]


def test_intervals_of_goldstein_and_healy() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 5)
    y = rng.normal(size=20)[groups] + rng.normal(size=100)
    fit = hlm.Model.from_arrays(y, np.ones((100, 1)), [hlm.Random(groups)]).fit()
    table = fit.comparison_intervals("g")
    # all standard errors are alike; of a difference the share of γ̂ cancels
    cov = fit.random_effects_cov["g"][0, 0, 0]
    own = fit.conditional_covariances(beta_known=True)["g"][0, 0, 0]
    half = 1.959963984540054 * np.sqrt(2 * own) / 2
    np.testing.assert_allclose(table["upper"] - table["estimate"], half, rtol=1e-8)
    assert table.attrs["multiplier"] == pytest.approx(half / np.sqrt(cov))


def test_ranks_of_two_and_of_equals() -> None:
    """Two groups: the normal distribution of their difference. Equal groups: each rank as probable."""
    a, b, s, t = 0.3, -0.4, 1.0, 0.2
    P = _given_gamma(np.array([a, b]), np.array([s, t]))
    first = ndtr((a - b) / np.hypot(s, t))
    np.testing.assert_allclose(P, [[first, 1 - first], [1 - first, first]], atol=1e-13)
    np.testing.assert_allclose(_given_gamma(np.full(40, 7.0), np.full(40, 2.0)), np.full((40, 40), 1 / 40), rtol=1e-10)


def test_probabilities_are_consistent_with_pairs() -> None:
    """Expected rank = 1 + Σ P(other above), whatever the number of groups; rows and columns add up to one."""
    rng = np.random.default_rng(1)
    mean, sd = rng.normal(size=160), rng.uniform(0.2, 1.5, 160)
    P = _given_gamma(mean, sd)
    above = ndtr((mean - mean[:, None]) / np.hypot(sd, sd[:, None]))
    np.testing.assert_allclose(P @ np.arange(1, 161), 1 + above.sum(axis=1) - 0.5, rtol=1e-11)
    np.testing.assert_allclose(P.sum(axis=0), 1, rtol=1e-11)
    assert P.min() > -1e-14


@pytest.mark.parametrize("of", ["effects", "coefficients"])
def test_exact_ranks_agree_with_simulation(of: str) -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(9), rng.integers(2, 30, 9))
    w = rng.normal(size=9)[groups]
    y = rng.normal(size=9)[groups] + w + 2 * rng.normal(size=len(groups))
    fit = hlm.Model("y ~ w + (1 | g)", pd.DataFrame({"y": y, "w": w, "g": groups})).fit()
    exact = fit.ranks("g", of=of)
    again = fit.ranks("g", of=of, draws=200_000, seed=1)
    P = exact.probabilities
    # 81 probabilities: 4.5 standard errors of the simulation, and one draw more than there should be
    far = np.abs(P - again.probabilities) - 4.5 * np.sqrt(P * (1 - P) / 200_000) - exact.error
    assert (far <= 1 / 200_000).all(axis=None)
    assert exact.error.to_numpy().max() < 1e-3
    pairs = fit.comparisons("g", of=of)
    expected = pd.Series(1.0, index=range(9))
    for (i, j), p in pairs["P(first > second)"].items():
        expected[i] += 1 - p
        expected[j] += p
    # the pairs know the joint posterior exactly, γ̂ included
    np.testing.assert_allclose(exact.expected, expected, atol=1e-3)
    table = exact.table()
    assert (table["lower"] <= table["upper"]).all()
    for g in range(9):
        inside = P.loc[g, table.loc[g, "lower"] : table.loc[g, "upper"]].sum()
        assert inside >= 0.95 - 1e-12
    np.testing.assert_allclose(table["P(first)"], P[1])
    assert (table.sort_values("estimate", ascending=False)["rank"] == np.arange(1, 10)).all()


def test_rules_for_the_normal_distribution() -> None:
    """Moments of standard normal variables up to the degree of each rule."""
    (points, weights), (star, equal) = _cubature(5)
    for degree, nodes, w in ((5, points, weights), (3, star, equal), (5, *_product_rule([3, 3, 5, 3, 3]))):
        assert w.sum() == pytest.approx(1)
        for powers in (
            (1, 0, 0, 0, 0),
            (2, 0, 0, 0, 0),
            (1, 1, 0, 0, 0),
            (2, 1, 0, 0, 0),
            (4, 0, 0, 0, 0),
            (2, 2, 0, 0, 0),
        ):
            if sum(powers) <= degree:
                exact = np.prod([{0: 1, 1: 0, 2: 1, 4: 3}[k] for k in powers])
                assert w @ np.prod(nodes ** np.array(powers), axis=1) == pytest.approx(exact, abs=1e-12)


def test_many_directions_of_gamma() -> None:
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(30), 12)
    W = rng.normal(size=(30, 6))
    data = pd.DataFrame(W[groups], columns=list("abcdef")).assign(g=groups)
    data["y"] = 2 * rng.normal(size=30)[groups] + 2 * rng.normal(size=360)
    fit = hlm.Model("y ~ a + b + c + d + e + f + (1 | g)", data).fit()
    exact, again = fit.ranks("g"), fit.ranks("g", draws=100_000, seed=2)
    P = exact.probabilities
    assert 0 < exact.error.to_numpy().max() < 0.1
    far = np.abs(P - again.probabilities) - 4.5 * np.sqrt(P * (1 - P) / 100_000) - exact.error
    assert (far <= 1e-5).all(axis=None)


def test_schools_of_the_book() -> None:
    fit = hlm.Model("mathach ~ meanses + (1 | school)", hlm.datasets.load("hsb")).fit()
    found = fit.ranks("school")
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, rtol=1e-6)
    some = found.probabilities.index[[3, 50, 100]].tolist()
    three = fit.ranks("school", groups=some)
    assert three.probabilities.shape == (3, 3)
    pairs = fit.comparisons("school", groups=some)
    assert three.expected.iloc[0] == pytest.approx(1 + (1 - pairs["P(first > second)"].iloc[:2]).sum(), abs=1e-6)


def test_lower_levels_are_simulated() -> None:
    case, fit = fitted("two nested")
    with pytest.raises(hlm.errors.DesignError, match="draws="):
        fit.ranks("f0")
    with pytest.raises(hlm.errors.DataError, match="seed"):
        fit.ranks("f0", draws=100)
    found = fit.ranks("f0", draws=4000, seed=5)
    pd.testing.assert_frame_equal(found.probabilities, fit.ranks("f0", draws=4000, seed=5).probabilities)
    sd = np.sqrt(joint(case, fit, 0)[::2, ::2].diagonal())
    assert len(found.probabilities) == len(sd)
    fit.ranks("f1")


def test_ranks_in_a_crossed_design() -> None:
    fit = hlm.Model("y ~ 1 + (1 | g) + (1 | h)", crossed()).fit()
    found = fit.ranks("h", draws=20_000, seed=3)
    pairs = fit.comparisons("h")
    expected = np.ones(8)
    i, j = np.triu_indices(8, 1)
    np.add.at(expected, i, 1 - pairs["P(first > second)"].to_numpy())
    np.add.at(expected, j, pairs["P(first > second)"].to_numpy())
    # 4.5 standard errors of a mean of ranks, whose standard deviation is below 2
    np.testing.assert_allclose(found.expected, expected, atol=4.5 * 2 / np.sqrt(20_000))


def test_crossed_level_whose_random_column_is_zero() -> None:
    data = crossed()
    rng = np.random.default_rng(5)
    data["x"] = np.where(data["h"] == 3, 0.0, rng.normal(size=len(data)))
    data["y"] += data["x"] * (1 + rng.normal(size=8)[data["h"]])
    fit = hlm.Model("y ~ x + (1 | g) + (x || h)", data).fit()
    assert fit.covariances["h"].loc["x", "x"] > 0
    found = posterior(fit, "h", "x", "effects", None)
    np.testing.assert_allclose(found.total, fit.random_effects_cov["h"][:, 1, 1], rtol=1e-7)
    # nothing is known of that level's slope but its variance
    assert found.total[3] == pytest.approx(fit.covariances["h"].loc["x", "x"])


def test_what_cannot_be_ranked() -> None:
    _, fit = fitted("slope")
    with pytest.raises(hlm.errors.DataError, match="no random effect 'z9'"):
        fit.ranks("f0", "z9")
    with pytest.raises(hlm.errors.DataError, match="no level 999"):
        fit.ranks("f0", groups=[1, 999])
    with pytest.raises(hlm.errors.DataError, match="twice"):
        fit.ranks("f0", groups=[1, 1])
    with pytest.raises(hlm.errors.DataError, match="alpha"):
        fit.comparisons("f0", alpha=5)
    with pytest.raises(hlm.errors.DesignError, match="crossed factors"):
        hlm.Model("y ~ 1 + (1 | g) + (1 | h)", crossed()).fit().ranks("g")
    rng = np.random.default_rng(4)
    y, groups = rng.normal(size=72), np.repeat(np.arange(12), 6)
    flat = hlm.Model.from_arrays(y, np.ones((72, 1)), [hlm.Random(groups)]).fit()
    with pytest.raises(hlm.errors.DataError, match="does not vary"):
        flat.ranks("g")
