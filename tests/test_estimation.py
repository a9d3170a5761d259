"""Which optimum is found where there are several."""

import numpy as np
import pytest

import hlm


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_the_lowest_of_several_optima_on_a_handful_of_rows(seed: int, reml: bool) -> None:
    """One degree of freedom beside those of all effects: a second optimum explains nearly everything with the groups.

    The only parameter is tried at many values, so the lowest of its optima is known.
    """
    rng = np.random.default_rng(seed)
    groups = np.resize(np.arange(4), 12)
    X = np.column_stack([np.ones(12), rng.normal(size=(12, 6))])
    y = X @ rng.normal(size=7) + rng.normal(size=4)[groups] + rng.normal(size=12)
    model = hlm.Model.from_arrays(y, X, [hlm.Random(groups)])
    fit = model.fit(reml=reml)
    assert fit.converged
    criterion = model.problem.criterion(reml)
    lowest = min(criterion.value(np.array([theta])) for theta in [0.0, *np.geomspace(1e-3, 1e6, 400)])
    assert fit.criterion <= lowest + 1e-9
