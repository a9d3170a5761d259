"""What is known of the variables of the fixed part after the fit: ranges of numbers, categories and counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.specification.columns import Encoder
from hlm.specification.values import must_be_numbers, read

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Variable:
    """A column of the data that the fixed part uses.

    Attributes
    ----------
    categories : Index or None
        None for numbers.
    counts : (k,) float64 array
        How often each category occurs.
    mean, sd, least, most : float
        Of numbers, over the rows used.
    """

    categories: pd.Index | None
    counts: Array
    mean: float = np.nan
    sd: float = np.nan
    least: float = np.nan
    most: float = np.nan


def of_numbers(values: Array, frequencies: Array | None) -> Variable:
    """Describe a column of numbers."""
    exponent = int(np.frexp(np.abs(values).max())[1])  # squares of the largest numbers have no room
    scaled = np.ldexp(values, -exponent)
    mean = float(np.average(scaled, weights=frequencies))
    square = float(np.average((scaled - mean) ** 2, weights=frequencies))
    n = float(len(values) if frequencies is None else frequencies.sum())
    sd = float(np.sqrt(square * n / (n - 1))) if n > 1 else 0.0
    mean, sd = (float(np.ldexp(value, exponent)) for value in (mean, sd))
    return Variable(None, np.zeros(0), mean, sd, float(values.min()), float(values.max()))


def describe(
    frame: pd.DataFrame, encoder: Encoder, names: Iterable[str], plain: Iterable[str], frequencies: Array | None
) -> dict[str, Variable | None]:
    """Describe the columns `names`; numbers that are columns of X themselves (`plain`) are to be looked up there."""
    out: dict[str, Variable | None] = {}
    plain = set(plain)
    for name in names:
        if name in encoder.counts:
            counts = encoder.counts[name]
            out[name] = Variable(counts.index, counts.to_numpy())
        elif name in plain:
            out[name] = None
        elif name in frame.columns:
            out[name] = of_numbers(must_be_numbers(read(frame, name), name, "column"), frequencies)
    return out
