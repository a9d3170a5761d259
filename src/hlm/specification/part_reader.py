"""A model that is a part of another one: some of its fixed and random columns, read as the other reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from hlm.design import Column, Design, Factor
from hlm.specification.build import FormulaReader
from hlm.specification.columns import Piece
from hlm.specification.formula import Formula, Terms
from hlm.specification.substitution import formula_text, random_term
from hlm.specification.variables import Variable
from hlm.structure import Codes

Pieces = tuple[tuple[Piece, ...], ...]


class PartReader(FormulaReader):
    """Some columns of another reader.

    Parameters
    ----------
    whole : FormulaReader
        After it has read its data.
    columns : sequence of int
        Fixed columns.
    effects : mapping of str to sequence of int
        Random columns of each grouping factor.
    groupings : mapping
        All groupings of the whole model, those that lose their random effects too.
    """

    def __init__(
        self,
        whole: FormulaReader,
        columns: Sequence[int],
        effects: Mapping[str, Sequence[int]],
        groupings: Mapping[str, tuple[Codes, pd.Index]],
    ) -> None:
        self._whole = whole
        self._columns = list(columns)
        self._effects = {name: list(own) for name, own in effects.items() if len(own)}
        pieces = tuple(whole.pieces[k] for k in self._columns)
        random = {name: tuple(whole.random_pieces[name][j] for j in own) for name, own in self._effects.items()}
        super().__init__(_formula(whole.formula, pieces, random))
        self.pieces, self.random_pieces, self.groupings = pieces, random, dict(groupings)

    @property
    def numbers(self) -> set[str]:
        """Variables of the fixed terms that are one number a row."""
        return self._whole.numbers

    def variables(self, design: Design) -> dict[str, Variable]:
        """Describe the columns of the data that new rows need: those of the whole model."""
        return self._whole.variables(design)

    def fixed(self, new: Any) -> tuple[list[Column], list[Column], pd.Index]:
        """Return fixed columns and offsets of new rows, and their index."""
        columns, offsets, index = self._whole.fixed(new)
        return [columns[k] for k in self._columns], offsets, index

    def groups(self, new: Any, factor: Factor) -> tuple[Codes, list[Column], Any]:
        """Return level (-1: unknown), random columns and labels of new rows for one factor."""
        levels, columns, labels = self._whole.groups(new, factor)
        return levels, [columns[j] for j in self._effects[factor.name]], labels

    def random_columns(self, new: Any, factor: Factor) -> list[Column]:
        """Return the random columns of new rows for one factor; its grouping columns need not be there."""
        columns = self._whole.random_columns(new, factor)
        return [columns[j] for j in self._effects[factor.name]]

    def response(self, new: Any) -> Column:
        """Return the response (n,) of new rows."""
        return self._whole.response(new)


def _formula(whole: Formula, pieces: Pieces, random: Mapping[str, Pieces]) -> Formula:
    """The formula of what is left."""

    def some(terms: Terms, left: Pieces) -> Terms:
        chosen = {frozenset(piece.expression for piece in column) for column in left}
        own = tuple(term for term in terms.terms if frozenset(e.text for e in term) in chosen)
        return Terms(terms.intercept and frozenset() in chosen, own)

    fixed = some(whole.fixed, pieces)
    parts = [(some(t.effects, random.get(t.name, ())), t.groups, t.correlated) for t in whole.random]
    terms = tuple(random_term(*part) for part in parts if part[0].intercept or part[0].terms)
    text = formula_text(whole.response, fixed, whole.offsets, terms)
    return replace(whole, text=text, fixed=fixed, random=terms)
