"""Design: response, fixed columns, random factors, weights and names, whichever door they came through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DataError, DataTypeError, DesignError
from hlm.structure import Codes, code_labels
from hlm_ext.structure import first_rows

if TYPE_CHECKING:
    from hlm.residuals.pattern import Pattern
    from hlm.variance.relation import Relation
    from hlm.variance.structures import Structure

Column = npt.NDArray[np.float64]

# Rows that are looked at first for dependent random columns.
SAMPLE = 100
# Of a random column, what the columns before it leave of its length when they are dependent: rounding errors.
DEPENDENT = 1e-14


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
        Columns that share a covariance; columns of different blocks are uncorrelated.
    structures : tuple
        Structure of the covariance of each block, None where it is unstructured; empty: all are.
    between : Relation or None
        Known covariance between the levels.
    """

    name: str
    codes: Codes
    labels: pd.Index
    columns: tuple[Column, ...]
    effects: tuple[str, ...]
    blocks: tuple[tuple[int, ...], ...]
    structures: tuple[Structure | None, ...] = ()
    between: Relation | None = None

    @property
    def size(self) -> int:
        """Number of levels J."""
        return len(self.labels)

    @property
    def width(self) -> int:
        """Number of random columns q."""
        return len(self.columns)

    @property
    def all_labels(self) -> pd.Index:
        """Labels that have random effects: (J,) those with rows, and those only known to be related to them."""
        if self.between is None or not len(self.between.others):
            return self.labels
        return self.labels.append(self.between.others)

    @property
    def level_scale(self) -> Column:
        """Var(u_l) = scale_l T, over `all_labels`: ones, or the diagonal of a known covariance between the levels."""
        return np.ones(self.size) if self.between is None else self.between.diagonal

    @property
    def all_structures(self) -> tuple[Structure | None, ...]:
        """Structure of each block, None where it is unstructured."""
        return self.structures or (None,) * len(self.blocks)

    def find(self, labels: pd.Index) -> Codes:
        """Return the level of each label, a position in `all_labels`; -1 where it is none of them or missing.

        Raises
        ------
        DataTypeError
            If they hold lists or other values that cannot be labels.
        """
        try:
            found: Codes = self.all_labels.get_indexer(labels).astype(np.intp)
        except TypeError as error:
            raise DataTypeError(f"grouping column '{self.name}': {error}", column=self.name) from None
        if labels.dtype.kind == "f" and self.labels.dtype.kind in "iu":
            # pandas compares integers with floats as floats, which cannot tell such integers apart
            found[np.abs(labels.to_numpy(np.float64, na_value=np.nan)) >= 2.0**53] = -1
        return found


@dataclass(frozen=True, eq=False)
class Absorbed:
    """Fixed intercepts of groups that were taken out of the columns; see `hlm.absorb`.

    Attributes
    ----------
    name : str
    labels : (J,) Index
    weights : (J,) float64 array
        Sums of the weights of the rows.
    y_means : (J,) float64 array
        Means of the response.
    x_means : (J, p) float64 array
        Means of the fixed columns.
    """

    name: str
    labels: pd.Index
    weights: Column
    y_means: Column
    x_means: npt.NDArray[np.float64]


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
    sigma : float or None
        σ where it is known: 1 with known sampling variances 1/w_i.
    absorbed : Absorbed or None
        Fixed intercepts of groups: y and columns are then less their means of groups.
    residual : Pattern or None
        Structure of the level-1 errors; None: independent, of variance σ²/w_i.
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
    sigma: float | None = None
    absorbed: Absorbed | None = None
    residual: Pattern | None = None

    @property
    def rows(self) -> int:
        """Rows in memory, n."""
        return len(self.y)

    @property
    def nobs(self) -> int:
        """Observations: rows, or the sum of their frequencies."""
        return self.rows if self.frequencies is None else int(self.frequencies.sum())

    @property
    def absorbed_count(self) -> int:
        """Number of fixed intercepts that are in no column."""
        return 0 if self.absorbed is None else len(self.absorbed.labels)

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

    def must_be_independent(self, what: str) -> None:
        """Raise `DesignError` if levels of a factor have a known covariance with each other."""
        for factor in self.factors:
            if factor.between is not None:
                raise DesignError(
                    f"{what} is not offered with a known covariance between levels, as those of '{factor.name}' have",
                    column=factor.name,
                )

    def full_length(self, values: Column) -> pd.Series:
        """Return values of the used rows as a Series over all rows of the input, missing where a row was dropped."""
        if self.kept is None:
            return pd.Series(values, index=self.index)
        full = np.full(len(self.kept), np.nan)
        full[self.kept] = values
        return pd.Series(full, index=self.index)


def code_column(values: Any, column: str) -> tuple[Codes, pd.Index]:
    """Code the labels of a grouping column; see `hlm.structure.code_labels`.

    Raises
    ------
    DataTypeError
        If it holds lists or other values that cannot be labels.
    """
    try:
        return code_labels(values)
    except TypeError as error:
        raise DataTypeError(
            f"grouping column '{column}' holds what cannot be a label: {error}", column=column
        ) from None


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
            old.all_structures + part.all_structures if old.structures or part.structures else (),
        )
    return tuple(merged.values())


def check_design(design: Design) -> None:
    """Check what can be told before anything is computed.

    Raises
    ------
    DataError, DesignError
        No rows, no residual degrees of freedom, a factor with one level, random
        effects whose variances cannot be told apart.
    """
    n, p = design.nobs, len(design.columns) + design.absorbed_count
    if n == 0:
        raise DataError("data has no rows")
    if n <= p:
        rows = f"{n} row{'s' if n > 1 else ''}"
        raise DataError(f"{rows} for {p} fixed effects leave{'' if n > 1 else 's'} no residual degrees of freedom")
    for factor in design.factors:
        if factor.size < 2:
            raise DesignError(f"grouping column '{factor.name}' has 1 level; at least 2 are needed", column=factor.name)
        _check_independent(factor)
    for one, other in combinations(design.factors, 2):
        _check_different(one, other)


def check_residual(design: Design, free: Sequence[tuple[int, tuple[int, ...]]]) -> None:
    """Check that variances can be told from that of the residual, where both are unknown.

    Parameters
    ----------
    design : Design
    free : sequence of (factor, columns)
        Terms whose covariance is unknown.

    Raises
    ------
    DesignError
        If one has as many levels as there are rows, or an unstructured one in every group as many effects as rows (more
        effects than rows in all are no obstacle: groups with rows to spare tell the residual).
    """
    n = design.nobs
    for k, block in free:
        factor = design.factors[k]
        if factor.between is not None and not factor.between.is_free:
            continue
        if factor.size >= n:
            raise DesignError(
                f"grouping column '{factor.name}' has as many levels ({factor.size}) as rows; its variance "
                "cannot be told from the residual (sampling variances that are known: sampling_variance=)",
                column=factor.name,
            )
        if not factor.structures and np.bincount(factor.codes, design.frequencies).max() <= len(block):
            raise DesignError(
                f"term {term_text(factor, block)} has {factor.size * len(block)} random effects for {n} rows",
                column=factor.name,
            )


def term_text(factor: Factor, block: Sequence[int]) -> str:
    """Return a random term as in a formula."""
    return f"({' + '.join(factor.effects[j] for j in block)} | {factor.name})"


def _check_independent(factor: Factor) -> None:
    """Refuse random columns whose covariances cannot be told apart.

    Within an unstructured block (one covariance matrix) a column that is a linear combination of others; between blocks
    (uncorrelated) a column that is a multiple of another.
    """
    for block, structure in zip(factor.blocks, factor.all_structures, strict=True):
        if structure is not None:
            continue
        place = _dependent([factor.columns[j] for j in block])
        if place >= 0:
            name = factor.effects[block[place]]
            before = ", ".join(f"'{factor.effects[j]}'" for j in block[:place])
            raise DesignError(
                f"term {term_text(factor, block)}: random column '{name}' "
                + (f"is a linear combination of {before}; leave one of them out" if place else "is zero in every row"),
                column=name,
            )
    for one, other in combinations(factor.blocks, 2):
        for i, j in product(one, other):
            if _dependent([factor.columns[i], factor.columns[j]]) >= 0:
                raise DesignError(
                    f"'{factor.effects[j]}' is a multiple of '{factor.effects[i]}', and both vary over "
                    f"'{factor.name}': their variances cannot be told apart; leave one of them out",
                    column=factor.effects[j],
                )


def _dependent(columns: Sequence[Column]) -> int:
    """Return the position of the first column that is a linear combination of those before it, to the last digits; -1.

    Columns that are independent in some of their rows are independent: a few rows tell nearly always.
    """
    n = len(columns[0])
    if len(columns) == 1:
        return -1 if columns[0][0] != 0 or columns[0].any() else 0
    for step in dict.fromkeys((max(1, n // (SAMPLE + 2 * len(columns))), 1)):
        sample = np.column_stack([column[::step] for column in columns])
        size = np.abs(sample).max(axis=0)
        with np.errstate(all="ignore"):
            scaled = sample / size
            left = np.abs(np.diag(np.linalg.qr(scaled, mode="r")))
            # a column of zeros has become NaN; one that is not finite is reported when the rows are read
            zero = (left <= DEPENDENT * np.sqrt(np.square(scaled).sum(axis=0))) | (size == 0)
        if not zero.any():
            return -1
    return int(np.argmax(zero))


def _check_different(one: Factor, other: Factor) -> None:
    """Refuse two factors that group the rows alike and have a column in common."""
    if (one.between is None or one.between.is_free) != (other.between is None or other.between.is_free):
        return
    common = [effect for effect in one.effects if effect in other.effects]
    if one.size != other.size or not common:
        return
    renamed = other.codes[first_rows(one.codes, one.size)]
    if np.array_equal(renamed[one.codes], other.codes):
        raise DesignError(
            f"'{one.name}' and '{other.name}' group the rows alike, and '{common[0]}' varies over both: the two "
            "variances cannot be told apart; leave one of them out",
            column=other.name,
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
