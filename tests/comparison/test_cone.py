"""Weights of mixtures of χ² against closed forms and against brute force."""

import numpy as np
import pytest
from scipy.optimize import minimize

from hlm.comparison.cone import Reduced, gains, project, reduce, tangent_cone, weights
from hlm.covariance import Template

from ..dense import structure


def random_metric(c: int, seed: int) -> np.ndarray:
    A = np.random.default_rng(seed).normal(size=(c, c + 1))
    return A @ A.T


def reduced(metric: np.ndarray, sizes: tuple[int, ...]) -> Reduced:
    return Reduced(np.eye(len(metric)), metric, np.zeros(metric.shape), sizes)


@pytest.mark.parametrize("c", [1, 2, 3, 4])
def test_weights_of_variances_against_counting(c: int) -> None:
    """Faces counted over all subsets of active variances, which is another way to solve the projection."""
    metric = random_metric(c, c)
    rng = np.random.default_rng(0)
    count = 20_000
    found, covariance = weights(reduced(metric, (1,) * c), count, rng)
    assert found.sum() == pytest.approx(1)
    u = rng.normal(size=(count, c)) @ np.linalg.cholesky(metric).T
    best, faces = np.zeros(count), np.zeros(count, dtype=int)
    for subset in range(1, 2**c):
        active = [i for i in range(c) if subset >> i & 1]
        a = np.linalg.solve(metric[np.ix_(active, active)], u[:, active].T).T
        value = np.where((a >= 0).all(axis=1), (a * u[:, active]).sum(axis=1), 0.0)
        faces = np.where(value > best, len(active), faces)
        best = np.maximum(best, value)
    counted = np.bincount(faces, minlength=c + 1) / count
    error = np.sqrt(counted * (1 - counted) / count + np.diag(covariance))
    assert (np.abs(found - counted) < 5 * error + 1e-9).all()


def test_weights_of_independent_variances_are_binomial() -> None:
    np.testing.assert_allclose(
        weights(reduced(np.diag([1.0, 4.0, 9.0]), (1, 1, 1)), 1, np.random.default_rng(0))[0],
        [0.125, 0.375, 0.375, 0.125],
    )


def test_weights_of_a_covariance_matrix_in_closed_form() -> None:
    """2 x 2 matrices in the Frobenius metric form a circular cone of half-angle 45° in R³: (1 ∓ sin)/2, cos/2 …"""
    found, covariance = weights(reduced(np.eye(3), (2,)), 20_000, np.random.default_rng(1))
    half = np.sqrt(0.5)
    expected = [(1 - half) / 2, half / 2, half / 2, (1 - half) / 2]
    assert (np.abs(found - expected) < 5 * np.sqrt(np.diag(covariance)) + 1e-9).all()
    assert np.sqrt(np.diag(covariance)).max() < 0.01


def test_projection_onto_matrices_against_an_optimiser() -> None:
    """A root of the matrix as free parameters (BFGS) in place of projected gradients."""
    sizes, metric = (2, 1), random_metric(4, 7)
    u = np.random.default_rng(3).normal(size=(40, 4)) @ np.linalg.cholesky(metric).T
    points = project(u, metric, sizes)

    def entries(x: np.ndarray) -> np.ndarray:
        L = np.array([[x[0], 0], [x[1], x[2]]])
        D = L @ L.T
        return np.array([D[0, 0], D[1, 0] * np.sqrt(2), D[1, 1], x[3] ** 2])

    for row, point in zip(u, points, strict=True):

        def loss(x: np.ndarray, row: np.ndarray = row) -> float:
            a = entries(x)
            return float(a @ metric @ a - 2 * row @ a)

        best = min(minimize(loss, start, tol=1e-12).fun for start in np.random.default_rng(0).normal(size=(6, 4)))
        assert point @ metric @ point - 2 * row @ point == pytest.approx(best, abs=1e-6)


def test_a_mixture_describes_what_is_projected() -> None:
    """The distribution of the gain over a cone of matrices, against the mixture with the weights found."""
    from scipy.stats import chi2

    metric = random_metric(3, 11)
    count = 20_000
    rng = np.random.default_rng(5)
    found, _ = weights(reduced(metric, (2,)), count, rng)
    u = rng.normal(size=(count, 3)) @ np.linalg.cholesky(metric).T
    inside, _ = gains(reduced(metric, (2,)), u)
    for value in (0.5, 2.0, 5.0, 8.0):
        p = sum(w * chi2.sf(value, k) for k, w in enumerate(found) if k)
        assert (inside > value).mean() == pytest.approx(p, abs=5 * np.sqrt(p / count) + 0.003)


def test_tangent_cone_counts_directions() -> None:
    template: Template = structure("three columns").model().problem.template
    D = np.zeros((3, 3))
    D[0, 0] = 1
    cone = tangent_cone(template, [D])
    assert cone.sizes == (2,)
    assert cone.free.shape[1] == 3
    assert cone.pointed.shape[1] == 3
    metric = random_metric(6, 1)
    found = reduce(cone, metric)
    # Schur complement by elimination
    order = np.column_stack([cone.free, cone.pointed])
    full = order.T @ metric @ order
    np.testing.assert_allclose(np.linalg.inv(np.linalg.inv(full)[3:, 3:]), found.metric, rtol=1e-9)
