"""Covariances of which some elements are known, zero or equal: roots whose rows are free, scaled or zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import numpy as np

from hlm.covariance import Matrix
from hlm.variance.structures import Structure
from hlm_ext.linear import lower_root

# Permutations of more effects than this are not searched for one in which every zero covariance is a zero of F.
SEARCHED = 6


class Known(Structure):
    """A covariance that is known: no θ."""

    name: ClassVar[str] = "known"
    closed_form: ClassVar[bool] = True

    def __init__(self, root: Matrix) -> None:
        self.value = root

    def size(self, q: int) -> int:
        """Return 0."""
        return 0

    def root(self, theta: Matrix, q: int) -> Matrix:
        """Return the known root."""
        return self.value

    def derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return nothing."""
        return np.zeros((0, q, q))

    def start(self, D: Matrix) -> Matrix:
        """Return nothing."""
        return np.zeros(0)


@dataclass(frozen=True)
class Row:
    """One row of F: ``scale · v`` with v of length 1 where it has a scale, else v of any length.

    Attributes
    ----------
    effect : int
    columns : tuple of int
        Columns of F where v may differ from zero; none for an effect without variance.
    scaled : bool
        Whether v has length 1: its variance is known or shared.
    scale : int
        Position in θ of its scale; -1 where that is 1.
    first : int
        Position in θ of the first entry of v.
    """

    effect: int
    columns: tuple[int, ...]
    scaled: bool
    scale: int
    first: int

    @property
    def entries(self) -> int:
        """Entries of v in θ; a v of length 1 in one column is 1."""
        return 0 if self.scaled and len(self.columns) == 1 else len(self.columns)


class Rows(Structure):
    """Unstructured but for zero covariances, rows of known variance and rows that share one.

    θ holds the scales, then the entries of each row. That a row v has length 1 is left to a constraint; `unit_rows`
    lists them.

    Parameters
    ----------
    scales : sequence of int or None
        For each effect: which of the scales is its standard deviation; -1: it is 1; None: it has none.
    empty : (q,) bool
        Effects without variance.
    zero : (q, q) bool
        Covariances that are zero.
    """

    name: ClassVar[str] = "rows"

    def __init__(self, scales: Sequence[int | None], empty: Matrix, zero: Matrix) -> None:
        self.scales = 1 + max((s for s in scales if s is not None), default=-1)
        self.order, supports, self.left = _supports([i for i in range(len(empty)) if not empty[i]], zero)
        at = self.scales
        rows = []
        for effect, columns in zip(self.order, supports, strict=True):
            scale = scales[effect]
            row = Row(effect, columns, scale is not None, -1 if scale is None else scale, at)
            at += row.entries
            rows.append(row)
        self.rows = tuple(rows)
        self.length = at

    @property
    def unit_rows(self) -> list[tuple[int, int]]:
        """Ranges of θ that must have length 1."""
        return [(row.first, row.first + row.entries) for row in self.rows if row.scaled and row.entries]

    def size(self, q: int) -> int:
        """Return the number of scales and entries."""
        return self.length

    def _vector(self, row: Row, theta: Matrix, q: int) -> Matrix:
        v = np.zeros(q)
        v[list(row.columns)] = theta[row.first : row.first + row.entries] if row.entries else 1.0
        return v

    def root(self, theta: Matrix, q: int) -> Matrix:
        """Return F; its columns follow the order in which the effects are taken."""
        F = np.zeros((q, q))
        for row in self.rows:
            F[row.effect] = self._vector(row, theta, q) * (theta[row.scale] if row.scale >= 0 else 1.0)
        return F

    def derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return the vectors v in the scales, the scales in the entries."""
        out = np.zeros((self.length, q, q))
        for row in self.rows:
            scale = theta[row.scale] if row.scale >= 0 else 1.0
            if row.scale >= 0:
                out[row.scale, row.effect] = self._vector(row, theta, q)
            for place, column in enumerate(row.columns[: row.entries]):
                out[row.first + place, row.effect, column] = scale
        return out

    def second_derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return the products of scales and entries."""
        out = np.zeros((self.length, self.length, q, q))
        for row in self.rows:
            if row.scale < 0:
                continue
            for place, column in enumerate(row.columns[: row.entries]):
                out[row.scale, row.first + place, row.effect, column] = 1.0
                out[row.first + place, row.scale, row.effect, column] = 1.0
        return out

    def start(self, D: Matrix) -> Matrix:
        """Return θ near the Cholesky factor of D; constraints that it misses are left to the caller."""
        theta = np.zeros(self.length)
        shared: list[list[float]] = [[] for _ in range(self.scales)]
        L = lower_root(np.ascontiguousarray(D[np.ix_(self.order, self.order)]))
        for row, values in zip(self.rows, L, strict=True):
            length = float(np.sqrt(values @ values))
            if row.scale >= 0:
                shared[row.scale].append(length)
            v = values[list(row.columns)]
            if row.scaled:
                size = float(np.sqrt(v @ v))
                v = v / size if size > 0 else (np.arange(len(v)) == len(v) - 1) * 1.0
            if row.entries:
                theta[row.first : row.first + row.entries] = v
        theta[: self.scales] = [np.mean(lengths) for lengths in shared]
        return theta


def _supports(effects: list[int], zero: Matrix) -> tuple[list[int], list[tuple[int, ...]], list[tuple[int, int]]]:
    """Order the effects so that zeros of F give as many zero covariances as can be; return what is left of them."""
    orders = permutations(effects) if zero.any() and len(effects) <= SEARCHED else [tuple(effects)]
    best: tuple[list[int], list[tuple[int, ...]], list[tuple[int, int]]] | None = None
    for order in orders:
        supports: list[tuple[int, ...]] = []
        left = []
        for i, effect in enumerate(order):
            own: list[int] = []
            for j in range(i):
                common = set(own) & set(supports[j])
                if not zero[effect, order[j]]:
                    own.append(j)
                elif common:
                    own.append(j)
                    left.append((max(effect, order[j]), min(effect, order[j])))
            supports.append((*own, i))
        if best is None or len(left) < len(best[2]):
            best = list(order), supports, left
        if not left:
            break
    assert best is not None
    return best
