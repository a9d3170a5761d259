"""Design: response, fixed columns, random factors, weights and names, whichever door they came through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DataError, DataTypeError, DesignError
from hlm.structure import Codes

Column = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Factor:
    """One grouping factor with all random columns that vary over it.

    Attributes
    ----------
    name : str
        As written: "school", "school:class".
    codes : (n,) intp array
        Level of each row, a position in `labels`.
    labels : (J,) Index
    columns : tuple of q (n,) float64 arrays
    effects : tuple of q str
        Names of the columns.
    blocks : tuple of tuples of int
        Columns that share an unstructured covariance; columns of different blocks are uncorrelated.
    """

    name: str
    codes: Codes
    labels: pd.Index
    columns: tuple[Column, ...]
    effects: tuple[str, ...]
    blocks: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Number of levels J."""
        return len(self.labels)

    @property
    def width(self) -> int:
        """Number of random columns q."""
        return len(self.columns)


@dataclass(frozen=True, eq=False)
class Design:
    """What a model is made of, in arrays; nothing here depends on parameters.

    Attributes
    ----------
    response : str
    y : (n,) float64 array
        Response less offset.
    names : tuple of p str
    columns : tuple of p (n,) float64 arrays
        Fixed columns; views of the caller's memory where that was possible.
    factors : tuple of Factor
        In the order of the formula, one for each grouping factor.
    weights : (n,) float64 array or None
        Precision weights w, positive: Var(ε_i) = σ²/w_i.
    frequencies : (n,) float64 array or None
        How many rows each row stands for, at least 1.
    offset : (n,) float64 array or None
    index : Index or None
        Row labels of the input, all rows.
    kept : (N,) bool array or None
        Rows of the input that are used; None: all.
    dropped : dict of str to int
        For each column the number of rows where it is missing; "weights = 0" and "frequencies = 0": rows left out.
    """

    response: str
    y: Column
    names: tuple[str, ...]
    columns: tuple[Column, ...]
    factors: tuple[Factor, ...]
    weights: Column | None = None
    frequencies: Column | None = None
    offset: Column | None = None
    index: pd.Index | None = None
    kept: npt.NDArray[np.bool_] | None = None
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows in memory, n."""
        return len(self.y)

    @property
    def nobs(self) -> int:
        """Observations: rows, or the sum of their frequencies."""
        return self.rows if self.frequencies is None else int(self.frequencies.sum())

    @property
    def row_weights(self) -> Column | None:
        """Weight (n,) of each row in cross-products, w · f; None for ones."""
        if self.weights is None or self.frequencies is None:
            return self.frequencies if self.weights is None else self.weights
        return self.weights * self.frequencies

    @property
    def log_weights(self) -> float:
        """Σ f log w, what the precision weights add to the log-likelihood twice over."""
        if self.weights is None:
            return 0.0
        logs = np.log(self.weights)
        return float(logs.sum() if self.frequencies is None else self.frequencies @ logs)

    @property
    def X(self) -> npt.NDArray[np.float64]:
        """(n, p) matrix of the fixed columns, assembled on request."""
        return np.column_stack(self.columns) if self.columns else np.zeros((self.rows, 0))

    def Z(self, name: str) -> npt.NDArray[np.float64]:
        """(n, q) matrix of the random columns of a factor, assembled on request; row i belongs to level codes[i]."""
        return np.column_stack(self.factor(name).columns)

    def factor(self, name: str) -> Factor:
        """Return the factor of that name, or raise `DesignError` listing those that are there."""
        for factor in self.factors:
            if factor.name == name:
                return factor
        raise DesignError(f"no grouping factor '{name}'; there are {[f.name for f in self.factors]}", column=name)

    def full_length(self, values: Column) -> pd.Series:
        """Return values of the used rows as a Series over all rows of the input, missing where a row was dropped."""
        if self.kept is None:
            return pd.Series(values, index=self.index)
        full = np.full(len(self.kept), np.nan)
        full[self.kept] = values
        return pd.Series(full, index=self.index)


def merge_factors(parts: Sequence[tuple[Factor, str]]) -> tuple[Factor, ...]:
    """Merge terms on the same grouping factor: one factor, one block of its covariance for each term.

    Parameters
    ----------
    parts : sequence of (Factor with a single block, text of the term)

    Raises
    ------
    DesignError
        If a random column appears twice on one factor, or two terms of one name have different codes.
    """
    merged: dict[str, Factor] = {}
    for part, text in parts:
        old = merged.get(part.name)
        if old is None:
            merged[part.name] = part
            continue
        if part.codes is not old.codes and not (
            np.array_equal(part.codes, old.codes) and part.labels.equals(old.labels)
        ):
            raise DesignError(
                f"{text}: an earlier term named '{part.name}' has other codes; give each grouping factor its own name",
                column=part.name,
            )
        for effect in part.effects:
            if effect in old.effects:
                raise DesignError(
                    f"{text}: '{effect}' varies over '{part.name}' in an earlier term too", column=part.name
                )
        shifted = tuple(tuple(j + old.width for j in block) for block in part.blocks)
        merged[part.name] = Factor(
            old.name,
            old.codes,
            old.labels,
            old.columns + part.columns,
            old.effects + part.effects,
            old.blocks + shifted,
        )
    return tuple(merged.values())


def check_design(design: Design) -> None:
    """Check what can be told from counts alone.

    Raises
    ------
    DataError, DesignError
        No rows, no residual degrees of freedom, a factor with one level, or with as many effects as rows.
    """
    n, p = design.nobs, len(design.columns)
    if n == 0:
        raise DataError("data has no rows")
    if n <= p:
        raise DataError(f"{n} rows for {p} fixed effects leave no residual degrees of freedom")
    for factor in design.factors:
        if factor.size < 2:
            raise DesignError(f"grouping column '{factor.name}' has 1 level; at least 2 are needed", column=factor.name)
        if factor.size >= n:
            raise DesignError(
                f"grouping column '{factor.name}' has as many levels ({factor.size}) as rows; its variance "
                "cannot be told from the residual",
                column=factor.name,
            )
        for block in factor.blocks:
            if factor.size * len(block) >= n:
                term = " + ".join(factor.effects[j] for j in block)
                raise DesignError(
                    f"term ({term} | {factor.name}) has {factor.size * len(block)} random effects for {n} rows",
                    column=factor.name,
                )


def intercept(n: int) -> Column:
    """Return a column of n ones that takes no memory (its stride is 0)."""
    return np.broadcast_to(np.ones(1), (n,))


def as_float(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
    """Return `values` as a float64 array, without a copy where they are that already."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataTypeError(f"{what} is a masked array; fill the masked values or leave their rows out", column=what)
    array = np.asarray(values)
    if array.dtype == np.float64:
        return array
    if array.dtype.kind not in "biuf":
        raise DataTypeError(f"{what} must be numeric, got {array.dtype}", column=what)
    return array.astype(np.float64)
