"""Tables of several levels, one frame each, joined by key: what is asked for of them as columns of level 1."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import code_column
from hlm.errors import DataError, DataTypeError, show
from hlm.frames import column_names, stored, to_frame
from hlm.specification.values import category_codes, distinct, must_be_numbers, numbers

Codes = npt.NDArray[np.intp]


class Tables:
    """A table of level 1 and one for each upper level, keyed by the column called like the level.

    Parameters
    ----------
    data : DataFrame or mapping
        Level 1: one row an observation, with the key of the level above (or of all).
    levels : mapping of str to DataFrame or mapping
        One row a unit; the key of a level stands in its own table and in one below.
    zeros : sequence of str
        Columns of upper levels whose missing values are structural zeros.

    Raises
    ------
    DataError
        If a table lacks its key, a key repeats or is missing, naming table and unit, or a level has no key below.
    """

    def __init__(self, data: Any, levels: Mapping[str, Any], zeros: Sequence[str] = ()) -> None:
        self.data = data
        self.levels = dict(levels)
        self.zeros = [zeros] if isinstance(zeros, str) else list(zeros)
        self.names: dict[str | None, list[str]] = {None: column_names(data)}
        for upper, table in self.levels.items():
            try:
                self.names[upper] = column_names(table)
            except DataTypeError as error:
                raise DataTypeError(f"the table of level '{upper}': {error}", column=upper) from None
        for level, names in self.names.items():
            if level is not None and level not in names:
                raise DataError(f"the table of level '{level}' has no column '{level}', its key", column=level)
        self.below = {level: self._holder(level) for level in self.levels}
        for column in self.zeros:
            if self.home(column) is None:
                raise DataError(f"structural zero '{column}' is no column of an upper level", column=column)

    def _holder(self, level: str) -> str | None:
        """The table below that has the key of a level: level 1 if it does, else another level's."""
        if level in self.names[None]:
            return None
        for other in self.levels:
            if other != level and level in self.names[other]:
                return other
        raise DataError(f"no table below level '{level}' has a column '{level}' that leads to it", column=level)

    @property
    def columns(self) -> list[str]:
        """Names of all columns of all tables."""
        return list(dict.fromkeys(str(name) for names in self.names.values() for name in names))

    def home(self, column: str) -> str | None:
        """Return the level whose table has a column, None for level 1.

        Raises
        ------
        DataError
            If no table has it, or two have it that are not its key.
        """
        homes = [level for level, names in self.names.items() if column in names]
        if column in self.levels:  # a key: it is read in the table below
            return self.below[column]
        if not homes:
            raise DataError(f"no table has a column '{column}'", column=column)
        if len(homes) > 1:
            one, other = (f"level '{home}'" if home is not None else "level 1" for home in homes[:2])
            raise DataError(f"column '{column}' is in two tables, of {one} and of {other}: rename one", column=column)
        return homes[0]

    def is_constant(self, column: str, level: str) -> bool:
        """Whether a column belongs to a level or to one above it, so that it cannot vary inside its units."""
        home = self.home(column)
        return home is not None and (home == level or (level in self.levels and self._leads(level, home)))

    def _leads(self, level: str, upper: str) -> bool:
        """Whether the table of `level` has the key of `upper`, itself or through others."""
        names = self.names[level]
        return upper in names or any(
            other != level and other in names and self._leads(other, upper) for other in self.levels
        )

    def join(self, columns: Collection[str], missing: str = "drop") -> pd.DataFrame:
        """Return columns as rows of level 1: those of level 1 as they are stored, others by key.

        Parameters
        ----------
        columns : collection of str
        missing : {"drop", "raise", "error"}
            What a unit without a value gives: a missing value in its rows, or an error.

        Raises
        ------
        DataError
            If a key has no match, naming column and unit, or unless they are dropped.
        """
        homes = {column: self.home(column) for column in columns}
        if not self.levels:
            return to_frame(self.data, list(homes))
        own = [column for column, home in homes.items() if home is None]
        keys = [level for level in self.levels if self.below[level] is None]
        frame = to_frame(self.data, list(dict.fromkeys([*own, *keys])))
        joined: dict[str, Any] = {column: stored(frame, column) for column in own}
        places = _Places(self, frame)
        for column, home in homes.items():
            if column in self.levels:
                joined[column] = places.labels(column)
            elif home is not None:
                joined[column] = places.values(column, home, missing)
        if "pi" in frame.columns:  # a column then, and not the number
            joined.setdefault("pi", stored(frame, "pi"))
        return pd.DataFrame(joined, index=frame.index, copy=False)

    def trim(self, columns: Collection[str]) -> None:
        """Let go of level 1 and of all columns of upper levels but keys and `columns`: what new rows may need."""
        self.data = None
        for level, table in self.levels.items():
            names = [name for name in self.names[level] if name in columns or name in self.levels]
            self.levels[level] = to_frame(table, names)[names]


class _Places:
    """For each level, the row of its table that each row of level 1 belongs to."""

    def __init__(self, tables: Tables, frame: pd.DataFrame) -> None:
        self.tables = tables
        self.frame = frame
        self.rows: dict[str, Codes] = {}
        self.coded: dict[str, tuple[Codes, pd.Index]] = {}

    def of(self, level: str) -> Codes:
        """Row of the level's table for each row of level 1; -1 where a key is missing."""
        if level not in self.rows:
            codes, labels = self.codes(level)
            rows = np.append(self._match(level, codes, labels), -1)
            self.rows[level] = rows.take(codes)
        return self.rows[level]

    def codes(self, level: str) -> tuple[Codes, pd.Index]:
        """Codes of the key of a level in the rows of level 1."""
        if level not in self.coded:
            below = self.tables.below[level]
            if below is None:
                self.coded[level] = code_column(stored(self.frame, level), level)
                self._check_paths(level)
                if len(self.frame) and self.coded[level][0].max() < 0:
                    raise DataError(f"key '{level}' is missing in every row", column=level)
            else:
                codes, labels = code_column(stored(self._table(below, [level]), level), level)
                self.coded[level] = np.append(codes, -1).take(self.of(below)), labels
        return self.coded[level]

    def _check_paths(self, level: str) -> None:
        """Check that the key of a level is the same in level 1 and in tables between, where both have it.

        Raises
        ------
        DataError
            Naming the row, and the unit that says otherwise.
        """
        codes, labels = self.coded[level]
        for between in self.tables.levels:
            if between == level or level not in self.tables.names[between] or self.tables.below[between] == level:
                continue
            keys, own = code_column(stored(self._table(between, [level]), level), level)
            rows = self.of(between)
            through = np.append(labels.get_indexer(own), -1)[np.append(keys, -1)[rows]]
            differ = (through != codes) & (codes >= 0) & (rows >= 0)
            if differ.any():
                row = int(np.argmax(differ))
                unit = stored(self._table(between, []), between)[rows[row]]
                other = own[keys[rows[row]]] if keys[rows[row]] >= 0 else None
                has = f"row {row} has {level} {show(labels[codes[row]])}"
                message = f"{has}, but {show(other)} by its {between} {show(unit)}"
                raise DataError(message, column=level, group=unit, row=row)

    def labels(self, level: str) -> pd.Categorical:
        """The key of a level in the rows of level 1, coded."""
        codes, labels = self.codes(level)
        return pd.Categorical.from_codes(codes, categories=labels)

    def values(self, column: str, level: str, missing: str) -> Any:
        """A column of an upper level in the rows of level 1."""
        values = stored(self._table(level, [column]), column)
        rows = self.of(level)
        if column in self.tables.zeros:
            values = np.nan_to_num(must_be_numbers(values, column, "structural zero"), nan=0.0)
        elif missing != "drop":
            self._refuse_missing(values, column, level, rows)
        if numbers(values, column, "column") is None and not isinstance(values, pd.Categorical):
            categories = distinct(values, column)  # text: told apart once a unit, not once a row
            values = pd.Categorical.from_codes(category_codes(values, categories, column), categories=categories)
        if not isinstance(values, np.ndarray):
            return values.take(rows, allow_fill=True)
        if values.dtype.kind == "f":
            return np.append(values, np.nan).take(rows)  # the place -1 is the last
        return pd.api.extensions.take(values, rows, allow_fill=True) if rows.min(initial=0) < 0 else values[rows]

    def _table(self, level: str, columns: list[str]) -> pd.DataFrame:
        return to_frame(self.tables.levels[level], [level, *columns])

    def _refuse_missing(self, values: Any, column: str, level: str, rows: Codes) -> None:
        lost = np.asarray(pd.isna(values), dtype=bool)
        met = np.zeros(len(lost) + 1, dtype=bool)
        met[rows] = True
        lost &= met[:-1]
        if lost.any():
            keys = stored(self._table(level, []), level)
            unit, count = keys[int(np.argmax(lost))], int(lost.sum())
            more = f" and {count - 1} more" if count > 1 else ""
            raise DataError(
                f"column '{column}' is missing in {level} {show(unit)}{more}; missing='drop' leaves out their rows, "
                f"structural_zeros=['{column}'] takes it for zero",
                column=column,
                group=unit,
            )

    def _match(self, level: str, codes: Codes, labels: pd.Index) -> Codes:
        """Row of the level's table for each label that is met below."""
        keys = stored(self._table(level, []), level)
        try:
            index = pd.Index(keys, tupleize_cols=False)
        except TypeError as error:
            raise DataTypeError(f"key '{level}' of its table: {error}", column=level) from None
        if index.hasnans:
            row = int(np.argmax(np.asarray(pd.isna(keys), dtype=bool)))
            raise DataError(f"key '{level}' is missing in row {row} of its own table", column=level, row=row)
        if not index.is_unique:
            row = int(np.argmax(index.duplicated()))
            unit = index[row]
            raise DataError(
                f"{level} {show(unit)} stands twice in the table of '{level}' (again in row {row}): one row a unit",
                column=level,
                group=unit,
                row=row,
            )
        found: Codes = index.get_indexer(labels).astype(np.intp)
        lost = (found < 0) & (np.bincount(codes[codes >= 0], minlength=len(found)) > 0)
        if lost.any():
            place = int(np.argmax(lost))
            unit, count = labels[place], int(lost.sum())
            row = int(np.argmax(codes == place))
            more = f" (nor are {count - 1} more)" if count > 1 else ""
            kinds = "" if index.dtype == labels.dtype else f"; keys are {labels.dtype} below, {index.dtype} there"
            raise DataError(
                f"{level} {show(unit)} of row {row} is not in the table of level '{level}'{more}{kinds}",
                column=level,
                group=unit,
                row=row,
            )
        return found
