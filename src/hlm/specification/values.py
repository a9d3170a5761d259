"""Values of one column: as float64 numbers, or as codes of categories; and why neither is possible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DataError, DataTypeError, show
from hlm.frames import stored

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

_FLOAT64 = np.dtype(np.float64)
_NUMBERS = frozenset({"integer", "floating", "mixed-integer-float", "decimal", "boolean"})
_SHOWN = 10


def read(frame: pd.DataFrame, column: str) -> Any:
    """Return a column as stored, or raise a DataError if it is not there."""
    try:
        return stored(frame, column)
    except KeyError:
        raise DataError(f"the data lack column '{column}'", column=column) from None


def numbers(values: Any, column: str, role: str) -> Array | None:
    """Return values as float64, a view where they are that already; None if they are categories or text.

    Parameters
    ----------
    values : (n,) array or extension array
    column, role : str
        For messages: ``response 'y' must be numeric``.

    Raises
    ------
    DataTypeError
        If they are neither numbers nor categories: complex, dates, numbers mixed with words.
    """
    dtype = values.dtype
    if dtype == _FLOAT64:
        # kernels step by whole, aligned doubles
        return values if values.strides[0] % 8 == 0 and values.flags.aligned else np.ascontiguousarray(values)
    if isinstance(dtype, np.dtype):
        if dtype.kind in "biuf":
            return values.astype(np.float64)  # type: ignore[no-any-return]
        if dtype.kind == "O":
            return _from_objects(values, column, role)
    elif isinstance(dtype, (pd.CategoricalDtype, pd.StringDtype)) or dtype.kind == "U":
        return None
    elif dtype.kind in "biuf":
        return values.to_numpy(dtype=np.float64, na_value=np.nan)  # type: ignore[no-any-return]
    elif dtype.kind == "O":
        return _from_objects(values.to_numpy(dtype=object), column, role)
    if dtype.kind == "c":
        raise DataTypeError(f"{role} '{column}' is complex; it must be numeric", column=column)
    kind = {"M": "datetime", "m": "timedelta"}.get(dtype.kind, str(dtype))
    raise DataTypeError(f"{role} '{column}' is {kind}; convert it to a number or a category", column=column)


def must_be_numbers(values: Any, column: str, role: str) -> Array:
    """Return values as float64, or raise a DataTypeError that says what they are."""
    result = numbers(values, column, role)
    if result is None:
        what = "categories" if isinstance(values.dtype, pd.CategoricalDtype) else "strings"
        raise DataTypeError(f"{role} '{column}' must be numeric, got {what}", column=column)
    return result


def _from_objects(values: npt.NDArray[np.object_], column: str, role: str) -> Array | None:
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind == "string":
        return None
    missing = pd.isna(values)
    if kind not in _NUMBERS:
        for row in np.flatnonzero(~missing):
            if isinstance(values[row], (complex, np.complexfloating)):
                raise DataTypeError(f"{role} '{column}' is complex; it must be numeric", column=column, row=int(row))
            if isinstance(values[row], (str, bytes)) or not hasattr(values[row], "__float__"):
                message = f"{role} '{column}' must be numeric, row {row} holds {values[row]!r}"
                raise DataTypeError(message, column=column, row=int(row))
    result = np.full(len(values), np.nan)
    result[~missing] = [_float(value) for value in values[~missing]]
    return result


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond the doubles: reported later as the infinity it is
        return math.inf if value > 0 else -math.inf


def distinct(values: Any, column: str) -> pd.Index:
    """Return the categories of a column: a categorical's used ones in its own order, else the values sorted.

    Text is sorted by code point, which is the order of the UTF-8 bytes.

    Raises
    ------
    DataTypeError
        If the values have no common order, such as numbers and words.
    """
    if isinstance(values, pd.Categorical):
        known = values.codes[values.codes >= 0]
        used: pd.Index = values.categories[np.bincount(known, minlength=len(values.categories)) > 0]
        return used
    try:
        unique = pd.unique(pd.Series(values, copy=False))
    except TypeError as error:
        raise DataTypeError(f"column '{column}' holds what cannot be a category: {error}", column=column) from None
    found = unique[~np.asarray(pd.isna(unique), dtype=bool)].tolist()
    try:
        ordered: pd.Index = pd.Index(sorted(found), dtype=object if isinstance(next(iter(found), None), str) else None)
    except Exception:  # whatever comparing them raises
        types = ", ".join(sorted({type(value).__name__ for value in found}))
        raise DataTypeError(f"column '{column}' mixes types that have no order: {types}", column=column) from None
    return ordered


def category_codes(values: Any, categories: pd.Index, column: str) -> Codes:
    """Return the position of each value among the categories, -1 where it is missing.

    Raises
    ------
    DataError
        If a value is none of the categories, naming it.
    """
    if isinstance(values, pd.Categorical):
        # one slot more, so that the code -1 of a missing value finds -1
        position = np.append(categories.get_indexer(values.categories), -1)
        codes = position[values.codes]
        missing = values.codes < 0
    else:
        try:
            codes = categories.get_indexer(pd.Index(values, copy=False, tupleize_cols=False))
        except TypeError as error:
            raise DataTypeError(f"column '{column}' holds what cannot be a category: {error}", column=column) from None
        missing = np.asarray(pd.isna(values), dtype=bool)
    unseen = (codes < 0) & ~missing
    if unseen.any():
        row = int(np.argmax(unseen))
        known = listed(categories)
        message = f"column '{column}' holds {show(values[row])} (row {row}), which is none of its categories: {known}"
        raise DataError(message, column=column, row=row)
    result: Codes = codes.astype(np.intp, copy=False)
    return result


def listed(categories: pd.Index) -> str:
    """Return the first few categories for a message."""
    more = f", ... {len(categories) - _SHOWN} more" if len(categories) > _SHOWN else ""
    return ", ".join(repr(category) for category in categories[:_SHOWN].tolist()) + more
