"""Weights of rows: precision weights, frequencies, and the rows that they leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DataError
from hlm.frames import Mask, bad_values, to_frame
from hlm.specification.values import must_be_numbers, read

Column = npt.NDArray[np.float64]

# Sums of frequencies stay exact in float64.
MOST = 2.0**53
SAMPLING = "sampling_variance"
# Below this float64 has fewer digits, and weights have no reciprocals.
SMALLEST = 1e-307


@dataclass(frozen=True, eq=False)
class RowWeights:
    """Weights of all N rows of the input as given; made by `read_weights`.

    Attributes
    ----------
    values : dict of str to (N,) float64 array
        What is given of "weights", "frequencies" and "sampling_variance"; not negative, perhaps missing.
    labels : dict of str to str
        What messages call them: ``weights 'w'`` for a column.
    """

    values: dict[str, Column]
    labels: dict[str, str]

    @property
    def zero(self) -> Mask | None:
        """Rows left out because a weight or frequency is zero, (N,); None without any."""
        zero: Mask | None = None
        for values in self.values.values():
            if not values.all():
                zero = values == 0 if zero is None else zero | (values == 0)
        return zero

    @property
    def counts(self) -> dict[str, int]:
        """Rows that each kind leaves out: ``{"weights = 0": 3}``."""
        found = {f"{kind} = 0": len(values) - int(np.count_nonzero(values)) for kind, values in self.values.items()}
        return {text: count for text, count in found.items() if count}

    @property
    def sigma(self) -> float | None:
        """σ where it is known: 1 with sampling variances."""
        return 1.0 if SAMPLING in self.values else None

    def take(self, kept: Mask | None) -> dict[str, Column]:
        """Return the weights of the rows that are used.

        Parameters
        ----------
        kept : (N,) bool array or None

        Raises
        ------
        DataError
            If the weight of a row that is used is missing, or the frequencies are too many to be counted.
        """
        out = {}
        for kind, values in self.values.items():
            missing = np.isnan(values) if kept is None else np.isnan(values) & kept
            if missing.any():
                raise bad_values(self.labels[kind], kind, missing, "missing")
            out[kind] = values if kept is None else values[kept]
        if SAMPLING in out:
            out["weights"] = 1 / out[SAMPLING]
        if "frequencies" in out and out["frequencies"].sum() > MOST:
            raise DataError(f"the frequencies add up to more than {MOST:.0f} rows", column="frequencies")
        return out


def read_weights(given: dict[str, Any], n: int, frame: pd.DataFrame | None = None) -> RowWeights:
    """Read weights and frequencies: arrays, or names of columns.

    Parameters
    ----------
    given : dict
        "weights", "frequencies" and "sampling_variance": None, (n,) numbers, or a name.
    n : int
        Rows of the data.
    frame : DataFrame, optional
        Where names are looked up.

    Raises
    ------
    DataTypeError
        If one is neither numbers nor a name.
    DataError
        If one has another length than the data, is negative, infinite or zero everywhere, a frequency is not whole, a
        sampling variance is zero, or weights are given beside sampling variances.
    """
    values, labels = {}, {}
    if given.get(SAMPLING) is not None and given.get("weights") is not None:
        raise DataError(f"{SAMPLING} and weights say the same, Var(ε_i) = 1/w_i: give one of them", column=SAMPLING)
    for kind, value in given.items():
        if value is None:
            continue
        if frame is not None and isinstance(value, str):
            column, labels[kind] = must_be_numbers(read(frame, value), value, kind), f"{kind} '{value}'"
        else:
            column, labels[kind] = must_be_numbers(read(to_frame({kind: value}, [kind]), kind), kind, "array"), kind
        _check(column, labels[kind], n, whole=kind == "frequencies")
        if kind == SAMPLING and (column == 0).any():
            row = int(np.argmax(column == 0))
            raise DataError(f"{labels[kind]} must be > 0; row {row} has 0", column=labels[kind], row=row)
        values[kind] = np.ascontiguousarray(column)
    return RowWeights(values, labels)


def _check(values: Column, label: str, n: int, whole: bool) -> None:
    if len(values) != n:
        raise DataError(f"{label} has length {len(values)}, data has {n} rows", column=label)
    if np.isinf(values).any():
        raise bad_values(label, label, np.isinf(values), "infinite")
    if (values < 0).any():
        row = int(np.argmax(values < 0))
        raise DataError(f"{label} must be >= 0; row {row} has {values[row]:g}", column=label, row=row)
    if ((values > 0) & (values < SMALLEST)).any():
        row = int(np.argmax((values > 0) & (values < SMALLEST)))
        message = f"{label} must be 0 or at least {SMALLEST:.0e}; row {row} has {values[row]:g}: rescale them"
        raise DataError(message, column=label, row=row)
    if whole and (values % 1 > 0).any():
        row = int(np.argmax(values % 1 > 0))
        raise DataError(f"{label} must be whole numbers; row {row} has {values[row]:g}", column=label, row=row)
    if n and not values.any():
        raise DataError(f"all {label} are zero", column=label)
