"""Statistics of a residual precision that is a sum of known patterns with unknown coefficients, R⁻¹ = Σ c_k P_k.

The cross-products of a leaf are then Σ c_k A_k, whatever the coefficients: `Pieces` holds the A_k, and nothing sees the
rows again. Where every row has a coefficient of its own, `RowPieces` forms the products from the rows at each c.

What the search needs of them is a function of φ: `ErrorStatistics`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hlm.covariance import Matrix
from hlm.residuals.moments import SecondMoments
from hlm.structure import Hierarchy
from hlm_ext.columns import Columns
from hlm_ext.gather import gather

Places = npt.NDArray[np.intp]

# Rows whose products with their leaf's second moments are formed at a time.
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the rows stand, and which of their columns are whose.

    Attributes
    ----------
    hierarchy : Hierarchy
    width : int
        Q, columns of all factors, which come first.
    """

    hierarchy: Hierarchy
    width: int

    @property
    def leaves(self) -> int:
        """Number of leaves; 1 without random effects."""
        return len(self.hierarchy.first) - 1

    def leaf_of(self, n: int) -> Places:
        """Leaf (position) of each row."""
        out = np.empty(n, dtype=np.intp)
        rows = self.hierarchy.rows if self.hierarchy.rows is not None else np.arange(n)
        out[rows] = np.repeat(np.arange(self.leaves), np.diff(self.hierarchy.first))
        return out


class ExpectedSquares(Protocol):
    """q(φ) = tr(C(φ)⁻¹ E(ee' | y)) / σ², at second moments that are given."""

    def value(self, phi: Matrix) -> float:
        """Return q."""
        ...

    def gradient(self, phi: Matrix) -> Matrix:
        """Return ∂q/∂φ (r,)."""
        ...


class ErrorStatistics(Protocol):
    """What a model under errors of the covariance C(φ) depends on.

    Attributes
    ----------
    terms : int
        Sums that enter each value, whose rounding adds up.
    """

    terms: int

    def combine(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        """Return Z'C⁻¹[Z X y] of each leaf (J, Q, E), and [X y]'C⁻¹[X y]."""
        ...

    def expected(self, moments: SecondMoments) -> ExpectedSquares:
        """Return the expected squares at second moments."""
        ...


@dataclass(frozen=True, eq=False)
class Sums:
    """`ExpectedSquares` from one sum for each pattern: q = Σ c_k(φ) s_k.

    Attributes
    ----------
    coefficients : callable
        φ → c (K,) and its derivatives (K, r).
    sums : (K,) float64
    """

    coefficients: Callable[[Matrix], tuple[Matrix, Matrix]]
    sums: Matrix

    def value(self, phi: Matrix) -> float:
        """See `ExpectedSquares`."""
        return float(self.coefficients(phi)[0] @ self.sums)

    def gradient(self, phi: Matrix) -> Matrix:
        """See `ExpectedSquares`."""
        return np.asarray(self.sums @ self.coefficients(phi)[1])


class Combination:
    """`ErrorStatistics` of known patterns.

    Parameters
    ----------
    coefficients : callable
        φ → c (K,) and its derivatives (K, r).
    pieces : Pieces or RowPieces
    """

    def __init__(self, coefficients: Callable[[Matrix], tuple[Matrix, Matrix]], pieces: Pieces | RowPieces) -> None:
        self.coefficients, self.pieces = coefficients, pieces
        self.terms = len(pieces.kind)

    def combine(self, phi: Matrix) -> tuple[Matrix, Matrix]:
        """See `ErrorStatistics`."""
        return self.pieces.combine(self.coefficients(phi)[0])

    def expected(self, moments: SecondMoments) -> ExpectedSquares:
        """See `ErrorStatistics`."""
        return Sums(self.coefficients, self.pieces.sums(moments))


class Pieces:
    """Cross-products of each pattern in each leaf.

    Parameters
    ----------
    layout : Layout
    rows : (N, E) float64
        Rows, or combinations of them, whose squares the patterns sum: A_k = Σ a a' over the rows of kind k.
    leaf : (N,) intp
    kind : (N,) intp
        k of each row.
    count : int
        Number of patterns K.
    """

    def __init__(self, layout: Layout, rows: Matrix, leaf: Places, kind: Places, count: int) -> None:
        E, Q = rows.shape[1], layout.width
        key = leaf * count + kind
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(key[order]) > 0])
        first = np.append(starts, len(key)).astype(np.intp)
        self.products = np.zeros((len(starts), 0, E))
        if Q:
            columns = Columns(list(rows.T))
            selected = np.arange(Q, dtype=np.intp)
            products = gather(columns, order.astype(np.intp), first, np.zeros(E), np.ones(E), selected)[1]
            self.products = np.ascontiguousarray(products[:, :, :E])
        self.kind = kind[order[starts]]
        self.leaf = leaf[order[starts]]
        self.first = np.searchsorted(self.leaf, np.arange(layout.leaves))
        self.totals = _totals(rows[:, Q:], kind, count)

    def combine(self, c: Matrix) -> tuple[Matrix, Matrix]:
        """Return Σ c_k A_k: rows of the random columns of each leaf (J, Q, E), and [X y]'R⁻¹[X y]."""
        weighted = c[self.kind][:, None, None] * self.products
        return np.add.reduceat(weighted, self.first, axis=0), np.tensordot(c, self.totals, axes=1)

    def sums(self, moments: SecondMoments) -> Matrix:
        """Return ⟨A_k, H⟩ (K,), summed over the leaves."""
        own = np.einsum("gqe,gqe->g", self.products, moments.leaves[self.leaf])
        total = np.tensordot(self.totals, moments.common, axes=2)
        return np.bincount(self.kind, own, len(self.totals)) + total


class RowPieces:
    """The same where nearly every row is a pattern of its own: products are formed from the rows at each c.

    Parameters
    ----------
    layout, rows, leaf, kind, count
        See `Pieces`; the rows are those of the data, (n, E).
    """

    def __init__(self, layout: Layout, rows: Matrix, leaf: Places, kind: Places, count: int) -> None:
        self.layout, self.rows, self.leaf, self.kind, self.count = layout, rows, leaf, kind, count
        self.columns = Columns([np.ascontiguousarray(column) for column in rows.T])

    def combine(self, c: Matrix) -> tuple[Matrix, Matrix]:
        """See `Pieces.combine`."""
        return gather_rows(self.columns, self.layout, c[self.kind])

    def sums(self, moments: SecondMoments) -> Matrix:
        """See `Pieces.sums`."""
        Q, n = self.layout.width, len(self.rows)
        out = np.empty(n)
        for lo in range(0, n, CHUNK):
            rows, leaf = self.rows[lo : lo + CHUNK], self.leaf[lo : lo + CHUNK]
            tail = rows[:, Q:]
            own = ((tail @ moments.common) * tail).sum(axis=1)
            if Q:
                own += np.einsum("iq,iqe,ie->i", rows[:, :Q], moments.leaves[leaf], rows, optimize=True)
            out[lo : lo + CHUNK] = own
        return np.bincount(self.kind, out, self.count).astype(np.float64)


def gather_rows(rows: Matrix | Columns, layout: Layout, weights: Matrix | None = None) -> tuple[Matrix, Matrix]:
    """Return the products of rows (n, E) as `ErrorStatistics.combine`, each times its weight (n,)."""
    columns = rows if isinstance(rows, Columns) else Columns([np.ascontiguousarray(column) for column in rows.T])
    hierarchy, Q = layout.hierarchy, layout.width
    E = columns.count
    total, products = gather(
        columns, hierarchy.rows, hierarchy.first, np.zeros(E), np.ones(E), np.arange(Q, dtype=np.intp), weights
    )
    return products[:, :, :E], total[Q:, Q:]


def _totals(rows: Matrix, kind: Places, count: int) -> Matrix:
    """Σ a a' over the rows of each kind, (K, t, t)."""
    order = np.argsort(kind, kind="stable")
    edges = np.searchsorted(kind[order], np.arange(count + 1))
    out = np.zeros((count, rows.shape[1], rows.shape[1]))
    for k, (lo, hi) in enumerate(pairwise(edges)):
        own = rows[order[lo:hi]]
        out[k] = own.T @ own
    return out


def level_blocks(products: Matrix, widths: list[int], hierarchy: Hierarchy) -> list[Matrix]:
    """Return the statistics of each factor, leaves first, from rows (J, Q, E) of the leaves."""
    out = []
    at = 0
    for k, q in enumerate(widths):
        if k:
            products = np.add.reduceat(products, hierarchy.children[k - 1][:-1], axis=0)
        out.append(np.ascontiguousarray(products[:, at : at + q, at:]))
        at += q
    return out
