"""A start for the optimisers: moments of the OLS residuals."""

from __future__ import annotations

import numpy as np

from hlm.covariance import Matrix, Template
from hlm.optimize.trace import Vector
from hlm_ext.criterion import Criterion

# Smallest start of a variance, in units where a group of average size has reliability 1/2 at 1: small enough for a
# variance of zero, large enough that the first steps see its curvature.
FLOOR = 0.02


def moment_start(criterion: Criterion, template: Template) -> Vector:
    """Return θ (m,) from unbiased quadratic forms of the OLS residuals, MINQUE(0) (Rao 1971; Swallow and Searle 1978).

    The expectations of y'PV_aPy and of y'Py at D = 0 are linear in σ² and σ²D; their solution is made positive definite.
    """
    criterion.value(np.zeros(template.m))
    traces, forms, products = criterion.quadratic_forms()
    m = len(traces)
    system = np.empty((m + 1, m + 1))
    system[:m, :m] = products
    system[:m, m] = system[m, :m] = traces
    system[m, m] = criterion.freedom
    solution = np.linalg.lstsq(system, np.append(forms, criterion.residual), rcond=None)[0]
    sigma2 = solution[m]
    if not sigma2 > 0:
        sigma2 = 0.1 * criterion.residual / criterion.freedom
    found = _unpack(solution[:m] / sigma2, template)
    return template.theta_of_covariances([_positive(D) for D in found])


def _unpack(values: Vector, template: Template) -> list[Matrix]:
    """Return D of each factor, formula order, from its lower triangles in the engine's order."""
    out: list[Matrix] = [np.zeros((0, 0))] * len(template.factors)
    at = 0
    for k in template.order:
        q = template.factors[k].width
        D = np.zeros((q, q))
        for j in range(q):
            D[j:, j] = D[j, j:] = values[at : at + q - j]
            at += q - j
        out[k] = D
    return out


def _positive(D: Matrix) -> Matrix:
    if len(D) == 1:
        return np.maximum(D, FLOOR)
    values, vectors = np.linalg.eigh(D)
    return (vectors * np.maximum(values, max(FLOOR, 1e-3 * values[-1]))) @ vectors.T
