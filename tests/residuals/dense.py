"""Residual structures by their definitions, and the criterion of a model that has one, in n x n matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import hlm
from hlm.residuals import AR1, ByStratum, CompoundSymmetry, LogLinear, Residual, Unstructured

from ..dense import Case, make_case


@dataclass
class Structured:
    """A nested case with errors of some structure; `correlation(φ)` is C, from the definition."""

    case: Case
    residual: Residual
    kind: str
    group: np.ndarray
    time: np.ndarray
    strata: np.ndarray
    X: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    weights: np.ndarray | None = None

    def model(self) -> hlm.Model:
        case = self.case
        random = [hlm.Random(c, Z, name=f"f{k}") for k, (Z, c) in enumerate(zip(case.Z, case.codes, strict=True))]
        return hlm.Model.from_arrays(case.y, case.X, random, residual=self.residual, weights=self.weights)

    def covariance(self, phi: np.ndarray) -> np.ndarray:
        """Cov(ε)/σ²."""
        C = self._of(self.kind, phi)
        return C if self.weights is None else C / np.sqrt(np.outer(self.weights, self.weights))

    def _of(self, kind: str, phi: np.ndarray) -> np.ndarray:
        if "*" in kind:
            one, other = kind.split("*")
            sd = np.sqrt(np.diag(self._of(other, phi[1:])))
            return self._of(one, phi[:1]) * np.outer(sd, sd)
        same = self.group[:, None] == self.group[None, :]
        distance = np.abs(self.time[:, None] - self.time[None, :])
        if kind == "strata":
            sd = np.exp(np.append(0.0, phi))[self.strata]
            C = np.diag(sd**2)
        elif kind == "log-linear":
            X = self.X - self.X.mean(axis=0)
            C = np.diag(np.exp(X / X.std(axis=0) @ phi))
        elif kind == "ar1":
            C = np.where(same, np.tanh(phi[0]) ** distance, 0.0)
        elif kind == "car1":
            order = np.lexsort([self.time, self.group])
            neighbours = np.diff(self.time[order])[np.diff(self.group[order]) == 0]
            C = np.where(same, (1 / (1 + np.exp(-phi[0]))) ** (distance / np.median(neighbours)), 0.0)
        elif kind == "cs":
            most = np.bincount(self.group).max()
            rho = (np.exp(phi[0]) - 1) / (np.exp(phi[0]) + most - 1)
            C = np.where(same, rho, 0.0) + (1 - rho) * np.eye(len(same))
        else:
            T = int(self.time.max()) + 1
            L, values = np.zeros((T, T)), list(phi)
            L[0, 0] = 1.0
            for i in range(1, T):
                for j in range(i):
                    L[i, j] = values.pop(0)
                L[i, i] = np.exp(values.pop(0))
            at = self.time.astype(int)
            C = np.where(same, (L @ L.T)[np.ix_(at, at)], 0.0)
        return C

    def criterion(self, covariances: list[np.ndarray], phi: np.ndarray, reml: bool) -> float:
        """-2 log-likelihood, β and σ² profiled out; `covariances` are Var(u)/σ²."""
        V, case = self.covariance(phi), self.case
        for Z, codes, D in zip(case.Z, case.codes, covariances, strict=True):
            V = V + (Z @ D @ Z.T) * (codes[:, None] == codes[None, :])
        n, p = case.X.shape
        inverse = np.linalg.inv(V)
        S = case.X.T @ inverse @ case.X
        residual = case.y - case.X @ np.linalg.solve(S, case.X.T @ inverse @ case.y)
        nu = n - p if reml else n
        value = np.linalg.slogdet(V)[1] + (np.linalg.slogdet(S)[1] if reml else 0.0)
        return float(value + nu * (1 + np.log(2 * np.pi * (residual @ inverse @ residual) / nu)))

    def random_phi(self, rng: np.random.Generator) -> np.ndarray:
        size = self.model().design.residual
        assert size is not None
        return 0.5 * rng.normal(size=size.size)


def _positions(group: np.ndarray) -> np.ndarray:
    """Place of each row in its group."""
    out = np.zeros(len(group), dtype=np.intp)
    for g in np.unique(group):
        out[group == g] = np.arange((group == g).sum())
    return out


KINDS = ["strata", "log-linear", "ar1", "car1", "cs", "unstructured", "ar1*strata", "car1*log-linear", "cs*strata"]


def structured(kind: str, widths: list[int], p: int = 3, seed: int = 0, weighted: bool = False) -> Structured:
    """A random case of that kind, groups of errors within the leaves, rows shuffled."""
    rng = np.random.default_rng(seed)
    case = make_case(widths or [1], p, seed, tops={0: 12, 1: 16, 2: 6}.get(len(widths), 4), most=4)
    mix = rng.permutation(len(case.y))
    leaf = case.codes[0][mix]
    # effects that are there: an optimum on the boundary has fewer parameters, and EM takes forever to get there
    y = case.y + sum(
        2 * (Z * rng.normal(size=(c.max() + 1, Z.shape[1]))[c]).sum(axis=1)
        for Z, c in zip(case.Z, case.codes, strict=True)
    )
    case = Case(y[mix], case.X[mix], [Z[mix] for Z in case.Z], [c[mix] for c in case.codes])
    if not widths:
        case.Z, case.codes = [], []
    n = len(case.y)
    place = _positions(leaf)
    given: dict[str, Any] = {"X": np.zeros((n, 0)), "weights": rng.uniform(0.5, 2, n) if weighted else None}
    group, time, strata = leaf, place.astype(float), np.zeros(n, dtype=np.intp)
    variance: ByStratum | LogLinear | None = None
    correlation, of_variance = kind.split("*")[0], kind.split("*")[-1]
    if of_variance == "strata":
        strata = rng.integers(0, 3, n)
        variance = ByStratum(strata)
    elif of_variance == "log-linear":
        given["X"] = np.column_stack([rng.normal(size=n) + 7, 100 * rng.integers(0, 3, n)])
        variance = LogLinear(given["X"])
    residual: Residual
    if variance is not None and correlation == of_variance:
        residual = variance
    elif correlation in ("ar1", "car1"):
        gaps = rng.integers(1, 4, n) if correlation == "ar1" else rng.uniform(0.3, 2.0, n)
        order = np.lexsort([place, leaf])
        time = np.zeros(n)
        time[order] = np.cumsum(gaps[order])
        residual = AR1(time, group, variance)
    else:
        # pairs and triples within the leaves: a random intercept of the leaf is another covariance
        group = np.unique(leaf * 100 + place // 3, return_inverse=True)[1]
        time = (_positions(group) + rng.integers(0, 3, group.max() + 1)[group]) % 3
        time = time.astype(float)
        residual = CompoundSymmetry(group, variance) if correlation == "cs" else Unstructured(time, group)
    return Structured(case, residual, kind, group, time, strata, **given)
