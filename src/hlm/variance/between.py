"""Known covariances between the levels of a factor: relatives in a pedigree, neighbours in space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.sparse.linalg import splu

from hlm.design import Factor
from hlm.errors import DataError, DataTypeError, DesignError, show

# Relative to the largest element: what may be rounding in a matrix that should be symmetric.
SYMMETRIC = 1e-12
# Relative to the mean of the diagonal: an eigenvalue or pivot below minus this is negative.
SEMIDEFINITE = 1e-10


@dataclass(frozen=True, eq=False)
class Between:
    """A known covariance K between the levels of a factor: Cov(u_l, u_m) = K_lm T.

    Parameters
    ----------
    matrix : (L, L) DataFrame, array or sparse matrix
        K, or its inverse. It may know more levels than occur in the data.
    labels : sequence of L labels, optional
        Levels of the rows of `matrix`; those of a DataFrame are its index. Without labels the levels are taken to be
        the factor's, in its order.
    precision : bool
        Whether `matrix` is the inverse of K.

    Attributes
    ----------
    matrix : (J, J) float64 array or csc_array
        As given; in a `Factor` it is aligned with the factor's labels and holds no others.
    """

    matrix: Any
    labels: Sequence[Any] | None = None
    precision: bool = False

    def align(self, factor: Factor) -> Between:
        """Return the matrix checked and restricted to the levels of a factor, in their order.

        Raises
        ------
        DataTypeError, DataError
            If the matrix is not numbers, not square, not symmetric or not positive (semi)definite, if its labels repeat
            or a level of the data is not among them; messages name the level.
        """
        what = f"between of '{factor.name}'"
        matrix, labels = self._read(factor, what)
        places = labels.get_indexer(factor.labels)
        if (places < 0).any():
            label = factor.labels[int(np.argmax(places < 0))]
            raise DataError(f"{what} lacks the level {show(label)}", column=factor.name, group=label)
        _must_be_symmetric(matrix, labels, what, factor.name)
        self._must_be_positive(matrix, labels, what, factor.name)
        own = _take(matrix, places, places)
        others = np.setdiff1d(np.arange(len(labels)), places)
        if self.precision and len(others):
            # the levels without rows are integrated out of a precision, where a covariance just leaves them out
            cross = _take(matrix, others, places)
            own = own - cross.T @ _solve(_take(matrix, others, others), cross)
        return Between(sparse.csc_array(own) if sparse.issparse(own) else own, None, self.precision)

    def _read(self, factor: Factor, what: str) -> tuple[Any, pd.Index]:
        """Return the matrix as float64, dense or csc, and its labels."""
        given = self.matrix
        labels = None if self.labels is None else pd.Index(self.labels)
        if isinstance(given, pd.DataFrame):
            if labels is not None:
                raise DataError(f"{what}: a DataFrame has its own labels; leave out labels", column=factor.name)
            if not given.index.equals(given.columns):
                if set(given.index) != set(given.columns):
                    raise DataError(f"{what}: rows and columns have different labels", column=factor.name)
                given = given.loc[:, given.index]
            labels, given = given.index, given.to_numpy()
        try:
            matrix = (
                sparse.csc_array(given, dtype=np.float64)
                if sparse.issparse(given)
                else np.ascontiguousarray(given, dtype=np.float64)
            )
        except (TypeError, ValueError):
            raise DataTypeError(f"{what} must be a matrix of numbers", column=factor.name) from None
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise DataError(f"{what} must be square, got shape {matrix.shape}", column=factor.name)
        if labels is None:
            labels = factor.labels
            if len(labels) != matrix.shape[0]:
                raise DataError(
                    f"{what} has {matrix.shape[0]} rows, '{factor.name}' has {len(labels)} levels; give a DataFrame "
                    "or Between(matrix, labels)",
                    column=factor.name,
                )
        if len(labels) != matrix.shape[0]:
            raise DataError(f"{what} has {matrix.shape[0]} rows but {len(labels)} labels", column=factor.name)
        if not labels.is_unique:
            label = labels[int(np.argmax(labels.duplicated()))]
            raise DataError(f"{what} has the level {show(label)} twice", column=factor.name, group=label)
        values = matrix.data if sparse.issparse(matrix) else matrix
        if not np.isfinite(values).all():
            row = _first_bad(matrix)
            raise DataError(
                f"{what}: the row of {show(labels[row])} holds a number that is not finite",
                column=factor.name,
                group=labels[row],
            )
        return matrix, labels

    def _must_be_positive(self, matrix: Any, labels: pd.Index, what: str, name: str) -> None:
        diagonal = matrix.diagonal()
        size = float(np.abs(diagonal).mean()) if len(diagonal) else 0.0
        low = -SEMIDEFINITE * size
        if (diagonal < low).any() or size == 0:
            label = labels[int(np.argmin(diagonal))]
            raise DataError(
                f"{what} is not positive semidefinite: {show(label)} has {diagonal.min():g} on the diagonal",
                column=name,
                group=label,
            )
        if sparse.issparse(matrix):
            place = _lowest_pivot(matrix, SEMIDEFINITE * size)
            worst = labels[place] if place >= 0 else None
        else:
            values, vectors = np.linalg.eigh(matrix)
            bad = values[0] <= -low if self.precision else values[0] < low
            worst = labels[int(np.argmax(np.abs(vectors[:, 0])))] if bad else None
        if worst is not None:
            kind = "definite" if self.precision or sparse.issparse(matrix) else "semidefinite"
            raise DataError(f"{what} is not positive {kind} (level {show(worst)})", column=name, group=worst)


def _first_bad(matrix: Any) -> int:
    if not sparse.issparse(matrix):
        return int(np.argwhere(~np.isfinite(matrix))[0][0])
    found = matrix.tocoo()
    return int(found.row[np.argmax(~np.isfinite(found.data))])


def _must_be_symmetric(matrix: Any, labels: pd.Index, what: str, name: str) -> None:
    difference = abs(matrix - matrix.T)
    limit = SYMMETRIC * float(abs(matrix).max()) if matrix.shape[0] else 0.0
    if difference.max() <= limit:
        return
    if sparse.issparse(difference):
        found = difference.tocoo()
        at = int(np.argmax(found.data))
        i, j = int(found.row[at]), int(found.col[at])
    else:
        i, j = (int(k) for k in np.unravel_index(int(np.argmax(difference)), difference.shape))
    raise DataError(
        f"{what} is not symmetric: {matrix[i, j]:g} and {matrix[j, i]:g} for {show(labels[i])} and {show(labels[j])}",
        column=name,
        group=labels[i],
    )


def _lowest_pivot(matrix: Any, least: float) -> int:
    """Return the row whose pivot is not positive when a sparse matrix is factored on its diagonal, -1 if all are."""
    try:
        factor = splu(
            sparse.csc_matrix(matrix),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True, "Equil": False},
        )
    except RuntimeError:  # exactly singular
        return int(np.argmin(matrix.diagonal()))
    if not np.array_equal(factor.perm_r, factor.perm_c):  # a zero pivot was stepped over
        return int(np.argmin(matrix.diagonal()))
    pivots = factor.U.diagonal()
    at = int(np.argmin(pivots))
    return -1 if pivots[at] > least else int(np.flatnonzero(factor.perm_c == at)[0])


def _take(matrix: Any, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Any:
    return matrix[rows][:, columns]


def _solve(matrix: Any, right: Any) -> Any:
    if sparse.issparse(matrix):
        return sparse.csc_array(splu(sparse.csc_matrix(matrix)).solve(right.toarray()))
    return np.linalg.solve(matrix, right)


def with_between(factors: tuple[Factor, ...], between: Any) -> tuple[Factor, ...]:
    """Give factors their known covariances between levels.

    Parameters
    ----------
    factors : tuple of Factor
    between : mapping or None
        From factors' names to `Between` objects or matrices (covariances).

    Raises
    ------
    DesignError, DataTypeError, DataError
        For an unknown factor, or a matrix that `Between.align` refuses.
    """
    if between is None:
        return factors
    if not isinstance(between, Mapping):
        raise DataTypeError(
            f"between must be a mapping from grouping factors to matrices, got {type(between).__name__}"
        )
    names = [factor.name for factor in factors]
    for name in between:
        if name not in names:
            raise DesignError(f"between: no grouping factor {name!r}; there are {names}", column=str(name))
    out = []
    for factor in factors:
        given = between.get(factor.name)
        if given is not None:
            given = (given if isinstance(given, Between) else Between(given)).align(factor)
        out.append(replace(factor, between=given))
    return tuple(out)
