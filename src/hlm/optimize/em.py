"""EM for hierarchical models: the classic EB/ML algorithm and ECME, with SQUAREM acceleration (MATH: §4).

The E-step is the compiled moments pass. The criterion never rises; each step is checked.
"""

from __future__ import annotations

import numpy as np

from hlm.errors import NumericalError
from hlm.optimize.protocols import Region, Searchable
from hlm.optimize.trace import Trace, Vector
from hlm_ext.trust_region import trust_region_step

# Stop when Aitken's estimate of what is left to gain (deviance units) is below this.
REMAINING = 1e-9
State = tuple[Vector, float]


class EM:
    """One EM algorithm on a criterion; a state is (θ, σ²).

    Parameters
    ----------
    criterion : Criterion or VarianceCriterion
    template : Template or Variances
    profiled : bool
        ECME (Liu and Rubin 1994): σ² maximises the likelihood at each step. Otherwise the classic algorithm of
        Dempster, Laird and Rubin (1977) and of Raudenbush and Bryk: σ² is updated from its posterior moment.
    """

    # by how much rounding may raise the criterion, relative to its size and degrees of freedom
    rounding = 1e-14

    def __init__(self, criterion: Searchable, template: Region, profiled: bool) -> None:
        self.criterion = criterion
        self.template = template
        self.profiled = profiled

    def value(self, state: State) -> float:
        """Return -2 log-likelihood at (θ, σ²); for ECME at the best σ²."""
        theta, sigma2 = state
        c = self.criterion
        value = c.value(theta)
        if self.profiled:
            return value
        at_best = c.freedom * (1 + np.log(c.residual / c.freedom))
        return float(value - at_best + c.freedom * np.log(sigma2) + c.residual / sigma2)

    def step(self, state: State) -> State:
        """E-step and M-step from the state at which the criterion was evaluated last."""
        c, template = self.criterion, self.template
        sigma2 = c.sigma2 if self.profiled else state[1]
        matrices = template.factors_of(state[0])
        covariances = [np.zeros_like(L) for L in matrices]
        expected = c.residual + (sigma2 * c.forest.p if c.reml else 0.0)
        for k, (post, outer) in zip(template.order, c.moments(), strict=True):
            L = matrices[k]
            # mean posterior second moment of the whitened effects
            B = np.eye(len(L)) - L.T @ (post - outer / sigma2) @ L / template.factors[k].size
            covariances[k] = L @ B @ L.T
            expected += sigma2 * np.trace(L.T @ post @ L) - np.trace(L.T @ outer @ L)
        if self.profiled:
            return template.theta_of_covariances(covariances), sigma2
        moved = float(expected) / (c.freedom + (c.forest.p if c.reml else 0))
        return template.theta_of_covariances([D * (sigma2 / moved) for D in covariances]), moved


def _extrapolate(x0: State, x1: State, x2: State) -> State | None:
    """SQUAREM's third scheme (Varadhan and Roland 2008) on (θ, log σ²)."""
    packed = [np.append(theta, np.log(sigma2)) for theta, sigma2 in (x0, x1, x2)]
    r = packed[1] - packed[0]
    v = packed[2] - packed[1] - r
    size = float(np.sqrt(v @ v))
    if size == 0:
        return None
    alpha = -float(np.sqrt(r @ r)) / size
    if alpha > -1:
        return None
    x = packed[0] - 2 * alpha * r + alpha * alpha * v
    return x[:-1], float(np.exp(x[-1]))


def minimize(
    criterion: Searchable,
    template: Region,
    theta: Vector,
    profiled: bool,
    accelerate: bool,
    max_iter: int,
    information: str = "observed",
) -> Trace:
    """Run EM from `theta` (m,).

    Parameters
    ----------
    criterion, template, theta
        What to minimise and where to start.
    profiled : bool
        ECME instead of classic EM.
    accelerate : bool
        SQUAREM: extrapolate two steps; a point that is not lower is thrown away, so the criterion still never rises.
    max_iter : int
        Most EM steps.
    information : {"observed", "average"}
        Second derivatives by which what is left to gain is judged.

    Raises
    ------
    NumericalError
        If a step raises the criterion by more than rounding.
    """
    return run(EM(criterion, template, profiled), theta, accelerate, max_iter, information)


def run(em: EM, theta: Vector, accelerate: bool, max_iter: int, information: str) -> Trace:
    """Run an EM algorithm; see `minimize`."""
    criterion = em.criterion
    trace = Trace("ecme" if em.profiled else "em")
    criterion.value(theta)
    state: State = (theta, criterion.sigma2)
    value = em.value(state)
    trace.add(theta, value, 0.0)
    steps = 0
    last_gain = np.inf
    due = 0
    while steps < max_iter:
        before, start = value, state
        state, value = _checked(em, state, value)
        steps += 1
        if accelerate:
            first = state
            state, value = _checked(em, state, value)
            steps += 1
            state, value = _accelerated(em, start, first, state, value)
        trace.add(state[0], value, float(np.linalg.norm(state[0] - start[0])))
        gain = before - value
        rate = min(gain / last_gain, 0.999999) if 0 < last_gain < np.inf else 0.999999
        last_gain = gain
        if gain <= 0 or gain * max(rate, 0.5) / (1 - rate) < REMAINING:
            # steps of uneven length deceive Aitken: go on as long again if Newton's method expects more
            due = due or 2 * steps
            if gain <= 0 or steps >= due or _decrement(criterion, information) < REMAINING:
                trace.message = "nothing left to gain"
                break
    else:
        trace.message = f"no optimum within {max_iter} iterations"
    criterion.value(state[0])
    return trace


def _decrement(criterion: Searchable, information: str) -> float:
    """Return what a Newton step would gain where the criterion stands; infinite where there is no minimum near."""
    gradient, hessian = criterion.derivatives(information)
    _, _, decrement, lowest, _ = trust_region_step(gradient, hessian, 1e6)
    return float(decrement) if lowest > 0 else np.inf


def _checked(em: EM, state: State, value: float) -> tuple[State, float]:
    moved = em.step(state)
    new = em.value(moved)
    noise = em.rounding * (abs(value) + em.criterion.freedom)
    if new > value + noise:
        raise NumericalError(f"an EM step raised the criterion from {value!r} to {new!r}")
    return moved, min(new, value)


def _accelerated(em: EM, x0: State, x1: State, x2: State, value: float) -> tuple[State, float]:
    """Return the extrapolated state if it is lower than x2, else x2; the criterion stands evaluated there."""
    jump = _extrapolate(x0, x1, x2)
    if jump is not None:
        new = em.value(jump)
        if new < value:
            return jump, new
        em.value(x2)
    return x2, value
