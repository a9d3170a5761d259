"""Hypotheses about names with signs that hypotheses are made of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hlm


def fitted() -> hlm.Fit:
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 8), "size x": rng.normal(size=96), "x²": rng.normal(size=96)})
    data["cat"] = rng.choice(["p, q", "r=1", "s;t", "u:v", "w[1]", "2+3"], 96)
    data["y"] = data["size x"] + rng.normal(size=96)
    return hlm.Model("y ~ `size x` * `x²` + cat + (1 | g)", data).fit()


def test_every_coefficient_is_known_by_its_name() -> None:
    fit = fitted()
    for name, estimate in fit.params.items():
        for hypothesis in (name, f"{name} = 0", [name], {name: 0}):
            assert fit.test(hypothesis).rows["estimate"].tolist() == [estimate]
        assert fit.test(f"2 * {name} = 1").rows["estimate"].tolist() == [2 * estimate]
    assert fit.test("cat").df_num == 5
    assert fit.test("cat = 0, size x = 1").df_num == 6


def test_names_are_quoted_as_in_formulas() -> None:
    fit = fitted()
    assert fit.test("`size x`").pvalue == fit.test("size x").pvalue
    assert fit.test("`x²`:`size x` = 0").pvalue == fit.test("size x:x²").pvalue
    held = fit.model.fit(constraints=["`size x` = 2*`x²`"]).params
    assert held["size x"] == pytest.approx(2 * held["x²"])


@pytest.mark.parametrize("text", ["size x =", "= 0", "size x = = 0"])
def test_half_an_equation_is_none(text: str) -> None:
    with pytest.raises(hlm.FormulaError, match="missing"):
        fitted().test(text)
