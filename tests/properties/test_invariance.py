"""Results do not depend on row order, group labels, units, offsets, the copy of a column, or the number of threads."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import hlm
from hlm_ext import partition

from ..dense import Case, make_case

widths = st.lists(st.integers(1, 3), min_size=1, max_size=3)
seeds = st.integers(0, 10_000)


def arrays(case: Case, order: np.ndarray | None = None, y: np.ndarray | None = None) -> hlm.Fit:
    order = np.arange(len(case.y)) if order is None else order
    y = case.y if y is None else y
    random = [
        hlm.Random(c[order], Z[order], name=f"f{k}") for k, (c, Z) in enumerate(zip(case.codes, case.Z, strict=True))
    ]
    return hlm.Model.from_arrays(y[order], case.X[order], random).fit()


def a_case(widths: list[int], seed: int) -> Case:
    return make_case(widths, 2, seed, tops=30 if len(widths) == 1 else 10, most=4)


def assert_same(one: hlm.Fit, other: hlm.Fit, scale: float = 1.0) -> None:
    """Same optimum: the criterion to 1e-7, what the data determine well to 1e-5; `other` has `scale` times y."""
    shift = 2 * one.df_resid * np.log(scale)
    assert abs(one.criterion + shift - other.criterion) < 1e-7
    np.testing.assert_allclose(other.sigma, one.sigma * scale, rtol=1e-5)
    for name, T in one.covariances.items():
        # a direction of T that the data say little about is known less well than the criterion
        np.testing.assert_allclose(
            other.covariances[name], T * scale**2, rtol=1e-3, atol=1e-3 * scale**2 * one.sigma**2
        )


@settings(max_examples=25, deadline=None)
@given(widths, seeds)
def test_row_order(widths: list[int], seed: int) -> None:
    case = a_case(widths, seed)
    assert_same(arrays(case), arrays(case, np.random.default_rng(seed).permutation(len(case.y))))


@settings(max_examples=25, deadline=None)
@given(widths, seeds, st.sampled_from([1e-6, 1e-3, 37.0, 1e5]))
def test_units_of_the_response(widths: list[int], seed: int, scale: float) -> None:
    case = a_case(widths, seed)
    assert_same(arrays(case), arrays(case, y=case.y * scale), scale)


@settings(max_examples=15, deadline=None)
@given(widths, seeds, st.sampled_from([1e3, 1e6, 1e8]))
def test_offset_of_the_response_is_taken_by_the_intercept(widths: list[int], seed: int, offset: float) -> None:
    case = a_case(widths, seed)
    rounded = np.round(case.y, 4)  # so that adding the offset rounds nothing that matters
    one, other = arrays(case, y=rounded), arrays(case, y=rounded + offset)
    assert abs(one.criterion - other.criterion) < 1e-5 * max(1.0, offset / 1e6)


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([1e-5, 1e4]), st.sampled_from([0.0, 1e5]))
def test_units_and_offsets_of_the_columns(seed: int, scale: float, offset: float) -> None:
    case = a_case([2], seed)
    x = np.round(case.X[:, 1], 6)
    moved = x * scale + offset * scale
    one, other = (
        hlm.Model.from_arrays(
            case.y,
            np.column_stack([np.ones(len(x)), column]),
            [hlm.Random(case.codes[0], np.column_stack([np.ones(len(x)), column]), "g")],
        ).fit()
        for column in (x, moved)
    )
    assert abs(one.criterion + 2 * np.log(scale) - other.criterion) < 1e-6
    assert abs(one.params["x1"] - other.params["x1"] * scale) < 1e-5 * one.bse["x1"]
    T, moved_T = one.covariances["g"], other.covariances["g"]
    assert np.isclose(T.iloc[1, 1], moved_T.iloc[1, 1] * scale**2, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(one.fittedvalues, other.fittedvalues, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(widths, seeds)
def test_labels(widths: list[int], seed: int) -> None:
    case = a_case(widths, seed)
    rng = np.random.default_rng(seed)
    one = arrays(case)
    relabelled = Case(case.y, case.X, case.Z, [rng.permutation(c.max() + 1)[c] * 7 - 100 for c in case.codes])
    assert_same(one, arrays(relabelled))
    text = Case(case.y, case.X, case.Z, [np.array([f"level {v}" for v in c], dtype=object) for c in case.codes])
    assert_same(one, arrays(text))


@settings(max_examples=10, deadline=None)
@given(widths, seeds)
def test_threads_give_the_same_bits(widths: list[int], seed: int) -> None:
    case = make_case(widths, 2, seed, tops=300, most=3)
    before = partition.get_num_threads()
    fits = []
    try:
        for threads in (1, 2, 5):
            partition.set_num_threads(threads)
            fit = arrays(case)
            fits.append(
                (fit.criterion, fit.sigma, *fit.theta, *fit.params, *fit.random_effects["f0"].to_numpy().ravel())
            )
    finally:
        partition.set_num_threads(before)
    assert fits[0] == fits[1] == fits[2]


def test_copies_of_a_column_are_found() -> None:
    """Z given as copies of X's columns and as views of them: the same statistics, the same fit."""
    case = a_case([2], 1)
    X = np.column_stack([np.ones(len(case.y)), case.Z[0][:, 1]])
    views = hlm.Model.from_arrays(case.y, X, [hlm.Random(case.codes[0], X, "g")])
    copies = hlm.Model.from_arrays(case.y, X, [hlm.Random(case.codes[0], X.copy(), "g")])
    assert len(views.problem.statistics.mean) == len(copies.problem.statistics.mean) == 3
    assert views.fit().criterion == copies.fit().criterion
