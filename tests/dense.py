"""Independent computation with dense n × n algebra, and problems of every structure to run it on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import hlm
from hlm_ext.criterion import Criterion
from hlm_ext.forest import Forest


@dataclass
class Case:
    """A nested design in raw arrays, factors leaves first."""

    y: np.ndarray
    X: np.ndarray
    Z: list[np.ndarray]
    codes: list[np.ndarray]

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

    def kernel(self, reml: bool) -> Criterion:
        """The compiled criterion on the raw statistics of this case."""
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
        entries, at = [], 0
        for q in self.widths:
            entries += [(at + i * q + j) for j in range(q) for i in range(j, q)]
            at += q * q
        pairs = np.column_stack([entries, np.arange(len(entries))]).astype(np.intp).reshape(-1, 2)
        n, p = self.X.shape
        return Criterion(
            Forest(blocks, children, total.T @ total),
            n - p if reml else n,
            reml,
            np.zeros(at),
            pairs,
            np.ones(len(entries)),
        )

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


def structure(name: str, seed: int = 0) -> Case:
    widths, p = STRUCTURES[name]
    return make_case(widths, p, seed, tops=12 if name == "wide" else 4, most=3 if len(widths) > 3 else 5)
