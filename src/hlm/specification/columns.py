"""From terms and a frame to named columns, and the same columns for new rows.

Arithmetic is ours; formulaic gives the splines, the contrast codings, and which factor of which term is coded with or
without its reference so that columns are structurally independent. It only ever sees positions, never a user's text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import code_column, intercept
from hlm.errors import DataError
from hlm.frames import bad_values, stored
from hlm.specification.expression import BASES, CATEGORICAL, Call, Coding, Expression, Name, grouping_columns
from hlm.specification.formula import Terms
from hlm.specification.transforms import State, basis, calculate, learns
from hlm.specification.values import category_codes, distinct, listed, must_be_numbers, numbers, read

__all__ = ["Columns", "Encoder", "encode", "evaluate", "learn"]

# Rows with frequencies are written out for what learns from the data; this many take a few GB.
MOST_WRITTEN_OUT = 1e8
# Made-up rows for each column, from which a change of coding is read, and what counts as zero in it.
MADE_UP, NOTHING = 20, 1e-12

Array = npt.NDArray[np.float64]
Named = list[tuple[str, Array]]


@dataclass(frozen=True, eq=False)
class Piece:
    """A factor of a column that is a product: one of the columns of an expression.

    Attributes
    ----------
    expression : str
        As written: ``C(race)``.
    name : str
        ``C(race)[T.black]``.
    values : (n,) float64 array
    """

    expression: str
    name: str
    values: Array


@dataclass(frozen=True, eq=False)
class Columns:
    """Named columns.

    Attributes
    ----------
    names : tuple of p str
    values : tuple of p (n,) float64 arrays
        Views of the frame's memory where possible (any stride of whole doubles); not to be written to.
    pieces : tuple of p tuples of Piece
        What each column is the product of; nothing for the intercept.
    """

    names: tuple[str, ...]
    values: tuple[Array, ...]
    pieces: tuple[tuple[Piece, ...], ...]


def encode(terms: Terms, frame: pd.DataFrame, frequencies: Array | None = None) -> tuple[Columns, Encoder]:
    """Build the columns of terms and learn how to build them for new rows.

    Parameters
    ----------
    terms : Terms
    frame : DataFrame
        n rows without missing values in the columns used.
    frequencies : (n,) array, optional
        How many rows each row stands for, where columns are centred, scaled or given knots.

    Returns
    -------
    columns : Columns
        The intercept, named "Intercept", first; then the terms in order, as R orders their columns.
    encoder : Encoder

    Raises
    ------
    DataError
        A column that is not there, a category with nothing to compare it to, a transform that is not finite.
    DataTypeError
        A column that is neither numbers nor categories, or a category where a number is needed.
    """
    state = learn([expression for term in terms.terms for expression in term], frame, frequencies)
    factors: dict[Expression, _Numeric | _Category] = {}
    read_values: dict[Expression, Any] = {}
    for term in terms.terms:
        for expression in term:
            if expression not in factors:
                factors[expression], read_values[expression] = _learn(expression, frame, state)
    encoder = Encoder(terms, _products(terms, factors), factors, state)
    columns = encoder._assemble(read_values, len(frame))
    if len(set(columns.names)) < len(columns.names):
        name = next(name for k, name in enumerate(columns.names) if name in columns.names[:k])
        raise DataError(f"two columns of the model would be named '{name}': rename the one in the data", column=name)
    return columns, encoder


def learn(expressions: Iterable[Expression], frame: pd.DataFrame, frequencies: Array | None) -> State:
    """Return what expressions learn from rows with frequencies (from the rows written out); empty without them."""
    state: State = {}
    if frequencies is not None:
        for expression in expressions:
            if learns(expression.node):
                if frequencies.sum() > MOST_WRITTEN_OUT:
                    raise DataError(
                        f"{expression.text} is learnt from rows written out, which are too many here "
                        f"({frequencies.sum():.0f}): compute the column beforehand",
                        column=expression.text,
                    )
                used = [*expression.columns, *(["pi"] if "pi" in frame.columns else [])]
                rows = np.repeat(np.arange(len(frame)), frequencies.astype(np.intp))
                _derive(expression, frame[list(dict.fromkeys(used))].iloc[rows], state)
    return state


@dataclass(frozen=True)
class EncodedTerm:
    """One term of a formula, and where its columns are.

    Attributes
    ----------
    name : str
        ``a:x``.
    variables : tuple of str
        What it multiplies, as written.
    columns : tuple of int
        Positions among all columns, the intercept included.
    """

    name: str
    variables: tuple[str, ...]
    columns: tuple[int, ...]


class Encoder:
    """How columns were built from the training data: means, knots, categories, codings; made by `encode`."""

    def __init__(
        self,
        terms: Terms,
        products: tuple[tuple[int, _Product], ...],
        factors: dict[Expression, _Numeric | _Category],
        state: State,
    ) -> None:
        self._terms = terms
        self._products = products
        self._factors = factors
        self._state = state

    def encode(self, frame: pd.DataFrame) -> Columns:
        """Build the same columns for new rows.

        Parameters
        ----------
        frame : DataFrame
            m rows; a missing value gives NaN in the columns that depend on it.

        Returns
        -------
        Columns
            As many as in training, of length m.

        Raises
        ------
        DataError
            A column that is not there, an unseen category, a transform that is not finite.
        DataTypeError
            A column that was numeric and is not.
        """
        values = {expression: factor.read(frame, self._state) for expression, factor in self._factors.items()}
        return self._assemble(values, len(frame))

    def terms(self) -> list[EncodedTerm]:
        """Return the terms with the positions of their columns."""
        places: list[list[int]] = [[] for _ in self._terms.terms]
        for (t, _), (_, columns) in zip(self._products, self.product_columns(), strict=True):
            places[t] += columns
        return [
            EncodedTerm(":".join(e.text for e in term), tuple(e.text for e in term), tuple(own))
            for term, own in zip(self._terms.terms, places, strict=True)
        ]

    @property
    def numbers(self) -> set[str]:
        """Variables of the terms that are one number a row, as written: no categories, polynomials or splines."""
        return {e.text for e, f in self._factors.items() if isinstance(f, _Numeric) and f.count(False) == 1}

    def category_codes(self, frame: pd.DataFrame) -> dict[str, tuple[pd.Index, npt.NDArray[np.intp]]]:
        """Return categories and codes of each column of the data that is a category, or whose groups have means."""
        out = {}
        for expression, factor in self._factors.items():
            if isinstance(factor, _Category):
                out[factor.column] = factor.categories, factor.read(frame, self._state)
            for name in grouping_columns(expression.node):
                codes, labels = code_column(stored(frame, name), name)
                out.setdefault(name, (labels, codes))
        return out

    def balanced(self) -> Array:
        """(p, p) combinations of the coefficients: what each is in a design with as many rows in all categories.

        Of each column with its categories coded to sum to zero; of categories the differences from the first one. Both
        sets of columns span the same space, whatever the data: the change is read off made-up rows.
        """
        turned: dict[Expression, _Numeric | _Category] = {
            e: _Category(e, f.column, f.categories, Coding("sum")) if isinstance(f, _Category) else f
            for e, f in self._factors.items()
        }
        other = Encoder(self._terms, self._products, turned, self._state)
        width = int(self._terms.intercept) + sum(len(columns) for _, columns in self.product_columns())
        rng = np.random.default_rng(0)
        n = MADE_UP * max(width, 1)
        values = {expression: factor.made_up(n, rng) for expression, factor in self._factors.items()}
        own, coded = (np.column_stack(encoder._assemble(values, n).values) for encoder in (self, other))
        out = np.asarray(np.linalg.lstsq(coded, own, rcond=None)[0], dtype=np.float64)
        for product, columns in self.product_columns():
            change: Array = np.ones((1, 1))
            for expression, reduced in product:  # the columns of the first factor vary fastest
                change = np.asarray(np.kron(turned[expression].differences(reduced), change), dtype=np.float64)
            out[columns] = change @ out[columns]
        out[np.abs(out) < NOTHING] = 0.0
        return out

    def product_columns(self) -> list[tuple[_Product, list[int]]]:
        """Return each product with the positions of its columns."""
        out, at = [], int(self._terms.intercept)
        for _, product in self._products:
            count = math.prod(self._factors[expression].count(reduced) for expression, reduced in product)
            out.append((product, list(range(at, at + count))))
            at += count
        return out

    def _assemble(self, read: dict[Expression, Any], n: int) -> Columns:
        names, arrays = (["Intercept"], [intercept(n)]) if self._terms.intercept else ([], [])
        found: list[tuple[Piece, ...]] = [() for _ in names]
        for _, product in self._products:
            blocks = [
                [
                    Piece(expression.text, *named)
                    for named in self._factors[expression].columns(read[expression], reduced)
                ]
                for expression, reduced in product
            ]
            # R's order: the columns of the first factor vary fastest
            for reverse in itertools.product(*reversed(blocks)):
                pieces = reverse[::-1]
                names.append(":".join(piece.name for piece in pieces))
                with np.errstate(all="ignore"):  # what is not finite is found, and named, when the rows are read
                    arrays.append(reduce(np.multiply, (piece.values for piece in pieces)))
                found.append(pieces)
        return Columns(tuple(names), tuple(arrays), tuple(found))


def evaluate(expression: Expression, frame: pd.DataFrame, role: str = "response", state: State | None = None) -> Array:
    """Evaluate a response or an offset.

    Parameters
    ----------
    expression : Expression
    frame : DataFrame
        n rows.
    role : str
        What to call a bare column in messages.
    state : dict, optional
        Filled with what `center` and `scale` learn; pass the same one for new rows.

    Returns
    -------
    (n,) float64 array
        A view of the frame's memory for a bare float64 column.

    Raises
    ------
    DataTypeError
        If a column is not numeric.
    DataError
        If a column is not there, or the result is not finite where the columns are.
    """
    if isinstance(expression.node, Name):
        return must_be_numbers(read(frame, expression.node.name), expression.node.name, role)
    return _derive(expression, frame, {} if state is None else state)


_Product = tuple[tuple[Expression, bool], ...]


def _learn(expression: Expression, frame: pd.DataFrame, state: State) -> tuple[_Numeric | _Category, Any]:
    """Return the factor that an expression is in these data, and its values there."""
    node = expression.node
    factor: _Numeric | _Category
    if isinstance(node, Name):
        stored = read(frame, node.name)
        values = numbers(stored, node.name, "column")
        if values is not None:
            return _Numeric(expression), [values]
        factor = _Category(expression, node.name, distinct(stored, node.name), Coding())
    elif isinstance(node, Call) and node.function in CATEGORICAL:
        factor = _learn_category(expression, node, frame)
    else:
        factor = _Numeric(expression)
    return factor, factor.read(frame, state)


def _learn_category(expression: Expression, node: Call, frame: pd.DataFrame) -> _Category:
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
    return _Category(expression, column, found, coding)


class _Numeric:
    """A number a row, or several (polynomials, splines)."""

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self._width = 1

    def read(self, frame: pd.DataFrame, state: State) -> list[Array]:
        """Return the k columns of values."""
        node = self.expression.node
        if isinstance(node, Name):
            return [must_be_numbers(read(frame, node.name), node.name, "column")]
        values = _derive(self.expression, frame, state)
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


class _Category:
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


def _products(terms: Terms, factors: dict[Expression, _Numeric | _Category]) -> tuple[tuple[int, _Product], ...]:
    """Return what is to be multiplied: the term, and for each factor of the product if its reference is left out."""
    if not any(isinstance(factor, _Category) for factor in factors.values()):
        return tuple((t, tuple((expression, False) for expression in term)) for t, term in enumerate(terms.terms))
    expressions = list(factors)
    position = {expression: k for k, expression in enumerate(expressions)}
    shape = tuple(tuple(position[expression] for expression in term) for term in terms.terms)
    categorical = tuple(isinstance(factor, _Category) for factor in factors.values())
    return tuple(
        (t, tuple((expressions[k], reduced) for k, reduced in product))
        for t, product in _full_rank(terms.intercept, shape, categorical)
    )


@lru_cache(maxsize=256)
def _full_rank(
    intercept: bool, terms: tuple[tuple[int, ...], ...], categorical: tuple[bool, ...]
) -> tuple[tuple[int, tuple[tuple[int, bool], ...]], ...]:
    """Ask formulaic which factors to code without reference, on two made-up rows: the answer depends on kinds alone."""
    from formulaic.formula import SimpleFormula
    from formulaic.parser.types import Factor, Term

    rows = {f"v{k}": pd.Categorical([0, 1]) if is_category else [0.0, 1.0] for k, is_category in enumerate(categorical)}
    one = [Term([Factor("1", eval_method="literal")])] if intercept else []
    products = [Term([Factor(f"v{k}", eval_method="lookup") for k in term]) for term in terms]
    spec = SimpleFormula([*one, *products], _ordering="none").get_model_matrix(pd.DataFrame(rows)).model_spec
    found = []
    for t, structure in enumerate(spec.structure, start=-1 if intercept else 0):
        for scoped in structure.scoped_terms:
            product = tuple((int(part.factor.expr[1:]), bool(part.reduced)) for part in scoped.factors)
            if product:  # the intercept is ours
                found.append((t, product))
    return tuple(found)


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


def _derive(expression: Expression, frame: pd.DataFrame, state: State) -> Array:
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
