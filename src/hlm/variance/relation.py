"""Levels related by a known covariance K: u = R v with independent v, and the levels without rows given those with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.sparse.linalg import SuperLU, splu

from hlm.covariance import Matrix

# Relative to the mean of the diagonal: an eigenvalue of a covariance above minus this may be zero but for rounding, and
# a pivot below it is judged by the eigenvalues.
SEMIDEFINITE = 1e-10
# Relative to its diagonal: a pivot of a precision below this is that of a singular matrix.
DEFINITE = 1e-12
# A sparse covariance of more levels is not made dense to see whether it is semidefinite: it must be definite.
DENSE_UP_TO = 4096
# Columns of an inverse that are solved for at a time.
STRIP = 256


@dataclass(frozen=True, eq=False)
class Relation:
    """What a factor knows of its levels' covariance: `Between`, checked and in the factor's order.

    Attributes
    ----------
    root : (J, J) float64
        R of the levels with rows: K = scale · R R', so that the mean of the diagonal of RR' is 1.
    scale : float
    others : Index
        Levels that the matrix knows but that have no rows.
    matrix : (L, L) float64 array or csc_array
        As given: the factor's levels, then the others.
    precision : bool
        Whether `matrix` is K⁻¹.
    """

    root: Matrix
    scale: float
    others: pd.Index
    matrix: Any
    precision: bool

    @property
    def is_free(self) -> bool:
        """Whether the levels are independent with one variance after all: K is a multiple of I."""
        diagonal = np.abs(self.root.diagonal())  # the roots made here are diagonal where K is
        return np.count_nonzero(self.root) == len(self.root) and bool(np.abs(diagonal - 1).max() < SEMIDEFINITE)

    @cached_property
    def loadings(self) -> Matrix:
        """(L, J): E(u | v) = loadings v over all levels, those without rows last; K of those with rows = RR'."""
        R: Matrix = np.sqrt(self.scale) * self.root
        if not len(self.others):
            return R
        J = len(R)
        cross = take(self.matrix, np.arange(J, J + len(self.others)), np.arange(J))
        if self.precision:
            return np.vstack([R, -solver(self._others)(dense(cross)) @ R])
        # Cov(u_others, v) = cross R⁻', with a pseudo-inverse where K is singular
        U, s, Vt = np.linalg.svd(R)
        kept = s**2 > SEMIDEFINITE * self.scale
        return np.vstack([R, (dense(cross) @ (U[:, kept] / s[kept])) @ Vt[kept]])

    @cached_property
    def rest(self) -> Matrix:
        """(L,) variance of each level given all those with rows, in units of T; zero for those."""
        out = np.zeros(len(self.root) + len(self.others))
        own = slice(len(self.root), None)
        if not len(self.others):
            return out
        if self.precision:
            solve = solver(self._others)
            for lo in range(0, len(self.others), STRIP):
                here = np.arange(lo, min(lo + STRIP, len(self.others)))
                unit = np.zeros((len(self.others), len(here)))
                unit[here, here - lo] = 1.0
                out[len(self.root) + here] = solve(unit)[here, here - lo]
        else:
            left = self.matrix.diagonal()[own] - (self.loadings[own] ** 2).sum(axis=1)
            out[own] = np.maximum(left, 0.0)
        return out

    def restricted(self, used: npt.NDArray[np.intp], labels: pd.Index) -> Relation:
        """Return the relation where of the factor's levels, named in `labels`, only those `used` have rows left."""
        every = labels.append(self.others) if len(self.others) else labels
        order = np.concatenate([used, np.setdiff1d(np.arange(len(every)), used)])
        matrix = take(self.matrix, order, order)
        root, _ = (root_of_precision if self.precision else root_of_covariance)(matrix, len(used))
        return scaled(root, every[order[len(used) :]], matrix, self.precision)

    @property
    def diagonal(self) -> Matrix:
        """(L,) diagonal of K, levels without rows last."""
        return np.asarray((self.loadings**2).sum(axis=1) + self.rest)

    @property
    def _others(self) -> Any:
        """The others' part of `matrix`."""
        places = np.arange(len(self.root), len(self.root) + len(self.others))
        return take(self.matrix, places, places)


def scaled(root: Matrix, others: pd.Index, matrix: Any, precision: bool) -> Relation:
    """Return a relation from R with RR' = K of the levels with rows."""
    scale = float((root * root).sum()) / len(root)
    return Relation(root / np.sqrt(scale), scale, others, matrix, precision)


def take(matrix: Any, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Any:
    """Return rows and columns of a dense or sparse matrix."""
    return matrix[rows][:, columns]


def dense(matrix: Any) -> Matrix:
    """Return a matrix as an array."""
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix)


def root_of_covariance(K: Any, count: int) -> tuple[Matrix, int]:
    """Return R (J, J) with RR' = K of the first `count` levels, and a level by which K is not semidefinite or -1.

    Cholesky, or the eigenvectors where K is singular or near it.
    """
    size = float(K.diagonal().mean())
    if sparse.issparse(K) and K.shape[0] > DENSE_UP_TO:
        place = lowest_pivot(K, SEMIDEFINITE)
        if place >= 0:
            return np.zeros((0, 0)), place
        return np.asarray(np.linalg.cholesky(dense(K[:count][:, :count])), dtype=np.float64), -1
    K = dense(K)
    try:
        L = np.linalg.cholesky(K)
        if L.diagonal().min() ** 2 > SEMIDEFINITE * size:
            return np.ascontiguousarray(L[:count, :count]), -1
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(K)
    if values[0] < -SEMIDEFINITE * size:
        return np.zeros((0, 0)), int(np.argmax(np.abs(vectors[:, 0])))
    values, vectors = np.linalg.eigh(K[:count, :count])
    return vectors * np.sqrt(np.where(values > SEMIDEFINITE * size, values, 0.0)), -1


def root_of_precision(P: Any, count: int) -> tuple[Matrix, int]:
    """Return R (J, J) with RR' = P⁻¹ of the first `count` levels, and a level by which P is not definite or -1.

    The others are integrated out: what is left of P is its Schur complement.
    """
    if sparse.issparse(P):
        place = lowest_pivot(P, DEFINITE)
        if place >= 0:
            return np.zeros((0, 0)), place
    own, others = np.arange(count), np.arange(count, P.shape[0])
    left = dense(take(P, own, own))
    try:
        if len(others):
            cross = dense(take(P, others, own))
            left = left - cross.T @ solver(take(P, others, others))(cross)
        L = np.linalg.cholesky(left)
        if (L.diagonal() ** 2 > DEFINITE * P.diagonal()[:count]).all():
            return np.asarray(solve_triangular(L, np.eye(count), lower=True)).T, -1
    except np.linalg.LinAlgError:
        pass
    return np.zeros((0, 0)), int(np.argmax(np.abs(np.linalg.eigh(dense(P))[1][:, 0])))


def solver(matrix: Any) -> Any:
    """Return a function that solves with a positive definite matrix.

    Raises
    ------
    LinAlgError
        If it is not definite.
    """
    if sparse.issparse(matrix):
        factor = _factor(matrix)
        if factor is None:
            raise np.linalg.LinAlgError
        return factor.solve
    L = np.linalg.cholesky(matrix)
    return lambda right: solve_triangular(L, solve_triangular(L, right, lower=True), lower=True, trans="T")


def _factor(matrix: Any) -> SuperLU | None:
    """Return the LU factor of a sparse symmetric matrix with its pivots on the diagonal, None where one is zero."""
    try:
        factor = splu(
            sparse.csc_matrix(matrix),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True, "Equil": False},
        )
    except RuntimeError:  # exactly singular
        return None
    return factor if np.array_equal(factor.perm_r, factor.perm_c) else None  # else a zero pivot was stepped over


def lowest_pivot(matrix: Any, least: float) -> int:
    """Return the row whose pivot is not above `least` of its diagonal in a sparse factorisation, -1 if all are."""
    factor = _factor(matrix)
    diagonal = matrix.diagonal()
    if factor is None:
        return int(np.argmin(diagonal))
    row_of = np.empty(len(diagonal), dtype=np.intp)
    row_of[factor.perm_c] = np.arange(len(diagonal))
    short = factor.U.diagonal() <= least * diagonal[row_of]
    return int(row_of[np.argmax(short)]) if short.any() else -1
