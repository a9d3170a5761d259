"""From a formula and a frame to a design, and the same for new rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import Column, Design, Factor, check_weights, merge_factors
from hlm.errors import DataError
from hlm.frames import complete_rows, to_frame
from hlm.specification.columns import Encoder, encode, evaluate
from hlm.specification.formula import Formula, RandomTerm, parse
from hlm.specification.transforms import State
from hlm.structure import Codes, code_labels, cross_codes


class FormulaReader:
    """A formula with what its columns learnt from the data of the fit (means, knots, categories).

    Parameters
    ----------
    formula : str
    """

    def __init__(self, formula: str) -> None:
        self.formula: Formula = parse(formula)
        self._fixed: Encoder | None = None
        self._random: dict[str, list[tuple[RandomTerm, Encoder]]] = {}
        self._offset_state: State = {}

    def design(self, data: Any, weights: Any, missing: str) -> Design:
        """Return the design of the formula on `data`.

        Parameters
        ----------
        data : DataFrame or mapping
        weights : str, (n,) array or None
        missing : {"drop", "raise"}
        """
        if missing not in ("drop", "raise"):
            raise DataError(f"missing must be 'drop' or 'raise', got {missing!r}")
        formula = self.formula
        used = list(formula.columns)
        if isinstance(weights, str) and weights not in used:
            used.append(weights)
        full = to_frame(data, used)
        if len(full) == 0:
            raise DataError("data has no rows")
        frame, kept, dropped = complete_rows(full, used, missing)
        y = evaluate(formula.response, frame)
        offsets = self._offsets(frame)
        offset = np.sum(offsets, axis=0) if offsets else None
        fixed, self._fixed = encode(formula.fixed, frame)
        parts = [(self._factor(term, frame), term.text) for term in formula.random]
        return Design(
            response=formula.response.text,
            y=y if offset is None else y - offset,
            names=fixed.names,
            columns=fixed.values,
            factors=merge_factors(parts),
            weights=self._weights(weights, frame, kept),
            offset=offset,
            index=full.index,
            kept=kept,
            dropped=dropped,
        )

    def _offsets(self, frame: pd.DataFrame) -> list[Column]:
        return [evaluate(expression, frame, "offset", self._offset_state) for expression in self.formula.offsets]

    @staticmethod
    def _weights(weights: Any, frame: pd.DataFrame, kept: npt.NDArray[np.bool_] | None) -> Column | None:
        if weights is None or isinstance(weights, str):
            return check_weights(None if weights is None else frame[weights].to_numpy(), len(frame))
        checked = check_weights(weights, len(frame) if kept is None else len(kept))
        return checked if kept is None or checked is None else checked[kept]

    def _factor(self, term: RandomTerm, frame: pd.DataFrame) -> Factor:
        parts = [code_labels(frame[column]) for column in term.groups]
        codes, labels = parts[0] if len(parts) == 1 else cross_codes(parts, list(term.groups))
        if len(parts) == 1:
            labels = labels.rename(term.name)
        columns, encoder = encode(term.effects, frame)
        self._random.setdefault(term.name, []).append((term, encoder))
        # the term's columns are one block; `||` comes from the parser as several terms
        return Factor(term.name, codes, labels, columns.values, columns.names, (tuple(range(len(columns.values))),))

    def fixed(self, new: Any) -> tuple[list[Column], list[Column], pd.Index]:
        """Return fixed columns and offsets of new rows, and their index."""
        assert self._fixed is not None
        needed = _columns_of(self.formula)
        frame = to_frame(new, needed)
        return list(self._fixed.encode(frame).values), self._offsets(frame), frame.index

    def groups(self, new: Any, factor: Factor) -> tuple[Codes, list[Column], Any]:
        """Return level (-1: unknown), random columns and labels of new rows for one factor."""
        terms = self._random[factor.name]
        groups = list(terms[0][0].groups)
        needed = [c for term, _ in terms for effect in term.effects.terms for e in effect for c in e.columns]
        frame = to_frame(new, list(dict.fromkeys(groups + needed)))
        labels = pd.Index(frame[groups[0]]) if len(groups) == 1 else pd.MultiIndex.from_frame(frame[groups])
        levels = factor.labels.get_indexer(labels).astype(np.intp)
        columns: list[Column] = []
        for _, encoder in terms:
            columns += encoder.encode(frame).values
        return levels, columns, labels


def _columns_of(formula: Formula) -> list[str]:
    """Columns that the fixed part and the offsets need."""
    names = [c for term in formula.fixed.terms for e in term for c in e.columns]
    names += [c for e in formula.offsets for c in e.columns]
    return list(dict.fromkeys(names))
