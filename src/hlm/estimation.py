"""Fit a problem: start, optimiser, boundary, certificate."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, compress
from typing import Any

import numpy as np

from hlm.certificate import GAIN, NEARLY_ZERO, Certificate, certify, escape, settle
from hlm.covariance import Matrix
from hlm.criterion import Objective, Problem
from hlm.design import term_text
from hlm.errors import DataError, DesignError
from hlm.optimize import em, newton
from hlm.optimize.protocols import Region, Searchable
from hlm.optimize.start import moment_start
from hlm.optimize.trace import Trace, Vector
from hlm.variance.criterion import VarianceCriterion
from hlm.variance.start import starts
from hlm_ext.criterion import Criterion, KernelError
from hlm_ext.linear import eigh, lower_factor

METHODS = ("newton", "fisher", "em", "ecme")
# Times that a fit may leave a boundary point where the cone test shows a way down.
ESCAPES = 5
# Degrees of freedom beside those of all effects up to which a second optimum is looked for, and where.
FEW = 100
SIZES = [10.0 ** (j / 2) for j in range(-2, 14)]
# Standard deviations of effects, in units of σ, that only a likelihood which rises for ever leads to: where the search
# ended at no optimum, and where it says that it did.
NO_RESIDUAL_ABOVE = 1e3, 1e4
# Units of the criterion that giving up a variance may cost, by second derivatives and by its value, if another optimum
# is to be looked for there.
PRICE, NEARLY_AS_LOW = 20.0, 2.0
# Groups up to which a singular optimum is looked for in other directions than those of the optimum found; directions in
# a plane; their variance, relative to that of the optimum found (there is less of it where it has several directions).
FEW_GROUPS, ANGLES, LARGER = 50, 4, 2.0
# Multiples of a θ that is no optimum, at which a likelihood that rises for ever is looked for.
FARTHER = (10.0, 1e3, 1e6, 1e9, 1e12)
# Variance left there, relative to that of the OLS residuals, which is rounding: a standard deviation of 1e4 ε.
LEAST_RESIDUAL = 5e-24
# Of random effects that the fixed effects reproduce, what rounding leaves (squared).
LEFT = 1e-10


@dataclass(frozen=True)
class Estimate:
    """An optimum: the criterion stands evaluated there."""

    criterion: Objective
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
    DataError
        For an unknown method or a number of iterations that is none.
    DesignError
        If EM has no closed M-step for what the model asks, or the restricted likelihood does not depend on a variance
        because the fixed effects reproduce its effects.
    DegenerateError
        For a likelihood without a maximum.
    """
    check_method(method, max_iter)
    try:
        criterion = problem.criterion(reml)
        trace, certificate = _minimize(problem, criterion, method, max_iter, accelerate)
        if reml:
            _check_left_by_fixed(problem, criterion)
        if not certificate.holds and problem.variances is None:
            _go_on(criterion)
    except KernelError as error:
        raise problem.explain(error) from None
    if not _has_residual(problem, criterion, certificate.holds):
        raise problem.without_residual()
    return Estimate(criterion, criterion.last, certificate, trace)


def _check_left_by_fixed(problem: Problem, criterion: Objective) -> None:
    """Refuse random effects of which the fixed effects leave nothing, PZ = 0, where the criterion stands."""
    template = problem.template
    # it takes a fixed column for each level
    if not isinstance(criterion, Criterion) or all(factor.size > problem.rank for factor in template.factors):
        return
    roots = template.factors_of(np.array(criterion.theta))
    for k, (left, _) in zip(template.order, criterion.moments(), strict=True):
        factor = template.factors[k]
        for block in factor.blocks if factor.size <= problem.rank else []:
            index = np.ix_(block, block)
            # of the order of the number of levels if there are no fixed effects, whatever D
            own = np.linalg.cholesky(np.eye(len(block)) + roots[k][index] @ roots[k][index].T)
            if eigh(own.T @ left[index] @ own)[0][0] <= LEFT * factor.size:
                raise DesignError(
                    f"fixed effects already tell the levels of '{factor.name}' apart: they leave nothing of a "
                    f"random effect in {term_text(factor, block)} to estimate its variance from. "
                    "Leave out the one or the other",
                    column=factor.name,
                )


def _go_on(criterion: Objective) -> None:
    """Look farther along θ as long as the criterion falls: a search may have ended on the way to a kernel's failure.

    Raises
    ------
    KernelError
        Where the criterion has no value any more: the likelihood has no maximum.
    """
    found, lowest = np.array(criterion.theta), criterion.last
    for factor in FARTHER:
        value = criterion.value(factor * found)
        if criterion.residual < LEAST_RESIDUAL * criterion.freedom:
            raise KernelError("no residual", -1, -1, -1)
        if value >= lowest:
            break
        lowest = value
    criterion.value(found)


def _has_residual(problem: Problem, criterion: Objective, optimal: bool) -> bool:
    """Whether σ has not gone to zero beside related levels that may explain every row.

    The likelihood of other models has no maximum then: its values end in a `KernelError`.
    """
    related = sum(factor.size * factor.width for factor in problem.design.factors if factor.between is not None)
    known = problem.variances is not None and problem.variances.sigma_known > 0
    if known or related < problem.design.nobs - problem.rank:
        return True
    roots = problem.space.factors_of(np.array(criterion.theta))
    return max(float(np.abs(L).max()) for L in roots) < NO_RESIDUAL_ABOVE[optimal]


def check_method(method: str, max_iter: int | None) -> None:
    """Refuse a method that is none, or a number of iterations that is none."""
    if method not in METHODS:
        raise DataError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if max_iter is not None and (not isinstance(max_iter, (int, np.integer)) or max_iter < 1):
        raise DataError(f"max_iter must be a whole number of at least 1, got {max_iter!r}")


def _minimize(
    problem: Problem, criterion: Objective, method: str, max_iter: int | None, accelerate: bool
) -> tuple[Trace, Certificate]:
    space = problem.space
    search, final = problem.curvature
    if space.m == 0:
        # what is asked for may leave a single point of several coordinates
        point = starts(criterion)[0] if isinstance(criterion, VarianceCriterion) else np.zeros(0)
        trace = Trace(method, message="no free variance parameters: solved in one step")
        trace.add(point, criterion.value(point), 0.0, 0.0)
        return trace, certify(criterion, space)
    if method in ("em", "ecme"):
        return _expect_and_maximize(criterion, problem, method, max_iter or 20_000, accelerate)
    information = search if method == "newton" else "expected"
    steps = max_iter or 200
    if isinstance(criterion, VarianceCriterion):
        points = starts(criterion)[: None if criterion.variances.curved else 1]
    else:
        points = [moment_start(criterion, problem.template)]
    trace = newton.minimize(criterion, space, points[0], information, steps)
    found, value = np.array(criterion.theta), criterion.last
    for start in [*points[1:], *_with_less(problem, criterion, trace.hessian), *_other_starts(problem, criterion)]:
        rival = None if isinstance(criterion, VarianceCriterion) else (found, value)
        try:
            second = newton.minimize(criterion, space, start, information, steps, rival)
        except KernelError:  # where values have no digits there is no optimum
            continue
        if criterion.last < value - 1e-9:
            trace, found, value = second, np.array(criterion.theta), criterion.last
    settle(criterion, space, found, value)
    if search != final:
        trace.extend(newton.minimize(criterion, space, np.array(criterion.theta), final, steps))
        information = final if method == "newton" else information
    return trace, leave_saddles(criterion, space, trace, information, final, steps)


def _other_starts(problem: Problem, criterion: Objective) -> list[Vector]:
    """Return starts from which another optimum may be found than the one where the criterion stands.

    Small data can have a local minimum on the boundary beside a lower one inside: look from inside too. Where effects
    take up nearly all degrees of freedom, there may be one at which they explain nearly everything: variances of all
    sizes are tried for it, one factor at a time, and each is a start that is better than its neighbours. Not so where
    levels are related: they explain no more the larger they are, and values have no digits where they are very large.
    """
    space = problem.space
    found, sigma2 = np.array(criterion.theta), criterion.sigma2
    settled = space.settled(found, NEARLY_ZERO)
    edge = found if settled is None else settled
    starts = [space.lifted(edge, sigma2)] if space.is_singular(edge) else []
    independent = [factor.between is None for factor in space.factors]
    taken = problem.rank + sum(f.size * f.width for f in compress(space.factors, independent))
    if problem.design.nobs - taken <= FEW:
        covariances = [L @ L.T for L in space.factors_of(found)]
        for k, D in compress(enumerate(covariances), independent):
            try:
                points = [
                    space.point([*covariances[:k], size**2 * np.eye(len(D)), *covariances[k + 1 :]], sigma2)
                    for size in SIZES
                ]
            except KernelError:  # constraints leave no such variance
                continue
            values = [np.inf, *(_value(criterion, point) for point in points), np.inf]
            starts += [points[i] for i in range(len(points)) if values[i] > values[i + 1] < values[i + 2]]
    return starts


def _with_less(problem: Problem, criterion: Objective, hessian: Vector) -> list[Vector]:
    """Return starts without the variance in one direction, or in several, of the D's where the criterion stands.

    A few large groups can have one optimum with and another, perhaps lower, without it. Tried is what can be given up
    at a small price by the second derivatives there or nearly there (m, m); a start is what has nearly as low a value,
    or a lower one. What is nearly zero is left to `settle`.
    """
    if isinstance(criterion, VarianceCriterion):
        return []
    found, value = np.array(criterion.theta), criterion.last
    roots = problem.template.factors_of(found)
    starts: list[Vector] = []
    looked = False
    for k, block in problem.template.cones():
        index = np.ix_(block, block)
        L = roots[k][index]
        values, vectors = eigh(L @ L.T)
        order = range(len(block))
        given_up = {
            frozenset(i for i in gone if values[i] > NEARLY_ZERO)
            for gone in (*([i] for i in order), *map(range, order), order)
        }
        kept = [[0.0 if i in gone else max(values[i], 0.0) ** 0.5 for i in order] for gone in given_up - {frozenset()}]
        points = [_with_block(problem, roots, k, index, vectors * sizes) for sizes in kept]
        steps = [point - found for point in points]
        cheap = [point for point, step in zip(points, steps, strict=True) if 0.5 * step @ hessian @ step < PRICE]
        near = [point for point in cheap if _value(criterion, point) < value + NEARLY_AS_LOW]
        looked = looked or bool(cheap)
        starts += near
        if len(block) > 1 and problem.template.factors[k].size <= FEW_GROUPS and (near or values[0] <= NEARLY_ZERO):
            variance = LARGER * max(float(values.sum()), 1.0)
            starts += _in_one_direction(problem, criterion, roots, k, block, variance, value + NEARLY_AS_LOW)
            looked = True
    if looked:
        criterion.value(found)
    return starts


def _in_one_direction(
    problem: Problem,
    criterion: Objective,
    roots: list[Matrix],
    k: int,
    block: tuple[int, ...],
    variance: float,
    limit: float,
) -> list[Vector]:
    """Return starts at which the effects of a block move in one direction, lower than their neighbours on a circle.

    Two coordinates at a time, with a variance in all; only what is below `limit`.
    """
    starts = []
    index = np.ix_(block, block)
    for i, j in combinations(range(len(block)), 2):
        points = []
        for angle in np.pi / ANGLES * np.arange(ANGLES):
            root = np.zeros((len(block), len(block)))
            root[[i, j], 0] = np.sqrt(variance) * np.array([np.cos(angle), np.sin(angle)])
            points.append(_with_block(problem, roots, k, index, root))
        values = [_value(criterion, point) for point in points]
        around = zip(points, values, np.roll(values, 1), np.roll(values, -1), strict=True)
        starts += [point for point, value, before, after in around if value < limit and before > value <= after]
    return starts


def _with_block(problem: Problem, roots: list[Matrix], k: int, index: tuple[Any, ...], root: Matrix) -> Vector:
    """Return θ with a covariance of a block given by a root of it, the rest as in `roots`; `index` is its place."""
    changed = [matrix.copy() for matrix in roots]
    changed[k][index] = lower_factor(root) * np.where(np.diag(roots[k][index]) < 0, -1.0, 1.0)
    return problem.template.theta_of(changed)


def _value(criterion: Objective, theta: Vector) -> float:
    try:
        return criterion.value(theta)
    except KernelError:
        return np.inf


def _expect_and_maximize(
    criterion: Objective, problem: Problem, method: str, max_iter: int, accelerate: bool
) -> tuple[Trace, Certificate]:
    space, (search, final) = problem.space, problem.curvature
    if isinstance(criterion, VarianceCriterion):
        why = criterion.variances.without_em(method)
        if why:
            raise DesignError(f"method '{method}' {why}; use 'newton' or 'fisher'")
        theta = starts(criterion)[0]
        profiled = method == "ecme" or not criterion.variances.profiled
    else:
        theta, profiled = moment_start(criterion, problem.template), method == "ecme"
    trace = em.minimize(criterion, space, theta, profiled, accelerate, max_iter, search)
    settle(criterion, space, np.array(criterion.theta), criterion.last)
    return trace, certify(criterion, space, final)


def leave_saddles(
    criterion: Searchable,
    space: Region,
    trace: Trace,
    information: str,
    judge: str,
    max_iter: int,
    rounding: float = newton.ROUNDING,
) -> Certificate:
    """Certify the point reached; go on from boundary points where the cone test shows a way down.

    `information` are the second derivatives of the optimiser, `judge` those of the certificate; `rounding`: see
    `hlm.optimize.newton.minimize`.
    """
    certificate = certify(criterion, space, judge)
    for _ in range(ESCAPES):
        way = escape(criterion, space, judge) if certificate.cone >= GAIN else None
        if way is None:
            break
        trace.extend(newton.minimize(criterion, space, way, information, max_iter, rounding=rounding))
        certificate = certify(criterion, space, judge)
    if settle(criterion, space, np.array(criterion.theta), criterion.last):
        certificate = certify(criterion, space, judge)
    trace.decrement[-1] = certificate.decrement
    return certificate
