"""Profile likelihood of a parameter: the signed root of what the deviance rises by, and the limits read off it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from hlm.criterion import Problem
from hlm.errors import DataError, DesignError, NumericalError
from hlm.optimize import newton
from hlm.profiles import paths
from hlm.residuals.refusals import independent_errors
from hlm_ext.criterion import Criterion, KernelError

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# A limit is found when ζ is within this of its quantile.
FOUND = 1e-7
# Evaluations after which the search for one limit stops and says so.
MOST = 80
# What a profile may lie below the fit's criterion: its certificate and rounding.
BELOW = 1e-6


# A branch is followed while no standard deviation changes by more than this factor from one solution to the next.
SMOOTH = 2.0
# Where two values of a correlation are as near as this, what lies between them is not looked at.
NARROW = 1e-4


class _BranchEnd(NumericalError):
    """At a fixed correlation, quite other standard deviations are the best."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a fit.

    Attributes
    ----------
    name : str
        ``"x"`` for a fixed effect, ``"sd(x | g)"``, ``"cor(x, z | g)"``, ``"sigma"``.
    kind : {"fixed", "sd", "cor", "sigma"}
    place : tuple of int
        Column among those kept; or factor and effect or effects.
    estimate : float
    low, high : float
        Ends of its range.
    step : float
        A first guess at its standard error.
    """

    name: str
    kind: str
    place: tuple[int, ...]
    estimate: float
    low: float
    high: float
    step: float


def is_restricted(fit: Fit) -> bool:
    """Whether there are covariance structures, known values or constraints, which profiles do not keep to."""
    asked = fit._problem.restrictions
    return fit._problem.variances is not None or (asked is not None and bool(asked.beta))


def parameters(fit: Fit) -> list[Parameter]:
    """Return the parameters of a fit: variances, and by ML the fixed effects."""
    out = []
    problem = fit._problem
    for k, factor in enumerate(problem.design.factors):
        T = fit.covariances[factor.name].to_numpy()
        sd = np.sqrt(np.maximum(np.diag(T), 0.0))
        unit = fit.sigma * np.sqrt((problem.maps[k] ** 2).sum(axis=1))
        for block in factor.blocks:
            for i in block:
                name = f"sd({factor.effects[i]} | {factor.name})"
                step = 0.3 * max(sd[i], 0.3 * unit[i])
                out.append(Parameter(name, "sd", (k, i), float(sd[i]), 0.0, np.inf, step))
            for a, i in enumerate(block):
                for j in block[:a]:
                    size = sd[i] * sd[j]
                    value = float(np.clip(T[i, j] / size, -1, 1)) if size > 0 else np.nan
                    name = f"cor({factor.effects[j]}, {factor.effects[i]} | {factor.name})"
                    out.append(Parameter(name, "cor", (k, j, i), value, -1.0, 1.0, 0.05))
    out.append(Parameter("sigma", "sigma", (), fit.sigma, 0.0, np.inf, fit.sigma / np.sqrt(2 * fit.df_resid)))
    if not fit.reml:
        for j, (name, value) in enumerate(fit.params.dropna().items()):
            se = float(fit.bse[name])
            out.append(Parameter(str(name), "fixed", (j,), float(value), -np.inf, np.inf, se))
    return out


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
        criterion = fit._problem.criterion(fit.reml)
        assert isinstance(criterion, Criterion)  # `parameters` refuses others
        self._criterion = criterion
        self.points: dict[float, float] = {parameter.estimate: 0.0}
        self.note = ""
        self._starts: dict[float, Matrix] = {}
        self._last = np.nan
        self._search = fit._problem.curvature[0]

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
                    f"the profile of {self.parameter.name} at {value:.6g} lies {-rise:.3g} below the criterion of the "
                    "fit: its estimate is not the lowest optimum"
                )
            self.points[value] = float(np.copysign(np.sqrt(max(rise, 0.0)), value - self.parameter.estimate))
        return self.points[value]

    def _deviance(self, value: float) -> float:
        problem, p = self.fit._problem, self.parameter
        try:
            if p.kind == "fixed":
                return self._minimise(
                    value, paths.fixed_effect(problem, self._criterion, p.place[0], value), self.fit._point
                )
            path, start = self._path(problem, value)
            objective = paths.PathCriterion(problem, self._criterion, path)
            if p.kind != "cor":
                return self._minimise(value, objective, start)
            before = self._nearest(value, start)
            found = self._minimise(value, objective, before)
            self._check_branch(path, before, objective.theta)
            return found
        except KernelError as error:
            raise NumericalError(f"the profile of {p.name} fails at {value:.6g}: {error}") from None

    def _nearest(self, value: float, start: Matrix) -> Matrix:
        """The solution at the nearest value known, so that a branch is followed from the estimate on."""
        known = [at for at, x in self._starts.items() if len(x) == len(start)]  # at ±1 there are fewer parameters
        return self._starts[min(known, key=lambda at: abs(at - value))] if known else start

    def _check_branch(self, path: paths.Path, before: Matrix, after: Matrix) -> None:
        """Refuse a solution with other standard deviations than the one that it was reached from."""
        k, *effects = self.parameter.place
        one, other = (
            np.diag(roots[k] @ roots[k].T)[effects] for roots in (paths.roots_at(path, x) for x in (before, after))
        )
        if (other > SMOOTH**2 * one).any() or (one > SMOOTH**2 * other).any():
            rise = self._last - self.fit.criterion
            raise _BranchEnd(
                f"standard deviations of {' and '.join(f'{sd:.3g}' for sd in np.sqrt(other))} raise the deviance by "
                f"{rise:.3g} only"
            )

    def _path(self, problem: Problem, value: float) -> tuple[paths.Path, Matrix]:
        fit, p = self.fit, self.parameter
        covariances = [fit.covariances[f.name].to_numpy() for f in problem.design.factors]
        if p.kind == "sd":
            return paths.standard_deviation(problem, covariances, fit.sigma, p.place[0], p.place[1], value)
        if p.kind == "cor":
            k, i, j = p.place
            return paths.correlation(problem, covariances, fit.sigma, k, i, j, value)
        return paths.residual_deviation(problem, covariances, value)

    def _minimise(self, value: float, objective: Criterion | paths.PathCriterion, start: Matrix) -> float:
        """The least deviance from the nearest solution known, and from the fit's own."""
        starts = [self._nearest(value, start), start]
        best, message = np.inf, ""
        for x in starts:
            if len(x) == 0:
                return objective.value(x)
            trace = newton.minimize(cast("Criterion", objective), self.fit._problem.template, x, self._search)
            if trace.criterion[-1] < best:
                best, message = trace.criterion[-1], trace.message
                self._starts[value] = np.array(objective.theta)
            if message == newton.DONE:
                break
        if message != newton.DONE:
            raise NumericalError(f"the profile of {self.parameter.name} stops at {value:.6g}: {message}")
        self._last = float(best)
        return self._last

    def limit(self, target: float) -> float:
        """Return where ζ reaches `target`, the end of the range if it does not, NaN with a note where it fails."""
        p = self.parameter
        sign = np.sign(target)
        end = p.high if sign > 0 else p.low
        inner, inner_zeta = p.estimate, 0.0
        halfway, fence, beyond = p.kind == "cor", end, ""
        outer = _within(p.estimate + target * p.step, inner, end, halfway)
        try:
            for _ in range(MOST):
                if outer in (end, inner) and fence == end:
                    return self._at_end(inner, inner_zeta, end, target)
                try:
                    z = self.zeta(outer)
                except _BranchEnd as found:
                    fence, beyond = outer, str(found)
                    if abs(outer - inner) < NARROW:
                        self._add_note(f"beyond {inner:.4g} (ζ {inner_zeta:.2f}) {beyond}")
                        return end
                    self._starts.pop(outer, None)
                    outer = inner + 0.5 * (fence - inner)
                    continue
                if sign * z >= sign * target:
                    return _root(self.zeta, inner, inner_zeta - target, outer, z - target)
                factor = np.clip(target / z if z else 4.0, 1.05, 4.0)
                if fence != end and abs(fence - outer) < NARROW:
                    self._add_note(f"beyond {outer:.4g} (ζ {z:.2f}) {beyond}")
                    return end
                inner, inner_zeta = outer, z
                outer = _within(p.estimate + factor * 1.02 * (outer - p.estimate), inner, fence, halfway)
            reason = f"not reached at {inner:.6g}, where ζ is {inner_zeta:.3g}"
        except NumericalError as error:
            reason = str(error)
        self._add_note(f"{'upper' if sign > 0 else 'lower'} limit not found: {reason}")
        return np.nan

    def _add_note(self, text: str) -> None:
        self.note += ("; " if self.note else "") + text

    def _at_end(self, inner: float, inner_zeta: float, end: float, target: float) -> float:
        if end == self.parameter.estimate:
            return end
        try:
            z = self.zeta(end)
        except _BranchEnd as found:
            self._add_note(f"at {end:g} {found}")
            return end
        if abs(z) <= abs(target):
            return end
        return _root(self.zeta, inner, inner_zeta - target, end, z - target)


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


def quantile(alpha: float) -> float:
    """The normal quantile of a two-sided interval."""
    if not isinstance(alpha, (int, float, np.number)) or not 0 < alpha < 1:
        raise DataError(f"alpha must be between 0 and 1, got {alpha!r}")
    return float(-ndtri(alpha / 2))


def intervals(fit: Fit, names: list[str] | None = None, alpha: float = 0.05) -> pd.DataFrame:
    """Return profile intervals: estimate, lower, upper, and a note where a limit was not found; see `Fit.profile`."""
    target = quantile(alpha)
    rows = {}
    for parameter in chosen(fit, names):
        if np.isnan(parameter.estimate):
            rows[parameter.name] = (np.nan, -1.0, 1.0, "a variance is estimated as zero: nothing is known of it")
            continue
        profile = Profile(fit, parameter)
        lower, upper = profile.limit(-target), profile.limit(target)
        rows[parameter.name] = (parameter.estimate, lower, upper, profile.note)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "lower", "upper", "note"])


def fixed_intervals(fit: Fit, alpha: float) -> pd.DataFrame:
    """Return profile intervals of the fixed effects (lower, upper); NaN for those that are aliased."""
    found = intervals(fit, [str(name) for name in fit.params.dropna().index], alpha)
    failed = found["note"][found[["lower", "upper"]].isna().any(axis=1)]
    if len(failed):
        raise NumericalError("; ".join(f"{name}: {note}" for name, note in failed.items()))
    return found[["lower", "upper"]].reindex(fit.params.index)


def chosen(fit: Fit, names: list[str] | str | None) -> list[Parameter]:
    """Return the parameters of those names, all if None.

    Raises
    ------
    DataError
        For a name that has no profile, listing those that have one.
    DesignError
        With covariance structures, known values or constraints.
    """
    independent_errors(fit, "the profile likelihood")
    if is_restricted(fit):
        raise DesignError("profiles are not offered with covariance structures, known values or constraints")
    every = {parameter.name: parameter for parameter in parameters(fit)}
    if names is None:
        return list(every.values())
    out = []
    for name in [names] if isinstance(names, str) else names:
        if name not in every:
            why = " (fixed effects have one with reml=False only)" if fit.reml and name in fit.params.index else ""
            raise DataError(f"no profile of {name!r}{why}; there are {list(every)}", column=str(name))
        out.append(every[name])
    return out


def profile_table(fit: Fit, name: str, points: int, alpha: float) -> pd.DataFrame:
    """Return a profile at values between and a little beyond its limits; see `Fit.profile`."""
    (parameter,) = chosen(fit, name)
    if np.isnan(parameter.estimate):
        raise DataError(f"{name} has no estimate: one of its variances is zero", column=name)
    profile, target = Profile(fit, parameter), quantile(alpha)
    ends = [profile.limit(sign * target) for sign in (-1.0, 1.0)]
    if np.isnan(ends).any():
        raise NumericalError(f"profile of {name}: {profile.note}")
    for value in np.linspace(ends[0], ends[1], max(points, 3)):
        profile.zeta(float(value))
    table = pd.DataFrame(sorted(profile.points.items()), columns=["value", "zeta"])
    table["deviance"] = fit.criterion + table["zeta"] ** 2
    return table
