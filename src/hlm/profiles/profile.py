"""Profile likelihood of a parameter: the signed root of what the deviance rises by, and the limits read off it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.criterion import Objective, Space
from hlm.errors import DataError, NumericalError
from hlm.estimation import leave_saddles
from hlm.optimize import newton
from hlm.profiles.held import Held
from hlm.profiles.parameters import Parameter
from hlm.residuals.criterion import JointCriterion, JointSpace
from hlm.variance.parts import Variances
from hlm_ext.criterion import KernelError

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# A limit is found when ζ is within this of its quantile.
FOUND = 1e-7
# Evaluations after which the search for one limit stops and says so.
MOST = 80
# Steps of the optimiser at one value.
STEPS = 200
# What a profile may lie below the fit's criterion: its certificate and rounding.
BELOW = 1e-6
# A branch is followed while no standard deviation changes by more than this factor from one solution to the next.
SMOOTH = 2.0
# Where two values of a correlation are as near as this, what lies between them is not looked at.
NARROW = 1e-4
# A correlation that differs by more than this from the value that was asked for has changed its sign as a standard
# deviation went through zero: there is no optimum with that value.
OTHER = 1e-3
# ζ that changes by less than this, three times in a row while the distance from the estimate grows, has an asymptote.
FLAT, TIMES, FARTHER = 1e-5, 3, 2.0


class BranchEnd(NumericalError):
    """At a fixed correlation, quite other standard deviations are the best."""


@dataclass(frozen=True)
class _Solution:
    """The least deviance at one value, whether its certificate holds, where it is and where the search began."""

    deviance: float
    optimal: bool
    x: Matrix
    start: Matrix


class Profile:
    """The profile of one parameter; evaluations are kept.

    Parameters
    ----------
    fit : Fit
    parameter : Parameter

    Notes
    -----
    A correlation is followed along the branch of the estimate. Where that branch ends, because quite other
    standard deviations (of zero, say, at which correlations mean nothing) have a higher likelihood, the limit is that
    of the range, and the note says so.
    """

    def __init__(self, fit: Fit, parameter: Parameter) -> None:
        self.fit, self.parameter = fit, parameter
        self.points: dict[float, float] = {parameter.estimate: 0.0}
        self.note = ""
        self._held = Held(fit, parameter)
        self._starts: dict[float, Matrix] = {}

    def zeta(self, value: float) -> float:
        """Return the signed root of the deviance at `value` less the least one; positive above the estimate.

        Raises
        ------
        NumericalError
            If no optimum is found there, or one below that of the fit.
        """
        if value not in self.points:
            rise = self._deviance(value) - self.fit.criterion
            if rise < -BELOW - 1e-12 * abs(self.fit.criterion):
                raise NumericalError(
                    f"the profile of {self.parameter.name} at {self._shown(value)} lies {-rise:.3g} below the "
                    "criterion of the fit: its estimate is not the lowest optimum"
                )
            self.points[value] = float(np.copysign(np.sqrt(max(rise, 0.0)), value - self.parameter.estimate))
        return self.points[value]

    def _shown(self, value: float) -> str:
        return f"{self.parameter.natural(value):.6g}"

    def _deviance(self, value: float) -> float:
        p = self.parameter
        try:
            criterion, space, given = self._held.at(value)
        except (DataError, KernelError) as error:
            raise NumericalError(f"the profile of {p.name} fails at {self._shown(value)}: {error}") from None
        points, several = self._starting_points(value, space, given), len(given) > 1 and p.kind != "cor"
        best: _Solution | None = None
        reason = "no covariance near has that value"
        for x in points:
            if best is not None and best.optimal and not several:
                break
            try:
                found = self._minimise(criterion, space, x, best)
            except KernelError as error:
                reason = str(error)
                continue
            if found is not None and (
                best is None or (found.optimal, -found.deviance) > (best.optimal, -best.deviance)
            ):
                best = found
        if best is None:
            raise NumericalError(f"the profile of {p.name} fails at {self._shown(value)}: {reason}")
        if not best.optimal:
            raise NumericalError(f"the profile of {p.name} stops at {self._shown(value)}: no optimum was reached")
        if p.kind == "cor":
            self._check_branch(value, space, best)
        self._starts[value] = best.x
        return best.deviance

    def _starting_points(self, value: float, space: Space | JointSpace, given: list[Matrix]) -> list[Matrix]:
        """The solution at the nearest value known, and those given; the first alone where a branch is followed."""
        known = [at for at, x in self._starts.items() if len(x) == len(given[0])]  # an end may have fewer parameters
        nearest = [self._starts[min(known, key=lambda at: abs(at - value))]] if known else []
        out = []
        for x in [*nearest, *given][: 1 if self.parameter.kind == "cor" else None]:
            try:
                out.append(_feasible(space, x))
            except KernelError:
                continue
        return out

    def _minimise(
        self, criterion: Objective | JointCriterion, space: Space | JointSpace, x: Matrix, best: _Solution | None
    ) -> _Solution | None:
        """Return where the least deviance is that is reached from a point; None if it is the solution that is known."""
        if space.m == 0:
            return _Solution(criterion.value(x), True, x, x)
        search, judge = self._held.problem.curvature
        rounding = criterion.rounding if isinstance(criterion, JointCriterion) else newton.ROUNDING
        known = best is not None and best.optimal and space.m == len(x)  # steps are those of x
        rival = (best.x, best.deviance) if best is not None and known else None
        trace = newton.minimize(criterion, space, x, search, STEPS, rival, rounding)
        if trace.message == newton.RIVAL:
            return None
        if search != judge:
            trace.extend(newton.minimize(criterion, space, np.array(criterion.theta), judge, STEPS, rounding=rounding))
        certificate = leave_saddles(criterion, space, trace, judge, judge, STEPS, rounding)
        return _Solution(criterion.last, certificate.holds, np.array(criterion.theta), x)

    def _check_branch(self, value: float, space: Space | JointSpace, found: _Solution) -> None:
        """Refuse a solution with other standard deviations than the one that it was reached from."""
        k, *effects = self.parameter.place
        one, other = (self._held.relative(space, x)[k][np.ix_(effects, effects)] for x in (found.start, found.x))
        was, now = np.diag(one), np.diag(other)
        size = float(np.sqrt(now.prod()))
        if not size > 0 or abs(other[0, 1] / size - value) > OTHER:
            raise BranchEnd("a standard deviation of zero is best, where a correlation means nothing")
        if (now > SMOOTH**2 * was).any() or (was > SMOOTH**2 * now).any():
            sds = np.sqrt(now) * self.fit.sigma
            raise BranchEnd(
                f"standard deviations of {' and '.join(f'{sd:.3g}' for sd in sds)} raise the deviance by "
                f"{found.deviance - self.fit.criterion:.3g} only"
            )

    # ---- limits ---------------------------------------------------------------------------------------------------

    def limit(self, target: float) -> float:
        """Return where ζ reaches `target`, the end of the range if it does not, NaN with a note where it fails."""
        p, sign = self.parameter, np.sign(target)
        end = p.high if sign > 0 else p.low
        inner, inner_zeta = p.estimate, 0.0
        halfway, fence, beyond, flat = p.kind in ("cor", "icc"), end, "", 0
        outer = _within(p.estimate + target * p.step, inner, end, halfway)
        try:
            for _ in range(MOST):
                if outer in (end, inner) and fence == end:
                    return self._at_end(inner, inner_zeta, end, target)
                try:
                    z = self.zeta(outer)
                except BranchEnd as found:
                    fence, beyond = outer, str(found)
                    if abs(outer - inner) < NARROW:
                        self._add_note(f"beyond {inner:.4g} (ζ {inner_zeta:.2f}) {beyond}")
                        return end
                    outer = inner + 0.5 * (fence - inner)
                    continue
                if sign * z >= sign * target:
                    return _root(self.zeta, inner, inner_zeta - target, outer, z - target)
                if fence != end and abs(fence - outer) < NARROW:
                    self._add_note(f"beyond {outer:.4g} (ζ {z:.2f}) {beyond}")
                    return end
                far = abs(outer - p.estimate) > FARTHER * abs(inner - p.estimate)
                flat = flat + 1 if far and abs(z - inner_zeta) < FLAT else 0
                if flat >= TIMES and np.isinf(end):
                    self._add_note(f"no {_side(sign)} limit: beyond {self._shown(inner)} ζ stays at {z:.4g}")
                    return end
                ahead = _ahead(p.estimate, inner, inner_zeta, outer, z, target)
                inner, inner_zeta = outer, z
                outer = _within(ahead, inner, fence, halfway)
            reason = f"not reached at {self._shown(inner)}, where ζ is {inner_zeta:.3g}"
        except NumericalError as error:
            reason = str(error)
        self._add_note(f"{_side(sign)} limit not found: {reason}")
        return np.nan

    def _add_note(self, text: str) -> None:
        self.note += ("; " if self.note else "") + text

    def _at_end(self, inner: float, inner_zeta: float, end: float, target: float) -> float:
        if end == self.parameter.estimate:
            return end
        try:
            z = self.zeta(end)
        except BranchEnd as found:
            self._add_note(f"at {end:g} {found}")
            return end
        if abs(z) <= abs(target):
            return end
        return _root(self.zeta, inner, inner_zeta - target, end, z - target)


def _side(sign: float) -> str:
    return "upper" if sign > 0 else "lower"


def _feasible(space: Space | JointSpace, x: Matrix) -> Matrix:
    """Return the point near x that keeps the conditions of a space."""
    if isinstance(space, JointSpace):
        theta, phi = space.criterion.split(x)
        return np.concatenate([_feasible(space.space, theta), phi])
    return space.project(x) if isinstance(space, Variances) else x


def _ahead(estimate: float, inner: float, inner_zeta: float, outer: float, z: float, target: float) -> float:
    """Where the chord through two points reaches the target, a little farther, at most four times as far as now."""
    rise, away = (z - inner_zeta) / (target - z), outer - estimate
    step = (outer - inner) / rise if rise > 0 else np.inf * np.sign(away)
    factor = np.clip((away + step) / away, 1.05, 4.0)
    return float(estimate + factor * 1.02 * away)


def _within(value: float, inner: float, end: float, halfway: bool) -> float:
    """The value, or the end of the range where that is passed or nearly reached; `halfway` goes there by halves."""
    low, high = min(inner, end), max(inner, end)
    if halfway and abs(inner - end) > NARROW:
        middle = 0.5 * (inner + end)
        low, high = min(inner, middle), max(inner, middle)
    elif np.isfinite(end) and abs(value - end) <= 0.02 * abs(inner - end):
        return end
    return float(np.clip(value, low, high))


def _root(zeta: Callable[[float], float], a: float, fa: float, b: float, fb: float) -> float:
    """Where a monotone ζ less target is zero between a and b: regula falsi with halved ends (Illinois)."""
    target = None
    value = b
    for _ in range(MOST):
        if abs(fb) < FOUND or a == b:
            return b
        value = b - fb * (b - a) / (fb - fa)
        if value in (a, b):
            return value
        if target is None:
            target = zeta(b) - fb
        f = zeta(value) - target
        if abs(f) < FOUND:
            return value
        if f * fb < 0:
            a, fa = b, fb
        else:
            fa *= 0.5
        b, fb = value, f
    return value
