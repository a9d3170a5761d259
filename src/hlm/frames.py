"""Tables of any kind to pandas, and rows without missing values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DataError, DataTypeError

Mask = npt.NDArray[np.bool_]

# `pi` is a column if the data have it, else the number: kept along although no list of needed columns names it
_OPTIONAL = ("pi",)
_SHOWN = 20


def to_frame(data: Any, columns: Sequence[str], new: bool = False) -> pd.DataFrame:
    """Return `data` as a pandas DataFrame that has `columns`; what is given is never changed.

    Parameters
    ----------
    data : DataFrame or mapping of columns
        pandas is returned as it is; polars, pyarrow and others go through narwhals, with the needed columns only.
    columns : sequence of str
        Columns that must be there.
    new : bool
        Whether these are new rows for a fit, for messages.

    Returns
    -------
    DataFrame
        n rows, at least the columns asked for.

    Raises
    ------
    DataTypeError
        If `data` is not a table, or a column of a mapping is not one-dimensional.
    DataError
        If a column is not there or is there twice, or columns of a mapping differ in length.
    """
    if isinstance(data, pd.DataFrame):
        found = _spelt(data.columns, columns)
        data = data.rename(columns=found) if found else data
        _check_names(data.columns, columns, new)
        return data
    if isinstance(data, Mapping):
        found = _spelt(data, columns)
        return _from_mapping({found.get(name, name): values for name, values in data.items()}, columns, new)
    return _from_narwhals(data, columns, new)


def column_names(data: Any) -> list[str]:
    """Return the names of the columns of a table, of whatever kind `to_frame` takes."""
    if isinstance(data, (pd.DataFrame, Mapping)):
        return [str(name) for name in (data.columns if isinstance(data, pd.DataFrame) else data)]
    return [str(name) for name in _narwhals_table(data)[1]]


def stored(frame: pd.DataFrame, column: str) -> Any:
    """Return the values of a column: a `usable` array or an extension array, not to be written to."""
    try:
        # `frame[column]` builds a Series: 28 microseconds against 2, the greater part of reading a small table
        array = frame._get_column_array(frame.columns.get_loc(column))  # type: ignore[operator]
    except AttributeError:
        array = frame[column].array
        array = array.to_numpy() if isinstance(array, pd.arrays.NumpyExtensionArray) else array
    return usable(array)


def usable(values: Any) -> Any:
    """Return values of a type that pandas can index: in the machine's byte order, and no floats of 16 or 80 bits."""
    dtype = values.dtype
    if not isinstance(dtype, np.dtype):
        return values
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return values.astype(np.float64)
    return values if dtype.isnative else values.astype(dtype.newbyteorder("="))


def complete_rows(
    frame: pd.DataFrame, columns: Sequence[str], missing: str, unwanted: Mask | None = None
) -> tuple[pd.DataFrame, Mask | None, dict[str, int]]:
    """Drop the rows in which a column is missing, or refuse them.

    None, NaN, pd.NA and NaT are missing, in any column, grouping columns too. Infinity is not: it is refused, in rows
    that are left.

    Parameters
    ----------
    frame : DataFrame
        N rows.
    columns : sequence of str
        Columns to look at.
    missing : {"drop", "raise"}
    unwanted : (N,) bool array, optional
        Rows to leave out whatever they hold.

    Returns
    -------
    frame : DataFrame
        The n complete rows; the frame itself if that is all of them, else of the columns looked at.
    keep : (N,) bool array or None
        Rows kept; None if all are.
    counts : dict of str to int
        For each column with missing values, the wanted rows where it is missing.

    Raises
    ------
    DataError
        Under "raise", naming column, count and first row; for infinite values; or if no row is left.
    """
    counts: dict[str, int] = {}
    infinite: dict[str, Mask] = {}
    bad = unwanted
    clean: dict[int, bool] = {}
    for column in columns:
        values = stored(frame, column)
        if _is_finite(values, clean):
            continue
        if isinstance(values.dtype, np.dtype) and values.dtype.kind == "f":
            infinite[column] = np.isinf(values)
        lost: Mask = np.asarray(pd.isna(values), dtype=bool)
        if unwanted is not None:
            lost = lost & ~unwanted
        if not lost.any():
            continue
        counts[column] = int(np.count_nonzero(lost))
        if missing == "raise":
            raise bad_values(f"column '{column}'", column, lost, "missing")
        bad = lost if bad is None else bad | lost
    keep = None if bad is None else ~bad
    for column, where in infinite.items():
        used = where if keep is None else where & keep
        if used.any():
            raise bad_values(f"column '{column}'", column, used, "infinite")
    if keep is None:
        return frame, None, counts
    if not keep.any():
        raise _nothing_left(counts, len(frame) - (0 if unwanted is None else int(np.count_nonzero(unwanted))))
    wanted = [*columns, *(c for c in _OPTIONAL if c in frame.columns and c not in columns)]
    rows = np.flatnonzero(keep)
    left = {column: stored(frame, column)[rows] for column in wanted}
    return pd.DataFrame(left, index=frame.index[rows], copy=False), keep, counts


def bad_values(label: str, column: str, where: Mask, what: str) -> DataError:
    """Return an error that counts the values at fault and shows the first: ``column 'x' has 2 missing values (…)``.

    Parameters
    ----------
    label : str
        What to call the values: ``column 'x'``.
    column : str
    where : (n,) bool array
        Rows at fault, at least one.
    what : str
        "missing", "infinite".
    """
    count, row = int(np.count_nonzero(where)), int(np.argmax(where))
    place = f"values (first: row {row})" if count > 1 else f"value (row {row})"
    return DataError(f"{label} has {count} {what} {place}", column=column, row=row)


def _spelt(names: Iterable[Any], columns: Sequence[str]) -> dict[Any, str]:
    """Return what columns named by numbers are called in a formula, where it asks for them: 0 is `0`."""
    lacking = [column for column in columns if column not in names]  # type: ignore[operator]
    if not lacking:
        return {}
    return {name: str(name) for name in names if not isinstance(name, str) and str(name) in lacking}


def _check_names(names: pd.Index, columns: Sequence[str], new: bool) -> None:
    if names.nlevels > 1:
        raise DataError(f"the data have {names.nlevels} levels of column names: flatten them to one")
    for column in columns:
        if column not in names:
            raise _no_column(column, names, new)
    if not names.is_unique:
        repeated = names[names.duplicated(keep=False)]
        for column in columns:
            if column in repeated:
                raise DataError(f"data has {(repeated == column).sum()} columns named '{column}'", column=column)


def _no_column(column: str, names: Any, new: bool) -> DataError:
    listed = [str(name) for name in names]
    shown = ", ".join(listed[:_SHOWN]) + (f", ... {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
    what = f"new data lacks column '{column}'" if new else f"formula names '{column}', which is not a column"
    return DataError(f"{what} (columns: {shown})", column=column)


def _from_mapping(data: Mapping[Any, Any], columns: Sequence[str], new: bool) -> pd.DataFrame:
    for column in columns:
        if column not in data:
            raise _no_column(column, data, new)
    # without needed columns (a formula of intercepts) the first one still tells the number of rows
    wanted = [*columns, *(c for c in _OPTIONAL if c in data and c not in columns)] or list(data)[:1]
    values = {column: _one_dimensional(data[column], column) for column in wanted}
    lengths = {column: len(value) for column, value in values.items()}
    if len(set(lengths.values())) > 1:
        first, n = next(iter(lengths.items()))
        other = next(column for column in lengths if lengths[column] != n)
        message = f"columns differ in length: '{other}' has {lengths[other]} rows, '{first}' {n}"
        raise DataError(message, column=str(other))
    return pd.DataFrame(values, copy=False)


def _one_dimensional(value: Any, column: Any) -> Any:
    """Return a column of a mapping without an index of its own: rows are matched by position."""
    if isinstance(value, pd.Series):
        return value.array
    if isinstance(value, (str, bytes, Mapping, Set)) or not hasattr(value, "__len__"):
        message = f"column '{column}' must be a sequence of values, got {type(value).__name__}"
        raise DataTypeError(message, column=str(column))
    if getattr(value, "ndim", 1) != 1:
        raise DataTypeError(f"column '{column}' must be one-dimensional, got shape {value.shape}", column=str(column))
    if isinstance(value, (np.ndarray, pd.api.extensions.ExtensionArray, pd.Index)):
        return value
    if not isinstance(value, (list, tuple)) and hasattr(value, "to_numpy"):
        return value.to_numpy()  # a column of another library
    # pd.array would guess nullable types; a Series reads a list as a DataFrame does
    return pd.Series(list(value)).array


def _from_narwhals(data: Any, columns: Sequence[str], new: bool) -> pd.DataFrame:
    table, names = _narwhals_table(data)
    _check_names(pd.Index(names), columns, new)
    wanted = [name for name in names if name in columns or name in _OPTIONAL] or names[:1]
    table = table.select(wanted)
    frame: pd.DataFrame = (table.collect() if hasattr(table, "collect") else table).to_pandas()
    return frame


def _narwhals_table(data: Any) -> tuple[Any, list[str]]:
    """Return a table that is not pandas as narwhals sees it, and the names of its columns."""
    refused = DataTypeError(f"data must be a DataFrame or a mapping of columns, got {_type_name(data)}")
    if data is None or isinstance(data, (list, tuple, str, bytes, int, float, np.ndarray, pd.Series)):
        raise refused
    try:
        import narwhals as nw
    except ImportError:
        raise DataTypeError(f"{refused}; tables that are not pandas need narwhals: pip install narwhals") from None
    table = nw.from_native(data, pass_through=True)
    if isinstance(table, nw.LazyFrame):
        return table, table.collect_schema().names()
    if isinstance(table, nw.DataFrame):
        return table, table.columns
    raise refused


def _type_name(data: Any) -> str:
    return "None" if data is None else type(data).__name__


def _is_finite(values: Any, clean: dict[int, bool]) -> bool:
    """Whether a cheap look tells that nothing is missing or infinite.

    `clean` remembers, by id, which two-dimensional blocks were found to hold finite numbers only.
    """
    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        return dtype.kind in "iub" or (dtype.kind == "f" and _is_finite_column(values, clean))
    return isinstance(values, pd.Categorical) and (len(values) == 0 or bool(values.codes.min() >= 0))


def _is_finite_column(values: npt.NDArray[Any], clean: dict[int, bool]) -> bool:
    """Whether the sum of a float column is finite: one pass, without a temporary; a sum that overflows costs a look.

    A column strided in a block of rows is told by the sum of the whole block, else every column would read it all.
    """
    base = values.base
    strided = values.strides != (values.itemsize,) and len(values) > 1
    if strided and isinstance(base, np.ndarray) and base.ndim == 2 and base.dtype == values.dtype:
        if id(base) not in clean:
            clean[id(base)] = _sum_is_finite(base)
        if clean[id(base)]:
            return True
    return _sum_is_finite(values)


def _sum_is_finite(values: npt.NDArray[Any]) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum()))


def _nothing_left(counts: dict[str, int], n: int) -> DataError:
    for column, count in counts.items():
        if count == n:
            return DataError(f"column '{column}' is entirely missing: no rows are left", column=column)
    listed = ", ".join(f"'{column}' in {count}" for column, count in counts.items())
    return DataError(f"no rows are left: each of the {n} misses a value ({listed})", column=next(iter(counts)))
