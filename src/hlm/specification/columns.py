"""From terms and a frame to named columns, and the same columns for new rows.

Arithmetic is ours; formulaic gives the splines, the contrast codings, and which factor of which term is coded with or
without its reference so that columns are structurally independent. It only ever sees positions, never a user's text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import code_column, intercept
from hlm.errors import DataError
from hlm.frames import stored
from hlm.specification.factors import Category, Numeric, derive, learn_factor
from hlm.specification.formula import Terms
from hlm.specification.transforms import State, learns
from hlm.specification.tree import Coding, Expression, Name, grouping_columns
from hlm.specification.values import must_be_numbers, read

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
    factors: dict[Expression, Numeric | Category] = {}
    read_values: dict[Expression, Any] = {}
    for term in terms.terms:
        for expression in term:
            if expression not in factors:
                factors[expression], read_values[expression] = learn_factor(expression, frame, state)
    counts = _counts(factors, read_values, frame, frequencies)
    encoder = Encoder(terms, _products(terms, factors), factors, state, counts)
    columns = encoder._assemble(read_values, len(frame))
    if len(set(columns.names)) < len(columns.names):
        name = next(name for k, name in enumerate(columns.names) if name in columns.names[:k])
        raise DataError(f"two columns of the model would be named '{name}': rename the one in the data", column=name)
    return columns, encoder


def _counts(
    factors: dict[Expression, Numeric | Category],
    read_values: dict[Expression, Any],
    frame: pd.DataFrame,
    frequencies: Array | None,
) -> dict[str, pd.Series]:
    """How often each category occurs, by column; groups that have means are categories too."""
    found = {f.column: (read_values[e], f.categories) for e, f in factors.items() if isinstance(f, Category)}
    for name in dict.fromkeys(name for expression in factors for name in grouping_columns(expression.node)):
        if name not in found:
            found[name] = code_column(stored(frame, name), name)
    out = {}
    for name, (codes, labels) in found.items():
        weights = None if frequencies is None else frequencies[codes >= 0]
        out[name] = pd.Series(np.bincount(codes[codes >= 0], weights, len(labels)), index=labels, dtype=np.float64)
    return out


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
                derive(expression, frame[list(dict.fromkeys(used))].iloc[rows], state)
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
    """How columns were built from the training data: means, knots, categories, codings; made by `encode`.

    Attributes
    ----------
    counts : dict of str to Series
        How often each category of a column occurs.
    """

    def __init__(
        self,
        terms: Terms,
        products: tuple[tuple[int, _Product], ...],
        factors: dict[Expression, Numeric | Category],
        state: State,
        counts: dict[str, pd.Series],
    ) -> None:
        self.counts = counts
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
        return {e.text for e, f in self._factors.items() if isinstance(f, Numeric) and f.count(False) == 1}

    def balanced(self) -> Array:
        """(p, p) combinations of the coefficients: what each is in a design with as many rows in all categories.

        Of each column with its categories coded to sum to zero; of categories the differences from the first one. Both
        sets of columns span the same space, whatever the data: the change is read off made-up rows.
        """
        turned: dict[Expression, Numeric | Category] = {
            e: Category(e, f.column, f.categories, Coding("sum")) if isinstance(f, Category) else f
            for e, f in self._factors.items()
        }
        other = Encoder(self._terms, self._products, turned, self._state, self.counts)
        width = int(self._terms.intercept) + sum(len(columns) for _, columns in self.product_columns())
        if width == 0:
            return np.zeros((0, 0))
        rng = np.random.default_rng(0)
        n = MADE_UP * width
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
    return derive(expression, frame, {} if state is None else state)


_Product = tuple[tuple[Expression, bool], ...]


def _products(terms: Terms, factors: dict[Expression, Numeric | Category]) -> tuple[tuple[int, _Product], ...]:
    """Return what is to be multiplied: the term, and for each factor of the product if its reference is left out."""
    if not any(isinstance(factor, Category) for factor in factors.values()):
        return tuple((t, tuple((expression, False) for expression in term)) for t, term in enumerate(terms.terms))
    expressions = list(factors)
    position = {expression: k for k, expression in enumerate(expressions)}
    shape = tuple(tuple(position[expression] for expression in term) for term in terms.terms)
    categorical = tuple(isinstance(factor, Category) for factor in factors.values())
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
