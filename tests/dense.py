"""Independent computation with dense n × n algebra, and problems of every structure to run it on."""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
import numpy as np
import pandas as pd

import hlm
from hlm.crossed import crossed_statistics
from hlm.design import Factor
from hlm.structure import find_hierarchy
from hlm_ext.criterion import Criterion
from hlm_ext.crossed import CrossedForest
from hlm_ext.forest import Forest


@dataclass
class Case:
    """A design in raw arrays: nested factors, leaves first, then `core` factors that are crossed with them."""

    y: np.ndarray
    X: np.ndarray
    Z: list[np.ndarray]
    codes: list[np.ndarray]
    core: int = 0

    @property
    def widths(self) -> list[int]:
        return [Z.shape[1] for Z in self.Z]

    def factors(self, theta: np.ndarray) -> list[np.ndarray]:
        """Λ of each factor from stacked lower triangles, column by column."""
        out, at = [], 0
        for q in self.widths:
            L = np.zeros((q, q))
            for j in range(q):
                L[j:, j] = theta[at : at + q - j]
                at += q - j
            out.append(L)
        return out

    def covariance(self, theta: np.ndarray) -> np.ndarray:
        """V / σ², n × n."""
        V = np.eye(len(self.y))
        for Z, codes, L in zip(self.Z, self.codes, self.factors(theta), strict=True):
            V += (Z @ L @ L.T @ Z.T) * (codes[:, None] == codes[None, :])
        return V

    def criterion(self, theta: np.ndarray, reml: bool) -> float:
        n, p = self.X.shape
        inverse = np.linalg.inv(self.covariance(theta))
        S = self.X.T @ inverse @ self.X
        beta = np.linalg.solve(S, self.X.T @ inverse @ self.y) if p else np.zeros(0)
        residual = self.y - self.X @ beta
        freedom = n - p if reml else n
        value = np.linalg.slogdet(self.covariance(theta))[1] + (np.linalg.slogdet(S)[1] if reml else 0.0)
        r2 = residual @ inverse @ residual
        return float(value + freedom * (1 + np.log(2 * np.pi * r2 / freedom)))

    def exact_criterion(self, theta: np.ndarray, reml: bool) -> float:
        """`criterion` with 60 digits."""
        with mpmath.workdps(60):
            n, p = self.X.shape
            X, y = mpmath.matrix(self.X.tolist()), mpmath.matrix(self.y.tolist())
            V = mpmath.eye(n)
            for Z, codes, L in zip(self.Z, self.codes, self.factors(theta), strict=True):
                ZL = mpmath.matrix(Z.tolist()) * mpmath.matrix(L.tolist())
                D = ZL * ZL.T
                for i in range(n):
                    for j in range(n):
                        if codes[i] == codes[j]:
                            V[i, j] += D[i, j]
            root = mpmath.cholesky(V)
            solved = [mpmath.lu_solve(root, X[:, j]) for j in range(p)] + [mpmath.lu_solve(root, y)]
            S = mpmath.matrix(p + 1)
            for i in range(p + 1):
                for j in range(p + 1):
                    S[i, j] = (solved[i].T * solved[j])[0]
            chol = mpmath.cholesky(S)
            freedom = n - p if reml else n
            value = 2 * sum(mpmath.log(root[i, i]) for i in range(n))
            if reml:
                value += 2 * sum(mpmath.log(chol[i, i]) for i in range(p))
            return float(value + freedom * (1 + mpmath.log(2 * mpmath.pi * chol[p, p] ** 2 / freedom)))

    def posterior(self, theta: np.ndarray, beta_known: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """û (J, q) and Cov(u - û)/σ² (J, q, q) of each factor, from the full covariance of all effects."""
        wide, D = [], []
        for Z, codes, L in zip(self.Z, self.codes, self.factors(theta), strict=True):
            J, q = codes.max() + 1, Z.shape[1]
            full = np.zeros((len(self.y), J * q))
            for level in range(J):
                full[codes == level, level * q : (level + 1) * q] = Z[codes == level]
            wide.append(full)
            D.append(np.kron(np.eye(J), L @ L.T))
        inverse = np.linalg.inv(self.covariance(theta))
        VX = inverse @ self.X
        P = inverse - (VX @ np.linalg.solve(self.X.T @ VX, VX.T) if self.X.shape[1] else 0.0)
        modes, covariances = [], []
        for full, own, q in zip(wide, D, self.widths, strict=True):
            J = full.shape[1] // q
            modes.append((own @ full.T @ P @ self.y).reshape(J, q))
            C = own - own @ full.T @ (inverse if beta_known else P) @ full @ own
            covariances.append(np.array([C[j * q : (j + 1) * q, j * q : (j + 1) * q] for j in range(J)]))
        return modes, covariances

    def kernel(self, reml: bool, solver: str = "dense") -> Criterion:
        """The compiled criterion on the raw statistics of this case."""
        entries, at = [], 0
        for q in self.widths:
            entries += [(at + i * q + j) for j in range(q) for i in range(j, q)]
            at += q * q
        pairs = np.column_stack([entries, np.arange(len(entries))]).astype(np.intp).reshape(-1, 2)
        n, p = self.X.shape
        forest = self.crossed_forest(solver) if self.core else self.nested_forest()
        return Criterion(forest, n - p if reml else n, reml, np.zeros(at), pairs, np.ones(len(entries)))

    def nested_forest(self) -> Forest:
        blocks = []
        right = np.column_stack([self.X, self.y])
        for Z, codes in list(zip(self.Z, self.codes, strict=True))[::-1]:
            right = np.column_stack([Z, right])
            blocks.insert(
                0, np.array([Z[codes == level].T @ right[codes == level] for level in range(codes.max() + 1)])
            )
        children = []
        for below, above in zip(self.codes[:-1], self.codes[1:], strict=True):
            parent = [above[below == level][0] for level in range(below.max() + 1)]
            children.append(np.r_[0, np.cumsum(np.bincount(parent))].astype(np.intp))
        total = np.column_stack([self.X, self.y])
        return Forest(blocks, children, total.T @ total)

    def crossed_forest(self, solver: str) -> CrossedForest:
        sizes = [int(codes.max()) + 1 for codes in self.codes]
        hierarchy = find_hierarchy([codes.astype(np.intp) for codes in self.codes], sizes, self.widths, len(self.y))
        assert hierarchy.factors == tuple(range(len(sizes)))
        assert hierarchy.peeled == len(sizes) - self.core
        factors = [
            Factor(str(k), codes, pd.RangeIndex(size), tuple(Z.T), tuple("abcdefghi"[: Z.shape[1]]), ())
            for k, (codes, size, Z) in enumerate(zip(self.codes, sizes, self.Z, strict=True))
        ]
        rows = np.ascontiguousarray(np.column_stack([*self.Z, self.X, self.y]))
        return crossed_statistics(rows, factors, hierarchy, solver).forest(factors, hierarchy)

    def model(self) -> hlm.Model:
        """The same through the public door, factors named f0 (leaves), f1, …"""
        random = [
            hlm.Random(codes, Z, name=f"f{k}") for k, (Z, codes) in enumerate(zip(self.Z, self.codes, strict=True))
        ]
        return hlm.Model.from_arrays(self.y, self.X, random)


def make_case(widths: list[int], p: int, seed: int = 0, tops: int = 4, most: int = 4) -> Case:
    """A random nested design with len(widths) levels of grouping, unbalanced, groups of one row among them."""
    rng = np.random.default_rng(seed)
    chain = [np.arange(tops)]
    for _ in widths[1:]:
        repeats = rng.integers(1, most, len(chain[0]))
        chain = [np.arange(repeats.sum()), *(np.repeat(codes, repeats) for codes in chain)]
    sizes = rng.integers(1, most + 2 * max(widths) + 1, len(chain[0]))
    codes = [np.repeat(c, sizes) for c in chain]
    n = int(sizes.sum())
    X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))]) if p else np.zeros((n, 0))
    Z = [np.column_stack([np.ones(n), rng.normal(size=(n, q - 1))]) for q in widths]
    y = 2 * rng.normal(size=n) + X.sum(axis=1)
    for c, z in zip(codes, Z, strict=True):
        y += (z * rng.normal(size=(c.max() + 1, z.shape[1]))[c]).sum(axis=1)
    return Case(y, X, Z, codes)


def make_crossed(widths: list[int], sizes: list[int], p: int, core: int, n: int, seed: int = 0) -> Case:
    """A random design of nested factors, sorted, with `core` factors across them; each level has a row."""
    rng = np.random.default_rng(seed)
    codes: list[np.ndarray] = []
    for k, size in enumerate(sizes):
        across = k >= len(sizes) - core
        length = n if across or k == 0 else sizes[k - 1]
        of = np.r_[np.arange(size), rng.integers(0, size, length - size)]
        codes.append(rng.permutation(of) if across else np.sort(of)[codes[-1] if k else slice(None)])
    X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))]) if p else np.zeros((n, 0))
    Z = [np.column_stack([np.ones(n), rng.normal(size=(n, q - 1))]) for q in widths]
    y = rng.normal(size=n) + X.sum(axis=1)
    for c, z in zip(codes, Z, strict=True):
        y += (z * rng.normal(size=(c.max() + 1, z.shape[1]))[c]).sum(axis=1)
    return Case(y, X, Z, codes, core)


# Every structure that the property tests run over: widths of the factors, leaves first, and columns of X.
STRUCTURES = {
    "intercept": ([1], 1),
    "slope": ([2], 3),
    "three columns": ([3], 4),
    "wide": ([9], 2),
    "no fixed part": ([2], 0),
    "two nested": ([2, 2], 3),
    "two nested, no fixed part": ([1, 2], 0),
    "three nested": ([2, 1, 3], 2),
    "four nested": ([1, 2, 1, 2], 3),
    "six nested": ([1, 1, 1, 1, 1, 1], 2),
}


# The same for crossed ones: widths, sizes, columns of X, factors in the core, rows.
CROSSED = {
    "two crossed": ([1, 1], [12, 5], 2, 1, 60),
    "crossed slopes": ([2, 2], [12, 6], 3, 1, 90),
    "no fixed part, crossed": ([2, 1], [9, 5], 0, 1, 60),
    "three crossed": ([2, 1, 3], [11, 7, 4], 2, 2, 120),
    "two nested, one across": ([1, 2, 1], [60, 20, 3], 2, 1, 200),
    "three nested, two across": ([2, 1, 1, 2, 1], [70, 30, 12, 3, 2], 1, 2, 200),
    "several tiles": ([1, 2, 1], [160, 75, 20], 2, 2, 400),
}
EVERY = [*STRUCTURES, *CROSSED]


def structure(name: str, seed: int = 0) -> Case:
    """A case of that structure."""
    if name in CROSSED:
        return make_crossed(*CROSSED[name], seed=seed)
    widths, p = STRUCTURES[name]
    return make_case(widths, p, seed, tops=12 if name == "wide" else 4, most=3 if len(widths) > 3 else 5)


def criterion_at(
    y: np.ndarray,
    X: np.ndarray,
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    variances: np.ndarray,
    reml: bool,
) -> float:
    """-2 (restricted) log-likelihood at given T and residual variances; parts are (Z, codes, T)."""
    V = np.diag(np.broadcast_to(variances, len(y)).astype(float))
    for Z, codes, T in parts:
        V += (Z @ T @ Z.T) * (codes[:, None] == codes[None, :])
    inverse = np.linalg.inv(V)
    S = X.T @ inverse @ X
    residual = y - X @ np.linalg.solve(S, X.T @ inverse @ y) if X.shape[1] else y
    freedom = len(y) - X.shape[1] if reml else len(y)
    value = np.linalg.slogdet(V)[1] + (np.linalg.slogdet(S)[1] if reml else 0.0)
    return float(value + freedom * np.log(2 * np.pi) + residual @ inverse @ residual)
