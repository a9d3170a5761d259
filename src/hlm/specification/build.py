"""From a formula and a frame to a design, and the same for new rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hlm.design import Column, Design, Factor, code_column, merge_factors
from hlm.errors import DataError, HLMError
from hlm.frames import complete_rows, stored, to_frame
from hlm.residuals.structures import Residual, bind, columns_of
from hlm.specification.columns import Encoder, Piece, encode, evaluate, learn
from hlm.specification.formula import Formula, RandomTerm, parse
from hlm.specification.transforms import State
from hlm.specification.variables import Variable, describe, of_numbers
from hlm.structure import Codes, cross_codes
from hlm.variance.assign import assign
from hlm.variance.between import with_between
from hlm.weights import read_weights


class FormulaReader:
    """A formula with what its columns learnt from the data of the fit (means, knots, categories).

    Parameters
    ----------
    formula : str or Formula

    Attributes
    ----------
    pieces : tuple of tuples of Piece
        What each fixed column is the product of.
    random_pieces : dict
        The same for the random columns of each grouping factor.
    groupings : dict
        Codes and labels of levels that have no random effects.
    """

    def __init__(self, formula: str | Formula) -> None:
        self.formula: Formula = formula if isinstance(formula, Formula) else parse(formula)
        self._fixed: Encoder | None = None
        self._random: dict[str, list[tuple[RandomTerm, Encoder]]] = {}
        self._offset_state: State = {}
        self._response_state: State = {}
        self.pieces: tuple[tuple[Piece, ...], ...] = ()
        self.random_pieces: dict[str, tuple[tuple[Piece, ...], ...]] = {}
        self.groupings: dict[str, tuple[Codes, pd.Index]] = {}
        self._described: dict[str, Variable | None] = {}

    def design(
        self,
        data: Any,
        weights: dict[str, Any],
        missing: str,
        covariance: Any = None,
        between: Any = None,
        residual: Residual | None = None,
    ) -> Design:
        """Return the design of the formula on `data`.

        Parameters
        ----------
        data : DataFrame or mapping
        weights : dict
            "weights", "frequencies" and "sampling_variance": a name, an (N,) array or None.
        missing : {"drop", "raise", "error"}
            The last two are the same.
        covariance : mapping or None
            See `assign`.
        between : mapping or None
            See `with_between`.
        residual : Residual or None
            Structure of the level-1 errors.
        """
        if missing not in ("drop", "raise", "error"):
            raise DataError(f"missing must be 'drop' or 'raise', got {missing!r}")
        missing = "drop" if missing == "drop" else "raise"
        formula = self.formula
        named = [name for name in weights.values() if isinstance(name, str)]
        needed = list(dict.fromkeys([*formula.columns, *columns_of(residual)]))
        full = to_frame(data, list(dict.fromkeys([*needed, *named])))
        if len(full) == 0:
            raise DataError("data has no rows")
        given = read_weights(weights, len(full), full)
        frame, kept, dropped = complete_rows(full, needed, missing, given.zero)
        used = given.take(kept)
        try:
            parts = self._read(frame, used.get("frequencies"), covariance)
        except HLMError as error:
            raise (error if kept is None else error.of_input(np.flatnonzero(kept).tolist())) from None
        parts["factors"] = with_between(parts["factors"], between)
        design = Design(
            **parts,
            sigma=given.sigma,
            weights=used.get("weights"),
            frequencies=used.get("frequencies"),
            index=full.index,
            kept=kept,
            dropped=dropped | given.counts,
        )
        return bind(residual, design, frame)

    def _read(self, frame: pd.DataFrame, frequencies: Column | None, covariance: Any) -> dict[str, Any]:
        """Return what a design has of the columns of complete rows."""
        formula = self.formula
        self._response_state = learn([formula.response], frame, frequencies)
        y = evaluate(formula.response, frame, state=self._response_state)
        self._offset_state = learn(formula.offsets, frame, frequencies)
        offsets = self._offsets(frame)
        offset = np.sum(offsets, axis=0) if offsets else None
        fixed, self._fixed = encode(formula.fixed, frame, frequencies)
        self.pieces = fixed.pieces
        self._described = describe(frame, self._fixed, _columns_of(formula), fixed.names, frequencies)
        parts = [(self._factor(term, frame, frequencies), term.text) for term in formula.random]
        return {
            "response": formula.response.text,
            "y": y if offset is None else y - offset,
            "names": fixed.names,
            "columns": fixed.values,
            "factors": merge_factors(assign(parts, covariance)),
            "offset": offset,
        }

    def _offsets(self, frame: pd.DataFrame) -> list[Column]:
        return [evaluate(expression, frame, "offset", self._offset_state) for expression in self.formula.offsets]

    def _factor(self, term: RandomTerm, frame: pd.DataFrame, frequencies: Column | None) -> Factor:
        codes, labels = code_groups(term.groups, frame)
        columns, encoder = encode(term.effects, frame, frequencies)
        self._random.setdefault(term.name, []).append((term, encoder))
        self.random_pieces[term.name] = self.random_pieces.get(term.name, ()) + columns.pieces
        # the term's columns are one block; `||` comes from the parser as several terms
        return Factor(term.name, codes, labels, columns.values, columns.names, (tuple(range(len(columns.values))),))

    def response(self, new: Any) -> Column:
        """Return the response (n,) of new rows."""
        frame = to_frame(new, list(self.formula.response.columns), new=True)
        return evaluate(self.formula.response, frame, state=self._response_state)

    @property
    def fixed_encoder(self) -> Encoder | None:
        """How the columns of the fixed part are built; None for a part of another model."""
        return self._fixed

    @property
    def numbers(self) -> set[str]:
        """Variables of the fixed terms that are one number a row; see `Encoder.numbers`."""
        assert self._fixed is not None
        return self._fixed.numbers

    def variables(self, design: Design) -> dict[str, Variable]:
        """Describe the columns of the data that the fixed part and the offsets use; `design` is that of the fit."""
        columns = {piece.name: piece.values for column in self.pieces for piece in column}
        return {
            name: of_numbers(columns[name], design.frequencies) if known is None else known
            for name, known in self._described.items()
        }

    def fixed(self, new: Any) -> tuple[list[Column], list[Column], pd.Index]:
        """Return fixed columns and offsets of new rows, and their index."""
        assert self._fixed is not None
        needed = _columns_of(self.formula)
        frame = to_frame(new, needed, new=True)
        return list(self._fixed.encode(frame).values), self._offsets(frame), frame.index

    def groups(self, new: Any, factor: Factor) -> tuple[Codes, list[Column], Any]:
        """Return level (-1: unknown), random columns and labels of new rows for one factor."""
        groups = list(self._random[factor.name][0][0].groups)
        frame = to_frame(new, list(dict.fromkeys(groups + self._random_needs(factor))), new=True)
        labels = group_labels(tuple(groups), frame)
        return factor.find(labels), self._encode_random(frame, factor), labels

    def random_columns(self, new: Any, factor: Factor) -> list[Column]:
        """Return the random columns of new rows for one factor; its grouping columns need not be there."""
        needed = list(dict.fromkeys(_columns_of(self.formula) + self._random_needs(factor)))
        return self._encode_random(to_frame(new, needed, new=True), factor)

    def _random_needs(self, factor: Factor) -> list[str]:
        terms = self._random[factor.name]
        return [c for term, _ in terms for effect in term.effects.terms for e in effect for c in e.columns]

    def _encode_random(self, frame: pd.DataFrame, factor: Factor) -> list[Column]:
        columns: list[Column] = []
        for _, encoder in self._random[factor.name]:
            columns += encoder.encode(frame).values
        return columns


def code_groups(groups: tuple[str, ...], frame: pd.DataFrame) -> tuple[Codes, pd.Index]:
    """Code a grouping column, or the combinations of several."""
    parts = [code_column(stored(frame, column), column) for column in groups]
    codes, labels = parts[0] if len(parts) == 1 else cross_codes(parts, list(groups))
    return codes, labels if len(parts) > 1 else labels.rename(groups[0])


def group_labels(groups: tuple[str, ...], data: Any) -> pd.Index:
    """Return the label of each row of a grouping column, tuples for the combinations of several."""
    frame = to_frame(data, list(groups), new=True)
    keys = [stored(frame, column) for column in groups]
    if len(keys) == 1:
        return pd.Index(keys[0], tupleize_cols=False)
    parts = [code_column(key, column) for key, column in zip(keys, groups, strict=True)]
    return pd.MultiIndex(levels=[part[1] for part in parts], codes=[part[0] for part in parts])


def _columns_of(formula: Formula) -> list[str]:
    """Columns that the fixed part and the offsets need."""
    names = [c for term in formula.fixed.terms for e in term for c in e.columns]
    names += [c for e in formula.offsets for c in e.columns]
    return list(dict.fromkeys(names))
