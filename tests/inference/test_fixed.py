"""Ways to judge fixed effects: Satterthwaite and Kenward-Roger against dense algebra, counted df, what follows."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import hlm

from ..dense import EVERY, Case, structure
from ..reference import frame
from .dense_fit import Dense, dense
from .test_information import interior, singular_fit


def weighted() -> hlm.Fit:
    """Crossed factors, precision weights, one of the columns aliased."""
    rng = np.random.default_rng(8)
    n = 120
    g, h = rng.integers(0, 9, n), rng.integers(0, 6, n)
    x, w = rng.normal(size=n), rng.uniform(0.5, 3, n)
    y = x + rng.normal(size=9)[g] + rng.normal(size=9)[g] * x + rng.normal(size=6)[h] + rng.normal(size=n) / np.sqrt(w)
    data = {"y": y, "x": x, "twice": 2 * x, "g": g, "h": h, "w": w}
    with pytest.warns(hlm.RankDeficientWarning):
        return hlm.Model("y ~ x + twice + (x | g) + (1 | h)", data, weights="w").fit()


def fits() -> dict[str, hlm.Fit]:
    # dense algebra with the 45 directions of "wide" takes too long
    found = {name: structure(name).model().fit() for name in EVERY if structure(name).X.shape[1] and name != "wide"}
    found |= {f"interior {name}": interior(name) for name in ("slope", "two nested", "three crossed")}
    return found | {"weighted": weighted(), "singular": singular_fit()}


FITS = fits()
every_fit = pytest.mark.parametrize("name", FITS)


def products(problem: Dense) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(X'V⁻¹X)⁻¹ and Kenward and Roger's P_i and Q_ij, from their definitions."""
    inverse = np.linalg.inv(problem.V)
    moved = [V @ inverse @ problem.X for V in problem.directions]
    P = np.array([-problem.X.T @ inverse @ x for x in moved])
    Q = np.array([[x.T @ inverse @ z for z in moved] for x in moved])
    return problem.M, P, Q


@every_fit
def test_kenward_roger_is_that_of_dense_algebra(name: str) -> None:
    fit = FITS[name]
    problem = dense(fit)
    C, P, Q = products(problem)
    W = np.linalg.inv(0.5 * problem.second("expected"))
    inner = np.einsum("ij,ijkl->kl", W, Q - np.einsum("ikl,lm,jmn->ijkn", P, C, P))
    adjusted = C + 2 * C @ inner @ C
    view = fit.inference("kenward-roger")
    scale = np.sqrt(np.outer(np.diag(adjusted), np.diag(adjusted)))
    # dense inverses lose some digits
    np.testing.assert_allclose(view.cov_params() / scale, adjusted / scale, atol=1e-7)
    # degrees of freedom of one row: 2 / A₂ with Θ = ll'/l'Cl
    for i, row in enumerate(np.eye(len(C))):
        v = np.array([row @ C @ p @ C @ row for p in P]) / (row @ C @ row)
        assert view.df.dropna().iloc[i] == pytest.approx(2 / (v @ W @ v), rel=1e-6)


@pytest.mark.parametrize("name", ["interior slope", "interior two nested", "interior three crossed", "weighted"])
def test_satterthwaite_is_that_of_dense_algebra(name: str) -> None:
    fit = FITS[name]
    assert not fit.is_singular
    problem = dense(fit)
    C, P, _ = products(problem)
    A = 2 * np.linalg.inv(problem.second("observed"))
    g = np.array([-np.diag(C @ p @ C) for p in P])
    expected = 2 * np.diag(C) ** 2 / np.einsum("ia,ij,ja->a", g, A, g)
    # the optimum is good to what moves the criterion by 1e-8; information, hence df, to its root
    np.testing.assert_allclose(fit.inference().df.dropna(), expected, rtol=1e-5)


def test_an_intercept_without_variance() -> None:
    """Balanced one-way design with T̂ = 0: n - 1 df when T is known to be zero, groups - 1 when it is a parameter."""
    data = frame("Dyestuff2")
    fit = hlm.Model("Yield ~ 1 + (1 | Batch)", data).fit()
    assert fit.is_singular
    satterthwaite = fit.inference("satterthwaite")
    assert satterthwaite.df["Intercept"] == pytest.approx(29)
    assert "boundary" in satterthwaite.note
    assert fit.inference("kenward-roger").df["Intercept"] == pytest.approx(5)
    assert fit.inference("kenward-roger", boundary="free").df["Intercept"] == pytest.approx(29)


def test_degrees_of_freedom_by_equation() -> None:
    """HLM's J - k - 1 (Raudenbush and Bryk 2002, table 4.5: 157 in both equations), n - p where there is no error."""
    data = frame("Hsb82")
    full = hlm.Model("mAch ~ meanses * cses + sector * cses + (cses | school)", data).fit()
    assert set(full.inference("hlm").df) == {157}
    means = hlm.Model("mAch ~ meanses + cses + (1 | school)", data).fit()
    assert means.inference("hlm").df.to_dict() == {"Intercept": 158, "meanses": 158, "cses": 7185 - 3}


def test_degrees_of_freedom_by_equation_at_three_levels() -> None:
    rng = np.random.default_rng(2)
    school = np.repeat(np.arange(12), 30)
    room = np.repeat(np.arange(60), 6)
    v, w, x = rng.normal(size=12)[school], rng.normal(size=60)[room], rng.normal(size=360)
    y = rng.normal(size=12)[school] + rng.normal(size=60)[room] + rng.normal(size=360)
    data = {"y": y, "v": v, "w": w, "x": x, "school": school, "room": room}
    df = hlm.Model("y ~ v + w + x + x:v + (1 | school/room)", data).fit().inference("hlm").df
    # school's equation of the intercept has 1 and v; room's has w besides; the slope has no error
    assert df.to_dict() == {"Intercept": 10, "v": 10, "w": 57, "x": 355, "v:x": 355}


def test_everything_follows_the_choice() -> None:
    fit = hlm.Model("Reaction ~ Days + (Days | Subject)", frame("sleepstudy")).fit()
    view = fit.inference("kenward-roger")
    assert fit.inference("kenward-roger").__dict__ is view.__dict__  # computed once
    t = fit.params / view.bse
    np.testing.assert_allclose(view.tvalues, t)
    np.testing.assert_allclose(view.pvalues, 2 * stats.t.sf(np.abs(t), view.df))
    half = stats.t.ppf(0.95, view.df) * view.bse
    np.testing.assert_allclose(view.conf_int(0.1)["upper"], fit.params + half)
    np.testing.assert_allclose(fit.conf_int(0.1, method="kenward-roger")["lower"], fit.params - half)
    np.testing.assert_allclose(fit.cov_params("kenward-roger"), view.cov_params())
    assert fit.conf_int().equals(fit.conf_int(method="z"))
    text = fit.summary("kenward-roger")
    assert "Kenward" in text
    assert " df " in text
    assert "17.0" in text
    assert text == view.summary() == str(view)
    assert " df " not in fit.summary()


def test_a_joint_test_of_independent_rows() -> None:
    """With one row F = t²; with two, the mean of the squares of independent t's."""
    fit = FITS["interior slope"]
    view = fit.inference()
    estimate, C = fit.params.to_numpy(), view.cov_params().to_numpy()
    L = np.eye(len(estimate))[:2]
    joint = view.joint(L @ view.map, L @ estimate)
    assert joint.statistic == pytest.approx(0.5 * (L @ estimate) @ np.linalg.solve(L @ C @ L.T, L @ estimate))
    assert joint.df_num == 2
    # dependent rows count once
    again = view.joint(np.vstack([L, L.sum(axis=0)]) @ view.map, np.r_[L @ estimate, (L @ estimate).sum()])
    assert again.statistic == pytest.approx(joint.statistic)
    assert again.df_num == 2
    one = view.joint(L[:1] @ view.map, L[:1] @ estimate)
    assert one.statistic == pytest.approx(view.tvalues.iloc[0] ** 2)
    assert one.df_den == pytest.approx(view.df.iloc[0])


def test_without_random_effects_degrees_of_freedom_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(20), rng.normal(size=(20, 2))])
    y = X.sum(axis=1) + rng.normal(size=20)
    fit = hlm.Model.from_arrays(y, X, []).fit()
    beta, rss, _, _ = np.linalg.lstsq(X, y, rcond=None)
    V = np.linalg.inv(X.T @ X) * rss[0] / 17
    for method in ("satterthwaite", "kenward-roger", "between-within", "hlm"):
        view = fit.inference(method)
        np.testing.assert_allclose(view.df, 17, rtol=1e-9)
        np.testing.assert_allclose(view.cov_params(), V, rtol=1e-9)
        joint = view.joint(np.eye(3)[1:] @ view.map, beta[1:])
        expected = beta[1:] @ np.linalg.solve(V[1:, 1:], beta[1:]) / 2
        assert joint.statistic == pytest.approx(expected)
        assert joint.df_den == pytest.approx(17)
    for kind in ("observed", "expected", "average"):
        # Var(σ̂²) = 2σ⁴ / (n - p)
        found = fit.information(kind)
        assert found.bse.iloc[0] == pytest.approx(np.sqrt(2 / 17) * rss[0] / 17)


def test_no_fixed_part() -> None:
    fit = structure("no fixed part").model().fit()
    for method in ("z", "satterthwaite", "kenward-roger"):
        assert len(fit.inference(method).table()) == 0


def test_what_cannot_be_answered_is_an_error() -> None:
    fit = FITS["weighted"]
    with pytest.raises(hlm.DataError, match="method must be one of 'z', 'satterthwaite'"):
        fit.inference("kr")
    with pytest.raises(hlm.DataTypeError, match="'satterthwaite' has no option 'cluster'"):
        fit.inference("satterthwaite", cluster="g")
    with pytest.raises(hlm.DataError, match="need nested factors"):
        fit.inference("between-within")
    case: Case = structure("slope")
    with pytest.raises(hlm.DataError, match="reml=True"):
        case.model().fit(reml=False).inference("kenward-roger")
    with pytest.raises(hlm.DataError, match="'free' or 'all'"):
        fit.inference("kenward-roger", boundary="none")


def structured_data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    g = np.repeat(np.arange(14), rng.integers(3, 8, 14))
    x = rng.normal(size=len(g))
    u = rng.normal(size=(14, 2))
    return {"y": x + u[g, 0] + u[g, 1] * x + rng.normal(size=len(g)), "x": x, "g": g}


def test_a_structure_that_a_formula_can_write() -> None:
    data = structured_data()
    plain = hlm.Model("y ~ x + (x || g)", data).fit()
    diagonal = hlm.Model("y ~ x + (x | g)", data, covariance={"g": "diagonal"}).fit()
    for method in ("satterthwaite", "kenward-roger", "CR2"):
        one, other = plain.inference(method).table(), diagonal.inference(method).table()
        np.testing.assert_allclose(one[["se", "df"]], other[["se", "df"]], rtol=1e-5)


def test_known_variances_are_no_parameters() -> None:
    """σ known: Kenward-Roger and Satterthwaite with the variance of the intercepts alone, from dense algebra."""
    fit = hlm.Model("y ~ x + (1 | g)", structured_data()).fit(fixed={"sigma": 1.3})
    problem = dense(fit)
    C, P, Q = products(problem)
    expected, observed = (problem.second(kind)[0, 0] for kind in ("expected", "observed"))
    adjusted = C + 2 * C @ (2 / expected * (Q[0, 0] - P[0] @ C @ P[0])) @ C
    np.testing.assert_allclose(fit.inference("kenward-roger").cov_params(), adjusted, rtol=1e-6, atol=1e-10)
    g = -np.diag(C @ P[0] @ C)
    for method, second in (("kenward-roger", expected), ("satterthwaite", observed)):
        np.testing.assert_allclose(fit.inference(method).df, 2 * np.diag(C) ** 2 / (g**2 * 2 / second), rtol=1e-5)
    everything = hlm.Model("y ~ x + (1 | g)", structured_data()).fit(fixed={"sigma": 1.3, "g": 0.8})
    view = everything.inference("satterthwaite")
    assert np.isinf(view.df).all()
    np.testing.assert_allclose(view.cov_params(), everything.inference("kenward-roger").cov_params(), rtol=1e-12)


def test_saved_fits_and_threads() -> None:
    data = frame("sleepstudy")
    model = hlm.Model("Reaction ~ Days + (Days | Subject)", data)
    methods = ["satterthwaite", "kenward-roger", "CR2", "CR3", "z"] * 4
    expected = [model.fit().inference(method).table() for method in methods]
    saved = pickle.loads(pickle.dumps(model.fit()))
    shared = model.fit()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda method: shared.inference(method).table(), methods))
    for method, want, got in zip(methods, expected, together, strict=True):
        pd.testing.assert_frame_equal(got, want, check_exact=True)
        pd.testing.assert_frame_equal(saved.inference(method).table(), want, check_exact=True)
