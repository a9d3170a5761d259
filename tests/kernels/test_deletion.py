"""Groups taken out of the sums of a model with one grouping factor, against dense algebra of the rows that are left."""

from itertools import product

import numpy as np
import pytest

from hlm_ext import set_num_threads
from hlm_ext.columns import Columns
from hlm_ext.deletion import delete_groups
from hlm_ext.gather import leaf_products
from hlm_ext.group_sums import group_sums
from hlm_ext.partition import get_num_threads
from hlm_ext.trust_region import newton


class Dense:
    """Rows of J groups, their covariances and the sums over any of the groups."""

    def __init__(self, q: int, p: int, J: int = 9, rows: int = 5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, rows + 1, J)
        self.Z = [rng.normal(size=(n, q)) for n in sizes]
        self.b = [rng.normal(size=(n, p + 1)) for n in sizes]
        root = np.tril(rng.normal(size=(q, q)))
        self.D = root @ root.T
        self.J, self.q, self.p, self.sizes = J, q, p, sizes
        unit = np.eye(q)
        pairs = [(i, j) for j in range(q) for i in range(j, q)]
        self.directions = [np.outer(unit[i], unit[j]) + (np.outer(unit[j], unit[i]) if i != j else 0) for i, j in pairs]
        self.blocks = np.array([np.hstack([z.T @ z, z.T @ b]) for z, b in zip(self.Z, self.b, strict=True)])
        self.own = np.array([b.T @ b for b in self.b])

    def schur(self, groups: list[int], D: np.ndarray) -> np.ndarray:
        out = np.zeros((self.p + 1, self.p + 1))
        for g in groups:
            Z = self.Z[g]
            out += self.b[g].T @ np.linalg.solve(np.eye(len(Z)) + Z @ D @ Z.T, self.b[g])
        return out

    def criterion(self, groups: list[int], D: np.ndarray, reml: bool) -> float:
        S, p = self.schur(groups, D), self.p
        nu = self.sizes[groups].sum() - (p if reml else 0)
        beta = np.linalg.solve(S[:p, :p], S[:p, p])
        value = nu * np.log(S[p, p] - beta @ S[:p, p]) + (np.linalg.slogdet(S[:p, :p])[1] if reml else 0)
        return value + sum(np.linalg.slogdet(np.eye(len(self.Z[g])) + self.Z[g] @ D @ self.Z[g].T)[1] for g in groups)


@pytest.mark.parametrize(("q", "p"), [(1, 1), (1, 0), (2, 3), (3, 4), (4, 0), (3, 9)])
def test_sums_over_groups(q: int, p: int) -> None:
    case = Dense(q, p)
    trace, traces, slopes, products = group_sums(case.blocks, case.D)
    E, m = case.directions, len(case.directions)
    want = [np.zeros(m), np.zeros((m, m)), np.zeros((m, p + 1, p + 1)), np.zeros((m, m, p + 1, p + 1))]
    for Z, b in zip(case.Z, case.b, strict=True):
        inverse = np.linalg.inv(np.eye(len(Z)) + Z @ case.D @ Z.T)
        T, K = Z.T @ inverse @ Z, Z.T @ inverse @ b
        for a in range(m):
            want[0][a] += np.trace(T @ E[a])
            want[2][a] -= K.T @ E[a] @ K
            for c in range(m):
                want[1][a, c] += np.trace(T @ E[a] @ T @ E[c])
                want[3][a, c] += K.T @ E[a] @ T @ E[c] @ K
    for got, expected in zip((trace, traces, slopes, products), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize(("q", "p"), [(1, 1), (1, 0), (2, 3), (3, 4), (2, 9)])
def test_deletion_against_the_groups_left(q: int, p: int, reml: bool) -> None:
    """θ is a nonlinear function of a diagonal or full D; derivatives are compared with differences."""
    case = Dense(q, p, J=14, rows=7, seed=1)
    rng = np.random.default_rng(2)
    m, s = len(case.directions), 2 if q > 1 else 1
    jacobian, bend = rng.normal(size=(m, s)), 0.1 * rng.normal(size=(m, s, s))
    bend = bend + bend.transpose(0, 2, 1)
    beta_map = rng.normal(size=(p + 1, p))
    everything = list(range(case.J))
    nu = (case.sizes.sum() - case.sizes - (p if reml else 0)).astype(float)
    sums = case.schur(everything, case.D), group_sums(case.blocks, case.D), beta_map, jacobian, bend, reml
    beta, sigma2, variances, logdet, step, gain, moved = delete_groups(case.blocks, case.own, case.D, nu, *sums)

    def at(theta: np.ndarray) -> np.ndarray:
        entries = jacobian @ theta + 0.5 * np.einsum("ast,s,t->a", bend, theta, theta)
        return case.D + np.einsum("a,aij->ij", entries, np.array(case.directions))

    for g in (0, 5, case.J - 1):
        left = [k for k in everything if k != g]
        S = case.schur(left, case.D)
        X = S[:p, :p]
        expected = np.linalg.solve(X, S[:p, p])
        np.testing.assert_allclose(beta[g], expected, rtol=1e-10, atol=1e-12)
        assert sigma2[g] == pytest.approx((S[p, p] - expected @ S[:p, p]) / nu[g], rel=1e-10)
        np.testing.assert_allclose(variances[g], np.diag(beta_map @ np.linalg.solve(X, beta_map.T)), rtol=1e-10)
        assert logdet[g] == pytest.approx(np.linalg.slogdet(X)[1], abs=1e-10)
        h = 1e-3
        value = {
            signs: case.criterion(left, at(h * np.array(signs)), reml) for signs in product((-2, -1, 0, 1, 2), repeat=s)
        }
        unit = np.eye(s, dtype=int)

        def f(shift: np.ndarray, value: dict = value) -> float:
            return value[tuple(int(x) for x in shift)]

        # central differences of the fourth order in the gradient, of the second in the Hessian
        gradient = np.array([(8 * (f(e) - f(-e)) - (f(2 * e) - f(-2 * e))) / (12 * h) for e in unit])
        hessian = np.array([[(f(e + d) - f(e - d) - f(d - e) + f(-e - d)) / (4 * h * h) for d in unit] for e in unit])
        values = np.linalg.eigvalsh(hessian)
        if values[0] < 0:
            assert np.isnan(step[g]).all()
            assert gain[g] == np.inf
            continue
        newton_step = -np.linalg.solve(hessian, gradient)
        tolerance = 1e-4 * values[-1] / values[0] * (1 + np.abs(newton_step).max())
        np.testing.assert_allclose(step[g], newton_step, atol=tolerance)
        assert gain[g] == pytest.approx(-0.5 * gradient @ newton_step, rel=1e-2, abs=tolerance)
        small = 1e-5 * step[g]
        slopes = []
        for sign in (1, -1):
            S = case.schur(left, at(sign * small))
            slopes.append(np.linalg.solve(S[:p, :p], S[:p, p]))
        np.testing.assert_allclose(moved[g] - beta[g], (slopes[0] - slopes[1]) / 2e-5, rtol=1e-4, atol=1e-8)


def test_what_is_not_determined_is_nan() -> None:
    """A column that only one group has; too few rows without a group; nothing else suffers."""
    case = Dense(2, 2, J=6, rows=4, seed=3)
    for g in range(1, 6):
        case.b[g][:, 1] = 0
    case.blocks = np.array([np.hstack([z.T @ z, z.T @ b]) for z, b in zip(case.Z, case.b, strict=True)])
    case.own = np.array([b.T @ b for b in case.b])
    nu = np.array([9.0, 0.0, 9.0, 9.0, 9.0, 9.0])
    sums = (
        case.schur(list(range(6)), case.D),
        group_sums(case.blocks, case.D),
        np.eye(2),
        np.eye(3),
        np.zeros((3, 3, 3)),
    )
    found = delete_groups(case.blocks, case.own, case.D, nu, *sums, True)
    for values in found:
        assert np.isnan(values[:2]).all()
    assert np.isfinite(found[0][2:]).all()
    assert np.isfinite(found[1][2:]).all()


def test_same_bits_for_any_number_of_threads() -> None:
    case = Dense(2, 3, J=700)
    nu = np.full(case.J, 2000.0)
    columns = Columns(list(np.random.default_rng(4).normal(size=(5, 3000))))
    first = np.linspace(0, 3000, 401).astype(np.intp)
    basis = np.random.default_rng(5).normal(size=(5, 3))
    before = get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            set_num_threads(threads)
            sums = group_sums(case.blocks, case.D)
            others = case.schur(list(range(case.J)), case.D), sums, np.eye(3), np.eye(3), np.zeros((3, 3, 3)), True
            found = delete_groups(case.blocks, case.own, case.D, nu, *others)
            products = leaf_products(columns, None, first, np.zeros(5), np.ones(5), basis)
            results.append([*sums, *found, products])
    finally:
        set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_products_of_leaves() -> None:
    rng = np.random.default_rng(6)
    rows = 3 + rng.normal(size=(400, 5))
    order = rng.permutation(400).astype(np.intp)
    first = np.array([0, 1, 7, 200, 203, 400], dtype=np.intp)  # one of more rows than are packed at a time
    shift, factor, basis, weights = (
        rows.mean(axis=0),
        rng.uniform(1, 2, 5),
        rng.normal(size=(5, 3)),
        rng.uniform(size=400),
    )
    columns = Columns(list(np.ascontiguousarray(rows.T)))
    got = leaf_products(columns, order, first[1:4], shift, factor, basis, weights)
    combined = ((rows - shift) * factor) @ basis
    for leaf, (lo, hi) in enumerate([(1, 7), (7, 200)]):
        part = combined[order[lo:hi]]
        np.testing.assert_allclose(got[leaf], part.T @ (part * weights[order[lo:hi], None]), rtol=1e-12, atol=1e-12)
    assert leaf_products(columns, order, first[:1], shift, factor, basis).shape == (0, 3, 3)
    with pytest.raises(ValueError, match="first"):
        leaf_products(columns, order, np.array([5, 2], dtype=np.intp), shift, factor, basis)
    with pytest.raises(ValueError, match="not a row"):
        leaf_products(columns, order + 1, first, shift, factor, basis)
    with pytest.raises(ValueError, match="entries or rows"):
        leaf_products(columns, order, first, shift, factor, basis[:4])
    with pytest.raises(ValueError, match="400 entries"):
        leaf_products(columns, order[:5], first, shift, factor, basis)


def test_newton_steps() -> None:
    rng = np.random.default_rng(7)
    root = rng.normal(size=(4, 4))
    gradient, hessian = rng.normal(size=4), root @ root.T
    step, gain = newton(gradient, hessian)
    np.testing.assert_allclose(step, -np.linalg.solve(hessian, gradient), rtol=1e-10)
    assert gain == pytest.approx(0.5 * gradient @ np.linalg.solve(hessian, gradient))
    # a flat direction is left alone, however the gradient points
    values, vectors = np.linalg.eigh(hessian)
    values[0] = 1e-11 * values[-1]
    along = (vectors.T @ gradient)[1:]
    for sign in (1, -1):
        step, gain = newton(gradient, (vectors * (values * np.r_[sign, 1, 1, 1])) @ vectors.T)
        np.testing.assert_allclose(step, -vectors[:, 1:] @ (along / values[1:]), rtol=1e-9)
        assert gain == pytest.approx(0.5 * (along**2 / values[1:]).sum())
    for bad in (hessian - 2 * values[-1] * np.outer(vectors[:, 1], vectors[:, 1]), np.full((4, 4), np.nan)):
        step, gain = newton(gradient, bad)
        assert np.isnan(step).all()
        assert gain == np.inf
    step, gain = newton(np.zeros(2), np.zeros((2, 2)))
    assert not step.any()
    assert gain == 0
    assert newton(np.zeros(0), np.zeros((0, 0)))[1] == 0
    with pytest.raises(ValueError, match="hessian"):
        newton(gradient, hessian[:3])


def test_shapes_are_checked() -> None:
    case = Dense(2, 3)
    nu, schur = np.full(case.J, 20.0), case.schur([0, 1, 2], case.D)
    sums = group_sums(case.blocks, case.D)
    rest = np.eye(3), np.eye(3), np.zeros((3, 3, 3)), True
    with pytest.raises(ValueError, match="D must be"):
        group_sums(case.blocks, np.eye(3))
    with pytest.raises(ValueError, match="blocks must be"):
        group_sums(case.blocks[:, :, :2].copy(), case.D)
    with pytest.raises(ValueError, match="freedom must be"):
        delete_groups(case.blocks, case.own, case.D, nu[1:], schur, sums, *rest)
    with pytest.raises(ValueError, match="beta_map must be"):
        delete_groups(case.blocks, case.own, case.D, nu, schur, sums, np.eye(4), *rest[1:])
    none = delete_groups(case.blocks[:0], case.own[:0], case.D, nu[:0], schur, sums, *rest)
    assert [values.shape for values in none] == [(0, 3), (0,), (0, 3), (0,), (0, 3), (0,), (0, 3)]
