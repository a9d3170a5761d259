"""Fit a problem with a structure of the level-1 errors: one search over all variance parameters."""

from __future__ import annotations

import numpy as np

from hlm.certificate import Certificate, certify, settle
from hlm.covariance import Matrix
from hlm.criterion import Problem
from hlm.crossed import traces_affordable
from hlm.errors import DegenerateError, DesignError
from hlm.estimation import Estimate, check_method, estimate, leave_saddles
from hlm.optimize import newton
from hlm.optimize.em import run
from hlm.optimize.start import moment_start
from hlm.optimize.trace import Trace
from hlm.residuals.criterion import JointCriterion, JointSpace, gathered
from hlm.residuals.em import ResidualEM
from hlm.residuals.pattern import Estimated, Pattern
from hlm.residuals.variances import LogVariance
from hlm_ext.criterion import Criterion, KernelError

# A covariance of the errors of this condition is singular: the likelihood has no maximum but the smallest it can tell.
SINGULAR = 1e-12
# … and where the search ended or the numbers gave out before that, one of this condition is the reason.
NEARLY_SINGULAR = 1e-6


def estimate_model(
    problem: Problem, reml: bool, method: str, max_iter: int | None = None, accelerate: bool = False
) -> tuple[Problem, Estimate]:
    """Minimise the criterion of a problem, with the structure of the level-1 errors that its design asks for, if any.

    Returns
    -------
    problem : Problem
        The one given; with a residual structure that at the estimate.
    estimate : Estimate
    """
    pattern = problem.design.residual
    if pattern is None:
        return problem, estimate(problem, reml, method, max_iter, accelerate)
    return estimate_residual(problem, pattern, reml, method, max_iter, accelerate)


def estimate_residual(
    problem: Problem, pattern: Pattern, reml: bool, method: str, max_iter: int | None, accelerate: bool
) -> tuple[Problem, Estimate]:
    """Minimise the criterion over the parameters of the random effects and of the level-1 errors.

    Parameters
    ----------
    problem : Problem
        With independent errors of one variance.
    pattern : Pattern
    reml, method, max_iter, accelerate
        See `hlm.estimation.estimate`.

    Returns
    -------
    problem : Problem
        With the residual structure known, at the estimate.
    estimate : Estimate
        Its criterion stands at the estimate; the certificate is that of all parameters.

    Raises
    ------
    DegenerateError
        If the likelihood rises as the covariance of the errors becomes singular.
    DesignError
        For correlated errors with crossed factors, or a method that does not know residual structures.
    """
    _check(problem, pattern, method, max_iter)
    plain = estimate(problem, reml, "newton", None, False)
    joint = JointCriterion(gathered(problem, pattern), reml)
    try:
        space = JointSpace(problem.space, joint)
        if method == "newton":
            trace, certificate = _newton(problem, pattern, joint, space, plain, max_iter or 200)
        else:
            em = ResidualEM(joint, space, method == "ecme")
            trace = run(em, _start(problem, pattern, reml), accelerate, max_iter or 20_000, "observed")
            settle(joint, space, np.array(joint.theta), joint.last)
            certificate = certify(joint, space)
        theta, phi = joint.split(joint.theta)
        hessian = joint.derivatives()[1]
        known = Estimated(pattern, phi, plain.value, hessian, joint.squares(), joint.cross_slopes())
        fitted = joint.gathered.at(phi, known)
        own = fitted.criterion(reml)
        own.value(theta)
    except KernelError as error:
        if pattern.condition(joint.split(joint.theta)[1]) < NEARLY_SINGULAR:
            raise _without_maximum(pattern) from None
        raise problem.explain(error) from None
    if pattern.condition(phi) < (SINGULAR if certificate.holds else NEARLY_SINGULAR):
        raise _without_maximum(pattern)
    trace.residual = [joint.split(point)[1] for point in trace.theta]
    trace.theta = [joint.split(point)[0] for point in trace.theta]
    return fitted, Estimate(own, own.last, certificate, trace)


def _without_maximum(pattern: Pattern) -> DegenerateError:
    return DegenerateError(
        f"the likelihood rises as the covariance of the level-1 errors ({pattern.describe()}) becomes singular: the "
        "model reproduces some of their combinations, as the few rows of a stratum; take fewer parameters for them"
    )


def _check(problem: Problem, pattern: Pattern, method: str, max_iter: int | None) -> None:
    check_method(method, max_iter)
    if problem.crossed is not None:
        _check_crossed(problem, pattern)
    if problem.design.absorbed is not None:
        raise DesignError(
            "absorbed intercepts are those of independent errors of one variance; beside residual= give a column"
        )
    if method == "fisher":
        raise DesignError("Fisher scoring does not know residual structures; use method 'newton', 'em' or 'ecme'")
    if method != "newton" and problem.variances is not None:
        raise DesignError(
            f"method '{method}' does not know residual structures beside structures, known values or constraints of "
            "the random effects; use 'newton'"
        )


def _check_crossed(problem: Problem, pattern: Pattern) -> None:
    assert problem.crossed is not None
    if any(factor.between is not None for factor in problem.design.factors):
        raise DesignError(
            "a residual structure is not offered beside a known covariance between levels; leave residual= or "
            "between= out"
        )
    if not isinstance(pattern, LogVariance):
        raise DesignError(
            f"correlated level-1 errors ({pattern.describe()}) need nested grouping factors; with crossed ones their "
            "variance may differ (ByStratum, LogLinear): leave residual= out, or the factors that are crossed"
        )
    if not traces_affordable(problem.crossed):
        raise DesignError(
            "the crossed factors have too many levels for a residual structure, whose derivatives take the whole "
            "inverse of their part; leave residual= out, or one of the factors"
        )


def _start(problem: Problem, pattern: Pattern, reml: bool) -> Matrix:
    """Where EM starts: moments under independent errors; not their optimum, which may be on the boundary."""
    criterion = problem.criterion(reml)
    assert isinstance(criterion, Criterion)
    theta = moment_start(criterion, problem.template) if problem.template.m else np.zeros(0)
    return np.concatenate([theta, pattern.starts()[0]])


def _newton(
    problem: Problem, pattern: Pattern, joint: JointCriterion, space: JointSpace, plain: Estimate, max_iter: int
) -> tuple[Trace, Certificate]:
    """Search from the optimum under independent errors, and from others where there may be several; keep the best."""
    best: tuple[float, Matrix, Trace, Certificate] | None = None
    for x in _starts(problem, pattern, plain):
        trace = newton.minimize(joint, space, x, "observed", max_iter, rounding=joint.rounding)
        certificate = leave_saddles(joint, space, trace, "observed", "observed", max_iter, joint.rounding)
        if best is None or joint.last < best[0] - 1e-9:
            best = joint.last, np.array(joint.theta), trace, certificate
    assert best is not None
    joint.value(best[1])
    return best[2], best[3]


def _starts(problem: Problem, pattern: Pattern, plain: Estimate) -> list[Matrix]:
    """The optimum under independent errors, off the boundary too, with each start of φ."""
    theta = np.array(plain.criterion.theta)
    points = [theta]
    if problem.space.m and problem.space.is_singular(theta):
        points.append(problem.space.lifted(theta, plain.criterion.sigma2))
    return [np.concatenate([point, phi]) for phi in pattern.starts() for point in points]
