"""Fits without some of the rows: from the rows that are left, for any structure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.covariance import Matrix
from hlm.criterion import Problem, make_problem
from hlm.design import Design, check_design, check_residual
from hlm.errors import DesignError
from hlm.estimation import estimate
from hlm.residuals.refusals import independent_errors
from hlm_ext.criterion import KernelError
from hlm_ext.trust_region import newton

if TYPE_CHECKING:
    from hlm.fit import Fit


def subset(design: Design, kept: npt.NDArray[np.bool_]) -> Design:
    """Return the design of some of the rows; levels without rows are gone.

    Parameters
    ----------
    design : Design
    kept : (n,) bool array
        Of the rows that are used.
    """
    factors = []
    for factor in design.factors:
        left = factor.codes[kept]
        there = np.bincount(left, minlength=factor.size) > 0
        used = np.flatnonzero(there)
        factors.append(
            replace(
                factor,
                codes=(np.cumsum(there) - 1)[left].astype(np.intp),
                labels=factor.labels[used],
                columns=tuple(column[kept] for column in factor.columns),
                between=None if factor.between is None else factor.between.restricted(used, factor.labels),
            )
        )

    def some(values: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64] | None:
        return None if values is None else values[kept]

    return replace(
        design,
        y=design.y[kept],
        columns=tuple(column[kept] for column in design.columns),
        factors=tuple(factors),
        weights=some(design.weights),
        frequencies=some(design.frequencies),
        offset=some(design.offset),
        index=None,
        kept=None,
    )


def refit_without(fit: Fit, kept: npt.NDArray[np.bool_]) -> Fit:
    """Fit the model to some of its rows, with the criterion and method of the fit.

    Parameters
    ----------
    fit : Fit
    kept : (n,) bool array
        Of the rows that are used; True: stays.

    Raises
    ------
    DesignError
        If too few are left for the model.
    """
    problem = _problem_without(fit, kept)
    model = type(fit.model).__new__(type(fit.model))
    model._reader = fit.model._reader
    model.design, model.problem = problem.design, problem
    return type(fit)(model, problem, estimate(problem, fit.reml, fit.method, None, False), fit.reml, fit.method)


def _problem_without(fit: Fit, kept: npt.NDArray[np.bool_]) -> Problem:
    independent_errors(fit, "a fit without some rows")
    design = subset(fit.model.design, kept)
    check_design(design)
    problem = make_problem(design)
    if fit._problem.restrictions is not None:
        problem = problem.restrict(fit._problem.restrictions)
    else:
        check_residual(design, problem.template.cones())
    if int(problem.coordinates.kept.sum()) < int(fit._problem.coordinates.kept.sum()):
        raise DesignError("without these rows the fixed columns are dependent")
    return problem


@dataclass(frozen=True)
class Deletion:
    """What is estimated without some rows.

    Attributes
    ----------
    fixed, bse, sigma
        γ̂ (p,), its standard errors and σ̂ at the θ of the fit.
    log_volume : float
        Logarithm of the determinant of γ̂'s covariance, along the constraints if there are any.
    moved, theta
        γ̂ and θ after one Newton step, θ as a fit reports it.
    decrement : float
        Of the step, in units of the criterion; infinite where the Hessian has a negative eigenvalue.
    """

    fixed: Matrix
    bse: Matrix
    log_volume: float
    sigma: float
    moved: Matrix
    theta: Matrix
    decrement: float


@dataclass(frozen=True)
class Deleted:
    """`Deletion` of many groups, one row each in the order of their levels; NaN where there is nothing."""

    fixed: Matrix
    bse: Matrix
    log_volume: Matrix
    sigma: Matrix
    moved: Matrix
    theta: Matrix
    decrement: Matrix

    @classmethod
    def room(cls, count: int, p: int, m: int) -> Deleted:
        """Return room for `count` deletions, p coefficients and m entries of θ each."""
        shapes = [(count, p), (count, p), (count,), (count,), (count, p), (count, m), (count,)]
        out = cls(*(np.full(shape, np.nan) for shape in shapes))
        out.decrement[:] = np.inf
        return out

    def put(self, g: int, one: Deletion) -> None:
        """Fill the row of one group."""
        for part in fields(one):
            getattr(self, part.name)[g] = getattr(one, part.name)

    def clear(self, groups: npt.NDArray[np.bool_]) -> None:
        """Say nothing of some groups (g,)."""
        for part in fields(self):
            getattr(self, part.name)[groups] = np.inf if part.name == "decrement" else np.nan


def volume(beta_map: Matrix) -> float:
    """Return what a change of coordinates γ = map δ adds to the logarithm of a determinant of a covariance."""
    return float(np.linalg.slogdet(beta_map.T @ beta_map)[1])


def delete_rows(fit: Fit, kept: npt.NDArray[np.bool_]) -> Deletion:
    """Return γ̂ without some rows at the θ of the fit, and after one Newton step in θ.

    The step is that of the model of the rows that are left, in its own coordinates and along its constraints. Where
    variances are absolute (known values of T) the θ that is held has σ in it.

    Parameters
    ----------
    fit : Fit
        Without a structure of the level-1 errors.
    kept : (n,) bool array
        Of the rows that are used; True: stays.

    Raises
    ------
    DataError, DesignError, NumericalError
        If too few are left for the model.
    """
    problem = _problem_without(fit, kept)
    space, criterion, c = problem.space, problem.criterion(fit.reml), problem.coordinates
    roots = zip(problem.maps, fit._problem.user_roots(fit._point), strict=True)
    covariances = [root @ root.T for root in (np.linalg.solve(M, user) for M, user in roots)]
    try:
        criterion.value(space.point(covariances, (fit.sigma / c.scale) ** 2))
        fixed, sigma2, inverse = c.beta_map @ criterion.beta + c.beta_shift, criterion.sigma2, criterion.cross_inverse
        bse = np.sqrt(np.einsum("xk,kl,xl->x", c.beta_map, sigma2 * inverse, c.beta_map))
        log_volume = float(np.linalg.slogdet(sigma2 * inverse)[1]) + volume(c.beta_map)
        here = np.array(criterion.theta)
        step, decrement = newton(*criterion.derivatives(problem.curvature[1]))
        moved, theta = np.full_like(fixed, np.nan), np.full(len(problem.theta_names), np.nan)
        if np.isfinite(decrement):
            there = space.move(here, step)
            criterion.value(there)
            moved, theta = c.beta_map @ criterion.beta + c.beta_shift, problem.user_theta(there)
    except KernelError as error:
        raise problem.explain(error) from None
    return Deletion(fixed, bse, log_volume, float(np.sqrt(sigma2) * c.scale), moved, theta, decrement)


def widened(design: Design, columns: dict[str, npt.NDArray[np.float64]]) -> Design:
    """Return the design with more fixed columns."""
    return replace(design, names=(*design.names, *columns), columns=(*design.columns, *columns.values()))
