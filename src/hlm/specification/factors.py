"""What a variable of a formula is in the data of the fit and in new rows: numbers, or categories with their coding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import code_column
from hlm.errors import DataError
from hlm.frames import bad_values
from hlm.specification.expression import BASES, CATEGORICAL
from hlm.specification.transforms import State, basis, calculate
from hlm.specification.tree import Call, Coding, Expression, Name
from hlm.specification.values import category_codes, distinct, listed, must_be_numbers, numbers, read

Array = npt.NDArray[np.float64]
Named = list[tuple[str, Array]]


def learn_factor(expression: Expression, frame: pd.DataFrame, state: State) -> tuple[Numeric | Category, Any]:
    """Return the factor that an expression is in these data, and its values there."""
    node = expression.node
    factor: Numeric | Category
    if isinstance(node, Name):
        stored = read(frame, node.name)
        values = numbers(stored, node.name, "column")
        if values is not None:
            return Numeric(expression), [values]
        factor = Category(expression, node.name, distinct(stored, node.name), Coding())
    elif isinstance(node, Call) and node.function in CATEGORICAL:
        factor = _learn_category(expression, node, frame)
    else:
        factor = Numeric(expression)
    return factor, factor.read(frame, state)


def _learn_category(expression: Expression, node: Call, frame: pd.DataFrame) -> Category:
    assert isinstance(node.argument, Name)  # the parser's doing
    column, options = node.argument.name, dict(node.options)
    found = distinct(read(frame, column), column)
    if "levels" in options:
        levels = options["levels"] if isinstance(options["levels"], tuple) else (options["levels"],)
        unlisted = [value for value in found.tolist() if value not in levels]
        if len(set(levels)) < len(levels):
            raise DataError(f"the levels of {node.text} repeat", column=column)
        if unlisted:
            message = f"column '{column}' holds {unlisted[0]!r}, which is not among the levels of {node.text}"
            raise DataError(message, column=column)
        order = found.get_indexer(pd.Index(levels))
        found = found[order[order >= 0]]
    coding = options.get("coding", Coding())
    assert isinstance(coding, Coding)
    if "base" in options:
        base = options["base"]
        if not (isinstance(base, float) and base.is_integer()):
            raise DataError(f"base of {node.text} must be an integer", column=column)
        coding = Coding(coding.kind, coding.reference, int(base))
    return Category(expression, column, found, coding)


class Numeric:
    """A number a row, or several (polynomials, splines)."""

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self._width = 1

    def read(self, frame: pd.DataFrame, state: State) -> list[Array]:
        """Return the k columns of values."""
        node = self.expression.node
        if isinstance(node, Name):
            return [must_be_numbers(read(frame, node.name), node.name, "column")]
        values = derive(self.expression, frame, state)
        self._width = 1 if values.ndim == 1 else values.shape[1]
        return [values] if values.ndim == 1 else list(values.T)

    def count(self, reduced: bool) -> int:
        """Return the number of columns."""
        return self._width

    def made_up(self, n: int, rng: np.random.Generator) -> list[Array]:
        """Return values that no data have, as `read` does."""
        return list(rng.normal(size=(self._width, n)))

    def differences(self, reduced: bool) -> Array:
        """Return the combinations of the columns' coefficients that are of interest: each."""
        return np.eye(self._width)

    def columns(self, values: list[Array], reduced: bool) -> Named:
        """Return names and columns."""
        text, node = self.expression.text, self.expression.node
        if isinstance(node, Call) and node.function in BASES:
            return [(f"{text}[{k}]", column) for k, column in enumerate(values, 1)]
        return [(text, values[0])]


class Category:
    """Categories with their contrast coding."""

    def __init__(self, expression: Expression, column: str, categories: pd.Index, coding: Coding) -> None:
        self.expression = expression
        self.column = column
        self.categories = categories
        self._coding = coding
        self._tables: dict[bool, tuple[list[str], Array]] = {}

    def read(self, frame: pd.DataFrame, state: State) -> npt.NDArray[np.intp]:
        """Return the codes of the rows, -1 where missing."""
        return category_codes(read(frame, self.column), self.categories, self.column)

    def count(self, reduced: bool) -> int:
        """Return the number of columns."""
        return len(self._coded(reduced)[0])

    def made_up(self, n: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
        """Return codes of categories at random, each as often."""
        return rng.permutation(np.arange(n) % max(len(self.categories), 1)).astype(np.intp)

    def differences(self, reduced: bool) -> Array:
        """Return the combinations of the columns' coefficients that are of interest: each category less the first one.

        Each category, where the columns are those of all categories.
        """
        table = self._coded(reduced)[1][:, :-1].T
        return table[1:] - table[0] if reduced else table

    def _coded(self, reduced: bool) -> tuple[list[str], Array]:
        if reduced not in self._tables:
            self._tables[reduced] = self._table(reduced)
        return self._tables[reduced]

    def columns(self, codes: npt.NDArray[np.intp], reduced: bool) -> Named:
        """Return names and columns, without the reference category if `reduced`."""
        names, table = self._coded(reduced)
        return [(name, column[codes]) for name, column in zip(names, table, strict=True)]

    def _table(self, reduced: bool) -> tuple[list[str], Array]:
        """Names of the c columns and their (c, k + 1) values by category; the last one, NaN, is for a missing value."""
        from formulaic.transforms import contrasts as codings

        k = len(self.categories)
        if reduced and k < 2:
            what = f"one category ({listed(self.categories)})" if k else "no values"
            message = f"column '{self.column}' has {what}: nothing to compare"
            raise DataError(message, column=self.column)
        kinds: dict[str, Callable[[], Any]] = {
            "treatment": lambda: codings.TreatmentContrasts(base=self._reference()),
            "sum": codings.SumContrasts,
            "helmert": codings.HelmertContrasts,
            "poly": codings.PolyContrasts,
        }
        contrasts, positions = kinds[self._coding.kind](), list(range(k))
        style = contrasts.get_factor_format(positions, reduced_rank=reduced)
        fields = contrasts.get_coding_column_names(positions, reduced_rank=reduced)
        shown = (str(self.categories[field]) if isinstance(field, int) else field for field in fields)
        names = [style.format(name=self.expression.text, field=field) for field in shown]
        matrix = np.asarray(contrasts.get_coding_matrix(positions, reduced_rank=reduced), dtype=np.float64)
        return names, np.hstack([matrix.T, np.full((len(names), 1), np.nan)])

    def _reference(self) -> int:
        """Position of the reference category of treatment coding."""
        reference, base = self._coding.reference, self._coding.base
        if reference is None:
            position = 0 if base is None else base - 1
            if 0 <= position < len(self.categories):
                return position
            message = f"base {base} of {self.expression.text} is not between 1 and {len(self.categories)}"
            raise DataError(message, column=self.column)
        for position, category in enumerate(self.categories.tolist()):
            if category == reference or str(category) == reference:
                return position
        message = f"reference {reference!r} of {self.expression.text} is no category: {listed(self.categories)}"
        raise DataError(message, column=self.column)


class _FrameSource:
    """Columns of a frame for one expression; remembers what was read."""

    def __init__(self, expression: Expression, frame: pd.DataFrame, state: State) -> None:
        self.text = expression.text
        self.frame = frame
        self.state = state
        self.inputs: dict[str, Array] = {}

    def numbers(self, name: Name) -> Array | float:
        """Values of a name in the expression: a column of numbers, or pi where no column is called so."""
        if name.is_pi and not self.state.setdefault("pi", {"is_column": "pi" in self.frame.columns})["is_column"]:
            return math.pi
        if name.name not in self.inputs:
            column = f"in {self.text}, column"
            self.inputs[name.name] = must_be_numbers(read(self.frame, name.name), name.name, column)
        return self.inputs[name.name]

    def groups(self, name: Name) -> tuple[npt.NDArray[np.intp], pd.Index]:
        """Codes and labels of a grouping column; a missing label excuses what is missing in the result."""
        codes, labels = code_column(read(self.frame, name.name), name.name)
        self.inputs[f"{name.name} as a group"] = np.where(codes < 0, np.nan, 0.0)
        return codes, labels


def derive(expression: Expression, frame: pd.DataFrame, state: State) -> Array:
    """Evaluate a transform: (n,), or (n, k) for a basis."""
    node, n = expression.node, len(frame)
    source = _FrameSource(expression, frame, state)
    with np.errstate(all="ignore"):
        if isinstance(node, Call) and node.function in BASES:
            argument = np.asarray(calculate(node.argument, source, state))
            _check_finite(argument, node.argument.text, source.inputs)
            result = basis(node, argument, state)
        else:
            result = np.asarray(calculate(node, source, state))
    if result.ndim == 0:
        result = np.full(n, result)
    _check_finite(result, expression.text, source.inputs)
    return result


def _check_finite(result: Array, text: str, inputs: dict[str, Array]) -> None:
    finite = np.isfinite(result)
    if finite.all():
        return
    bad = ~(finite if finite.ndim == 1 else finite.all(axis=1))
    for column, values in inputs.items():
        infinite = np.isinf(values) & bad
        if infinite.any():
            raise bad_values(f"column '{column}'", column, infinite, "infinite")
        bad &= ~np.isnan(values)
    if bad.any():
        count, row = int(bad.sum()), int(np.argmax(bad))
        plural = "s" if count > 1 else ""
        raise DataError(f"{text} is not finite in {count} row{plural} (first: row {row})", column=text, row=row)
