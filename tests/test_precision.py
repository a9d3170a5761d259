"""Problems that cross-products in the user's coordinates would ruin, against 60 digits at the fit's own parameters.

A criterion is to be within 1e-8 of the true value; θ and the columns that are made here are rounded to float64.
"""

import numpy as np
import pandas as pd
import pytest

import hlm
from hlm.scaling import PASSES

from .dense import Case, make_case
from .long_double import Term, criterion


def fitted(case: Case, reml: bool = True) -> hlm.Fit:
    fit = case.model().fit(reml=reml)
    assert fit.converged, fit.certificate
    return fit


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("apart", [1e-3, 1e-5, 1e-8, 1e-10])
def test_columns_that_are_nearly_collinear(apart: float, reml: bool) -> None:
    case = make_case([1], 4, seed=3, tops=6)
    case.X[:, 2] = case.X[:, 1] + apart * case.X[:, 2]
    fit = fitted(case, reml)
    assert fit.aliased == []
    assert fit.criterion == pytest.approx(case.exact_criterion(fit.theta, reml), abs=1e-8)
    # the same model, with the difference as its column: exact up to the rounding of the sum that was passed
    case.X[:, 2] = (case.X[:, 2] - case.X[:, 1]) / apart
    plain = fitted(case, reml)
    np.testing.assert_allclose(fit.params.iloc[3], plain.params.iloc[3], rtol=1e-8)
    np.testing.assert_allclose(fit.params.iloc[2] * apart, plain.params.iloc[2], rtol=1e-8)
    np.testing.assert_allclose(fit.bse.iloc[2] * apart, plain.bse.iloc[2], rtol=1e-7)


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("random", ["(1 | g)", "(x | g)", "(0 + x | g)"])
@pytest.mark.parametrize("fixed", ["f * x", "f:x", "0 + f + x", "0 + f + f:x"])
def test_interactions_of_columns_far_from_zero(offset: float, random: str, fixed: str) -> None:
    if random == "(0 + x | g)" and offset > 1e3:
        pytest.skip("an effect on x far from zero is one on the constant: nearly the same model")
    rng = np.random.default_rng(11)
    n = 36
    # a multiple of 2**-20, so that the offset loses nothing
    x = np.round(rng.normal(size=n) * 2**20) / 2**20
    data = pd.DataFrame({"x": x, "f": np.resize(["a", "b", "c"], n), "g": np.arange(n) // 6})
    data["y"] = rng.normal(size=6)[data["g"]] + x * rng.normal(size=6)[data["g"]] + rng.normal(size=n)
    near = hlm.Model(f"y ~ {fixed} + {random}", data).fit() if fixed == "f:x" or "0 + x" in random else None
    data["x"] += offset
    model = hlm.Model(f"y ~ {fixed} + {random}", data)
    fit = model.fit()
    assert fit.converged
    assert fit.aliased == []
    Z = model.design.Z("g")
    case = Case(model.design.y, model.design.X, [Z], [model.design.factors[0].codes])
    assert fit.criterion == pytest.approx(case.exact_criterion(fit.theta, True), abs=1e-8)
    if near is None:
        data["x"] = x
        back = hlm.Model(f"y ~ {fixed} + {random}", data).fit()
        assert fit.criterion == pytest.approx(back.criterion, abs=1e-7)
        np.testing.assert_allclose(fit.fittedvalues, back.fittedvalues, atol=1e-6)


@pytest.mark.parametrize("offset", [1e6, 1e9, 1e12])
def test_column_far_from_zero_is_not_aliased_with_the_intercept(offset: float) -> None:
    case = make_case([1], 3, seed=6, tops=8)
    case.X[:, 1] += offset
    fit = fitted(case)
    assert fit.aliased == []
    case.X[:, 1] -= offset
    plain = fitted(case)
    assert fit.criterion == pytest.approx(plain.criterion, abs=1e-8)
    np.testing.assert_allclose(fit.params.iloc[1:], plain.params.iloc[1:], rtol=1e-7)


@pytest.mark.parametrize("make", [lambda a, b: a + b, lambda a, b: (a - 3 * b) / 7, lambda a, b: 32 + 1.8 * a])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_columns_that_were_computed_from_others_are_aliased(make: object, offset: float) -> None:
    """Sums in float64 are not exact: what is left of such a column is rounding, and it is dropped."""
    case = make_case([1], 4, seed=6, tops=8)
    case.X[:, 1] += offset
    case.X[:, 3] = make(case.X[:, 1], case.X[:, 2])
    with pytest.warns(hlm.RankDeficientWarning, match="'x3'"):
        fit = fitted(case)
    assert fit.aliased == ["x3"]
    case.X = case.X[:, :3]
    plain = fitted(case)
    assert fit.criterion == pytest.approx(plain.criterion, abs=1e-8)
    np.testing.assert_allclose(fit.params.iloc[:3], plain.params, rtol=1e-6)


def test_chain_of_nearly_dependent_columns() -> None:
    """Each column is the one before it and 1e-9 of something new; the last is the first again."""
    case = make_case([1], 5, seed=8, tops=9)
    new = case.X.copy()
    for j in (2, 3, 4):
        case.X[:, j] = case.X[:, j - 1] + 1e-9 * new[:, j]
    case.X = np.column_stack([case.X, case.X[:, 1]])
    with pytest.warns(hlm.RankDeficientWarning, match="'x5'"):
        fit = fitted(case)
    assert fit.aliased == ["x5"]
    case.X = case.X[:, :5]
    assert fit.criterion == pytest.approx(case.exact_criterion(fit.theta, True), abs=1e-8)
    assert PASSES > 4


def test_random_columns_that_are_nearly_dependent() -> None:
    case = make_case([2], 2, seed=2, tops=9)
    case.Z[0] = np.column_stack([case.Z[0], case.Z[0][:, 1] + 1e-6 * case.X[:, 1]])
    fit = fitted(case)
    assert fit.criterion == pytest.approx(case.exact_criterion(fit.theta, True), abs=1e-8)


@pytest.mark.parametrize("widths", [[1], [2], [1, 1]])
@pytest.mark.parametrize("sigma", [1e-2, 1e-4, 1e-6])
def test_residual_that_is_a_tiny_part_of_the_response(widths: list[int], sigma: float) -> None:
    case = make_case(widths, 2, seed=4, tops=6, most=3)
    rng = np.random.default_rng(9)
    case.y = case.X @ np.array([1.0, -0.5]) + sigma * rng.normal(size=len(case.y))
    for Z, codes in zip(case.Z, case.codes, strict=True):
        case.y += (Z * rng.normal(size=(codes.max() + 1, Z.shape[1]))[codes]).sum(axis=1)
    fit = fitted(case)
    assert fit.criterion == pytest.approx(case.exact_criterion(fit.theta, True), abs=1e-8)
    assert not fit.is_singular


def test_fit_that_went_over_to_rows_pickles() -> None:
    import pickle

    case = make_case([1], 2, seed=4, tops=6)
    case.X[:, 1] = 1 + 1e-7 * case.X[:, 1]
    case.y = np.random.default_rng(1).normal(size=len(case.codes[0]))[case.codes[0]] + 1e-6 * case.y
    fit = fitted(case)
    again = pickle.loads(pickle.dumps(fit))
    assert again.criterion == fit.criterion
    np.testing.assert_array_equal(again.params, fit.params)
    np.testing.assert_array_equal(again.random_effects["f0"], fit.random_effects["f0"])


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is float64 on this platform")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("offset", [2e3, 1e5, 1e6])
def test_reported_covariances_far_from_zero_keep_a_variance_of_zero(offset: float, seed: int) -> None:
    """Rounding each entry of T on its own costs up to 1e-4 of the criterion here: see `hlm.rounding`."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(20), 6)
    x = rng.normal(size=120)
    X = np.column_stack([np.ones(120), offset + x])
    y = 1 + x + np.column_stack([np.ones(120), x]) @ [0.0, 1.0] * rng.normal(size=20)[groups] + rng.normal(size=120)
    fit = hlm.Model.from_arrays(y, X, [hlm.Random(groups, X)]).fit()
    assert fit.converged
    at = criterion(y, X, [Term(groups, X, fit.covariances["g"].to_numpy())], fit.sigma**2, True)
    # long double itself resolves variances in T to 1e-19 of its largest entry
    assert fit.criterion == pytest.approx(at, abs=1e-8 + 1e-17 * offset**2)
