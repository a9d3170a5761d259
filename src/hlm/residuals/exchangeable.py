"""Errors with the same correlation between any two of a group: compound symmetry.

C of a group of m rows has the eigenvalues 1 - ρ (differences within the group) and 1 + (m - 1)ρ (its mean), so

    C⁻¹ = W/(1 - ρ) + B/(1 + (m - 1)ρ) ,   log|C| = (m - 1) log(1 - ρ) + log(1 + (m - 1)ρ) ,

with W the squares of deviations from the group's mean and B that of √m times the mean: patterns that depend on ρ
through the size of the group only. ρ may be negative, down to -1/(M - 1) in groups of up to M rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.residuals.pattern import Correlation
from hlm.residuals.pieces import Layout, Pieces

Places = npt.NDArray[np.intp]


class Exchangeable(Correlation):
    """Compound symmetry in groups; φ = log((1 + (M - 1)ρ) / (1 - ρ)), M the size of the largest group.

    Parameters
    ----------
    codes : (n,) intp
        Group of each row.
    """

    names = ("log eigenvalue ratio",)

    def __init__(self, codes: Places) -> None:
        self.codes: Places = codes
        self.sizes = np.bincount(codes).astype(np.float64)
        self.most = float(self.sizes.max())
        # distinct sizes, and which of them each group has
        self.m, self.size_of = np.unique(self.sizes, return_inverse=True)
        self.groups = np.bincount(self.size_of).astype(np.float64)

    def starts(self) -> list[Matrix]:
        """Return independent errors, and a correlation of 0.5."""
        return [np.zeros(1), np.array([np.log(self.most + 1)])]

    def rho(self, phi: Matrix) -> float:
        """Return the correlation."""
        return float(1 - self.most / (np.exp(min(phi[0], 700.0)) + self.most - 1))

    def _eigenvalues(self, phi: Matrix) -> tuple[float, Matrix, Matrix]:
        """Return 1 - ρ, 1 + (m - 1)ρ for each size, and dρ/dφ."""
        e, M = float(np.exp(phi[0])), self.most
        whole = e + M - 1
        return M / whole, (self.m * e + (M - self.m)) / whole, np.asarray(e * M / whole**2)

    def coefficients(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        """Return 1/(1 - ρ), and 1/(1 + (m - 1)ρ) for each size."""
        within, between, slope = self._eigenvalues(phi)
        c = np.append(1 / within, 1 / between)
        return c, (np.append(1 / within**2, -(self.m - 1) / between**2) * slope)[:, None]

    def log_determinant(self, phi: Matrix) -> tuple[float, Matrix]:
        """Return Σ (m - 1) log(1 - ρ) + log(1 + (m - 1)ρ) over the groups."""
        within, between, slope = self._eigenvalues(phi)
        free = float(self.groups @ (self.m - 1))
        value = free * np.log(within) + self.groups @ np.log(between)
        return float(value), np.array([(self.groups @ ((self.m - 1) / between) - free / within) * slope])

    def _means(self, rows: Matrix) -> Matrix:
        """Return the mean rows of the groups."""
        out = np.zeros((len(self.sizes), rows.shape[1]))
        for j, column in enumerate(rows.T):
            out[:, j] = np.bincount(self.codes, column, len(self.sizes))
        return out / self.sizes[:, None]

    def pieces(self, rows: Matrix, layout: Layout) -> Pieces:
        """Return squares of deviations from the means of the groups, and of the means by size of the group."""
        leaf = layout.leaf_of(len(rows))
        means = self._means(rows)
        leaf_of_group = np.zeros(len(means), dtype=np.intp)
        leaf_of_group[self.codes] = leaf
        return Pieces(
            layout,
            np.concatenate([rows - means[self.codes], means * np.sqrt(self.sizes)[:, None]]),
            np.concatenate([leaf, leaf_of_group]),
            np.concatenate([np.zeros(len(rows), dtype=np.intp), 1 + self.size_of.astype(np.intp)]),
            1 + len(self.m),
        )

    def whiten(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return deviations and means, each over the root of its eigenvalue."""
        within, between, _ = self._eigenvalues(phi)
        return self._scale(rows, 1 / np.sqrt(within), 1 / np.sqrt(between))

    def whiten_slopes(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return deviations and means times the slopes of the roots."""
        within, between, slope = self._eigenvalues(phi)
        return self._scale(rows, 0.5 * slope / within**1.5, -0.5 * (self.m - 1) * slope / between**1.5)[None]

    def color(self, noise: Matrix, phi: Matrix) -> Matrix:
        """Return deviations and means of the noise, each times the root of its eigenvalue."""
        within, between, _ = self._eigenvalues(phi)
        return self._scale(noise[:, None], np.sqrt(within), np.sqrt(between))[:, 0]

    def _scale(self, rows: Matrix, within: float, between: Matrix) -> Matrix:
        means = self._means(rows)
        factors = (between[self.size_of] - within)[:, None]
        return within * rows + (means * factors)[self.codes]

    def condition(self, phi: Matrix) -> float:
        """Return that of the largest group."""
        return float(np.exp(-abs(phi[0])))

    def describe(self) -> str:
        """Return the structure in words."""
        return "compound symmetry in groups"

    def natural(self, phi: Matrix) -> pd.Series:
        """Return ρ."""
        return pd.Series([self.rho(phi)], index=["rho"])

    def scaled(self, phi: Matrix) -> tuple[Matrix, list[str]]:
        """Return φ, on which an interval stays between -1/(M - 1) and 1."""
        return phi, ["log eigenvalue ratio"]

    def unscaled(self, values: Matrix) -> Matrix:
        """Return ρ of φ."""
        return np.array([self.rho(np.array([value])) for value in values])
