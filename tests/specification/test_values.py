"""Responses and offsets: numbers of every kind become float64, what is no number says so."""

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hlm.errors import DataError, DataTypeError
from hlm.specification.columns import evaluate
from hlm.specification.formula import parse
from hlm.specification.variables import of_numbers
from tests.specification.examples import Array, rows


def response(values: Any, text: str = "y") -> Array:
    return evaluate(parse(f"{text} ~ 1").response, pd.DataFrame({"y": values}))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.5, 2.0], [1.5, 2.0]),
        ([True, False], [1.0, 0.0]),
        ([Decimal("1.5"), Decimal(2)], [1.5, 2.0]),
        (np.array([1, 2.5], dtype=object), [1.0, 2.5]),
        (np.array([True, Decimal(2)], dtype=object), [1.0, 2.0]),
        ([10**25, 1], [1e25, 1.0]),
        ([10**400, 1], [np.inf, 1.0]),
        (pd.array([1, 2], dtype="Int32"), [1.0, 2.0]),
        (np.array([1.5, 2.0], dtype=">f8"), [1.5, 2.0]),
        (np.array([1.5, 2.0], dtype=np.float32), [1.5, 2.0]),
    ],
)
def test_responses_become_float64(values: Any, expected: list[float]) -> None:
    y = response(values)
    assert y.dtype == np.float64
    assert y.tolist() == expected


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (["1", "2"], "response 'y' must be numeric, got strings"),
        (pd.Categorical(["1", "2"]), "response 'y' must be numeric, got categories"),
        ([1, 2, 3, 4, "bad"], "response 'y' must be numeric, row 4 holds 'bad'"),
        ([1.0, 2j], "response 'y' is complex"),
        (np.array([1.0, 2j], dtype=object), "response 'y' is complex"),
        (pd.to_datetime(["2020-01-01"]), "response 'y' is datetime"),
        (pd.to_timedelta([1]), "response 'y' is timedelta"),
        ([(1, 2), (3, 4)], r"row 0 holds \(1, 2\)"),
    ],
)
def test_responses_that_are_not_numbers(values: Any, part: str) -> None:
    with pytest.raises(DataTypeError, match=part) as caught:
        response(values)
    assert caught.value.column == "y"


def test_derived_responses() -> None:
    assert response([1.0, np.e], "log(y)").tolist() == [0.0, 1.0]
    assert response([1.0, 3.0], "y / 2 - 1").tolist() == [-0.5, 0.5]
    with pytest.raises(DataError, match=r"log\(y\) is not finite in 1 row \(first: row 1\)"):
        response([1.0, 0.0], "log(y)")
    with pytest.raises(DataTypeError, match=r"in log\(y\), column 'y' must be numeric"):
        response(["a", "b"], "log(y)")


def test_a_constant_offset_has_a_value_for_each_row() -> None:
    offset = parse("y ~ x + offset(2*pi)").offsets[0]
    assert evaluate(offset, rows(), "offset").tolist() == [2 * np.pi] * 60


def test_a_state_carries_what_an_offset_learnt() -> None:
    offset, frame, state = parse("y ~ 1 + offset(center(x))").offsets[0], rows(), {}
    trained = evaluate(offset, frame, "offset", state)
    assert evaluate(offset, frame.iloc[:3], "offset", state).tolist() == trained[:3].tolist()


@pytest.mark.parametrize("unit", [5e-324, 1e-200, 1.0, 1e154, 4e307])
def test_numbers_of_any_size_have_a_mean_and_a_spread(unit: float) -> None:
    """Their squares have no room: an offset of 1e154 in one row made the description overflow."""
    found = of_numbers(np.array([0.0, 0.0, 3.0, 1.0]) * unit, None)
    assert found.mean == pytest.approx(1.0 * unit, rel=1e-15)
    assert found.sd == pytest.approx(np.sqrt(2.0) * unit, rel=1e-15, abs=5e-324)
    assert found.most == 3.0 * unit
