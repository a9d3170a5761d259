"""Groups that fixed effects tell apart leave nothing for a random effect: its variance was where the search began."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hlm


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {"s": np.repeat(np.arange(5), 20), "g": np.repeat(np.arange(20), 5), "x": rng.normal(size=100)}
    )
    table["h"] = rng.integers(0, 4, 100)
    table["y"] = table["x"] + rng.normal(size=100) + rng.normal(size=5)[table["s"]] + rng.normal(size=20)[table["g"]]
    return table


@pytest.mark.parametrize(
    ("formula", "term"),
    [
        ("y ~ C(s) + x + (1 | s)", r"\(Intercept \| s\)"),
        ("y ~ C(s) + x + (x | s)", r"\(Intercept \+ x \| s\)"),
        ("y ~ C(s) * x + (0 + x | s)", r"\(x \| s\)"),
        ("y ~ C(s) + x + (1 | s/g)", r"\(Intercept \| s\)"),
        ("y ~ C(h) + x + (1 | g) + (1 | h)", r"\(Intercept \| h\)"),
        ("y ~ C(g) + x + (1 | s)", r"\(Intercept \| s\)"),
    ],
)
@pytest.mark.parametrize("method", ["newton", "em"])
def test_what_the_restricted_likelihood_does_not_know_is_refused(formula: str, term: str, method: str) -> None:
    with pytest.raises(hlm.DesignError, match=f"already tell the levels .* random effect in {term}"):
        hlm.Model(formula, rows()).fit(method=method)


@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e4, 1e6])
def test_what_is_left_is_estimated_however_large_or_small(spread: float) -> None:
    data = rows()
    data["y"] += spread * np.random.default_rng(1).normal(size=20)[data["g"]]
    for formula in ("y ~ C(s) + x + (1 | g)", "y ~ C(s) + x + (x | g)", "y ~ C(h) + x + (1 | s/g)"):
        assert hlm.Model(formula, data).fit().converged


def test_the_likelihood_puts_such_a_variance_at_zero() -> None:
    fit = hlm.Model("y ~ C(s) + x + (1 | s)", rows()).fit(reml=False)
    assert fit.converged
    assert fit.covariances["s"].iloc[0, 0] == 0
