"""Tables in, complete rows out."""

from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hlm.errors import DataError, DataTypeError
from hlm.frames import complete_rows, stored, to_frame

COLUMNS = ["y", "g"]


def table() -> dict[str, list[Any]]:
    return {"y": [1.0, 2.0, 3.0], "g": ["a", "b", "a"], "unused": [1, 2, 3]}


def test_a_pandas_frame_is_passed_through() -> None:
    frame = pd.DataFrame(table())
    assert to_frame(frame, COLUMNS) is frame


@pytest.mark.parametrize(
    "data",
    [
        table(),
        MappingProxyType(table()),
        {name: tuple(values) for name, values in table().items()},
        {name: pd.Series(values, index=[7, 8, 9]) for name, values in table().items()},
        {"y": np.array([1.0, 2.0, 3.0]), "g": pd.Index(["a", "b", "a"])},
        {"y": pl.Series([1.0, 2.0, 3.0]), "g": pa.chunked_array([["a", "b", "a"]])},
        pl.DataFrame(table()),
        pl.DataFrame(table()).lazy(),
        pa.table(table()),
    ],
    ids=lambda data: type(data).__name__,
)
def test_any_table_becomes_the_same_frame(data: Any) -> None:
    frame = to_frame(data, COLUMNS)
    assert frame["y"].tolist() == [1.0, 2.0, 3.0]
    assert frame["g"].tolist() == ["a", "b", "a"]
    assert frame.index.tolist() == [0, 1, 2]


def test_arrays_of_a_mapping_are_not_copied() -> None:
    y = np.arange(3.0)
    assert np.shares_memory(stored(to_frame({"y": y}, ["y"]), "y"), y)


def test_missing_values_of_other_libraries_are_missing() -> None:
    data = pl.DataFrame({"y": [1.0, None, 3.0], "k": [1, 2, None], "g": ["a", None, "b"]})
    frame, keep, counts = complete_rows(to_frame(data, ["y", "k", "g"]), ["y", "k", "g"], "drop")
    assert frame["g"].tolist() == ["a"]
    assert keep is not None
    assert keep.tolist() == [True, False, False]
    assert counts == {"y": 1, "k": 1, "g": 1}


def test_without_needed_columns_the_rows_are_still_counted() -> None:
    assert len(to_frame(table(), [])) == 3
    assert len(to_frame(pl.DataFrame(table()), [])) == 3


@pytest.mark.parametrize("data", [None, [1, 2], "y", 3, np.ones(3), np.ones((3, 2)), pd.Series([1.0]), object()])
def test_what_is_no_table_is_refused(data: Any) -> None:
    name = "None" if data is None else type(data).__name__
    with pytest.raises(DataTypeError, match=f"data must be a DataFrame or a mapping of columns, got {name}"):
        to_frame(data, COLUMNS)


@pytest.mark.parametrize("make", [dict, pd.DataFrame, pl.DataFrame, pa.table])
def test_an_unknown_column_is_named_with_those_that_are_there(make: Any) -> None:
    with pytest.raises(DataError, match=r"'nope', which is not a column \(columns: y, g, unused\)") as caught:
        to_frame(make(table()), ["y", "nope"])
    assert caught.value.column == "nope"


def test_many_columns_are_listed_in_part() -> None:
    with pytest.raises(DataError, match=r"c19, \.\.\. 80 more\)"):
        to_frame({f"c{k}": [1] for k in range(100)}, ["y"])


@pytest.mark.parametrize(
    ("data", "error", "part"),
    [
        ({"y": [1, 2, 3], "g": [1, 2]}, DataError, "'g' has 2 rows, 'y' 3"),
        ({"y": 3.0, "g": [1]}, DataTypeError, "'y' must be a sequence"),
        ({"y": "abc", "g": [1]}, DataTypeError, "'y' must be a sequence"),
        ({"y": np.ones((1, 1)), "g": [1]}, DataTypeError, "one-dimensional"),
        (pd.DataFrame([[1, 2, 3]], columns=["y", "g", "g"]), DataError, "data has 2 columns named 'g'"),
        (pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_product([["y", "g"], ["a"]])), DataError, "2 levels"),
    ],
)
def test_malformed_tables(data: Any, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        to_frame(data, COLUMNS)


def test_a_repeated_column_that_is_not_used_does_not_matter() -> None:
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=["z", "y", "g", "z"])
    assert stored(to_frame(frame, COLUMNS), "y").tolist() == [2]


def test_complete_frames_are_passed_through() -> None:
    frame = pd.DataFrame(table())
    same, keep, counts = complete_rows(frame, COLUMNS, "drop")
    assert same is frame
    assert keep is None
    assert counts == {}


@pytest.mark.parametrize(
    "column",
    [
        np.array([1.0, np.nan, 3.0]),
        np.array([1.0, np.nan, 3.0], dtype=np.float32),
        pd.array([1, None, 3], dtype="Int64"),
        pd.array([True, None, False], dtype="boolean"),
        pd.array(["a", None, "b"], dtype="str"),
        pd.array(["a", None, "b"], dtype="string"),
        np.array(["a", None, "b"], dtype=object),
        np.array([1.0, pd.NA, Decimal(2)], dtype=object),
        pd.Categorical(["a", None, "b"]),
        pd.to_datetime(["2020-01-01", None, "2020-01-02"]),
        pd.arrays.SparseArray([1.0, np.nan, 0.0]),
        pd.array([1.0, None, 2.0], dtype=pd.ArrowDtype(pa.float64())),
    ],
    ids=lambda column: str(column.dtype),
)
def test_every_kind_of_missing_value_is_found(column: Any) -> None:
    frame = pd.DataFrame({"y": [1.0, 2.0, 3.0], "x": column}, index=[5, 5, 9])
    before = frame.copy(deep=True)
    complete, keep, counts = complete_rows(frame, ["y", "x"], "drop")
    assert keep is not None
    assert keep.tolist() == [True, False, True]
    assert counts == {"x": 1}
    assert complete["y"].tolist() == [1.0, 3.0]
    assert complete.index.tolist() == [5, 9]
    pd.testing.assert_frame_equal(frame, before)
    with pytest.raises(DataError, match=r"column 'x' has 1 missing value \(row 1\)") as caught:
        complete_rows(frame, ["y", "x"], "raise")
    assert (caught.value.column, caught.value.row) == ("x", 1)


def test_infinity_is_not_missing_and_does_not_hide_what_is() -> None:
    frame = pd.DataFrame(
        {"y": [np.inf, -np.inf, 1.0, np.nan], "x": [1.0, 1e308, 1e308, 1e308], "z": [np.nan] * 2 + [1, 1]}
    )
    with pytest.raises(DataError, match=r"column 'y' has 2 infinite values \(first: row 0\)"):
        complete_rows(frame, ["y", "x"], "drop")
    _, keep, counts = complete_rows(frame, ["y", "z"], "drop")
    assert counts == {"y": 1, "z": 2}
    assert keep is not None
    assert keep.tolist() == [False, False, True, False]
    assert complete_rows(frame, ["x"], "drop")[1] is None


def test_unwanted_rows_are_left_out_whatever_they_hold() -> None:
    frame = pd.DataFrame({"y": [np.inf, 1.0, np.nan, np.nan], "x": [None, "a", "b", "a"]})
    unwanted = np.array([True, False, True, False])
    left, keep, counts = complete_rows(frame, ["y", "x"], "drop", unwanted)
    assert counts == {"y": 1}
    assert keep is not None
    assert keep.tolist() == [False, True, False, False]
    assert left["x"].tolist() == ["a"]
    with pytest.raises(DataError, match=r"column 'y' has 1 missing value \(row 3\)"):
        complete_rows(frame, ["y", "x"], "raise", unwanted)
    unwanted[1] = True
    with pytest.raises(DataError, match="column 'y' is entirely missing"):
        complete_rows(frame, ["y", "x"], "drop", unwanted)


@pytest.mark.parametrize("order", ["C", "F"])
def test_columns_of_one_block_are_told_apart(order: Any) -> None:
    block = np.asarray(np.arange(40.0).reshape(10, 4), order=order)
    block[3, 2] = np.nan
    frame = pd.DataFrame(block, columns=list("abcd"), copy=False)
    assert complete_rows(frame, ["a", "b", "d"], "drop")[1] is None
    assert complete_rows(frame, ["a", "c"], "drop")[2] == {"c": 1}


def test_counts_are_by_column_not_by_row() -> None:
    frame = pd.DataFrame({"y": [np.nan, np.nan, 3.0, 4.0], "x": [np.nan, 2.0, np.nan, 4.0]})
    complete, _, counts = complete_rows(frame, ["y", "x"], "drop")
    assert counts == {"y": 2, "x": 2}
    assert len(complete) == 1


def test_no_row_left() -> None:
    frame = pd.DataFrame({"y": [1.0, np.nan], "x": [np.nan, 1.0], "z": [np.nan, np.nan]})
    with pytest.raises(DataError, match="'z' is entirely missing"):
        complete_rows(frame, ["y", "z"], "drop")
    with pytest.raises(DataError, match="'y' in 1, 'x' in 1"):
        complete_rows(frame, ["y", "x"], "drop")


def test_an_empty_frame_is_complete() -> None:
    frame = pd.DataFrame({"y": np.array([]), "g": pd.Categorical([])})
    assert complete_rows(frame, ["y", "g"], "drop")[1] is None


def test_pi_is_kept_for_formulas_that_may_mean_the_column() -> None:
    data = {"y": [1.0, np.nan], "pi": [3.0, 4.0]}
    assert "pi" in complete_rows(to_frame(pl.DataFrame(data), ["y"]), ["y"], "drop")[0].columns
    assert "pi" in complete_rows(to_frame(data, ["y"]), ["y"], "drop")[0].columns
