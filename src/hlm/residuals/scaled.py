"""Errors that are correlated and whose variances differ: Cov(ε) = σ² S C S, S the standard deviations of the rows.

With W'W = C⁻¹ the rows W S⁻¹a are white. Their products are formed from the rows at each φ, as the patterns of C⁻¹ have
no fewer coefficients than there are pairs of rows with different variances. The derivatives are exact:

    d(W S⁻¹a) = dW S⁻¹a    in parameters of C ,    -W (dlog s) S⁻¹a    in those of S .
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from hlm.covariance import Matrix
from hlm.residuals.moments import SecondMoments
from hlm.residuals.pattern import Correlation, Pattern
from hlm.residuals.pieces import CHUNK, ErrorStatistics, ExpectedSquares, Layout, gather_rows
from hlm.residuals.variances import LogVariance


class Scaled(Pattern):
    """A correlation of the errors and variances that differ; φ: those of the correlation, then those of the variances.

    Parameters
    ----------
    correlation : Correlation
    variance : LogVariance
        Strata, or log-linear in covariates.
    """

    heterogeneous: ClassVar[bool] = True

    def __init__(self, correlation: Correlation, variance: LogVariance) -> None:
        self.correlation, self.variance = correlation, variance
        self.names = correlation.names + variance.names
        self.boundary, self.codes = correlation.boundary, correlation.codes

    def split(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        """Return the parameters of the correlation and of the variances."""
        at = self.correlation.size
        return phi[:at], phi[at:]

    def starts(self) -> list[Matrix]:
        """Return those of the correlation, with equal variances."""
        return [np.append(start, np.zeros(self.variance.size)) for start in self.correlation.starts()]

    def bounded(self, phi: Matrix) -> bool:
        """See `Pattern.bounded`."""
        own, scale = self.split(phi)
        return self.correlation.bounded(own) and self.variance.bounded(scale)

    def log_determinant(self, phi: Matrix) -> tuple[float, Matrix]:
        """Return the sum of both."""
        parts = zip((self.correlation, self.variance), self.split(phi), strict=True)
        values, slopes = zip(*(part.log_determinant(own) for part, own in parts), strict=True)
        return sum(values), np.concatenate(slopes)

    def statistics(self, rows: Matrix, layout: Layout) -> ErrorStatistics:
        """Return the statistics of rows that are made white at each φ."""
        return _Whitened(self, rows, layout)

    def whiten(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return W S⁻¹ times the rows."""
        own, scale = self.split(phi)
        return self.correlation.whiten(self.variance.whiten(rows, scale), own)

    def whiten_slopes(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return the derivatives of `whiten` in φ (r, n, E)."""
        own, scale = self.split(phi)
        scaled = self.variance.whiten(rows, scale)
        moved = [self.correlation.whiten(-slope[:, None] * scaled, own) for slope in self.variance.log_sd_slopes().T]
        return np.concatenate([self.correlation.whiten_slopes(scaled, own), np.array(moved)])

    def color(self, noise: Matrix, phi: Matrix) -> Matrix:
        """Return correlated noise times the standard deviations of the rows."""
        own, scale = self.split(phi)
        return self.variance.color(self.correlation.color(noise, own), scale)

    def condition(self, phi: Matrix) -> float:
        """Return the product of both."""
        own, scale = self.split(phi)
        return self.correlation.condition(own) * self.variance.condition(scale)

    def describe(self) -> str:
        """Return the structure in words."""
        return f"{self.correlation.describe()}, {self.variance.describe()}"

    def natural(self, phi: Matrix) -> pd.Series:
        """Return what both stand for."""
        own, scale = self.split(phi)
        return pd.concat([self.correlation.natural(own), self.variance.natural(scale)])

    def scaled(self, phi: Matrix) -> tuple[Matrix, list[str]]:
        """Return both."""
        own, scale = self.split(phi)
        (first, one), (second, other) = self.correlation.scaled(own), self.variance.scaled(scale)
        return np.concatenate([first, second]), one + other

    def unscaled(self, values: Matrix) -> Matrix:
        """Return natural values of both."""
        own, scale = self.split(values)
        return np.concatenate([self.correlation.unscaled(own), self.variance.unscaled(scale)])

    def row_sd(self, phi: Matrix, new: Any = None) -> Matrix | float:
        """Return those of the variances."""
        return self.variance.row_sd(self.split(phi)[1], new)

    def sd(self, phi: Matrix, sigma: float) -> pd.Series | None:
        """Return those of the strata, None for covariates."""
        return self.variance.sd(self.split(phi)[1], sigma)


class _Whitened:
    """`ErrorStatistics` of rows that are made white at each φ."""

    terms = 1

    def __init__(self, pattern: Scaled, rows: Matrix, layout: Layout) -> None:
        self.pattern, self.rows, self.layout = pattern, rows, layout
        self.leaf = layout.leaf_of(len(rows))

    def combine(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        return gather_rows(self.pattern.whiten(self.rows, phi), self.layout)

    def expected(self, moments: SecondMoments) -> ExpectedSquares:
        return _Squares(self, moments)


@dataclass(frozen=True, eq=False)
class _Squares:
    """q(φ) = Σ w'Hw over the white rows w, H the second moments of their leaf."""

    errors: _Whitened
    moments: SecondMoments

    def _forms(self, rows: Matrix) -> Matrix:
        """∂(w'Hw)/∂w of each row (n, E)."""
        Q, leaf = self.errors.layout.width, self.errors.leaf
        out = np.zeros_like(rows)
        out[:, Q:] = 2 * rows[:, Q:] @ self.moments.common
        for lo in range(0, len(rows) if Q else 0, CHUNK):
            here = slice(lo, lo + CHUNK)
            # what H has beside Z counts twice in `leaves`
            H = self.moments.leaves[leaf[here]]
            random, rest = rows[here, :Q], rows[here, Q:]
            out[here, :Q] = 2 * np.einsum("iqk,ik->iq", H[:, :, :Q], random)
            out[here, :Q] += np.einsum("iqk,ik->iq", H[:, :, Q:], rest)
            out[here, Q:] += np.einsum("iqk,iq->ik", H[:, :, Q:], random)
        return out

    def value(self, phi: Matrix) -> float:
        rows = self.errors.pattern.whiten(self.errors.rows, phi)
        return 0.5 * float(np.vdot(rows, self._forms(rows)))

    def gradient(self, phi: Matrix) -> Matrix:
        pattern, rows = self.errors.pattern, self.errors.rows
        forms = self._forms(pattern.whiten(rows, phi))
        return np.tensordot(pattern.whiten_slopes(rows, phi), forms, axes=2)
