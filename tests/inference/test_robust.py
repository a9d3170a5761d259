"""Cluster-robust covariances and their degrees of freedom against their definitions in dense algebra."""

import numpy as np
import pytest

import hlm
from hlm.inference import clusters
from hlm.inference.robust import ClusterRobust

from ..dense import structure
from .dense_fit import Dense, dense
from .test_fixed import weighted
from .test_information import interior, singular_fit

FITS = {
    "slope": interior("slope"),
    "two nested": interior("two nested"),
    "three nested": structure("three nested").model().fit(),
    "three crossed": structure("three crossed").model().fit(),
    "crossed slopes, ML": structure("crossed slopes").model().fit(reml=False),
    "weighted": weighted(),
    "singular": singular_fit(),
}
KINDS = ["CR0", "CR1", "CR2", "CR3"]
CASES = [(name, factor.name) for name, fit in FITS.items() for factor in fit.model.design.factors]
every_case = pytest.mark.parametrize(("name", "cluster"), CASES)


def root_of(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-10 * values.max()
    return (vectors[:, kept] * values[kept] ** power) @ vectors[:, kept].T


def adjusted(fit: hlm.Fit, cluster: str, kind: str) -> tuple[Dense, list[np.ndarray]]:
    """The problem in rows times the roots of their weights, and G_i = A_i'H_iM (n_i, p) put into n rows."""
    problem = dense(fit)
    design = fit.model.design
    root = np.ones(design.rows) if design.weights is None else np.sqrt(design.weights)
    V = problem.V * np.outer(root, root)
    problem = Dense(problem.y * root, problem.X * root[:, None], V, [], problem.reml)
    codes = design.factor(cluster).codes
    J = codes.max() + 1
    H, M = np.linalg.solve(V, problem.X), problem.M
    out = []
    for i in range(J):
        own = np.flatnonzero(codes == i)
        X, Vi = problem.X[own], V[np.ix_(own, own)]
        A = np.eye(len(own))
        if kind == "CR1":
            A *= np.sqrt(J / (J - 1))
        if kind == "CR2":
            half = root_of(Vi, 0.5)
            A = half @ root_of(half @ (Vi - X @ M @ X.T) @ half, -0.5) @ half
        if kind == "CR3":
            A = np.linalg.inv(np.eye(len(own)) - X @ M @ H[own].T)
        G = np.zeros((len(codes), X.shape[1]))
        G[own] = A.T @ H[own] @ M
        out.append(G)
    return problem, out


def covariances(problem: Dense, G: list[np.ndarray]) -> np.ndarray:
    """a_i'Var(e)b_j of all clusters and coefficients: (J, J, p, p)."""
    spread = problem.V - problem.X @ problem.M @ problem.X.T
    stacked = np.array(G)
    return np.einsum("ina,nm,jmb->ijab", stacked, spread, stacked, optimize=True)


@every_case
@pytest.mark.parametrize("kind", KINDS)
def test_covariance_and_degrees_of_freedom(name: str, cluster: str, kind: str) -> None:
    fit = FITS[name]
    problem, G = adjusted(fit, cluster, kind)
    view = fit.inference(kind, cluster=cluster, between="none")
    e = problem.y - problem.X @ problem.M @ problem.X.T @ np.linalg.solve(problem.V, problem.y)
    scores = np.array([own.T @ e for own in G])
    expected = scores.T @ scores
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    # eigenvalues that are zero but for rounding, in clusters that X explains, leave about eight digits
    np.testing.assert_allclose(view.cov_params() / scale, expected / scale, atol=1e-6)
    P = covariances(problem, G)
    for c in range(len(expected)):
        own = P[:, :, c, c]
        assert view.df.dropna().iloc[c] == pytest.approx(np.trace(own) ** 2 / (own**2).sum(), rel=1e-5)
    # between clusters: what the fitted model says of pairs that share levels of other factors
    codes = fit.model.design.factor(cluster).codes
    apart = problem.V * (codes[:, None] != codes[None, :])
    H = np.linalg.solve(problem.V, problem.X) @ problem.M
    between = H.T @ apart @ H
    whole = fit.inference(kind, cluster=cluster)
    assert (whole.note != "") == (np.abs(between).max() > 0)
    np.testing.assert_allclose(whole.cov_params() / scale, (expected + between) / scale, atol=1e-6)
    for c in range(len(expected)):
        own = P[:, :, c, c]
        df = (np.trace(own) + between[c, c]) ** 2 / (own**2).sum()
        assert whole.df.dropna().iloc[c] == pytest.approx(df, rel=1e-5)


@every_case
def test_cr2_corrects_the_bias_under_the_working_model(name: str, cluster: str) -> None:
    """A_i Var(e)_ii A_i' = V_ii, but in directions that X explains within the cluster.

    With what the model has between clusters the expectation is then M.
    """
    fit = FITS[name]
    problem, _ = adjusted(fit, cluster, "CR0")
    _, G = adjusted(fit, cluster, "CR2")
    M, X, V = problem.M, problem.X, problem.V
    codes = fit.model.design.factor(cluster).codes
    H = np.linalg.solve(V, X) @ M
    everywhere = True
    for i, own in enumerate(G):
        rows = codes == i
        spread = V[np.ix_(rows, rows)] - X[rows] @ M @ X[rows].T
        if np.linalg.eigvalsh(spread).min() < 1e-8 * np.linalg.eigvalsh(spread).max():
            everywhere = False
            continue
        np.testing.assert_allclose(
            own[rows].T @ spread @ own[rows], H[rows].T @ V[np.ix_(rows, rows)] @ H[rows], rtol=1e-6, atol=1e-12
        )
    if everywhere:
        spread = V - X @ M @ X.T
        apart = V * (codes[:, None] != codes[None, :])
        np.testing.assert_allclose(sum(own.T @ spread @ own for own in G) + H.T @ apart @ H, M, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["two nested", "three nested", "three crossed", "weighted"])
def test_large_clusters_need_no_matrix_of_their_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for factor in FITS[name].model.design.factors:
        direct = ClusterRobust(FITS[name], "CR2", factor.name)
        with monkeypatch.context() as patch:
            patch.setattr(clusters, "LARGE", 0)
            found = ClusterRobust(FITS[name], "CR2", factor.name)
        np.testing.assert_allclose(found.engine_covariance, direct.engine_covariance, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(found.df, direct.df, rtol=1e-6)


@pytest.mark.parametrize(("name", "cluster"), [("slope", "f0"), ("three crossed", "f1"), ("weighted", "g")])
@pytest.mark.parametrize("kind", KINDS)
def test_htz(name: str, cluster: str, kind: str) -> None:
    """Tipton and Pustejovsky (2015): η = q (q + 1) / Σ Var(d_st), D the covariance scaled to have expectation 1."""
    fit = FITS[name]
    problem, G = adjusted(fit, cluster, kind)
    view = fit.inference(kind, cluster=cluster)
    q = 2
    P = covariances(problem, G)[:, :, :q, :q]
    codes = fit.model.design.factor(cluster).codes
    H = np.linalg.solve(problem.V, problem.X) @ problem.M
    between = H.T @ (problem.V * (codes[:, None] != codes[None, :])) @ H
    turn = root_of(np.einsum("iiab->ab", P) + between[:q, :q], -0.5)
    P = np.einsum("ijab,ca,db->ijcd", P, turn, turn)
    total = 0.0
    for s in range(q):
        for t in range(q):
            total += (P[:, :, s, s] * P[:, :, t, t] + P[:, :, s, t] * P[:, :, t, s]).sum()
    eta = q * (q + 1) / total
    estimate = fit.params.dropna().to_numpy()
    L = np.eye(len(estimate))[:q]
    joint = view.joint(L @ view.map, L @ estimate)
    Q = (L @ estimate) @ np.linalg.solve(L @ view.cov_params().to_numpy() @ L.T, L @ estimate)
    if eta <= q - 1:
        assert np.isnan(joint.pvalue)
        return
    assert joint.statistic == pytest.approx((eta - q + 1) / (eta * q) * Q, rel=1e-5)
    assert joint.df_den == pytest.approx(eta - q + 1, rel=1e-5)
    one = view.joint(L[:1] @ view.map, L[:1] @ estimate)
    assert one.statistic == pytest.approx(view.tvalues.iloc[0] ** 2)
    assert one.df_den == pytest.approx(view.df.iloc[0])


def test_frequencies_are_rows_written_out() -> None:
    rng = np.random.default_rng(6)
    g, h = rng.integers(0, 10, 80), rng.integers(0, 5, 80)
    x, times = rng.normal(size=80), rng.integers(1, 4, 80)
    y = x + rng.normal(size=10)[g] + rng.normal(size=5)[h] + rng.normal(size=80)
    data = {"y": y, "x": x, "g": g, "h": h, "times": times}
    written = {name: np.repeat(values, times) for name, values in data.items()}
    formula = "y ~ x + (x | g) + (1 | h)"
    short, long = hlm.Model(formula, data, frequencies="times").fit(), hlm.Model(formula, written).fit()
    for cluster in ("g", "h"):
        for kind in KINDS:
            one, other = short.inference(kind, cluster=cluster), long.inference(kind, cluster=cluster)
            # two fits of one likelihood: as near as their optima
            np.testing.assert_allclose(one.cov_params(), other.cov_params(), rtol=1e-5)
            np.testing.assert_allclose(one.df, other.df, rtol=1e-5)


def test_the_factor_with_fewest_levels_is_the_default() -> None:
    fit = FITS["three crossed"]
    sizes = {factor.name: factor.size for factor in fit.model.design.factors}
    assert min(sizes, key=lambda name: sizes[name]) in fit.inference("CR2").title
    with pytest.raises(hlm.DesignError, match="no grouping factor 'school'"):
        fit.inference("CR2", cluster="school")
    rng = np.random.default_rng(0)
    ols = hlm.Model.from_arrays(rng.normal(size=9), np.ones((9, 1)), []).fit()
    with pytest.raises(hlm.DataError, match="needs a grouping factor"):
        ols.inference("CR2")
