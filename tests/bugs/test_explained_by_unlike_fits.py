"""Variances of a fit by REML were compared with those of one by ML."""

from __future__ import annotations

import pytest

import hlm


@pytest.mark.parametrize("method", ["snijders-bosker", "raudenbush-bryk"])
def test_fits_of_explained_variance_are_alike(method: str) -> None:
    data = hlm.datasets.load("sleepstudy")
    fit = hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit()
    base = hlm.Model("Reaction ~ 1 + (1 | Subject)", data)
    with pytest.raises(hlm.DataError, match="fit both alike"):
        fit.r_squared(method, base=base.fit(reml=False))
    assert fit.r_squared(method, base=base.fit()).iloc[0] > 0
