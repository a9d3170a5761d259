"""Fit a problem: start, optimiser, boundary, certificate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hlm.certificate import GAIN, Certificate, certify, escape, settle
from hlm.covariance import Template
from hlm.criterion import Problem
from hlm.errors import HLMError
from hlm.optimize import em, newton
from hlm.optimize.start import moment_start
from hlm.optimize.trace import Trace, Vector
from hlm_ext.criterion import Criterion, KernelError

METHODS = ("newton", "fisher", "em", "ecme")
# Times that a fit may leave a boundary point where the cone test shows a way down.
ESCAPES = 5
# Degrees of freedom beside those of all effects up to which a second optimum is looked for, and where.
FEW = 100
SIZES = [10.0 ** (j / 2) for j in range(-2, 14)]


@dataclass(frozen=True)
class Estimate:
    """An optimum: the criterion stands evaluated there."""

    criterion: Criterion
    value: float
    certificate: Certificate
    trace: Trace


def estimate(problem: Problem, reml: bool, method: str, max_iter: int | None, accelerate: bool) -> Estimate:
    """Minimise the criterion of a problem.

    Parameters
    ----------
    problem : Problem
    reml : bool
    method : {"newton", "fisher", "em", "ecme"}
    max_iter : int, optional
        Most iterations; 200 for Newton and Fisher scoring, 20,000 for EM.
    accelerate : bool
        SQUAREM for the EM algorithms.

    Raises
    ------
    HLMError
        For an unknown method, or a likelihood without a maximum.
    """
    if method not in METHODS:
        raise HLMError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if max_iter is not None and (not isinstance(max_iter, (int, np.integer)) or max_iter < 1):
        raise HLMError(f"max_iter must be a whole number of at least 1, got {max_iter!r}")
    try:
        criterion = problem.criterion(reml)
        trace, certificate = _minimize(problem, criterion, method, max_iter, accelerate)
    except KernelError as error:
        raise problem.explain(error) from None
    return Estimate(criterion, criterion.last, certificate, trace)


def _minimize(
    problem: Problem, criterion: Criterion, method: str, max_iter: int | None, accelerate: bool
) -> tuple[Trace, Certificate]:
    template = problem.template
    search, final = problem.curvature
    if template.m == 0:
        trace = Trace(method, message="no variance parameters: solved in one step")
        trace.add(np.zeros(0), criterion.value(np.zeros(0)), 0.0, 0.0)
        return trace, certify(criterion, template)
    theta = moment_start(criterion, template)
    if method in ("em", "ecme"):
        trace = em.minimize(criterion, template, theta, method == "ecme", accelerate, max_iter or 20_000, search)
        settle(criterion, template)
        return trace, certify(criterion, template, final)
    information = search if method == "newton" else "expected"
    trace, certificate = _search(criterion, template, theta, information, search, max_iter or 200)
    for start in _other_starts(problem, criterion):
        found, value = np.array(criterion.theta), criterion.last
        second, other = _search(criterion, template, start, information, search, max_iter or 200)
        if criterion.last < value - 1e-9:
            trace, certificate = second, other
        else:
            criterion.value(found)
    if search != final:
        trace.extend(newton.minimize(criterion, np.array(criterion.theta), final, max_iter or 200))
        certificate = certify(criterion, template, final)
    return trace, certificate


def _other_starts(problem: Problem, criterion: Criterion) -> list[Vector]:
    """Return starts from which another optimum may be found than the one where the criterion stands.

    Small data can have a local minimum on the boundary beside a lower one inside: look from inside too. Where effects
    take up nearly all degrees of freedom, there may be one at which they explain nearly everything: variances of all
    sizes are tried for it, one factor at a time, and each is a start that is better than its neighbours.
    """
    template = problem.template
    found = np.array(criterion.theta)
    starts = [template.lifted(found)] if template.is_singular(found) else []
    taken = problem.rank + sum(factor.size * factor.width for factor in template.factors)
    if problem.design.nobs - taken <= FEW:
        unit = template.theta_of([np.eye(factor.width) for factor in template.factors])
        for k in range(len(template.factors)):
            own = np.array([owner[0] == k for owner in template.owners])
            points = [np.where(own, size * unit, found) for size in SIZES]
            values = [np.inf, *(_value(criterion, point) for point in points), np.inf]
            starts += [points[i] for i in range(len(points)) if values[i] > values[i + 1] < values[i + 2]]
        criterion.value(found)
    return starts


def _value(criterion: Criterion, theta: Vector) -> float:
    try:
        return criterion.value(theta)
    except KernelError:
        return np.inf


def _search(
    criterion: Criterion, template: Template, theta: Vector, information: str, judge: str, max_iter: int
) -> tuple[Trace, Certificate]:
    """Minimise from θ, leave boundary points where the cone test shows a way down, and settle on the boundary.

    `information` are the second derivatives of the optimiser, `judge` those of the certificate.
    """
    trace = newton.minimize(criterion, theta, information, max_iter)
    certificate = certify(criterion, template, judge)
    for _ in range(ESCAPES):
        way = escape(criterion, template, judge) if certificate.cone >= GAIN else None
        if way is None:
            break
        trace.extend(newton.minimize(criterion, way, information, max_iter))
        certificate = certify(criterion, template, judge)
    if settle(criterion, template):
        certificate = certify(criterion, template, judge)
    return trace, certificate
