"""Trust-region Newton and Fisher scoring in θ (MATH: §5).

θ are entries of Λ without bounds: the criterion is smooth and even through zero, so a singular covariance is an
ordinary point. The two methods differ only in the second derivatives in D that they ask for.
"""

from __future__ import annotations

import numpy as np

from hlm.optimize.protocols import Smooth, Steps
from hlm.optimize.trace import Trace, Vector
from hlm_ext.criterion import KernelError
from hlm_ext.trust_region import trust_region_step

# A step is the last one when what it can still gain is below this (deviance units): the next decrement is its square.
FINISHED = 1e-12
# What a search that ended at an optimum says.
DONE = "nothing left to gain"
# … and what one that was given up.
RIVAL = "leads to a known optimum"
# A search is given up when the quadratic model at its point has its minimum at a known optimum, to this part of what
# the point lies above it.
SAME = 0.2
# Agreement of model and criterion cannot be judged below the rounding of the criterion.
ROUNDING = 4e-16


def minimize(
    criterion: Smooth,
    space: Steps,
    theta: Vector,
    information: str = "observed",
    max_iter: int = 200,
    rival: tuple[Vector, float] | None = None,
    rounding: float = ROUNDING,
) -> Trace:
    """Minimise a criterion from `theta` (m,).

    Parameters
    ----------
    criterion : Criterion or VarianceCriterion
    space : Template or Variances
        How a step leads from one point to the next.
    theta : (m,) float64
        Start.
    information : {"observed", "average", "expected"}
        Second derivatives in D: "observed" is Newton's method, "expected" Fisher scoring.
    max_iter : int
    rival : (m,) float64 and float, optional
        An optimum that is known already and its value: the search ends when it is seen to lead there.
    rounding : float
        Rounding error of the criterion, relative to its size and degrees of freedom.

    Returns
    -------
    Trace
        Its last entry is the optimum, or a point from which the way leads to the rival; the criterion stands evaluated
        there.
    """
    trace = Trace(information)
    value = criterion.value(theta)
    gradient, hessian = criterion.derivatives(information)
    length = float(np.sqrt(theta @ theta))
    radius = max(1.0, length)
    step_length = 0.0
    rejected = 0
    for _ in range(max_iter):
        step, gain, decrement, lowest, inside = trust_region_step(gradient, hessian, radius)
        if not rejected:
            trace.add(theta, value, step_length, decrement if lowest > -1e-8 else np.inf)
        if inside and gain < FINISHED and lowest > -1e-8:
            trace.message = DONE
            break
        if rival is not None and inside and _leads_to(rival, theta + step, value, gain, hessian):
            trace.message = RIVAL
            break
        noise = rounding * (abs(value) + criterion.freedom)
        if rejected > 40:
            trace.message = "no step lowers the criterion"
            break
        try:
            trial = space.move(theta, step)
            trial_value = criterion.value(trial)
        except KernelError:
            trial, trial_value = theta, np.inf
        actual = value - trial_value
        if inside and gain < noise and lowest > -1e-8 and actual > -8 * noise:
            # rounding hides what this step gains, so the criterion cannot judge it: it is the last one
            trace.add(trial, trial_value, float(np.sqrt(step @ step)))
            trace.message, rejected = DONE, 0
            break
        ratio = (actual + noise) / (gain + noise)
        step_length = float(np.sqrt(step @ step))
        if ratio < 0.25:
            radius = 0.25 * min(radius, step_length)
        elif ratio > 0.75 and not inside:
            radius = 2.5 * radius
        if ratio > 1e-4:
            theta, value, rejected = trial, trial_value, 0
            gradient, hessian = criterion.derivatives(information)
        else:
            rejected += 1
    else:
        trace.message = f"no optimum within {max_iter} iterations"
    if rejected:
        criterion.value(theta)
    trace.hessian = hessian
    return trace


def _leads_to(rival: tuple[Vector, float], target: Vector, value: float, gain: float, hessian: Vector) -> bool:
    """Whether the Newton step to `target`, which should gain `gain`, ends where the rival is, or nearly."""
    above = value - rival[1]
    away = target - rival[0]
    return abs(gain - above) < SAME * above and 0.5 * float(away @ hessian @ away) < SAME * above
