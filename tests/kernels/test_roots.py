"""Rotated rows instead of cross-products: the same numbers, and the right ones where cross-products cancel."""

import numpy as np
import pytest

from hlm_ext.criterion import Criterion
from hlm_ext.roots import RootForest, leaf_roots

from ..dense import STRUCTURES, Case, make_case, structure


def rooted(case: Case, floor: float = 0.0) -> RootForest:
    """The forest of rotated rows of a case whose codes are sorted."""
    forest = case.kernel(False).forest
    rows = np.ascontiguousarray(np.column_stack([*case.Z, case.X, case.y]))
    first = np.r_[0, np.cumsum(np.bincount(case.codes[0]))].astype(np.intp)
    blocks, children = [], []
    right = np.column_stack([case.X, case.y])
    for Z, codes in list(zip(case.Z, case.codes, strict=True))[::-1]:
        right = np.column_stack([Z, right])
        blocks.insert(0, np.array([Z[codes == j].T @ right[codes == j] for j in range(codes.max() + 1)]))
    for below, above in zip(case.codes[:-1], case.codes[1:], strict=True):
        parent = above[np.unique(below, return_index=True)[1]]
        children.append(np.r_[0, np.cumsum(np.bincount(parent))].astype(np.intp))
    above = children[0] if children else np.array([0, len(first) - 1])
    parents = np.repeat(np.arange(len(above) - 1), np.diff(above))
    roots, rests = leaf_roots(rows, None, first, parents, len(above) - 1, case.widths[0])
    return RootForest(blocks, children, forest.total, roots, rests, floor)


def criterion_of(case: Case, reml: bool) -> Criterion:
    """A criterion that goes over to rotated rows when it must, or is told."""
    plain = case.kernel(reml)
    entries, at = [], 0
    for q in case.widths:
        entries += [(at + i * q + j) for j in range(q) for i in range(j, q)]
        at += q * q
    pairs = np.column_stack([entries, np.arange(len(entries))]).astype(np.intp)
    return Criterion(
        plain.forest,
        plain.freedom,
        reml,
        np.zeros(at),
        pairs,
        np.ones(len(pairs)),
        precise=lambda: rooted(case),
    )


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", STRUCTURES)
def test_same_numbers_as_cross_products(name: str, reml: bool) -> None:
    case = structure(name, seed=5)
    one, other = criterion_of(case, reml), criterion_of(case, reml)
    other.refine()
    rng = np.random.default_rng(1)
    for theta in (0.7 * rng.normal(size=one.m), np.zeros(one.m)):
        assert other.value(theta) == pytest.approx(one.value(theta), abs=1e-9)
        np.testing.assert_allclose(other.beta, one.beta, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(other.schur, one.schur, rtol=1e-8, atol=1e-9)
        for a, b in zip(other.derivatives(), one.derivatives(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)
        for a, b in zip(
            other.effects(True)[0] + other.effects(True)[1], one.effects(True)[0] + one.effects(True)[1], strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("widths", "size"), [([1], 1e7), ([2], 1e6), ([1, 1], 1e6), ([2, 1], 1e5)])
def test_residual_that_is_a_tiny_part_of_the_response(widths: list[int], size: float, reml: bool) -> None:
    """σ is 1 / size of the random effects: cross-products would keep no digit of the residual at 1e7."""
    case = make_case(widths, 2, seed=4, tops=3, most=3)
    rng = np.random.default_rng(9)
    case.y = case.X @ np.array([1.0, -0.5]) + rng.normal(size=len(case.y)) / size
    for Z, codes in zip(case.Z, case.codes, strict=True):
        case.y += (Z * rng.normal(size=(codes.max() + 1, Z.shape[1]))[codes]).sum(axis=1)
    theta = np.concatenate([size * (np.eye(q) + 0.3 * np.tri(q, k=-1))[np.tril_indices(q)] for q in widths])
    criterion = criterion_of(case, reml)
    assert not isinstance(criterion.forest, RootForest)
    value = criterion.value(theta)
    assert isinstance(criterion.forest, RootForest)
    assert value == pytest.approx(case.exact_criterion(theta, reml), abs=1e-8)
    step = 1e-4
    slope = [
        (case.exact_criterion(theta * (1 + step * e), reml) - case.exact_criterion(theta * (1 - step * e), reml))
        / (2 * step)
        for e in np.eye(len(theta))
    ]
    np.testing.assert_allclose(criterion.gradient() * theta, slope, rtol=1e-5, atol=1e-5)


def test_no_residual_at_all() -> None:
    case = make_case([1], 1, seed=1)
    case.y = np.random.default_rng(0).normal(size=case.codes[0].max() + 1)[case.codes[0]]
    criterion = Criterion(rooted(case, 1e-20), 10.0, False, np.zeros(1), np.array([[0, 0]]), np.ones(1))
    criterion.value(np.array([1e3]))
    with pytest.raises(ArithmeticError, match="no residual"):
        criterion.value(np.array([1e14]))


def test_shapes_are_checked() -> None:
    case = make_case([1], 1, seed=1)
    forest = rooted(case)
    rows, first = np.ones((4, 3)), np.array([0, 2, 4])
    parents = np.zeros(2, dtype=np.intp)
    assert forest.depth == 1
    for bad, message in [
        ((rows, None, first, parents[:1], 1, 1), "parents have 2"),
        ((rows, None, np.array([0, 2, 5]), parents, 1, 1), "run from 0 to 4"),
        ((rows, np.zeros(3, dtype=np.intp), first, parents, 1, 1), "4 entries"),
        ((rows, np.full(4, 9), first, parents, 1, 1), r"order\[0\] = 9"),
        ((rows, None, first, parents + 1, 1, 1), "leaf 0 has no place"),
    ]:
        with pytest.raises(ValueError, match=message):
            leaf_roots(*bad)
