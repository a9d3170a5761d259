"""What a residual structure is to the engine: a covariance of the level-1 errors as a function of few parameters φ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.inference.information import pseudo_inverse
from hlm.residuals.pieces import Combination, ErrorStatistics, Layout, Pieces, RowPieces


class Pattern(ABC):
    """A residual structure bound to the rows of a design: Cov(ε) = σ² W^-½ C(φ) W^-½.

    φ has no bounds, and C(0) = I. W are prior weights and frequencies.

    Attributes
    ----------
    names : tuple of str
        Of φ, as a trace shows them.
    heterogeneous : bool
        Whether variances differ between rows of the same weight.
    correlated : bool
        Whether errors of different rows are.
    boundary : bool
        Whether independent errors are at the end of the range of a correlation.
    codes : (n,) intp or None
        Group of each row within which errors are correlated, None where they are not.
    """

    heterogeneous: ClassVar[bool] = False
    correlated: ClassVar[bool] = True
    boundary: bool = False
    codes: npt.NDArray[np.intp] | None = None
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of parameters r."""
        return len(self.names)

    def starts(self) -> list[Matrix]:
        """Values of φ to start from."""
        return [np.zeros(self.size)]

    def bounded(self, phi: Matrix) -> bool:
        """Whether φ is within bounds: where there is no best φ the search ends there, with rounding left to gain."""
        return bool(np.abs(phi).max(initial=0.0) < 150.0)

    @abstractmethod
    def log_determinant(self, phi: Matrix) -> tuple[float, Matrix]:
        """Return log|C| and its gradient (r,)."""

    @abstractmethod
    def statistics(self, rows: Matrix, layout: Layout) -> ErrorStatistics:
        """Return the statistics of the errors from rows (n, E) that carry the square roots of the weights."""

    @abstractmethod
    def whiten(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return rows (n, E) times a square root of C⁻¹: then their products are those under C."""

    @abstractmethod
    def whiten_slopes(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return the derivatives of `whiten` in φ (r, n, E)."""

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

    def row_sd(self, phi: Matrix, new: Any = None) -> Matrix | float:
        """Return the standard deviations of the errors of rows in units of σ, for rows of weight 1.

        Parameters
        ----------
        phi : (r,) float64
        new : DataFrame or mapping, optional
            New rows, those of the design (n,) when left out; NaN where what the variance depends on is missing.

        Raises
        ------
        DataError
            If a new row is of a stratum or occasion that was not in the fit, or what these are has no name.
        """
        return 1.0

    def sd(self, phi: Matrix, sigma: float) -> pd.Series | None:
        """Return residual standard deviations of strata or occasions, None where there is one for all."""
        return None


class LinearPattern(Pattern):
    """A structure whose precision is a sum of known patterns with few coefficients: C⁻¹ = Σ_k c_k(φ) P_k."""

    @abstractmethod
    def coefficients(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        """Return c (K,) and its derivatives (K, r)."""

    @abstractmethod
    def pieces(self, rows: Matrix, layout: Layout) -> Pieces | RowPieces:
        """Return the statistics of the patterns from rows (n, E) that carry the square roots of the weights."""

    def statistics(self, rows: Matrix, layout: Layout) -> ErrorStatistics:
        """Return those of the patterns, which are gathered once."""
        return Combination(self.coefficients, self.pieces(rows, layout))


class Correlation(LinearPattern):
    """A correlation of the errors of a group, which variances that differ may scale; see `hlm.residuals.scaled`."""


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
