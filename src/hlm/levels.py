"""The levels of a design: which level each column varies on, and how the groupings lie to each other; from the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import Column, Design, Factor
from hlm.errors import DesignError, show
from hlm.specification.columns import Piece
from hlm.structure import Codes, code_labels, reused_ids
from hlm_ext.structure import first_rows, parents

if TYPE_CHECKING:
    from hlm.views import ModelViews

# Rows looked at before all are.
SAMPLE = 2000
# Columns of X, for a model of arrays, up to which products among them are looked for.
MOST_COLUMNS = 60

Pieces = tuple[tuple[Piece, ...], ...]


def varying_row(values: Any, codes: Codes, size: int) -> tuple[int, int] | None:
    """Return two rows of one group that hold different values, or None if the values are constant in every group.

    Parameters
    ----------
    values : (n,) array or extension array
        Without missing values.
    codes : (n,) intp array
        Group of each row.
    size : int
        Number of groups.
    """
    array: npt.NDArray[Any] = values if isinstance(values, np.ndarray) else code_labels(values)[0]
    first = first_rows(codes, size)
    for end in dict.fromkeys((min(SAMPLE, len(array)), len(array))):
        differ = np.asarray(array[:end] != array[first[codes[:end]]])
        if differ.any():
            row = int(np.argmax(differ))
            return int(first[codes[row]]), row
    return None


def unit_that_varies(values: Any, name: str, codes: Codes, labels: pd.Index, level: str) -> tuple[str, object] | None:
    """Return a unit of a level in which a column varies, in words with two rows as witnesses, and its label."""
    rows = varying_row(values, codes, len(labels))
    if rows is None:
        return None
    (one, other), label = rows, labels[codes[rows[0]]]
    seen = f"{name} is {show(values[one])} in row {one}, {show(values[other])} in row {other}"
    return f"{level} {show(label)} ({seen})", label


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels of a model.

    Level 1 are the rows. A grouping is of level 2 if no other one is nested in it, else one above the highest of those
    that are. What is constant in each unit of a grouping belongs to the highest such level.

    Attributes
    ----------
    design : Design
    groupings : dict of str to (codes, labels)
        All grouping factors, and levels that have a table but no random effects.
    pieces : tuple of tuples of Piece
        What each fixed column is the product of.
    random_pieces : dict
        The same for the random columns of each factor.
    """

    design: Design
    groupings: dict[str, tuple[Codes, pd.Index]]
    pieces: Pieces
    random_pieces: dict[str, Pieces]

    @cached_property
    def above(self) -> dict[str, tuple[str, ...]]:
        """For each grouping those that it is nested in; of two that group the rows alike the first is below."""
        nested = {
            (a, b): parents(codes, first_rows(codes, len(labels)), self.groupings[b][0])[1] < 0
            for (a, (codes, labels)), b in ((item, b) for item in self.groupings.items() for b in self.groupings)
            if a != b
        }
        order = list(self.groupings)
        return {
            a: tuple(
                b for b in order if a != b and nested[a, b] and not (nested[b, a] and order.index(b) < order.index(a))
            )
            for a in order
        }

    @cached_property
    def number(self) -> dict[str, int]:
        """Number of the level of each grouping, 2 or more."""
        out: dict[str, int] = {}
        for name in sorted(self.groupings, key=lambda name: -len(self.above[name])):
            out[name] = 1 + max((out[below] for below in out if name in self.above[below]), default=1)
        return out

    @property
    def depth(self) -> int:
        """Number of levels."""
        return max(self.number.values(), default=1)

    @cached_property
    def homes(self) -> dict[str, tuple[str, ...]]:
        """For each expression the groupings in whose units it is constant."""
        found: dict[str, set[str]] = {}
        seen: set[str] = set()
        for piece in (p for pieces in (self.pieces, *self.random_pieces.values()) for column in pieces for p in column):
            if piece.name not in seen:
                seen.add(piece.name)
                constant = self._constant_in(piece.values)
                found[piece.expression] = found.get(piece.expression, constant) & constant
        return {name: tuple(g for g in self.groupings if g in homes) for name, homes in found.items()}

    def _constant_in(self, values: Column) -> set[str]:
        """Groupings in whose units values are constant; those above one in which they vary need no look."""
        out: set[str] = set()
        varies: set[str] = set()
        for name in sorted(self.groupings, key=lambda name: self.number[name]):
            codes, labels = self.groupings[name]
            if name in varies or varying_row(values, codes, len(labels)) is not None:
                varies.update((name, *self.above[name]))
            else:
                out.add(name)
        return out

    def level_of(self, expression: str) -> int:
        """Number of the level that an expression belongs to; 1 for what varies inside every grouping."""
        return max((self.number[home] for home in self.homes.get(expression, ())), default=1)

    def label(self, expressions: tuple[str, ...]) -> str:
        """Return the level of a coefficient: "level 1", "level 2", …, "cross-level", or "intercept"."""
        met = {self.level_of(expression) for expression in expressions}
        return "intercept" if not met else "cross-level" if len(met) > 1 else f"level {met.pop()}"

    def terms(self) -> list[tuple[str, ...]]:
        """Return the expressions of each fixed column."""
        return [tuple(piece.expression for piece in column) for column in self.pieces]

    def table(self) -> pd.DataFrame:
        """Return a table of the columns used: number of the level, its units, and groupings where it is constant."""
        rows = []
        for expression, homes in self.homes.items():
            level = self.level_of(expression)
            units = [name for name in homes if self.number[name] == level]
            rows.append((expression, level, " and ".join(units) or "row", ", ".join(homes)))
        columns = ["column", "level", "unit", "constant within"]
        return pd.DataFrame(rows, columns=columns).sort_values("level", kind="stable").set_index("column")

    def structure(self) -> pd.DataFrame:
        """Return how each two groupings lie to each other (nested, crossed, partially crossed, alike), with counts.

        "numbered anew" tells ids that look as if they were reused: class 1 of one school is not class 1 of another.
        """
        rows, reused = [], self.reused()
        for one, other in combinations(sorted(self.groupings, key=lambda name: -len(self.groupings[name][1])), 2):
            (a, a_labels), (b, b_labels) = self.groupings[one], self.groupings[other]
            pairs = np.unique(a * len(b_labels) + b)
            met = np.bincount(pairs // len(b_labels), minlength=len(a_labels))
            possible = len(a_labels) * len(b_labels)
            if other in self.above[one] or one in self.above[other]:
                alike = len(a_labels) == len(b_labels)
                relation = f"{one} and {other} group the rows alike" if alike else f"{one} nested in {other}"
            else:
                relation = f"{one} {'crossed' if len(pairs) == possible else 'partially crossed'} with {other}"
            anew = next((f"{a} in each {b}" for a, b in reused if {a, b} == {one, other}), "")
            rows.append(
                (one, other, relation, len(a_labels), len(b_labels), len(pairs), possible, int((met > 1).sum()), anew)
            )
        counts = ["inner groups", "outer groups", "pairs met", "pairs possible", "inner groups in several"]
        return pd.DataFrame(rows, columns=["inner", "outer", "relation", *counts, "numbered anew"])

    def reused(self) -> list[tuple[str, str]]:
        """Return pairs (inner, outer) of groupings where ids of `inner` look numbered anew in each unit of `outer`."""
        return reused_ids([Factor(name, codes, labels, (), (), ()) for name, (codes, labels) in self.groupings.items()])

    def coefficient_matrix(self, grouping: str, label: Any) -> pd.DataFrame:
        """Return 𝐙_j of a unit: its coefficients are β_j = 𝐙_j γ + u_j.

        A row for each coefficient of a unit (each product of columns that vary inside units, "Intercept" for the empty
        one), a column for each fixed effect: the product of those of its columns that are constant inside the unit.

        Raises
        ------
        DesignError
            If there is no such grouping or unit.
        """
        if grouping not in self.groupings:
            raise DesignError(f"no level '{grouping}'; there are {list(self.groupings)}", column=grouping)
        codes, labels = self.groupings[grouping]
        place = int(labels.get_indexer(pd.Index([label], tupleize_cols=False))[0])
        if place < 0:
            raise DesignError(f"no unit {show(label)} of level '{grouping}'", column=grouping, group=label)
        row = int(first_rows(codes, len(labels))[place])

        def split(column: tuple[Piece, ...]) -> tuple[str, float]:
            upper = [grouping in self.homes[piece.expression] for piece in column]
            lower = ":".join(p.name for p, is_upper in zip(column, upper, strict=True) if not is_upper)
            values = (float(p.values[row]) for p, is_upper in zip(column, upper, strict=True) if is_upper)
            return lower or "Intercept", float(np.prod(list(values)))

        parts = [split(column) for column in self.pieces]
        effects = [split(column)[0] for column in self.random_pieces.get(grouping, ())]
        names = list(dict.fromkeys([*(name for name, _ in parts), *effects]))
        matrix = pd.DataFrame(0.0, index=names, columns=list(self.design.names))
        for column, (name, value) in enumerate(parts):
            matrix.iloc[names.index(name), column] = value
        return matrix


def find_levels(model: ModelViews) -> Levels:
    """Return the levels of a model, whichever door it came through."""
    design, reader = model.design, model._reader
    groupings = {factor.name: (factor.codes, factor.labels) for factor in design.factors}
    if reader is not None:
        return Levels(design, groupings | reader.groupings, reader.pieces, reader.random_pieces)
    pieces = _products(design.names, design.columns)
    random = {
        factor.name: tuple(
            _pieces_of(effect, values, design, pieces)
            for effect, values in zip(factor.effects, factor.columns, strict=True)
        )
        for factor in design.factors
    }
    return Levels(design, groupings, pieces, random)


def _pieces_of(effect: str, values: Column, design: Design, pieces: Pieces) -> tuple[Piece, ...]:
    """What a random column of arrays is the product of: that of the fixed column with its values, if there is one."""
    if _is_one(values):
        return ()
    step = max(1, len(values) // SAMPLE)
    for column, own in zip(design.columns, pieces, strict=True):
        if np.array_equal(column[::step], values[::step]) and np.array_equal(column, values):
            return own
    return _single(effect, values)


def _is_one(values: Column) -> bool:
    return bool(values[0] == 1.0 and values[-1] == 1.0 and (values == 1.0).all())


def _single(name: str, values: Column) -> tuple[Piece, ...]:
    return (Piece(name, name, values),)


def _products(names: tuple[str, ...], columns: tuple[Column, ...]) -> Pieces:
    """Find for each column of arrays the two others that it is the product of, to the last bit; rows tell at once."""
    n = len(columns[0]) if columns else 0
    ones = [_is_one(column) for column in columns]
    rows = np.unique(np.linspace(0, max(n - 1, 0), min(n, SAMPLE)).astype(np.intp))
    seen = [column[rows] for column in columns]
    found: list[tuple[Piece, ...]] = []
    for k, column in enumerate(columns):
        pieces = () if ones[k] else _single(names[k], column)
        others = [j for j in range(len(columns)) if not ones[j] and not np.array_equal(seen[j], seen[k])]
        if not ones[k] and len(columns) <= MOST_COLUMNS:
            for i, j in combinations(others, 2):
                if np.array_equal(seen[i] * seen[j], seen[k]) and np.array_equal(columns[i] * columns[j], column):
                    pieces = (*_single(names[i], columns[i]), *_single(names[j], columns[j]))
                    break
        found.append(pieces)
    return tuple(found)
