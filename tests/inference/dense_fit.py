"""Dense algebra for a fit in the user's units: V, P, the derivatives of V in the entries of T and σ²."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

import hlm


@dataclass
class Dense:
    """n × n matrices of a fit."""

    y: np.ndarray
    X: np.ndarray
    V: np.ndarray
    directions: list[np.ndarray]
    reml: bool

    @cached_property
    def M(self) -> np.ndarray:
        """(X'V⁻¹X)⁻¹."""
        return np.linalg.inv(self.X.T @ np.linalg.solve(self.V, self.X))

    @cached_property
    def P(self) -> np.ndarray:
        inverse = np.linalg.inv(self.V)
        return inverse - inverse @ self.X @ self.M @ self.X.T @ inverse

    def second(self, kind: str) -> np.ndarray:
        """Second derivatives of -2 log-likelihood in the entries of T and σ²."""
        Py = self.P @ self.y
        P = self.P if self.reml else np.linalg.inv(self.V)
        PV = [P @ V for V in self.directions]
        VPy = [V @ Py for V in self.directions]
        traces = np.array([[np.sum(a * b.T) for b in PV] for a in PV])
        average = np.array([[a @ self.P @ b for b in VPy] for a in VPy])
        return {"expected": traces, "average": average, "observed": 2 * average - traces}[kind]


def covariance_of(fit: hlm.Fit, T: list[np.ndarray], sigma2: float) -> np.ndarray:
    """V (n, n) at these covariances of the random effects."""
    design = fit.model.design
    weights = np.ones(design.rows) if design.weights is None else design.weights
    V = np.diag(sigma2 / weights)
    for factor, own in zip(design.factors, T, strict=True):
        Z = design.Z(factor.name)
        V += (Z @ own @ Z.T) * (factor.codes[:, None] == factor.codes[None, :])
    return V


def dense(fit: hlm.Fit) -> Dense:
    """All of a fit whose columns are independent."""
    design = fit.model.design
    weights = np.ones(design.rows) if design.weights is None else design.weights
    directions = []
    for factor in design.factors:
        Z, same = design.Z(factor.name), factor.codes[:, None] == factor.codes[None, :]
        for block in factor.blocks:
            for c, j in enumerate(block):
                for i in block[c:]:
                    one = np.outer(Z[:, i], Z[:, j])
                    directions.append((one if i == j else one + one.T) * same)
    directions.append(np.diag(1 / weights))
    T = [fit.covariances[factor.name].to_numpy() for factor in design.factors]
    kept = [name not in fit.aliased for name in design.names]
    return Dense(design.y, design.X[:, kept], covariance_of(fit, T, fit.sigma**2), directions, fit.reml)
