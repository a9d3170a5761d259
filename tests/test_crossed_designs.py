"""Crossed and nested factors in one model: every move from the estimate is uphill by the judge in long double."""

import numpy as np
import pandas as pd
import pytest

import hlm

from .long_double import Term, criterion

STRUCTURES = {
    "a chain crossed with a factor": ("(x | a/b) + (1 | c)", {"a": "1x", "a:b": "1x", "c": "1"}),
    "a crossed factor of more levels than the chain": ("(1 | a/b) + (1 | e)", {"a": "1", "a:b": "1", "e": "1"}),
    "two chains crossed": ("(1 | a/b) + (x | c/d)", {"a": "1", "a:b": "1", "c": "1x", "c:d": "1x"}),
    "cells of two crossed factors": ("(1 | a) + (1 | c) + (1 | a:c)", {"a": "1", "c": "1", "a:c": "1"}),
    "three factors, none nested": ("(x | a) + (1 | c) + (1 | e)", {"a": "1x", "c": "1", "e": "1"}),
}


def frame(seed: int) -> pd.DataFrame:
    """500 rows; b in a (48), d in c (30), e (90): each pair of other factors crossed, not every cell filled."""
    rng = np.random.default_rng(seed)
    n = 500
    made = {"a": rng.integers(0, 12, n), "b": rng.integers(0, 4, n), "c": rng.integers(0, 10, n)}
    made |= {"d": rng.integers(0, 3, n), "e": rng.integers(0, 90, n), "x": rng.normal(size=n)}
    y = 2 + made["x"] + rng.normal(size=n)
    for codes in (made["a"], 4 * made["a"] + made["b"], made["c"], 3 * made["c"] + made["d"], made["e"]):
        effects = 0.7 * rng.normal(size=(codes.max() + 1, 2))
        y += effects[codes, 0] + made["x"] * effects[codes, 1]
    return pd.DataFrame(made | {"y": y})


def cell_codes(data: pd.DataFrame, name: str) -> np.ndarray:
    return data.groupby(name.split(":"), sort=False).ngroup().to_numpy()


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", STRUCTURES)
def test_the_estimate_is_a_minimum(name: str, reml: bool) -> None:
    random, effects = STRUCTURES[name]
    data = frame(seed=len(name))
    fit = hlm.Model(f"y ~ x + {random}", data).fit(reml=reml)
    assert fit.converged
    assert list(fit.covariances) == list(effects)
    ones = np.ones(len(data))
    X = np.column_stack([ones, data["x"]])
    columns = {key: X if names == "1x" else X[:, :1] for key, names in effects.items()}
    codes = {key: cell_codes(data, key) for key in effects}

    def value(covariances: dict[str, np.ndarray]) -> float:
        terms = [Term(codes[key], columns[key], T) for key, T in covariances.items()]
        return criterion(data["y"].to_numpy(), X, terms, fit.sigma**2, reml)

    estimate = {key: T.to_numpy() for key, T in fit.covariances.items()}
    least = value(estimate)
    assert fit.criterion == pytest.approx(least, abs=1e-8)
    for key, T in estimate.items():
        for i, j in zip(*np.tril_indices(len(T)), strict=True):
            for sign in (1, -1):
                # of the variance: the criterion differs by 1e-7 and more, rounding by 1e-12
                moved = T.copy()
                moved[i, j] = moved[j, i] = T[i, j] + sign * 1e-3 * np.sqrt(T[i, i] * T[j, j])
                if np.linalg.eigvalsh(moved)[0] >= 0:
                    assert value(estimate | {key: moved}) > least


def test_the_order_of_terms_and_labels_changes_nothing() -> None:
    data = frame(seed=1)
    expected = hlm.Model("y ~ x + (x | a/b) + (1 | c)", data).fit()
    data["a"] = data["a"].map(lambda code: f"level {97 * code % 13}")
    turned = hlm.Model("y ~ x + (1 | c) + (x | a/b)", data.iloc[::-1]).fit()
    assert turned.criterion == pytest.approx(expected.criterion, abs=1e-9)
    for key, T in expected.covariances.items():
        np.testing.assert_allclose(turned.covariances[key], T, rtol=1e-6, atol=1e-8)
