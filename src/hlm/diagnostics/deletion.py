"""Fits without some of the rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.criterion import make_problem
from hlm.design import Design, check_design
from hlm.errors import DesignError
from hlm.estimation import estimate

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
        used, codes = np.unique(factor.codes[kept], return_inverse=True)
        factors.append(
            replace(
                factor,
                codes=codes.astype(np.intp),
                labels=factor.labels[used],
                columns=tuple(column[kept] for column in factor.columns),
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
    from hlm.fit import Fit as Result

    design = subset(fit.model.design, kept)
    check_design(design)
    problem = make_problem(design)
    if fit._problem.restrictions is not None:
        problem = problem.restrict(fit._problem.restrictions)
    model = type(fit.model).__new__(type(fit.model))
    model._reader = fit.model._reader
    model.design = design
    model.problem = problem
    if int(problem.coordinates.kept.sum()) < int(fit._problem.coordinates.kept.sum()):
        raise DesignError("without these rows the fixed columns are dependent")
    return Result(model, problem, estimate(problem, fit.reml, fit.method, None, False), fit.reml, fit.method)


def widened(design: Design, columns: dict[str, npt.NDArray[np.float64]]) -> Design:
    """Return the design with more fixed columns."""
    return replace(design, names=(*design.names, *columns), columns=(*design.columns, *columns.values()))
