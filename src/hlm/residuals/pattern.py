"""What a residual structure is to the engine: coefficients of known patterns as functions of few parameters φ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from hlm.covariance import Matrix
from hlm.inference.information import pseudo_inverse
from hlm.residuals.pieces import Layout, Pieces, RowPieces


class Pattern(ABC):
    """A residual structure bound to the rows of a design: Cov(ε) = σ² W^-½ C(φ) W^-½, C⁻¹ = Σ_k c_k(φ) P_k.

    φ has no bounds, and C(0) = I. W are prior weights and frequencies.

    Attributes
    ----------
    names : tuple of str
        Of φ, as a trace shows them.
    heterogeneous : bool
        Whether variances differ between rows of the same weight.
    correlated : bool
        Whether errors of different rows are.
    """

    heterogeneous: ClassVar[bool] = False
    correlated: ClassVar[bool] = True
    # where a structure has no best φ the search ends here at the latest: nothing but rounding is left to gain
    largest: float = 150.0
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of parameters r."""
        return len(self.names)

    def starts(self) -> list[Matrix]:
        """Values of φ to start from."""
        return [np.zeros(self.size)]

    @abstractmethod
    def coefficients(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        """Return c (K,) and its derivatives (K, r)."""

    @abstractmethod
    def log_determinant(self, phi: Matrix) -> tuple[float, Matrix]:
        """Return log|C| and its gradient (r,)."""

    @abstractmethod
    def pieces(self, rows: Matrix, layout: Layout) -> Pieces | RowPieces:
        """Return the statistics of the patterns from rows (n, E) that carry the square roots of the weights."""

    @abstractmethod
    def whiten(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return rows (n, E) times a square root of C⁻¹: then their products are those under C."""

    @abstractmethod
    def color(self, noise: Matrix, phi: Matrix) -> Matrix:
        """Return errors (n,) of covariance C from independent ones of variance 1."""

    @abstractmethod
    def condition(self, phi: Matrix) -> float:
        """Return the smallest eigenvalue of C over the largest one, or less."""

    @abstractmethod
    def describe(self) -> str:
        """Return the structure in words."""

    @abstractmethod
    def natural(self, phi: Matrix) -> pd.Series:
        """Return what φ stands for, in the terms of the field: ratios, correlations."""

    @abstractmethod
    def scaled(self, phi: Matrix) -> tuple[Matrix, list[str]]:
        """Return the same on scales without bounds, one for each of `natural`, and what these are called."""

    @abstractmethod
    def unscaled(self, values: Matrix) -> Matrix:
        """Return natural values (K,) from `scaled` ones, entry by entry."""

    def row_sd(self, phi: Matrix) -> Matrix | float:
        """Return the standard deviations of the errors of the rows (n,) in units of σ, for rows of weight 1."""
        return 1.0

    def sd(self, phi: Matrix, sigma: float) -> pd.Series | None:
        """Return residual standard deviations of strata or occasions, None where there is one for all."""
        return None


@dataclass(frozen=True, eq=False)
class Estimated:
    """A residual structure at given parameters; part of a problem.

    Attributes
    ----------
    pattern : Pattern
    phi : (r,) float64
    independent : float
        Criterion of the same model with independent errors of one variance; NaN where φ is not an estimate, as below.
    hessian : (m + r, m + r) float64
        Second derivatives of the criterion in (θ, φ), σ² profiled out.
    squares : (r,) float64
        Derivatives of r² in φ.
    cross_slopes : (r, p, p) float64
        Derivatives of (X'V⁻¹X)⁻¹ in φ, in units of σ² and the engine's coordinates.
    """

    pattern: Pattern
    phi: Matrix
    independent: float = np.nan
    hessian: Matrix = field(default_factory=lambda: np.zeros((0, 0)))
    squares: Matrix = field(default_factory=lambda: np.zeros(0))
    cross_slopes: Matrix = field(default_factory=lambda: np.zeros((0, 0, 0)))

    @property
    def covariance(self) -> Matrix:
        """(r, r) asymptotic covariance of φ̂, with the uncertainty of the other variance parameters."""
        r = self.pattern.size
        return 2 * pseudo_inverse(self.hessian)[-r:, -r:]
