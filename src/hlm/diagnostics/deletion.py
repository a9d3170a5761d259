"""Fits without some of the rows: from the rows that are left, for any structure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.covariance import Matrix
from hlm.criterion import Problem, make_problem
from hlm.design import Design, check_design
from hlm.errors import DesignError
from hlm.estimation import estimate
from hlm.residuals.refusals import independent_errors

if TYPE_CHECKING:
    from hlm.fit import Fit


# Curvatures below this part of the largest are none: directions of θ on the boundary.
FLAT = 1e-9


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
        used, codes = np.unique(factor.codes[kept], return_inverse=True)
        factors.append(
            replace(
                factor,
                codes=codes.astype(np.intp),
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
    if fit._problem.restrictions is not None:
        problem = problem.restrict(fit._problem.restrictions)
    return type(fit)(model, problem, estimate(problem, fit.reml, fit.method, None, False), fit.reml, fit.method)


def _problem_without(fit: Fit, kept: npt.NDArray[np.bool_]) -> Problem:
    independent_errors(fit, "a fit without some rows")
    design = subset(fit.model.design, kept)
    check_design(design)
    problem = make_problem(design)
    if int(problem.coordinates.kept.sum()) < int(fit._problem.coordinates.kept.sum()):
        raise DesignError("without these rows the fixed columns are dependent")
    return problem


@dataclass(frozen=True)
class Deletion:
    """What is estimated without some rows, in the user's units but for D.

    Attributes
    ----------
    fixed, covariance, sigma
        γ̂, its covariance and σ̂ at the θ of the fit.
    moved : (p,) float64
        γ̂ at θ after one Newton step.
    D : list of (q, q) float64
        T/σ² of each factor after the step.
    decrement : float
        Of the step, in units of the criterion; infinite where the Hessian has a negative eigenvalue.
    """

    fixed: Matrix
    covariance: Matrix
    sigma: float
    moved: Matrix
    D: list[Matrix]
    decrement: float


def delete_rows(fit: Fit, kept: npt.NDArray[np.bool_]) -> Deletion:
    """Return γ̂ without some rows at the θ of the fit, and after one Newton step in θ.

    Parameters
    ----------
    fit : Fit
        Without structures, known values or constraints.
    kept : (n,) bool array
        Of the rows that are used; True: stays.
    """
    problem = _problem_without(fit, kept)
    template, criterion = problem.template, problem.criterion(fit.reml)
    T = [fit.covariances[factor.name].to_numpy() / fit.sigma**2 for factor in template.factors]
    inverses = [np.linalg.inv(matrix) for matrix in problem.maps]
    criterion.value(template.theta_of_covariances([M @ D @ M.T for M, D in zip(inverses, T, strict=True)]))
    c = problem.coordinates
    fixed, sigma2 = c.beta_map @ criterion.beta + c.beta_shift, criterion.sigma2
    covariance = sigma2 * c.beta_map @ criterion.cross_inverse @ c.beta_map.T
    here = np.array(criterion.theta)
    gradient, hessian = criterion.derivatives(problem.curvature[1])
    step, decrement = newton_steps(gradient[None], hessian[None])
    if not np.isfinite(decrement[0]):
        return Deletion(fixed, covariance, np.sqrt(sigma2) * c.scale, np.full_like(fixed, np.nan), T, np.inf)
    criterion.value(here + step[0])
    D = [M @ L @ L.T @ M.T for M, L in zip(problem.maps, template.factors_of(here + step[0]), strict=True)]
    moved = c.beta_map @ criterion.beta + c.beta_shift
    return Deletion(fixed, covariance, float(np.sqrt(sigma2) * c.scale), moved, D, float(decrement[0]))


def newton_steps(gradient: Matrix, hessian: Matrix) -> tuple[Matrix, Matrix]:
    """Newton steps (g, m) and what they gain; NaN and infinity where the Hessian has a negative eigenvalue."""
    values, vectors = np.linalg.eigh(hessian)
    largest = np.abs(values).max(axis=1, initial=0.0)[:, None]
    along = np.einsum("gst,gs->gt", vectors, gradient)
    flat = np.abs(values) <= FLAT * largest
    length = np.where(flat, 0.0, along / np.where(flat, 1.0, values))
    bad = ((values < 0) & ~flat).any(axis=1)
    step = -np.einsum("gst,gt->gs", vectors, length)
    step[bad] = np.nan
    return step, np.where(bad, np.inf, 0.5 * (along * length).sum(axis=1))


def widened(design: Design, columns: dict[str, npt.NDArray[np.float64]]) -> Design:
    """Return the design with more fixed columns."""
    return replace(design, names=(*design.names, *columns), columns=(*design.columns, *columns.values()))
