"""EM with a residual structure: the M-step of φ minimises the expected -2 log-likelihood of the level-1 errors.

The effects (and β under REML) are the missing data. Given the second moments E(ee' | y) that belong to the φ and σ² of
before, the errors' part of the expected criterion is

    N log σ² + log|C(φ)| + tr(C(φ)⁻¹ E(ee' | y)) / σ² ,

minimised over φ (in closed form for no structure but strata, so by Newton's method from where φ stands, which never
rises) and, for classic EM, over σ². ECME takes the φ that is best at the current σ², and then the best σ² of all.
"""

from __future__ import annotations

import numpy as np

from hlm.covariance import Matrix
from hlm.optimize import newton
from hlm.optimize.em import EM, State
from hlm.residuals.criterion import STEP, Errors, JointCriterion, JointSpace
from hlm.residuals.pieces import ExpectedSquares
from hlm_ext.criterion import KernelError

# Newton steps of one M-step; the criterion falls in each, so a few are enough.
STEPS = 20


class _Errors:
    """The errors' part of the expected criterion, as a function of φ.

    Parameters
    ----------
    pattern : Errors
    squares : ExpectedSquares
        φ → tr(C⁻¹ E(ee' | y)) / σ₀².
    unit : float
        σ₀².
    n : float
        N.
    sigma2 : float or None
        σ² where it stays; None: it is the best one.
    """

    def __init__(self, pattern: Errors, squares: ExpectedSquares, unit: float, n: float, sigma2: float | None) -> None:
        self.pattern, self.squares, self.unit, self.freedom, self.sigma2 = pattern, squares, unit, n, sigma2

    def _size(self, phi: Matrix) -> float:
        return self.unit * self.squares.value(phi)

    def best(self, phi: Matrix) -> float:
        """Return the σ² of the M-step at φ."""
        return self._size(phi) / self.freedom

    def value(self, theta: Matrix) -> float:
        """Return the criterion at φ = `theta`."""
        if not self.pattern.bounded(theta):
            raise KernelError("parameters of the errors beyond all bounds", -1, -1, -1)
        try:
            size = self._size(theta)
        except np.linalg.LinAlgError:
            size = np.nan
        if not (np.isfinite(size) and size > 0):
            raise KernelError("parameters of the errors beyond all bounds", -1, -1, -1)
        self.phi = theta
        own = self.freedom * np.log(size) if self.sigma2 is None else size / self.sigma2
        return float(own + self.pattern.log_determinant(theta)[0])

    def _gradient(self, phi: Matrix) -> Matrix:
        scale = self.freedom / self._size(phi) if self.sigma2 is None else 1 / self.sigma2
        return scale * self.unit * self.squares.gradient(phi) + self.pattern.log_determinant(phi)[1]

    def derivatives(self, information: str = "observed") -> tuple[Matrix, Matrix]:
        """Return gradient and Hessian at the φ of the last `value`, the latter by differences."""
        phi, r = self.phi, len(self.phi)
        steps = STEP * np.eye(r)
        H = np.array([(self._gradient(phi + s) - self._gradient(phi - s)) / (2 * STEP) for s in steps])
        return self._gradient(phi), 0.5 * (H + H.T)


class _Plain:
    """A space without bounds."""

    def move(self, theta: Matrix, step: Matrix) -> Matrix:
        """Return the point that a step leads to."""
        return theta + step


class ResidualEM(EM):
    """EM or ECME over (θ, φ) and σ²; see the module and `hlm.optimize.em.EM`."""

    def __init__(self, criterion: JointCriterion, space: JointSpace, profiled: bool) -> None:
        super().__init__(criterion, space, profiled)
        self.joint = criterion
        # sums over many patterns round more than those of one
        self.rounding *= float(np.sqrt(1 + criterion.gathered.terms))

    def value(self, state: State) -> float:
        """See `EM.value`; infinite where there is no such structure, so that no extrapolation goes there."""
        try:
            return super().value(state)
        except KernelError:
            return np.inf

    def step(self, state: State) -> State:
        """E-step and M-step from the state at which the criterion was evaluated last."""
        joint, x = self.joint, state[0]
        sigma2 = joint.sigma2 if self.profiled else state[1]
        phi = joint.split(x)[1]
        squares = joint.expected(sigma2)
        moved, own = super().step(state)
        theta = joint.split(moved)[0]
        n = joint.gathered.problem.design.nobs
        errors = _Errors(joint.pattern, squares, sigma2, n, sigma2 if self.profiled else None)
        trace = newton.minimize(errors, _Plain(), phi, max_iter=STEPS)
        phi = trace.theta[int(np.argmin(trace.criterion))]
        if not self.profiled:
            # θ is relative to σ²: that of the step with φ unchanged has to follow the new one
            best = errors.best(phi)
            theta, own = theta * np.sqrt(own / best), best
        return np.concatenate([theta, phi]), own
