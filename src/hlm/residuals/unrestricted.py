"""Errors of a multivariate outcome: any covariance over T occasions, some of which may be missing in a group (HMLM).

Groups that were seen at the same occasions share C, the rows and columns of C* (T, T) that belong to them, and with
P = C⁻¹ of that pattern

    Σ_st P_st a_s a_t' = Σ_s (Σ_t P_st) a_s a_s' - Σ_s<t P_st (a_s - a_t)(a_s - a_t)' :

squares of rows and of differences, for each pattern and pair of its occasions. C* = LL' with L lower triangular,
L_11 = 1 (σ² is the variance of the first occasion) and a positive diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.residuals.columns import codes_of_new_rows
from hlm.residuals.pattern import LinearPattern
from hlm.residuals.pieces import Layout, Pieces

Places = npt.NDArray[np.intp]


class Unrestricted(LinearPattern):
    """An unstructured covariance over occasions; φ: the rows of L below the first, logarithms on the diagonal.

    Parameters
    ----------
    codes : (n,) intp
        Group of each row.
    occasion : (n,) intp
        Occasion of each row, at most one row of a group at each.
    labels : (T,) Index
        Of the occasions.
    column : str or None
        Column of the data that they come from.
    """

    heterogeneous: ClassVar[bool] = True

    def __init__(self, codes: Places, occasion: Places, labels: pd.Index, column: str | None) -> None:
        T, J = len(labels), int(codes.max()) + 1
        self.labels, self.occasion = labels, occasion
        self.codes: Places = codes
        self.column = column
        # row of each group at each occasion, -1 where it was not seen
        self.place = np.full((J, T), -1, dtype=np.intp)
        self.place[codes, occasion] = np.arange(len(codes))
        seen, self.pattern_of = np.unique(self.place >= 0, axis=0, return_inverse=True)
        self.pattern_of = self.pattern_of.reshape(-1)
        self.patterns = [np.flatnonzero(row) for row in seen]
        self.groups = np.bincount(self.pattern_of).astype(np.float64)
        self.entries = [(i, j) for i in range(1, T) for j in range(i + 1)]
        self.names = tuple(
            f"log L[{labels[i]}, {labels[j]}]" if i == j else f"L[{labels[i]}, {labels[j]}]" for i, j in self.entries
        )

    def covariance(self, phi: Matrix) -> Matrix:
        """Return C* (T, T), relative to the variance of the first occasion."""
        L = self._root(phi)
        return L @ L.T

    def _root(self, phi: Matrix) -> Matrix:
        L = np.zeros((len(self.labels),) * 2)
        L[0, 0] = 1.0
        for value, (i, j) in zip(phi, self.entries, strict=True):
            L[i, j] = np.exp(value) if i == j else value
        return L

    def _slopes(self, phi: Matrix) -> Matrix:
        """∂C*/∂φ (r, T, T)."""
        L = self._root(phi)
        out = np.zeros((self.size, *L.shape))
        for a, (i, j) in enumerate(self.entries):
            out[a, i] = (L[i, i] if i == j else 1.0) * L[:, j]
        return out + np.swapaxes(out, 1, 2)

    def coefficients(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        """Return, for each pattern, those of its occasions and of their pairs."""
        C, slopes = self.covariance(phi), self._slopes(phi)
        values, derivatives = [], []
        for occasions in self.patterns:
            index = np.ix_(occasions, occasions)
            P = np.linalg.inv(C[index])
            dP = -P @ slopes[:, index[0], index[1]] @ P
            pairs = np.triu_indices(len(occasions), 1)
            values += [P.sum(axis=1), -P[pairs]]
            derivatives += [dP.sum(axis=2).T, -dP[:, pairs[0], pairs[1]].T]
        return np.concatenate(values), np.concatenate(derivatives)

    def log_determinant(self, phi: Matrix) -> tuple[float, Matrix]:
        """Return Σ log|C| over the groups."""
        C, slopes = self.covariance(phi), self._slopes(phi)
        value, gradient = 0.0, np.zeros(self.size)
        for count, occasions in zip(self.groups, self.patterns, strict=True):
            index = np.ix_(occasions, occasions)
            value += count * np.linalg.slogdet(C[index])[1]
            gradient += count * np.einsum("ij,aji->a", np.linalg.inv(C[index]), slopes[:, index[0], index[1]])
        return float(value), gradient

    def pieces(self, rows: Matrix, layout: Layout) -> Pieces:
        """Return squares of the rows at each occasion of each pattern, and of the differences of each pair."""
        leaf = layout.leaf_of(len(rows))
        parts: list[Matrix] = []
        leaves: list[Places] = []
        kinds: list[Places] = []
        count = 0
        for p, occasions in enumerate(self.patterns):
            places = self.place[self.pattern_of == p][:, occasions]
            own = leaf[places[:, 0]]
            for s in range(len(occasions)):
                parts.append(rows[places[:, s]])
            for s, t in combinations(range(len(occasions)), 2):
                parts.append(rows[places[:, s]] - rows[places[:, t]])
            new = len(parts) - len(leaves)
            leaves += [own] * new
            kinds += [np.full(len(own), count + k, dtype=np.intp) for k in range(new)]
            count += new
        return Pieces(layout, np.concatenate(parts), np.concatenate(leaves), np.concatenate(kinds), count)

    def whiten(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return L⁻¹ times the rows of each group, L the Cholesky factor of its C."""
        return self._each(rows, phi, np.linalg.solve)

    def whiten_slopes(self, rows: Matrix, phi: Matrix) -> Matrix:
        """Return -Φ(L⁻¹ dC L⁻ᵀ) L⁻¹ times the rows, Φ the lower triangle with half the diagonal: L dΦ is that of L."""
        C, slopes = self.covariance(phi), self._slopes(phi)
        out = np.empty((self.size, *rows.shape))
        for p, occasions in enumerate(self.patterns):
            places = self.place[self.pattern_of == p][:, occasions]
            inverse = np.linalg.inv(np.linalg.cholesky(C[np.ix_(occasions, occasions)]))
            white = inverse @ rows[places]
            for a, slope in enumerate(slopes):
                change = np.tril(inverse @ slope[np.ix_(occasions, occasions)] @ inverse.T)
                np.fill_diagonal(change, 0.5 * np.diag(change))
                out[a, places] = -change @ white
        return out

    def color(self, noise: Matrix, phi: Matrix) -> Matrix:
        """Return L times the noise of each group."""
        return self._each(noise[:, None], phi, np.matmul)[:, 0]

    def _each(self, rows: Matrix, phi: Matrix, what: Callable[..., Matrix]) -> Matrix:
        out, C = np.empty_like(rows), self.covariance(phi)
        for p, occasions in enumerate(self.patterns):
            places = self.place[self.pattern_of == p][:, occasions]
            root = np.linalg.cholesky(C[np.ix_(occasions, occasions)])
            out[places] = what(np.broadcast_to(root, (len(places), *root.shape)), rows[places])
        return out

    def condition(self, phi: Matrix) -> float:
        """Return that of the correlation matrix of all occasions."""
        sd = np.sqrt(np.diag(self.covariance(phi)))
        values = np.linalg.eigvalsh(self.covariance(phi) / np.outer(sd, sd))
        return float(max(values[0], 0.0) / values[-1])

    def describe(self) -> str:
        """Return the structure in words."""
        return f"any covariance over {len(self.labels)} occasions"

    def natural(self, phi: Matrix) -> pd.Series:
        """Return ratios of standard deviations to that of the first occasion, and correlations."""
        sd, correlations = self._correlations(phi)
        names = [f"sd({label}) / sd({self.labels[0]})" for label in self.labels[1:]]
        pairs = [f"cor({one}, {other})" for one, other in combinations(self.labels, 2)]
        return pd.Series(np.concatenate([sd[1:], correlations]), index=names + pairs)

    def _correlations(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        C = self.covariance(phi)
        sd = np.sqrt(np.diag(C))
        return sd, (C / np.outer(sd, sd))[np.triu_indices(len(C), 1)]

    def scaled(self, phi: Matrix) -> tuple[Matrix, list[str]]:
        """Return logarithms of the ratios, atanh of the correlations."""
        sd, correlations = self._correlations(phi)
        scales = ["log"] * (len(sd) - 1) + ["atanh"] * len(correlations)
        return np.concatenate([np.log(sd[1:]), np.arctanh(correlations)]), scales

    def unscaled(self, values: Matrix) -> Matrix:
        """Return ratios and correlations."""
        ratios = len(self.labels) - 1
        return np.concatenate([np.exp(np.minimum(values[:ratios], 700.0)), np.tanh(values[ratios:])])

    def row_sd(self, phi: Matrix, new: Any = None) -> Matrix:
        """Return those of the occasions."""
        sd = self._correlations(phi)[0]
        if new is not None:
            codes = codes_of_new_rows(new, self.column, self.labels, "occasion")
            return np.where(codes < 0, np.nan, sd[codes])
        out = np.empty(int(self.place.max()) + 1)
        for t, rows in enumerate(self.place.T):
            out[rows[rows >= 0]] = sd[t]
        return out

    def sd(self, phi: Matrix, sigma: float) -> pd.Series:
        """Return the residual standard deviation of each occasion."""
        return pd.Series(sigma * self._correlations(phi)[0], index=self.labels, name="sd")
