"""Groups whose own regression reproduces their rows took part in the test of homogeneity with what rounding left."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hlm


def test_groups_that_are_reproduced_have_no_variance_to_compare() -> None:
    rng = np.random.default_rng(7)
    rows = pd.DataFrame({"g": np.repeat(np.arange(10), 6), "x": rng.normal(size=60), "z": rng.normal(size=60)})
    rows["y"] = 1e3 + rows["x"] + rng.normal(size=60)
    # three distinct rows, four times each: an intercept and two slopes reproduce them, and 9 df are left
    copies = pd.DataFrame({"g": 10 + np.repeat(np.arange(8), 3), "x": rng.normal(size=24), "z": rng.normal(size=24)})
    copies["y"] = 1e3 + rng.normal(size=24)
    data = pd.concat([rows, *[copies] * 4], ignore_index=True)
    found = hlm.Model("y ~ x + z + (1 | g)", data).fit().homogeneity(least_df=3)
    assert found.groups["used"].tolist() == [True] * 10 + [False] * 8
    alone = hlm.Model("y ~ x + z + (1 | g)", rows).fit().homogeneity(least_df=3)
    assert found.statistic == pytest.approx(alone.statistic, rel=1e-9)
    counted = pd.concat([rows.assign(count=1), copies.assign(count=4)], ignore_index=True)
    again = hlm.Model("y ~ x + z + (1 | g)", counted, frequencies="count").fit().homogeneity(least_df=3)
    assert again.statistic == pytest.approx(alone.statistic, rel=1e-9)
