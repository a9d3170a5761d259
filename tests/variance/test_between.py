"""Known covariances between levels: aligned by name, and refused when they are none."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hlm
from hlm.variance.between import Between
from hlm.variance.relation import Relation

RNG = np.random.default_rng(0)
NAMES = ["b", "d", "a", "c"]
ROOT = RNG.normal(size=(6, 6))
ALL = ["z", "d", "c", "b", "a", "y"]
K = pd.DataFrame(ROOT @ ROOT.T + np.eye(6), index=ALL, columns=ALL)
LEVELS = np.repeat(NAMES, 5)
DATA = pd.DataFrame({"y": RNG.normal(size=20), "animal": LEVELS})


def model(between: Any) -> hlm.Model:
    return hlm.Model("y ~ 1 + (1 | animal)", DATA, between={"animal": between})


def aligned(between: Any) -> Relation:
    found = model(between).design.factors[0].between
    assert found is not None
    return found


def test_levels_are_matched_by_name_and_others_left_out() -> None:
    for given in (
        K,
        K.loc[:, ALL[::-1]],
        Between(K.to_numpy(), ALL),
        Between(sparse.csr_matrix(K.to_numpy()), ALL),
        Between(sparse.coo_array(K.to_numpy()), ALL),
    ):
        must_be_known(aligned(given))
    # without labels: the factor's levels in their order
    expected = K.loc[sorted(NAMES), sorted(NAMES)].to_numpy()
    found = aligned(expected)
    np.testing.assert_allclose(found.scale * found.root @ found.root.T, expected, rtol=1e-13)
    assert len(found.others) == 0


def must_be_known(found: Relation) -> None:
    """The levels of the data have their part of K; given those, the others have that of conditional normals."""
    own, others = sorted(NAMES), list(found.others)
    assert sorted(others) == ["y", "z"]
    inside, cross = K.loc[own, own].to_numpy(), K.loc[others, own].to_numpy()
    np.testing.assert_allclose(found.scale * found.root @ found.root.T, inside, rtol=1e-8)
    assert np.mean(np.diag(found.root @ found.root.T)) == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(found.loadings[:4] @ found.loadings[:4].T, inside, rtol=1e-8)
    np.testing.assert_allclose(found.loadings[4:] @ found.loadings[:4].T, cross, rtol=1e-7, atol=1e-9)
    rest = K.loc[others, others] - cross @ np.linalg.solve(inside, cross.T)
    np.testing.assert_allclose(found.rest, [0, 0, 0, 0, *np.diag(rest)], rtol=1e-7)


@pytest.mark.parametrize("make", [np.asarray, sparse.csc_matrix], ids=["dense", "sparse"])
def test_levels_without_rows_are_integrated_out_of_a_precision(make: Any) -> None:
    precision = np.linalg.inv(K)
    found = aligned(Between(make(precision), ALL, precision=True))
    assert found.precision is True
    must_be_known(found)


def test_the_door_of_arrays() -> None:
    random = hlm.Random(LEVELS, name="animal", between=K)
    built = hlm.Model.from_arrays(DATA["y"].to_numpy(), np.ones((20, 1)), [random])
    np.testing.assert_array_equal(built.design.factors[0].between.root, aligned(K).root)
    other = hlm.Random(LEVELS, np.arange(20.0), name="animal", between=K + 1)
    with pytest.raises(hlm.DesignError, match="two different matrices"):
        hlm.Model.from_arrays(DATA["y"].to_numpy(), np.ones((20, 1)), [random, other])


def altered(i: int, j: int, value: float, both: bool = True) -> pd.DataFrame:
    table = K.copy()
    table.iloc[i, j] = value
    if both:
        table.iloc[j, i] = value
    return table


def sparsely(table: pd.DataFrame, **options: Any) -> Between:
    return Between(sparse.csc_array(table.to_numpy()), list(table.index), **options)


@pytest.mark.parametrize("how", [lambda table: table, sparsely], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (K.drop(index="a", columns="a"), "between of 'animal' lacks the level 'a'"),
        (altered(1, 2, 5.0, both=False), "is not symmetric: .* for 'd' and 'c'|is not symmetric: .* for 'c' and 'd'"),
        (altered(3, 3, -1.0), "not positive semidefinite: 'b' has -1 on the diagonal"),
        (altered(1, 3, 50.0), "is not positive (semi)?definite"),
        (altered(4, 1, np.nan), "the row of '[ad]' holds a number that is not finite"),
        (K.rename(index={"z": "a"}, columns={"z": "a"}), "has the level 'a' twice"),
    ],
)
def test_what_is_no_covariance_is_named(how: Any, table: pd.DataFrame, message: str) -> None:
    with pytest.raises(hlm.DataError, match=message):
        model(how(table))


def test_semidefinite_covariances_and_definite_precisions() -> None:
    clones = K.copy()
    clones.loc["a"] = clones.loc["b"]
    clones["a"] = clones["b"]
    root = aligned(clones).root
    np.testing.assert_allclose(root[0], root[1], atol=1e-7)
    for make in (np.asarray, sparse.csc_array):
        with pytest.raises(hlm.DataError, match="is not positive definite"):
            model(Between(make(clones.to_numpy()), ALL, precision=True))


def test_other_things_are_refused() -> None:
    with pytest.raises(hlm.DataError, match=r"must be square, got shape \(2, 3\)"):
        model(np.ones((2, 3)))
    with pytest.raises(hlm.DataError, match="has 3 rows, 'animal' has 4 levels"):
        model(np.eye(3))
    with pytest.raises(hlm.DataError, match="has 4 rows but 3 labels"):
        model(Between(np.eye(4), ["a", "b", "c"]))
    with pytest.raises(hlm.DataTypeError, match="must be a matrix of numbers"):
        model([["a"]])
    with pytest.raises(hlm.DataError, match="different labels"):
        model(K.rename(columns={"z": "q"}))
    with pytest.raises(hlm.DataError, match="leave out labels"):
        model(Between(K, ALL))
    with pytest.raises(hlm.DesignError, match="no grouping factor 'plot'"):
        hlm.Model("y ~ 1 + (1 | animal)", DATA, between={"plot": K})
    with pytest.raises(hlm.DataTypeError, match="must be a mapping"):
        hlm.Model("y ~ 1 + (1 | animal)", DATA, between=K)
