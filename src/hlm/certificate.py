"""Conditions of optimality, free of units: what "converged" means (MATH: §5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hlm.covariance import Template
from hlm.optimize.trace import Vector
from hlm_ext.criterion import Criterion
from hlm_ext.linear import eigh
from hlm_ext.trust_region import trust_region_step

# Deviance units: what may be left to gain in a fit that is called converged; far below the 1e-6 that nobody notices.
GAIN = 1e-8
# Relative to the largest curvature.
CURVATURE = -1e-7
# An eigenvalue of D below this (units where a group of average size has reliability 1/2 at 1) is tried at zero.
NEARLY_ZERO = 1e-5


@dataclass(frozen=True)
class Certificate:
    """Conditions of optimality at the reported θ.

    Attributes
    ----------
    decrement : float
        Newton decrement: what the quadratic model has still to gain, in units of the criterion.
    gradient : float
        Largest derivative in a relative change of Λ, in units of the criterion.
    cone : float
        Gain that a variance in the most promising direction outside of D would bring, in units of the criterion
        (0 when the gradient in D is positive semidefinite, as it must be on the boundary).
    curvature : float
        Smallest eigenvalue of the Hessian in θ relative to the largest.
    """

    decrement: float
    gradient: float
    cone: float
    curvature: float

    @property
    def holds(self) -> bool:
        """Whether the conditions hold: decrement and cone below 1e-8, no negative curvature."""
        return self.decrement < GAIN and self.cone < GAIN and self.curvature > CURVATURE

    def __str__(self) -> str:
        verdict = "optimal" if self.holds else "NOT OPTIMAL"
        return (
            f"{verdict}: still to gain {self.decrement:.1e}, cone {self.cone:.1e}, gradient {self.gradient:.1e}, "
            f"curvature {self.curvature:.1e}"
        )


def _outward(criterion: Criterion, template: Template, exact: bool) -> tuple[float, int, Vector, float]:
    """Return gain, factor, direction v and length of the best D + length · vv'; needs `derivatives` before.

    The gain is that of a quadratic whose curvature is tr(PVPV), or average information where traces were not wanted.
    """
    best: tuple[float, int, Vector, float] = (0.0, -1, np.zeros(0), 0.0)
    sigma2 = criterion.sigma2
    products = criterion.trace_products if exact else criterion.second_derivatives
    offset = 0
    for k, (post, outer) in zip(template.order, criterion.moments(), strict=True):
        G = post - outer / sigma2
        rows, cols = template.triangles[k]
        part = slice(offset, offset + len(rows))
        offset += len(rows)
        for block in template.factors[k].blocks:
            values, vectors = eigh(G if len(block) == len(G) else G[np.ix_(block, block)])
            if values[0] >= 0:
                continue
            v = np.zeros(len(G))
            v[list(block)] = vectors[:, 0]
            direction = v[rows] * v[cols]  # the entries of vv'
            size = float(direction @ products[part, part] @ direction)
            if size > 0 and 0.5 * values[0] ** 2 > best[0] * size:
                best = (0.5 * values[0] ** 2 / size, k, v, -values[0] / size)
    return best


def certify(criterion: Criterion, template: Template, information: str = "observed") -> Certificate:
    """Certify the θ at which the criterion was evaluated last, with exact second derivatives or average information."""
    if template.m == 0:
        return Certificate(0.0, 0.0, 0.0, 1.0)
    gradient, hessian = criterion.derivatives(information)
    _, _, decrement, lowest, _ = trust_region_step(gradient, hessian, 1e6)
    relative = float(np.abs(gradient * criterion.theta).max())
    return Certificate(
        float(decrement), relative, _outward(criterion, template, information == "observed")[0], float(lowest)
    )


def escape(criterion: Criterion, template: Template, information: str = "observed") -> Vector | None:
    """Return a θ outside of the boundary point reached, where the criterion is lower, or None if there is none near."""
    theta, value = np.array(criterion.theta), criterion.last
    criterion.derivatives(information)
    _, k, v, length = _outward(criterion, template, information == "observed")
    covariances = [L @ L.T for L in template.factors_of(theta)]
    for _ in range(8):
        trial = list(covariances)
        trial[k] = trial[k] + length * np.outer(v, v)
        moved = template.theta_of_covariances(trial)
        if criterion.value(moved) < value:
            return moved
        length *= 0.25
    criterion.value(theta)
    return None


def settle(criterion: Criterion, template: Template) -> bool:
    """Put directions of D without variance at exactly zero where that costs nothing; return whether θ moved."""
    theta, value = np.array(criterion.theta), criterion.last
    nearly = False
    covariances = []
    for factor, L in zip(template.factors, template.factors_of(theta), strict=True):
        D = L @ L.T
        for block in factor.blocks:
            index = np.ix_(block, block) if len(block) < len(D) else slice(None)
            values, vectors = eigh(D[index])
            if 0 < values[0] < NEARLY_ZERO:
                nearly = True
                D[index] = (vectors * np.where(values < NEARLY_ZERO, 0.0, values)) @ vectors.T
        covariances.append(D)
    if not nearly:
        return False
    if criterion.value(template.theta_of_covariances(covariances)) <= value + 1e-9 + 1e-15 * abs(value):
        return True
    criterion.value(theta)
    return False
