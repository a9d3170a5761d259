"""From level equations and the tables of their levels to a design, and the same for new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hlm.absorb import absorb, less_means
from hlm.design import Absorbed, Column, Design, Factor, code_column
from hlm.errors import DataTypeError
from hlm.frames import column_names, stored
from hlm.levels import unit_that_varies, varying_row
from hlm.specification.build import FormulaReader, code_groups, group_labels
from hlm.specification.columns import encode
from hlm.specification.equation_text import parse_equations
from hlm.specification.equations import Equation
from hlm.specification.formula import Terms
from hlm.specification.substitution import check_levels, substitute
from hlm.specification.tables import Tables
from hlm.specification.tree import Expression
from hlm.structure import Codes


class EquationReader(FormulaReader):
    """Level equations with what their columns learnt from the data of the fit.

    Parameters
    ----------
    equations : str or sequence of Equation
    data : DataFrame or mapping
        Level 1, or everything in one table.
    levels : mapping of str to table
        Tables of upper levels.
    zeros : sequence of str
        Columns of these whose missing values are structural zeros.
    """

    def __init__(
        self, equations: str | Sequence[Equation], data: Any, levels: Mapping[str, Any], zeros: Sequence[str]
    ) -> None:
        tables = Tables(data, levels, zeros)
        columns = dict.fromkeys(tables.columns)
        parsed = equations if isinstance(equations, (list, tuple)) else parse_equations(equations, columns)  # type: ignore[arg-type]
        self.substitution = substitute(parsed, columns)
        self.tables = tables
        self._absorbed: Absorbed | None = None
        super().__init__(self.substitution.formula)

    def joined(self, missing: str, named: Sequence[str]) -> pd.DataFrame:
        """Return what the equations and `named` name, and keys of all tables, as rows of level 1."""
        frame = self.tables.join(dict.fromkeys([*self.formula.columns, *named, *self.tables.levels]), missing)
        self.tables.trim(self.formula.columns)
        return frame

    def design(self, data: Any, *given: Any) -> Design:
        """Return the design of the equations; see `FormulaReader.design`."""
        design = super().design(data, *given)
        if self.substitution.absorbed:
            name = ":".join(self.substitution.absorbed)
            design = absorb(design, name, *self.groupings[name])
            self._absorbed = design.absorbed
        return design

    def _read(self, frame: pd.DataFrame, frequencies: Column | None, covariance: Any) -> dict[str, Any]:
        parts = super()._read(frame, frequencies, covariance)
        coded = {factor.name: (factor.codes, factor.labels) for factor in parts["factors"]}
        if self.substitution.absorbed:
            name = ":".join(self.substitution.absorbed)
            coded[name] = self.groupings[name] = code_groups(self.substitution.absorbed, frame)
        for level in self.tables.levels:
            if level not in coded:
                coded[level] = self.groupings[level] = code_column(stored(frame, level), level)

        def is_below(one: str, other: str) -> bool:
            return varying_row(coded[other][0], coded[one][0], len(coded[one][1])) is None

        check_levels(
            self.substitution, list(coded), lambda e, level: self._unit(e, level, *coded[level], frame), is_below
        )
        return parts

    def _unit(
        self, expression: Expression, level: str, codes: Codes, labels: pd.Index, frame: pd.DataFrame
    ) -> tuple[str, object] | None:
        """A unit of a level inside which an expression varies; None if there is none."""
        named = [column for column in expression.columns if not self.tables.is_constant(column, level)]
        found = [unit_that_varies(stored(frame, column), column, codes, labels, level) for column in named]
        if not any(found) or expression.is_column:
            return next((unit for unit in found if unit), None)
        columns, _ = encode(Terms(False, ((expression,),)), frame)
        for name, values in zip(columns.names, columns.values, strict=True):
            unit = unit_that_varies(values, name, codes, labels, level)
            if unit is not None:
                return unit
        return None

    def fixed(self, new: Any) -> tuple[list[Column], list[Column], pd.Index]:
        """Return fixed columns and offsets of new rows, and their index; upper columns are looked up by key."""
        groups = self.substitution.absorbed
        frame = self._complete(new, [*groups, *(c for e in self._fixed_expressions() for c in e.columns)])
        columns, offsets, index = super().fixed(frame)
        if self._absorbed is not None:
            columns, offsets = less_means(self._absorbed, columns, offsets, group_labels(groups, frame))
        return columns, offsets, index

    def groups(self, new: Any, factor: Factor) -> tuple[Codes, list[Column], Any]:
        """Return level (-1: unknown), random columns and labels of new rows for one factor."""
        needed = [c for term in self.formula.random for c in (*term.effects.columns, *term.groups)]
        return super().groups(self._complete(new, needed), factor)

    def _fixed_expressions(self) -> list[Expression]:
        return [e for term in self.formula.fixed.terms for e in term] + list(self.formula.offsets)

    def _complete(self, new: Any, columns: list[str]) -> Any:
        """Return new rows with all columns: a joined table as it is, else joined with its own tables or the fit's.

        `new` is a table of level 1, or a pair of it and a dict of tables of upper levels.
        """
        levels = self.tables.levels
        if isinstance(new, tuple):
            if len(new) != 2 or not isinstance(new[1], Mapping):
                raise DataTypeError("new rows are a table, or a pair (table, {level: table, ...})")
            new, own = new
            levels = {**levels, **own}
        names = column_names(new)
        if all(column in names for column in columns):
            return new
        kept = {level: _without(table, names, level) for level, table in levels.items()}
        return Tables(new, kept, [z for z in self.tables.zeros if z not in names]).join(dict.fromkeys(columns))


def _without(table: Any, names: Sequence[str], key: str) -> pd.DataFrame:
    """Columns of an upper table that new rows of level 1 do not have themselves."""
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame({c: table[c] for c in column_names(table)})
    return frame[[column for column in frame.columns if column == key or column not in names]]
