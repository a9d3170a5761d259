"""Covariance matrices as float64 of which the digits that matter survive."""

from __future__ import annotations

import numpy as np

from hlm.covariance import Matrix
from hlm.criterion import Problem

# Error of a covariance, in units where a group of average size has reliability 1/2 at 1, that is let pass: the
# criterion changes by about this times the number of groups.
CLOSE = 1e-10
# Roots tried, and by how much they differ from the one that was found, relative to each entry: a few units of the last
# place, which are of no consequence.
TRIED = 4000
NEAR = 1e-15


def covariances(problem: Problem, point: Matrix, sigma: float) -> list[Matrix]:
    """Return T (q, q) of each factor in the order of the formula, at a point of the optimiser and the user's σ."""
    if problem.variances is not None:
        return [sigma**2 * (root @ root.T) for root in problem.variances.user_roots(point)]
    roots = problem.template.factors_of(point)
    return [nearest(effect_map, root, sigma) for effect_map, root in zip(problem.maps, roots, strict=True)]


def nearest(effect_map: Matrix, root: Matrix, scale: float) -> Matrix:
    """Return T = scale² · map D map' in float64, D = root root'.

    Parameters
    ----------
    effect_map : (q, q) float64
        From the engine's coordinates of the random effects to the user's.
    root : (q, q) float64
        Λ in the engine's coordinates.
    scale : float
        σ.

    Notes
    -----
    Where a column is far from zero (a calendar year beside the intercept), entries of T are huge multiples of the
    variances that matter, those at the mean of the column, and rounding each entry on its own may add to a variance of
    zero what the criterion notices. Roots a few units of the last place away round differently; the one is taken whose
    product is nearest to the estimate in the engine's coordinates.
    """
    B = scale * (effect_map @ root).astype(np.longdouble)
    exact = B @ B.T
    T: Matrix = exact.astype(np.float64)
    back = np.linalg.inv(effect_map) / scale
    size = np.sqrt(1 + (root * root).sum(axis=1))
    weight = back / size[:, None]
    if _error(T[None], exact, weight)[0] <= CLOSE:
        return T
    roots = B * (1 + NEAR * np.random.default_rng(0).uniform(-1, 1, (TRIED, *B.shape)))
    products = np.einsum("nij,nkj->nik", roots, roots).astype(np.float64)
    best: Matrix = products[np.argmin(_error(products, exact, weight))]
    return best


def _error(T: Matrix, exact: Matrix, weight: Matrix) -> Matrix:
    """Largest entries of weight (T - exact) weight' of matrices T (N, q, q)."""
    off = (T - exact).astype(np.float64)
    errors: Matrix = np.abs(weight @ off @ weight.T).max(axis=(1, 2))
    return errors
