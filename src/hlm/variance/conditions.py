"""Conditions between the free parameters x that no parametrisation holds: linear in T and σ², and a held correlation.

Each has its value, zero where it holds, and derivatives in x, made of the square roots B of the T's of its terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hlm.covariance import Matrix

if TYPE_CHECKING:
    from hlm.variance.parts import Variances

# B (q, q) of a part with its first (m, q, q) and second (m, m, q, q) derivatives in the part's own parameters.
Roots = Mapping[int, tuple[Matrix, Matrix, Matrix]]


@dataclass(frozen=True)
class Constraint:
    """Σ coefficient · T_ij + sigma · σ² = right, in the units of `hlm.variance.parts`, scaled to sides of size 1.

    Attributes
    ----------
    terms : tuple of (part, i, j, coefficient)
    sigma : float
    right : float
    label : str
        As the user gave it.
    """

    terms: tuple[tuple[int, int, int, float], ...]
    sigma: float
    right: float
    label: str

    def at(self, roots: Roots, variances: Variances, x: Matrix) -> tuple[float, Matrix]:
        """Return the left side less the right one, and its derivatives (size,)."""
        value, slope = -self.right, np.zeros(variances.size)
        for p, i, j, coefficient in self.terms:
            B, first, _ = roots[p]
            value += coefficient * float(B[i] @ B[j])
            slope[variances.parts[p].index] += coefficient * (first[:, i] @ B[j] + first[:, j] @ B[i])
        if self.sigma:
            value += self.sigma * variances.sigma_of(x) ** 2
            if variances.sigma >= 0:
                slope[variances.sigma] += 2 * self.sigma * x[variances.sigma]
        return value, slope

    def bending(self, roots: Roots, variances: Variances) -> Matrix:
        """Return the second derivatives (size, size)."""
        out = np.zeros((variances.size, variances.size))
        for p, i, j, coefficient in self.terms:
            index = variances.parts[p].index
            out[np.ix_(index, index)] += coefficient * _bent(roots[p], i, j)
        if self.sigma and variances.sigma >= 0:
            out[variances.sigma, variances.sigma] += 2 * self.sigma
        return out


@dataclass(frozen=True)
class HeldCorrelation:
    """T_ij = value · √(T_ii T_jj), for -1 < value < 1, over √(T_ii T_jj) where it is evaluated.

    Attributes
    ----------
    part, i, j : int
    value : float
    """

    part: int
    i: int
    j: int
    value: float

    @property
    def terms(self) -> tuple[tuple[int, int, int, float], ...]:
        """As those of a `Constraint`."""
        return ((self.part, self.i, self.j, 1.0),)

    def _lengths(self, roots: Roots) -> list[tuple[float, Matrix]]:
        """Return the standard deviations of both effects and their derivatives."""
        B, first, _ = roots[self.part]
        sizes = [float(np.sqrt(B[i] @ B[i])) for i in (self.i, self.j)]
        return [(size, first[:, i] @ B[i] / size) for i, size in zip((self.i, self.j), sizes, strict=True)]

    def at(self, roots: Roots, variances: Variances, x: Matrix) -> tuple[float, Matrix]:
        """Return the correlation less its value, and derivatives (size,) that are those of the condition."""
        B, first, _ = roots[self.part]
        slope = np.zeros(variances.size)
        if not (B[self.i].any() and B[self.j].any()):  # no correlation without variances
            return np.inf, slope
        (one, d_one), (other, d_other) = self._lengths(roots)
        i, j, size = self.i, self.j, one * other
        own = first[:, i] @ B[j] + first[:, j] @ B[i] - self.value * (d_one * other + one * d_other)
        slope[variances.parts[self.part].index] = own / size
        return float(B[i] @ B[j]) / size - self.value, slope

    def bending(self, roots: Roots, variances: Variances) -> Matrix:
        """Return the second derivatives (size, size) of the condition."""
        i, j = self.i, self.j
        (one, d_one), (other, d_other) = self._lengths(roots)
        # ∂²|B_i| = (½ ∂²|B_i|² - ∂|B_i| ∂|B_i|') / |B_i|
        dd_one = (0.5 * _bent(roots[self.part], i, i) - np.outer(d_one, d_one)) / one
        dd_other = (0.5 * _bent(roots[self.part], j, j) - np.outer(d_other, d_other)) / other
        cross = np.outer(d_one, d_other)
        own = _bent(roots[self.part], i, j) - self.value * (dd_one * other + one * dd_other + cross + cross.T)
        out = np.zeros((variances.size, variances.size))
        index = variances.parts[self.part].index
        out[np.ix_(index, index)] = own / (one * other)
        return out


def _bent(root: tuple[Matrix, Matrix, Matrix], i: int, j: int) -> Matrix:
    """Second derivatives (m, m) of (BB')_ij."""
    B, first, second = root
    cross = first[:, i] @ first[:, j].T
    return np.asarray(cross + cross.T + second[:, :, i] @ B[j] + second[:, :, j] @ B[i])
