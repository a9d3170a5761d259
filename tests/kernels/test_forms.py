"""Quadratic forms of X and y in V⁻¹ and its derivatives, in every structure, against dense algebra."""

import numpy as np
import pytest

from hlm_ext.forms import forms

from ..dense import EVERY, Case, structure
from .test_criterion import directions, some_theta
from .test_crossed import without


def check(case: Case, theta: np.ndarray, solver: str = "dense") -> None:
    kernel = case.kernel(True, solver)
    kernel.value(theta)
    tangent, products, modes = forms(kernel.forest, True)
    inverse = np.linalg.inv(case.covariance(theta))
    b = np.column_stack([case.X, case.y])
    solved = inverse @ b
    moved = [V @ solved for V in directions(case)]
    # relative to the largest: entries of all directions are of about one size in these designs
    first = np.array([-solved.T @ x for x in moved])
    np.testing.assert_allclose(tangent, first, rtol=1e-9, atol=1e-11 * np.abs(first).max())
    second = np.array([[x.T @ inverse @ z for z in moved] for x in moved])
    np.testing.assert_allclose(products, second, rtol=1e-9, atol=1e-11 * np.abs(second).max())
    rest = b.copy()
    for Z, codes, mode in zip(case.Z, case.codes, modes, strict=True):
        rest -= np.einsum("nq,nqr->nr", Z, mode[codes])
    np.testing.assert_allclose(rest, solved, rtol=1e-9, atol=1e-10 * np.abs(solved).max())


@pytest.mark.parametrize("name", EVERY)
def test_forms_are_those_of_dense_algebra(name: str) -> None:
    case = structure(name)
    check(case, some_theta(case))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("which", ["all", "core", "peeled", "last column", "last factor"])
def test_a_singular_covariance_is_an_ordinary_point(name: str, which: str) -> None:
    case = structure(name)
    check(case, without(case, some_theta(case), which))


def test_a_sparse_core() -> None:
    case = structure("several tiles")
    check(case, some_theta(case), "sparse")


def test_without_factors_there_is_nothing_to_derive() -> None:
    rng = np.random.default_rng(0)
    case = Case(rng.normal(size=9), np.ones((9, 1)), [], [])
    kernel = case.kernel(True)
    kernel.value(np.zeros(0))
    tangent, products, modes = forms(kernel.forest)
    assert tangent.shape == (0, 2, 2)
    assert products.shape == (0, 0, 2, 2)
    assert modes == []
