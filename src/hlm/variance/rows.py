"""Covariances of which some elements are known, zero or equal: roots whose rows are free, scaled or zero; subsets."""

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


class Subset(Structure):
    """Those D's of a structure whose θ lie in an affine space: θ = origin + basis t.

    Parameters
    ----------
    structure : Structure
    origin : (m,) float64
    basis : (m, r) float64
        Orthonormal columns.
    """

    name: ClassVar[str] = "subset"

    def __init__(self, structure: Structure, origin: Matrix, basis: Matrix) -> None:
        self.structure, self.origin, self.basis = structure, origin, basis

    def size(self, q: int) -> int:
        """Return r."""
        return int(self.basis.shape[1])

    def root(self, theta: Matrix, q: int) -> Matrix:
        """Return F of the structure."""
        return self.structure.root(self.origin + self.basis @ theta, q)

    def derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return ∂F/∂t."""
        first = self.structure.derivatives(self.origin + self.basis @ theta, q)
        return np.asarray(np.einsum("ar,aij->rij", self.basis, first))

    def second_derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return ∂²F/∂t∂t."""
        second = self.structure.second_derivatives(self.origin + self.basis @ theta, q)
        return np.asarray(np.einsum("ar,bs,abij->rsij", self.basis, self.basis, second))

    def start(self, D: Matrix) -> Matrix:
        """Return the projection of the structure's θ; where directions mix entries of θ, of their lengths."""
        theta = self.structure.start(D) - self.origin
        t = self.basis.T @ theta
        mixed = (self.basis != 0).sum(axis=0) > 1
        t[mixed] = np.sqrt((self.basis != 0).T.astype(np.float64)[mixed] @ theta**2)
        return np.asarray(t)


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
    direction : tuple of float
        v is a multiple of this, if it is there.
    """

    effect: int
    columns: tuple[int, ...]
    scaled: bool
    scale: int
    first: int
    direction: tuple[float, ...] = ()

    @property
    def entries(self) -> int:
        """Entries of v in θ; a v of length 1 in one column is 1."""
        free = 1 if self.direction else len(self.columns)
        return 0 if self.scaled and free == 1 else free

    def patterns(self, q: int) -> Matrix:
        """Return the rows (1 or more, q) that v is made of: as many as it has entries, or itself."""
        out = np.zeros((1 if self.direction else len(self.columns), q))
        out[:, list(self.columns)] = [self.direction] if self.direction else np.eye(len(self.columns))
        return out


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
    held : (effect, effect, float), optional
        Two effects with a given correlation.
    """

    name: ClassVar[str] = "rows"

    def __init__(
        self,
        scales: Sequence[int | None],
        empty: Matrix,
        zero: Matrix,
        held: tuple[int, int, float] | None = None,
    ) -> None:
        self.scales = 1 + max((s for s in scales if s is not None), default=-1)
        first = list(held[:2]) if held is not None else []
        rest = [i for i in range(len(empty)) if not empty[i] and i not in first]
        self.order, supports, self.left = _supports(first, rest, zero)
        at = self.scales
        rows = []
        for effect, columns in zip(self.order, supports, strict=True):
            scale = scales[effect]
            direction: tuple[float, ...] = ()
            if held is not None and effect == held[1]:
                direction = held[2], float(np.sqrt(max(1 - held[2] ** 2, 0.0)))
            row = Row(effect, columns, scale is not None, -1 if scale is None else scale, at, direction)
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
        patterns = row.patterns(q)
        return np.asarray(theta[row.first : row.first + row.entries] @ patterns if row.entries else patterns[0])

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
            out[row.first : row.first + row.entries, row.effect] = scale * row.patterns(q)[: row.entries]
        return out

    def second_derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return the products of scales and entries."""
        out = np.zeros((self.length, self.length, q, q))
        for row in self.rows:
            if row.scale < 0:
                continue
            places = slice(row.first, row.first + row.entries)
            out[row.scale, places, row.effect] = row.patterns(q)[: row.entries]
            out[places, row.scale, row.effect] = row.patterns(q)[: row.entries]
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
                theta[row.first : row.first + row.entries] = length if row.direction else v
        theta[: self.scales] = [np.mean(lengths) for lengths in shared]
        return theta


def _supports(
    first: list[int], rest: list[int], zero: Matrix
) -> tuple[list[int], list[tuple[int, ...]], list[tuple[int, int]]]:
    """Order the rest so that zeros of F give as many zero covariances as can be; return what is left of them."""
    orders = permutations(rest) if zero.any() and len(rest) <= SEARCHED else [tuple(rest)]
    best: tuple[list[int], list[tuple[int, ...]], list[tuple[int, int]]] | None = None
    for own_order in orders:
        order = [*first, *own_order]
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
            best = order, supports, left
        if not left:
            break
    assert best is not None
    return best
