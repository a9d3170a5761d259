"""Errors whose correlation within a group falls with the distance of their occasions: AR(1), discrete or continuous.

In order of the occasions, with r = ρ^d for neighbours at distance d, the precision is a sum over neighbours

    C⁻¹ = first first' + Σ (a_t - r a_t-1)(a_t - r a_t-1)' / (1 - r²) ,   log|C| = Σ log(1 - r²) ,

and each term is r/(1 - r²) (a_t - a_t-1)² + a_t²/(1 + r) - r a_t-1²/(1 + r): squares of rows and of differences of
neighbours, one set for each distance d. No digits are lost when ρ is near 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from hlm.covariance import Matrix
from hlm.residuals.pattern import Correlation
from hlm.residuals.pieces import Layout, Pieces

Places = npt.NDArray[np.intp]


class Serial(Correlation):
    """AR(1) errors in groups.

    φ is atanh ρ for distances that are whole numbers. For others r must be positive: φ is then logit r at the median
    distance of neighbours, so that units of time do not matter; independent errors are at φ → -∞.

    Parameters
    ----------
    order : (n,) intp
        Rows by group, in each in order of its occasions.
    new : (n,) bool
        Whether the row at each place of `order` is the first of its group.
    distances : (G,) float64
        Distinct distances of neighbours.
    distance : (n,) intp
        Which of them lies before the row at each place; -1 for the first ones.
    """

    def __init__(self, order: Places, new: npt.NDArray[np.bool_], distances: Matrix, distance: Places) -> None:
        self.order, self.new, self.distances, self.distance = order, new, distances, distance
        self.codes: Places = np.empty(len(order), dtype=np.intp)
        self.codes[order] = np.cumsum(new) - 1
        self.discrete = bool((distances % 1 == 0).all())
        self.boundary = not self.discrete
        self.names = ("atanh(rho)" if self.discrete else "logit(r)",)
        self.pairs = np.bincount(distance[~new], minlength=len(distances)).astype(np.float64)
        self.unit = 1.0 if self.discrete else float(np.median(distances[distance[~new]]))

    def starts(self) -> list[Matrix]:
        """Return independent errors, or nearly, and a high correlation: likelihoods of AR(1) may have two optima."""
        return [np.zeros(1), np.arctanh([0.6])] if self.discrete else [np.array([-3.0]), np.array([0.5])]

    def bounded(self, phi: Matrix) -> bool:
        """See `Pattern.bounded`; in continuous time r at distance d falls like exp(-φ d)."""
        return super().bounded(phi) if self.discrete else bool(abs(phi[0]) < 1e4)

    def rho(self, phi: Matrix) -> float:
        """Return the correlation of errors at distance 1."""
        return float(np.tanh(phi[0])) if self.discrete else float(expit(phi[0]) ** (1 / self.unit))

    def _powers(self, phi: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Return r = ρ^d, 1 - r² and dr/dφ for each distance."""
        z, d = float(phi[0]), self.distances / self.unit
        if not self.discrete:
            size = -float(np.logaddexp(0.0, -z))
            r = np.exp(d * size)
            return r, -np.expm1(2 * d * size), d * r * float(expit(-z))
        # log|ρ|, without loss where |ρ| is near 1
        size = np.log1p(-2 / (np.exp(2 * abs(z)) + 1)) if z else -np.inf
        sign, slope = np.sign(z), 1 / np.cosh(z) ** 2
        r = np.exp(d * size) * np.where(d % 2 == 1, sign, 1.0)
        with np.errstate(invalid="ignore"):
            change = np.where(d == 1, 1.0, d * np.exp((d - 1) * size)) * np.where(d % 2 == 0, sign, 1.0)
        return r, -np.expm1(2 * d * size), change * slope

    def coefficients(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        """Return those of first rows, and for each distance of differences, rows and their predecessors."""
        r, left, change = self._powers(phi)
        if not left.all():
            raise np.linalg.LinAlgError("errors of neighbours are the same")
        c = np.concatenate([[1.0], np.column_stack([r / left, 1 / (1 + r), -r / (1 + r)]).ravel()])
        bend = 1 / (1 + r) ** 2
        slopes = np.column_stack([(1 + r * r) / left**2, -bend, -bend]) * change[:, None]
        return c, np.concatenate([[0.0], slopes.ravel()])[:, None]

    def log_determinant(self, phi: Matrix) -> tuple[float, Matrix]:
        """Return Σ log(1 - r²) over the neighbours."""
        r, left, change = self._powers(phi)
        return float(self.pairs @ np.log(left)), np.array([self.pairs @ (-2 * r / left * change)])

    def pieces(self, rows: Matrix, layout: Layout) -> Pieces:
        """Return squares of first rows, of differences, rows and predecessors."""
        leaf = layout.leaf_of(len(rows))[self.order]
        sorted_rows = rows[self.order]
        later = np.flatnonzero(~self.new)
        kind = 1 + 3 * self.distance[later]
        parts = [sorted_rows[self.new], sorted_rows[later] - sorted_rows[later - 1], sorted_rows[later]]
        return Pieces(
            layout,
            np.concatenate([*parts, sorted_rows[later - 1]]),
            np.concatenate([leaf[self.new], *[leaf[later]] * 3]),
            np.concatenate([np.zeros(int(self.new.sum()), dtype=np.intp), kind, kind + 1, kind + 2]),
            1 + 3 * len(self.distances),
        )

    def whiten(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return (a_t - r a_t-1) / √(1 - r²), first rows as they are."""
        r, left, _ = self._powers(phi)
        later = np.flatnonzero(~self.new)
        of = self.distance[later]
        out = rows.copy()
        here, before = self.order[later], self.order[later - 1]
        out[here] = (rows[here] - r[of][:, None] * rows[before]) / np.sqrt(left[of])[:, None]
        return out

    def whiten_slopes(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return r'(r a_t - a_t-1) / (1 - r²)^(3/2), none of first rows."""
        r, left, change = self._powers(phi)
        later = np.flatnonzero(~self.new)
        of = self.distance[later]
        out = np.zeros((1, *rows.shape))
        here, before = self.order[later], self.order[later - 1]
        out[0, here] = (change / left**1.5)[of][:, None] * (r[of][:, None] * rows[here] - rows[before])
        return out

    def color(self, noise: Matrix, phi: Matrix) -> Matrix:
        """Return a_t = r a_t-1 + √(1 - r²) noise_t: the t-th rows of all groups together."""
        r, left, _ = self._powers(phi)
        out = noise.copy()
        starts = np.flatnonzero(self.new)
        lengths = np.diff(np.append(starts, len(self.order)))
        for t in range(1, int(lengths.max(initial=0))):
            at = starts[lengths > t] + t
            here, before, of = self.order[at], self.order[at - 1], self.distance[at]
            out[here] = r[of] * out[before] + np.sqrt(left[of]) * noise[here]
        return out

    def condition(self, phi: Matrix) -> float:
        """Return (1 - |r|)/(1 + |r|) at the shortest distance."""
        size = np.abs(self._powers(phi)[0])
        return float(((1 - size) / (1 + size)).min())

    def describe(self) -> str:
        """Return the structure in words."""
        return "AR(1) in groups" if self.discrete else "AR(1) in continuous time in groups"

    def natural(self, phi: Matrix) -> pd.Series:
        """Return ρ, the correlation at distance 1."""
        return pd.Series([self.rho(phi)], index=["rho"])

    def scaled(self, phi: Matrix) -> tuple[Matrix, list[str]]:
        """Return φ."""
        return phi, ["atanh" if self.discrete else f"logit at distance {self.unit:.4g}"]

    def unscaled(self, values: Matrix) -> Matrix:
        """Return ρ of φ."""
        return np.array([self.rho(np.array([value])) for value in values])


def serial(codes: Places, occasion: Matrix | None) -> Serial | tuple[Places, Places]:
    """Return AR(1) errors in groups, or the two rows (n,) that stand at one occasion of one group.

    Parameters
    ----------
    codes : (n,) intp
        Group of each row.
    occasion : (n,) float64 or None
        Its place in time; None: rows of a group follow each other in the order of the data, at distance 1.
    """
    n = len(codes)
    time = np.arange(n, dtype=np.float64) if occasion is None else occasion
    order = np.lexsort([time, codes]).astype(np.intp)
    new = np.r_[True, np.diff(codes[order]) != 0]
    steps = np.r_[0.0, np.diff(time[order])] if occasion is not None else np.ones(n)
    same = np.flatnonzero(~new & (steps <= 0))
    if len(same):
        return order[same[:1] - 1], order[same[:1]]
    distances, inverse = np.unique(steps[~new], return_inverse=True)
    distance = np.full(n, -1, dtype=np.intp)
    distance[~new] = inverse
    return Serial(order, new, distances, distance)
