"""Whatever is in a column, the answer is a fit or an error of this library: no other exception, no warning of NumPy."""

from __future__ import annotations

import datetime
import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hlm

N = 24
FORMULAS = [
    "y ~ x + (1 | g)",
    "y ~ x * g + (x | h)",
    "y ~ log(x) + scale(z) + (1 | g/h)",
    "y ~ poly(x, 2) + (z || g)",
    "y ~ C(x, Sum) + offset(z) + (1 | g:h)",
    "log(y) ~ ns(x, 3) + I(z^2) + (0 + x | g)",
    "y ~ 0 + x + z",
]
ODD: list[Any] = [
    0.0,
    -0.0,
    1.0,
    2,
    10**30,
    -7,
    1e300,
    1e-300,
    5e-324,
    1e16,
    np.inf,
    -np.inf,
    np.nan,
    None,
    pd.NA,
    pd.NaT,
]
ODD += ["", " ", "a", "NaN", "1", "é", "Intercept", b"a", True, False, 1j, (), (1, 2), [1], {}, {1}, object, len]
ODD += [Decimal("0.1"), Fraction(1, 3), datetime.date(2020, 1, 1), pd.Timestamp("2020"), pd.Timedelta(1), np.float32(3)]

numbers = st.lists(st.one_of(st.floats(-100, 100), st.integers(-3, 3), st.floats(width=64)), min_size=N, max_size=N)
few = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=N, max_size=N)
plain = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).normal(size=N))
labels = st.lists(st.sampled_from(["a", "b", "c", "NaN", "", None]), min_size=N, max_size=N)
anything = st.lists(st.sampled_from(ODD), min_size=1, max_size=4).flatmap(
    lambda some: st.lists(st.sampled_from(some), min_size=N, max_size=N)
)
SORTS = [
    "object",
    "category",
    "float32",
    "float16",
    "Int64",
    "str",
    "string",
    "bool",
    "complex",
    ">f8",
    "datetime64[ns]",
]


@st.composite
def columns(draw: st.DrawFn, usual: st.SearchStrategy[Any]) -> Any:
    values = draw(st.one_of(usual, usual, usual, numbers, few, labels, anything))
    column = pd.Series(list(values), dtype=object if draw(st.booleans()) else None)
    if draw(st.integers(0, 4)) == 0:
        try:
            return column.astype(draw(st.sampled_from(SORTS)))
        except Exception:  # a sort that pandas cannot make of these values
            return column
    return column


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), formula=st.sampled_from(FORMULAS))
def test_a_fit_or_an_error_of_this_library(data: st.DataObject, formula: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas, when it makes the columns
        frame = {name: data.draw(columns(plain), name) for name in "yxz"}
        frame |= {name: data.draw(columns(few), name) for name in "gh"}
    if data.draw(st.booleans()):
        frame = pd.DataFrame(frame)
    kind = data.draw(st.sampled_from(["weights", "frequencies", None, None]))
    options = {} if kind is None else {kind: data.draw(columns(few), kind)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", hlm.RankDeficientWarning)
        try:
            fit = hlm.Model(formula, frame, **options).fit()
            predicted = fit.predict(frame, new_levels="nan")
        except hlm.HLMError:
            return
    assert np.isfinite(fit.criterion)
    assert len(predicted) == N
    assert str(fit)
