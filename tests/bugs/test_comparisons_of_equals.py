"""Comparisons in which the larger model adds nothing, and rows that stand for different numbers of rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hlm


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"g": np.repeat(np.arange(14), 6), "h": rng.integers(0, 3, 84), "x": rng.normal(size=84)})
    table["y"] = 1 + table["x"] / 2 + rng.normal(size=84) + rng.normal(size=14)[table["g"]]
    table["y"] -= table.groupby("h")["y"].transform("mean")
    return table


@pytest.mark.parametrize("method", ["asymptotic", "exact"])
def test_a_variance_of_zero_has_no_evidence_for_it(method: str) -> None:
    data = rows()
    one = hlm.Model("y ~ x + (1 | g)", data).fit()
    two = hlm.Model("y ~ x + (1 | g) + (1 | h)", data).fit()
    assert two.covariances["h"].iloc[0, 0] == 0
    found = hlm.compare(one, two, method, count=1000)
    assert (
        found.statistic == 0
    )  # what is left of it is rounding, which an atom at zero would turn into a p-value of 1/2
    assert found.pvalue == 1


def test_other_frequencies_are_named() -> None:
    data = rows()
    one = hlm.Model("y ~ x + (1 | g)", data).fit()
    two = hlm.Model("y ~ x + (x | g)", data, frequencies=1 + data["h"].to_numpy()).fit()
    with pytest.raises(hlm.DataError, match="different frequencies"):
        hlm.compare(one, two)
