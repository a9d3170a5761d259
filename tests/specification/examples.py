"""Rows and shorthands that the tests of columns share."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.specification.columns import Columns, Encoder, encode
from hlm.specification.formula import parse

Array = npt.NDArray[np.float64]


def build(right: str, frame: pd.DataFrame) -> tuple[Columns, Encoder]:
    return encode(parse(f"y ~ {right}").fixed, frame)


def matrix(columns: Columns) -> Array:
    return np.column_stack(columns.values)


def rows(n: int = 60, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "z": rng.uniform(1, 2, size=n),
            "k": rng.integers(0, 5, size=n),
            "flag": rng.integers(0, 2, size=n) == 1,
            "sex": rng.choice(["Male", "Female"], size=n),
            "arm": pd.Categorical(
                rng.choice(["low", "high", "none"], size=n), categories=["none", "low", "odd", "high"]
            ),
        }
    )
