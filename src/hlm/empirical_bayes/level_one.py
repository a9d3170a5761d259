"""The group's own equation: which columns vary inside groups, and 𝐙_j with (rows of group j of X) = L_j 𝐙_j.

The textbook's β_j = 𝐙_j γ + u_j is read off the columns, so it holds whichever door the model came through: L are the
random columns and those columns of X that are no combination of earlier ones inside every group; a column of X that is
a multiple of one of them in each group (meanses of the intercept, cses:meanses of cses) puts its multiple into 𝐙_j.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.design import Column, Factor
from hlm.structure import Codes

if TYPE_CHECKING:
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]

# Of a column, what a multiple of another leaves when it is one, relative to its largest value in the group: products
# and quotients were rounded a few times.
SAME = 1e-13
# The same for a combination of several, relative to their lengths: sums over the rows of a group were rounded too.
COMBINED = 1e-11
# Of a column, what those before it leave of its length in a group where it is dependent on them.
COLLINEAR = 1e-12


# Rows that are looked at before all are.
FEW = 5000


@dataclass(frozen=True, eq=False)
class LevelOne:
    """The equation of the groups of one factor.

    Attributes
    ----------
    names : list of k str
        Coefficients: the q random effects, then columns of X that vary inside groups without being random.
    columns : list of k (n,) float64
        L.
    random : int
        q.
    fixed : list of r str
        The estimated columns of X.
    Z : (J, k, r) float64
        𝐙_j, the expected coefficients being 𝐙_j γ; NaN in a group whose rows cannot tell them.
    """

    names: list[str]
    columns: list[Column]
    random: int
    fixed: list[str]
    Z: Array


def level_one(fit: Fit, factor: Factor) -> LevelOne:
    """Find the equation of the groups of a factor."""
    design, kept = fit.model.design, fit._problem.coordinates.kept
    fixed = [pair for pair, keep in zip(zip(design.names, design.columns, strict=True), kept, strict=True) if keep]
    names, columns = list(factor.effects), list(factor.columns)
    found: list[tuple[int, Array]] = []
    whole = _Groups(factor.codes, factor.size)
    few, rows = _few_groups(factor)
    for name, column in fixed:
        match = None
        # most columns are no combinations, which a few groups tell
        if _match(name, column[rows], names, [c[rows] for c in columns], few) is not None:
            match = _match(name, column, names, columns, whole)
        if match is None:
            match = (len(columns), np.ones(factor.size))
            names.append(name)
            columns.append(column)
        found.append(match)
    Z = np.zeros((factor.size, len(columns), len(fixed)))
    for c, (place, value) in enumerate(found):
        if place < 0:
            Z[:, : value.shape[1], c] = value
        else:
            Z[:, place, c] = value
    return LevelOne(names, columns, factor.width, [name for name, _ in fixed], Z)


class _Groups:
    """Codes of rows, and what is found out about columns in these groups."""

    def __init__(self, codes: Codes, size: int) -> None:
        self.codes, self.size = codes, size

    def largest(self, values: Column) -> Array:
        """Largest value in each group."""
        out = np.zeros(self.size)
        np.maximum.at(out, self.codes, values)
        return out

    def row_of_largest(self, values: Column) -> Codes:
        """A row of each group with the largest value."""
        row = np.zeros(self.size, dtype=np.intp)
        largest = np.flatnonzero(values == self.largest(values)[self.codes])
        row[self.codes[largest]] = largest
        return row


def _few_groups(factor: Factor) -> tuple[_Groups, Codes]:
    """Some of the groups, and their rows."""
    count = max(1, factor.size * FEW // max(FEW, len(factor.codes)))
    rows = np.flatnonzero(factor.codes < count)
    return _Groups(factor.codes[rows], count), rows


def _match(
    name: str, column: Column, names: list[str], columns: list[Column], groups: _Groups
) -> tuple[int, Array] | None:
    """Return what `column` is of `columns` in each group.

    A place and multiples (J,); or -1 and coefficients (J, k) of a combination, NaN where the rows leave them open; or
    None if it is neither. A column of the same name is tried first. A group in which a column is zero does not tell its
    multiple (NaN).
    """
    size = groups.largest(np.abs(column))
    for a in sorted(range(len(columns)), key=lambda a: names[a] != name):
        base = columns[a]
        if base is column or np.array_equal(base, column):
            return a, np.ones(groups.size)
        row = groups.row_of_largest(np.abs(base))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = column[row] / base[row]
        ratio[base[row] == 0] = np.nan
        rest = np.abs(column - np.nan_to_num(ratio)[groups.codes] * base)
        if (rest <= SAME * size[groups.codes]).all():
            return a, ratio
    R, _ = group_qr([*columns, column], groups.codes, groups.size)
    k = len(columns)
    terms = np.abs(R[:, :k, k]).sum(axis=1) + np.sqrt(np.bincount(groups.codes, np.square(column), groups.size))
    if (R[:, k, k] > COMBINED * terms).any():
        return None
    return -1, triangular_solve(R[:, :k, :k], R[:, :k, k:])[:, :, 0]


def group_qr(
    columns: list[Column], codes: Codes, size: int, weights: Column | None = None
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """QR factors of the rows of every group at once, by modified Gram-Schmidt, each column orthogonalised twice.

    Parameters
    ----------
    columns : list of k (n,) float64
    codes : (n,) intp
        Group of each row.
    size : int
        Number of groups J.
    weights : (n,) float64, optional

    Returns
    -------
    R : (J, k, k) float64
        Upper triangular, R'R = the weighted cross-products of the group. R[i, i] is the length of column i that the
        earlier ones leave.
    dependent : (J, k) bool
        Columns that the earlier ones leave nothing of; later columns are not projected on them.
    """
    k = len(columns)
    R = np.zeros((size, k, k))
    dependent = np.zeros((size, k), dtype=bool)
    root = None if weights is None else np.sqrt(weights)
    basis: list[Column] = []
    for i, column in enumerate(columns):
        rest = np.array(column) if root is None else column * root
        length = np.sqrt(np.bincount(codes, rest * rest, size))
        for _ in range(2 if basis else 0):
            for j, q in enumerate(basis):
                part = np.bincount(codes, q * rest, size)
                R[:, j, i] += part
                rest -= part[codes] * q
        R[:, i, i] = np.sqrt(np.bincount(codes, rest * rest, size))
        dependent[:, i] = R[:, i, i] <= COLLINEAR * length
        if i < k - 1:
            unit = np.divide(1.0, R[:, i, i], out=np.zeros(size), where=~dependent[:, i])
            rest *= unit[codes]
            basis.append(rest)
    return R, dependent


def triangular_solve(R: Array, right: Array) -> Array:
    """Solve R x = right in each group; NaN where R is singular."""
    k = R.shape[1]
    singular = (R[:, range(k), range(k)] <= COLLINEAR * np.linalg.norm(R, axis=1)).any(axis=1)
    safe = np.where(singular[:, None, None], np.eye(k), R)
    out: Array = np.where(singular[:, None, None], np.nan, np.linalg.solve(safe, right))
    return out
