"""The columns that a residual structure names, whichever door the model came through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.design import Design, as_float, code_column
from hlm.errors import DataError, DataTypeError, DesignError, show
from hlm.frames import bad_values, stored, to_frame, usable
from hlm.specification.values import must_be_numbers
from hlm_ext.structure import first_rows

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Source:
    """Where columns come from: a frame of the used rows by name, or arrays over all rows of the input.

    Attributes
    ----------
    design : Design
    frame : DataFrame or None
        The n rows that are used; None for a model of arrays.
    """

    design: Design
    frame: pd.DataFrame | None

    def _values(self, given: Any, role: str) -> tuple[Any, str]:
        """Return the values of the used rows, and what to call them."""
        if isinstance(given, str):
            if self.frame is None:
                raise DataTypeError(f"{role} of a model of arrays must be an array, got the name '{given}'")
            return stored(self.frame, given), given
        values = usable(given.array if isinstance(given, pd.Series) else np.asarray(given))
        if isinstance(values, pd.arrays.NumpyExtensionArray):
            values = usable(values.to_numpy())
        kept = self.design.kept
        length = self.design.rows if kept is None else len(kept)
        if values.ndim != 1 or len(values) != length:
            raise DataError(f"{role} must have {length} values, one for each row, got shape {values.shape}")
        values = values if kept is None else values[kept]
        missing = np.asarray(pd.isna(values), dtype=bool)
        if missing.any():
            raise bad_values(role, role, missing, "missing")
        return values, role

    def labels(self, given: Any, role: str) -> tuple[Places, pd.Index, str]:
        """Return codes (n,), labels and name of a column of labels."""
        values, name = self._values(given, role)
        codes, labels = code_column(values, name)
        return codes, labels, name

    def numbers(self, given: Any, role: str) -> tuple[Matrix, str]:
        """Return a column of finite numbers (n,) and its name."""
        values, name = self._values(given, role)
        column = must_be_numbers(values, name, role)
        infinite = np.asarray(np.isinf(column), dtype=bool)
        if infinite.any():
            raise bad_values(f"{role} '{name}'", name, infinite, "infinite")
        return column, name

    def matrix(self, given: Any, role: str) -> Matrix:
        """Return the used rows of an array (N, r)."""
        values = as_float(given, role)
        values = values[:, None] if values.ndim == 1 else values
        kept = self.design.kept
        length = self.design.rows if kept is None else len(kept)
        if values.ndim != 2 or len(values) != length:
            raise DataError(f"{role} must have {length} rows, got shape {values.shape}")
        values = values if kept is None else values[kept]
        bad = np.asarray(~np.isfinite(values).all(axis=1), dtype=bool)
        if bad.any():
            raise bad_values(role, role, bad, "missing or infinite")
        return values

    def groups(self, given: Any, role: str) -> tuple[Places, pd.Index, str]:
        """Return codes, labels and name of the groups within which errors are correlated.

        Left out, they are those of the innermost grouping factor.

        Raises
        ------
        DataError
            If none is given and the model has no grouping factor.
        """
        if given is not None:
            return self.labels(given, f"{role} group")
        if not self.design.factors:
            raise DataError(f"{role} needs group=, the column of the groups within which errors are correlated")
        factor = max(self.design.factors, key=lambda f: f.size)
        return factor.codes, factor.labels, factor.name

    @property
    def counts(self) -> Matrix | None:
        """Frequencies of the rows, None where each is 1."""
        return self.design.frequencies


def codes_of_new_rows(new: Any, column: str | None, labels: pd.Index, role: str) -> Places:
    """Return the position among `labels` of each new row's label in a column; -1 where it is missing.

    Raises
    ------
    DataError
        If the column has no name, or a label was not in the fit.
    """
    if column is None:
        raise unnamed(role)
    given = pd.Index(stored(to_frame(new, [column], new=True), column), tupleize_cols=False)
    codes: Places = labels.get_indexer(given).astype(np.intp)
    unseen = (codes < 0) & ~np.asarray(pd.isna(given), dtype=bool)
    if unseen.any():
        row = int(np.argmax(unseen))
        raise DataError(
            f"{role} {show(given[row])} of '{column}' (row {row}) was not in the fit: its residual variance is not "
            "known; interval='confidence' does without",
            column=column,
            group=given[row],
            row=row,
        )
    return codes


def unnamed(role: str) -> DataError:
    """Return the error for new rows of a structure that was given as an array."""
    return DataError(
        f"{role} of the residual structure was given as an array, which new rows do not have: name a column of the data"
    )


def no_frequencies(design: Design, role: str) -> None:
    """Refuse rows that stand for several where errors are correlated."""
    if design.frequencies is not None and (design.frequencies > 1).any():
        row = int(np.argmax(design.frequencies > 1))
        raise DataError(
            f"{role}: a row that stands for {design.frequencies[row]:g} has no place among correlated ones; "
            "write the rows out",
            row=row,
        )


def check_inside(design: Design, codes: Places, labels: pd.Index, name: str) -> None:
    """Refuse groups of correlated errors that reach across levels of a grouping factor.

    Raises
    ------
    DataError
        Naming the group.
    """
    first = np.full(len(labels), len(codes), dtype=np.intp)
    np.minimum.at(first, codes, np.arange(len(codes)))
    for factor in design.factors:
        across = factor.codes != factor.codes[first[codes]]
        if across.any():
            group = labels[codes[int(np.argmax(across))]]
            raise DataError(
                f"errors of {name} = {show(group)} are correlated, but it has rows in several levels of "
                f"'{factor.name}': give groups that lie within them",
                column=name,
                group=group,
            )


def check_told_apart(design: Design, codes: Places, occasion: Places, name: str) -> None:
    """Refuse random effects of the correlated groups themselves whose covariance is part of that of the errors.

    Parameters
    ----------
    design : Design
    codes : (n,) intp
        Groups within which errors are correlated.
    occasion : (n,) intp
        What the covariance of the errors is a function of: occasions, or once more the groups (compound symmetry).
    name : str

    Raises
    ------
    DesignError
        If a factor has the same groups, and a column of it is the same wherever `occasion` is.
    """
    first = first_rows(occasion, int(occasion.max()) + 1)
    for factor in design.factors:
        if factor.size != codes.max() + 1:
            continue
        for effect, column in zip(factor.effects, factor.columns, strict=True):
            if np.array_equal(column, column[first][occasion]):
                raise DesignError(
                    f"'{effect}' varies over '{factor.name}', and errors are correlated within the same groups: the "
                    "two covariances cannot be told apart; leave one of them out",
                    column=name,
                )
