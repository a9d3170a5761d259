"""Intraclass correlations of each level, with intervals, and design effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.criterion import Problem
from hlm.errors import DataError, DesignError
from hlm.inference.distributions import normal_quantile
from hlm.inference.information import information
from hlm.measures.explained import second_moments, shared, variance_parts
from hlm.profiles.intervals import intervals_of
from hlm.profiles.parameters import icc_parameter
from hlm.profiles.table import may_be_zero
from hlm.residuals.refusals import independent_errors

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

METHODS = ("wald", "profile")
# A share below this is that of a variance of zero.
NOTHING = 1e-10


def icc(fit: Fit, alpha: float = 0.05, method: str = "wald") -> pd.DataFrame:
    """Return variances, shares and intraclass correlations of each level.

    Parameters
    ----------
    fit : Fit
    alpha : float
        The intervals cover 1 - alpha.
    method : {"wald", "profile"}
        Intervals normal on the logit scale, from the observed information, or by the profile where that does not tell
        the correlation from zero; or where the profile deviance rises by the quantile of χ²(1).

    Returns
    -------
    DataFrame
        One row for each grouping factor, in the order of the hierarchy: "variance" (mean of z'Tz over the rows),
        "share" of the total (all random effects and σ²; the fixed part counts for nothing), "icc": the correlation of
        two rows of the same level, which share all levels above it too, with "se", "lower" and "upper", and
        "design_effect" 1 + (n̄ - 1) icc with n̄ = Σ n_j²/n (Kish 1965).

    Raises
    ------
    DataError
        For another method or alpha.
    DesignError
        For a model without groups.
    """
    independent_errors(fit, "the intraclass correlation")
    z = normal_quantile(alpha)
    if method not in METHODS:
        raise DataError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    problem = fit._problem
    design = problem.design
    if not design.factors:
        raise DesignError("a model without groups has no intraclass correlation")
    _, random, residual = variance_parts(fit)
    total = sum(random.values()) + residual
    covariance = information(fit).covariance.to_numpy()
    rows = {}
    hierarchy = problem.statistics.hierarchy
    for k in hierarchy.factors:
        factor = design.factors[k]
        above = shared(problem, k)
        value = sum(random[design.factors[j].name] for j in above) / total
        se = _error(problem, set(above), value, total, covariance)
        parameter = icc_parameter(fit, factor.name)
        if method == "profile" or np.isnan(se) or may_be_zero(fit, parameter, se, z):
            lower, upper = intervals_of(fit, [parameter], alpha)[["lower", "upper"]].iloc[0]
        else:
            lower, upper = _limits(value, se, z)
        count = np.bincount(factor.codes, design.frequencies, factor.size)
        size = float((count**2).sum() / count.sum())
        rows[factor.name] = {
            "variance": random[factor.name],
            "share": random[factor.name] / total,
            "icc": value,
            "se": se,
            "lower": lower,
            "upper": upper,
            "design_effect": 1 + (size - 1) * value,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _error(problem: Problem, above: set[int], value: float, total: float, covariance: Matrix) -> float:
    """Standard error by the delta method; the mean of z'Tz is linear in T."""
    owners = problem.template.owners
    gradient = np.zeros(len(owners) + 1)
    moments = [second_moments(problem, k) for k in range(len(problem.design.factors))]
    for t, (k, i, j) in enumerate(owners):
        gradient[t] = moments[k][i, j] * (1 if i == j else 2) * ((k in above) - value) / total
    gradient[-1] = -value / total
    if value <= NOTHING:
        return np.nan
    return float(np.sqrt(max(float(gradient @ covariance @ gradient), 0.0)))


def _limits(value: float, se: float, z: float) -> tuple[float, float]:
    middle, half = np.log(value / (1 - value)), z * se / (value * (1 - value))
    return tuple(float(1 / (1 + np.exp(-x))) for x in (middle - half, middle + half))  # type: ignore[return-value]
