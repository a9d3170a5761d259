"""Conditions of optimality, free of units: what "converged" means (MATH: §5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hlm.covariance import Matrix
from hlm.optimize.protocols import Region, Searchable
from hlm.optimize.trace import Vector
from hlm_ext.criterion import KernelError
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


def _outward(criterion: Searchable, space: Region, exact: bool) -> tuple[float, int, Matrix, float]:
    """Return gain, factor, direction E and length of the best D + length · E; needs `derivatives` before.

    The gain is that of a quadratic whose curvature is tr(PVPV), or average information where traces were not wanted.
    """
    best: tuple[float, int, Matrix, float] = (0.0, -1, np.zeros((0, 0)), 0.0)
    sigma2 = criterion.sigma2
    products = criterion.trace_products if exact else criterion.second_derivatives
    cone: dict[int, tuple[Matrix, slice]] = {}
    offset = 0
    for k, (post, outer) in zip(space.order, criterion.moments(), strict=True):
        entries = len(space.triangles[k][0])
        cone[k] = post - outer / sigma2, slice(offset, offset + entries)
        offset += entries
    for k, E in [*_ways(cone, space), *space.rays(criterion.theta)]:
        G, part = cone[k]
        rows, cols = space.triangles[k]
        direction = E[rows, cols]
        slope, size = float((G * E).sum()), float(direction @ products[part, part] @ direction)
        if slope < 0 < size and 0.5 * slope**2 > best[0] * size:
            best = (0.5 * slope**2 / size, k, E, -slope / size)
    return best


def _ways(cone: dict[int, tuple[Matrix, slice]], space: Region) -> Iterator[tuple[int, Matrix]]:
    """Factor and vv' of the steepest direction v of each block."""
    for k, block in space.cones():
        G = cone[k][0]
        values, vectors = eigh(G if len(block) == len(G) else G[np.ix_(block, block)])
        if values[0] < 0:
            v = np.zeros(len(G))
            v[list(block)] = vectors[:, 0]
            yield k, np.outer(v, v)


def certify(criterion: Searchable, space: Region, information: str = "observed") -> Certificate:
    """Certify the point at which the criterion was evaluated last, by exact or average information."""
    if space.m == 0:
        return Certificate(0.0, 0.0, 0.0, 1.0)
    gradient, hessian = criterion.derivatives(information)
    _, _, decrement, lowest, _ = trust_region_step(gradient, hessian, 1e6)
    relative = float(np.abs(space.ambient(criterion.theta, gradient) * criterion.theta).max())
    outward = _outward(criterion, space, information == "observed")[0]
    return Certificate(float(decrement), relative, outward, float(lowest))


def escape(criterion: Searchable, space: Region, information: str = "observed") -> Vector | None:
    """Return a point off the boundary point reached, where the criterion is lower, or None if there is none near."""
    theta, value = np.array(criterion.theta), criterion.last
    criterion.derivatives(information)
    _, k, E, length = _outward(criterion, space, information == "observed")
    covariances = [L @ L.T for L in space.factors_of(theta)]
    sigma2 = criterion.sigma2
    for _ in range(8):
        trial = list(covariances)
        trial[k] = trial[k] + length * E
        try:
            moved = space.point(trial, sigma2)
            if criterion.value(moved) < value:
                return moved
        except KernelError:  # too far, or no such point
            pass
        length *= 0.25
    criterion.value(theta)
    return None


def settle(criterion: Searchable, space: Region, theta: Vector, value: float) -> bool:
    """Put directions of D without variance at exactly zero where that costs nothing.

    Parameters
    ----------
    criterion : Criterion or VarianceCriterion
        It may stand anywhere; it is left at the point decided on.
    space : Template or Variances
    theta, value
        A point and the criterion there.

    Returns
    -------
    bool
        Whether the point moved.
    """
    trial = space.settled(theta, NEARLY_ZERO)
    if trial is not None and criterion.value(trial) <= value + 1e-9 + 1e-15 * abs(value):
        return True
    criterion.value(theta)
    return False
