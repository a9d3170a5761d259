"""A start for the optimisers: moments of the OLS residuals."""

from __future__ import annotations

import numpy as np

from hlm.covariance import Matrix, Template
from hlm.optimize.trace import Vector
from hlm_ext.criterion import Criterion
from hlm_ext.trust_region import trust_region_step

# Smallest start of a variance, in units where a group of average size has reliability 1/2 at 1: small enough for a
# variance of zero, large enough that the first steps see its curvature.
FLOOR = 0.02
# … and relative to the largest variance of the same block.
RELATIVE_FLOOR = 1e-3


def moment_start(criterion: Criterion, template: Template) -> Vector:
    """Return θ (m,) from the moments of the OLS residuals, made positive definite."""
    covariances, _ = moments(criterion, template)
    return template.theta_of_covariances(covariances, FLOOR, RELATIVE_FLOOR)


def moments(criterion: Criterion, template: Template, sigma2: float | None = None) -> tuple[list[Matrix], float]:
    """Return D of each factor, formula order, and σ² from unbiased quadratic forms of the OLS residuals.

    MINQUE(0) (Rao 1971; Swallow and Searle 1978): the expectations of y'PV_aPy and of y'Py at D = 0 are linear in σ²
    and σ²D. The D's need not be positive semidefinite.

    Parameters
    ----------
    criterion : Criterion
    template : Template
    sigma2 : float, optional
        The engine's σ² if it is known.
    """
    criterion.value(np.zeros(template.m))
    traces, forms, products = criterion.quadratic_forms()
    m = len(traces)
    if sigma2 is not None:
        known = trust_region_step(sigma2 * traces - forms, products, np.inf)[0]
        return _unpack(known / sigma2, template), sigma2
    system = np.empty((m + 1, m + 1))
    system[:m, :m] = products
    system[:m, m] = system[m, :m] = traces
    system[m, m] = criterion.freedom
    # the system is a Gram matrix: its solution minimises a quadratic form, and a singular one takes the shortest
    solution = trust_region_step(-np.append(forms, criterion.residual), system, np.inf)[0]
    sigma2 = solution[m]
    if not sigma2 > 0:
        sigma2 = 0.1 * criterion.residual / criterion.freedom
    return _unpack(solution[:m] / sigma2, template), float(sigma2)


def _unpack(values: Vector, template: Template) -> list[Matrix]:
    """Return D of each factor, formula order, from its lower triangles in the engine's order."""
    out: list[Matrix] = [np.zeros((0, 0))] * len(template.factors)
    at = 0
    for k in template.order:
        rows, cols = template.triangles[k]
        D = np.zeros((template.factors[k].width,) * 2)
        D[rows, cols] = D[cols, rows] = values[at : at + len(rows)]
        at += len(rows)
        out[k] = D
    return out
