"""Level-1 variances that differ: by stratum, and log-linear in covariates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.frames import to_frame
from hlm.residuals.columns import codes_of_new_rows, unnamed
from hlm.residuals.pattern import LinearPattern
from hlm.residuals.pieces import Layout, Pieces, RowPieces

if TYPE_CHECKING:
    from hlm.specification.columns import Encoder

Places = npt.NDArray[np.intp]

# Share of the rows up to which distinct (leaf, covariates) pairs are worth statistics of their own.
DISTINCT = 0.5


class LogVariance(LinearPattern):
    """log Var(ε_i) = log σ² + (x_i - x̄)'φ - log w_i, with x̄ the origin of σ².

    Rows with the same x are one kind; where nearly every row differs from those of its group the products are formed
    from the rows at each φ instead.

    Parameters
    ----------
    X : (K, r) float64
        Distinct covariate rows, less their origin, in units of `scale`.
    kind : (n,) intp
        Of each row.
    counts : (K,) float64
        Rows of each kind (sums of frequencies).
    names : sequence of r str
    scale : (r,) float64
        Units of X in those of the user.
    origin : (r,) float64
        In the user's units.
    encoder : Encoder, optional
        How the covariates of new rows are made, after an intercept; None where they were given as an array.
    """

    heterogeneous: ClassVar[bool] = True
    correlated: ClassVar[bool] = False

    def __init__(
        self,
        X: Matrix,
        kind: Places,
        counts: Matrix,
        names: Sequence[str],
        scale: Matrix,
        origin: Matrix,
        encoder: Encoder | None = None,
    ) -> None:
        self.X = X
        self.origin = origin
        self.encoder = encoder
        self.kind = kind
        self.counts = counts
        self.names = tuple(names)
        self.scale = scale

    def coefficients(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        """Return exp(-x'φ) of each kind."""
        c = np.exp(-self.X @ phi)
        return c, -c[:, None] * self.X

    def log_determinant(self, phi: Matrix) -> tuple[float, Matrix]:
        """Return Σ x_i'φ."""
        slope = self.counts @ self.X
        return float(slope @ phi), slope

    def pieces(self, rows: Matrix, layout: Layout) -> Pieces | RowPieces:
        """Return products of each kind in each leaf, or of the rows where there are too many kinds."""
        leaf = layout.leaf_of(len(rows))
        distinct = len(np.unique(leaf * len(self.X) + self.kind))
        if distinct <= DISTINCT * len(rows):
            return Pieces(layout, rows, leaf, self.kind, len(self.X))
        return RowPieces(layout, rows, leaf, self.kind, len(self.X))

    def whiten(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return rows times the square roots of their precision."""
        return rows * np.sqrt(self.coefficients(phi)[0])[self.kind][:, None]

    def color(self, noise: Matrix, phi: Matrix) -> Matrix:
        """Return noise times the standard deviations of the rows."""
        return noise / np.sqrt(self.coefficients(phi)[0])[self.kind]

    def whiten_slopes(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return the white rows times the derivatives of the logarithms of their factors."""
        white = self.whiten(rows, phi)
        return np.array([-slope[:, None] * white for slope in self.log_sd_slopes().T])

    def log_sd_slopes(self) -> Matrix:
        """Return the derivatives of the log standard deviations of the rows in φ (n, r)."""
        return 0.5 * self.X[self.kind]

    def row_sd(self, phi: Matrix, new: Any = None) -> Matrix:
        """Return those of the kinds of row, or of the covariates of new rows."""
        if new is not None:
            return np.asarray(np.exp(0.5 * self.covariates(new) @ phi))
        return np.asarray(1 / np.sqrt(self.coefficients(phi)[0])[self.kind])

    def covariates(self, new: Any) -> Matrix:
        """Return the x (N, r) of new rows.

        Raises
        ------
        DataError
            If the covariates were given as an array, or cannot be made of the new rows.
        """
        if self.encoder is None:
            raise unnamed("covariates")
        columns = self.encoder.encode(to_frame(new, [], new=True)).values[1:]
        return np.asarray((np.column_stack(columns) - self.origin) / self.scale)

    def condition(self, phi: Matrix) -> float:
        """Return the smallest variance over the largest one."""
        logs = self.X @ phi
        return float(np.exp(logs.min() - logs.max()))

    def describe(self) -> str:
        """Return the structure in words."""
        return "log-variance linear in " + ", ".join(self.names)

    def natural(self, phi: Matrix) -> pd.Series:
        """Return α: differences of log variances for one unit of each covariate."""
        return pd.Series(phi / self.scale, index=list(self.names))

    def scaled(self, phi: Matrix) -> tuple[Matrix, list[str]]:
        """Return α."""
        return phi / self.scale, ["log variance"] * len(phi)

    def unscaled(self, values: Matrix) -> Matrix:
        """Return the values."""
        return values


class Strata(LogVariance):
    """A residual variance for each stratum; φ are the log ratios of standard deviations to that of the first.

    Parameters
    ----------
    codes : (n,) intp
    labels : (S,) Index
    counts : (S,) float64
        Rows of each stratum.
    column : str
        What the strata are called.
    named : bool
        Whether that is a column of the data.
    """

    def __init__(self, codes: Places, labels: pd.Index, counts: Matrix, column: str, named: bool) -> None:
        X = np.zeros((len(labels), len(labels) - 1))
        X[1:] = 2 * np.eye(len(labels) - 1)
        names = [f"sd({label}) / sd({labels[0]})" for label in labels[1:]]
        super().__init__(X, codes, counts, names, np.ones(len(names)), np.zeros(len(names)))
        self.labels = labels
        self.column = column
        self.named = named

    def covariates(self, new: Any) -> Matrix:
        """Return those of the strata of new rows, NaN where the stratum is missing."""
        codes = codes_of_new_rows(new, self.column if self.named else None, self.labels, "stratum")
        return np.where(codes[:, None] < 0, np.nan, self.X[codes])

    def describe(self) -> str:
        """Return the structure in words."""
        return f"a variance for each of the {len(self.labels)} strata of '{self.column}'"

    def natural(self, phi: Matrix) -> pd.Series:
        """Return ratios of standard deviations."""
        return pd.Series(np.exp(phi), index=list(self.names))

    def scaled(self, phi: Matrix) -> tuple[Matrix, list[str]]:
        """Return their logarithms."""
        return phi, ["log"] * len(phi)

    def unscaled(self, values: Matrix) -> Matrix:
        """Return ratios from their logarithms."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(values))

    def sd(self, phi: Matrix, sigma: float) -> pd.Series:
        """Return the residual standard deviation of each stratum."""
        return pd.Series(sigma * np.exp(np.append(0.0, phi)), index=self.labels, name="sd")
