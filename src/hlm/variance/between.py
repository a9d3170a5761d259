"""Known covariances between the levels of a factor (pedigrees, neighbours): what a user gives, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from hlm.design import Factor
from hlm.errors import DataError, DataTypeError, DesignError, show
from hlm.variance.relation import Relation, root_of_covariance, root_of_precision, scaled, take

# Relative to the largest element: what may be rounding in a matrix that should be symmetric.
SYMMETRIC = 1e-12


@dataclass(frozen=True, eq=False)
class Between:
    """A known covariance K between the levels of a factor: Cov(u_l, u_m) = K_lm T.

    Parameters
    ----------
    matrix : (L, L) DataFrame, array or sparse matrix
        K, positive semidefinite, or its inverse. It may know more levels than occur in the data: they get random
        effects too, predicted from those of their relatives.
    labels : sequence of L labels, optional
        Levels of the rows of `matrix`; those of a DataFrame are its index. Without labels the levels are taken to be
        the factor's, in its order.
    precision : bool
        Whether `matrix` is the inverse of K, as that of a pedigree or of a Markov random field, which is sparse.

    Examples
    --------
    Four plots in a row whose effects are correlated with those of their neighbours:

    >>> import numpy as np, pandas as pd, hlm
    >>> plots = ["p1", "p2", "p3", "p4"]
    >>> K = 0.5 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    >>> data = pd.DataFrame({"plot": np.tile(plots, 5), "y": np.sin(np.arange(20.0) ** 2)})
    >>> fit = hlm.Model("y ~ 1 + (1 | plot)", data, between={"plot": pd.DataFrame(K, plots, plots)}).fit()
    >>> same = hlm.Between(np.linalg.inv(K), plots, precision=True)
    >>> again = hlm.Model("y ~ 1 + (1 | plot)", data, between={"plot": same}).fit()
    >>> bool(abs(again.criterion - fit.criterion) < 1e-10)
    True
    """

    matrix: Any
    labels: Sequence[Any] | None = None
    precision: bool = False

    def align(self, factor: Factor) -> Relation:
        """Return the matrix checked, its levels in the order of a factor's and those without rows after them.

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
        diagonal = matrix.diagonal()
        if (diagonal < 0).any() or not diagonal[places].any():
            label = labels[int(np.argmin(diagonal))]
            raise DataError(
                f"{what} is not positive semidefinite: {show(label)} has {diagonal.min():g} on the diagonal",
                column=factor.name,
                group=label,
            )
        order = np.concatenate([places, np.setdiff1d(np.arange(len(labels)), places)])
        ordered, labels = take(matrix, order, order), labels[order]
        root, bad = (root_of_precision if self.precision else root_of_covariance)(ordered, len(places))
        if bad >= 0:
            kind = "definite" if self.precision else "semidefinite"
            raise DataError(
                f"{what} is not positive {kind} (level {show(labels[bad])})", column=factor.name, group=labels[bad]
            )
        return scaled(root, labels[len(places) :], ordered, self.precision)

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
