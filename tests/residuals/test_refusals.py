"""What a residual structure refuses, and by which words."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.residuals import AR1, ByStratum, CompoundSymmetry, LogLinear, Residual, Unstructured


@pytest.fixture
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 60
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "g": np.repeat(np.arange(12), 5),
            "wave": np.tile(np.arange(5), 12),
            "half": np.repeat(["a", "b"], 30),
            "other": np.tile(np.arange(10), 6),
            "one": "only",
            "single": np.r_[["s"], ["t"] * 59],
            "row": np.arange(n),
        }
    )


CASES: list[tuple[Residual, str, type[Exception], str]] = [
    (ByStratum("one"), "(1 | g)", hlm.DesignError, "'one' has one stratum"),
    (ByStratum("single"), "(1 | g)", hlm.DesignError, "stratum 's' of 'single' has one row"),
    (ByStratum("nothing"), "(1 | g)", hlm.DataError, "'nothing', which is not a column"),
    (ByStratum(np.zeros(7)), "(1 | g)", hlm.DataError, "must have 60 values"),
    (LogLinear("~ 1"), "(1 | g)", hlm.DesignError, "needs a covariate"),
    (LogLinear("x"), "(1 | g)", hlm.FormulaError, "begins with '~'"),
    (LogLinear("~ x + (1 | g)"), "(1 | g)", hlm.FormulaError, "no place in a one-sided formula"),
    (LogLinear("~ x + I(2 * x)"), "(1 | g)", hlm.DesignError, "combination of the other covariates"),
    (LogLinear(np.ones((60, 1))), "(1 | g)", hlm.DesignError, "it is constant"),
    (LogLinear(np.ones((60, 2)), names=["a"]), "(1 | g)", hlm.DataError, "must be as many and differ"),
    (AR1("wave"), "", hlm.DataError, "AR1 needs group="),
    (AR1("half"), "(1 | g)", hlm.DataTypeError, "occasion 'half' must be numeric"),
    (AR1("wave", group="half"), "(1 | g)", hlm.DataError, "several levels of 'g'"),
    (AR1("g"), "(1 | g)", hlm.DataError, r"g = 0 has two rows at occasion 0 \(rows 0 and 1\)"),
    (AR1(group="row"), "(1 | g)", hlm.DesignError, "each 'row' has one row"),
    (CompoundSymmetry(), "(1 | g)", hlm.DesignError, "'Intercept' varies over 'g'"),
    (Unstructured("wave"), "(1 + wave | g)", hlm.DesignError, "cannot be told apart"),
    (Unstructured("half", group="g"), "", hlm.DataError, "two rows at occasion a"),
    (Unstructured("row", group="g"), "", hlm.DesignError, "no 'g' was observed at both"),
]


@pytest.mark.parametrize(("residual", "random", "error", "words"), CASES, ids=[case[3][:30] for case in CASES])
def test_refused(data: pd.DataFrame, residual: Residual, random: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        hlm.Model("y ~ x" + (f" + {random}" if random else ""), data, residual=residual)


def test_not_a_structure(data: pd.DataFrame) -> None:
    given: Any = "ar1"
    with pytest.raises(hlm.DataTypeError, match=r"hlm\.residuals\.ByStratum"):
        hlm.Model("y ~ x + (1 | g)", data, residual=given)
    with pytest.raises(hlm.DataTypeError, match="of a model of arrays must be an array"):
        hlm.Model.from_arrays(data["y"], np.ones((60, 1)), residual=ByStratum("half"))
    with pytest.raises(hlm.DataTypeError, match="got a formula"):
        hlm.Model.from_arrays(data["y"], np.ones((60, 1)), residual=LogLinear("~ x"))


def test_missing_in_arrays(data: pd.DataFrame) -> None:
    strata = data["half"].where(data["row"] != 3)
    with pytest.raises(hlm.DataError, match=r"1 missing value \(row 3\)"):
        hlm.Model("y ~ x + (1 | g)", data, residual=ByStratum(strata))


def test_rows_that_stand_for_several(data: pd.DataFrame) -> None:
    with pytest.raises(hlm.DataError, match="write the rows out"):
        hlm.Model("y ~ x + (1 | g)", data, frequencies=1 + data["wave"], residual=AR1("wave"))


def test_what_a_fit_refuses(data: pd.DataFrame) -> None:
    related = hlm.Model(
        "y ~ x + (1 | g)", data, residual=ByStratum("half"), between={"g": hlm.Between(np.eye(12), np.arange(12))}
    )
    with pytest.raises(hlm.DesignError, match="leave residual= or between= out"):
        related.fit()
    model = hlm.Model("y ~ x + (1 | g)", data, residual=ByStratum("half"))
    with pytest.raises(hlm.DesignError, match="Fisher scoring"):
        model.fit(method="fisher")
    with pytest.raises(hlm.DesignError, match="use 'newton'"):
        model.fit(method="em", fixed={"g": 0.5})
    with pytest.raises(hlm.DataError, match="method must be one of"):
        model.fit(method="bfgs")
    with pytest.raises(hlm.DataError, match="alpha"):
        model.fit().residual.table(alpha=2)


def test_a_stratum_that_the_model_reproduces() -> None:
    """Two rows of a stratum of their own, and a regressor for each: their variance has no lower limit."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"y": rng.normal(size=60), "g": np.repeat(np.arange(12), 5), "s": ["a"] * 2 + ["b"] * 58})
    data["u"], data["v"] = (data.index == 0).astype(float), (data.index == 1).astype(float)
    with pytest.raises(hlm.DegenerateError, match="becomes singular"):
        hlm.Model("y ~ u + v + (1 | g)", data, residual=ByStratum("s")).fit(reml=False)
