"""Intraclass correlations of each level, with intervals, and design effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.criterion import Problem
from hlm.errors import DesignError, NumericalError
from hlm.inference.information import information
from hlm.measures.explained import variance_parts
from hlm.profiles.profile import quantile
from hlm.residuals.refusals import independent_errors
from hlm_ext.criterion import Criterion

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# A share below this is that of a variance of zero.
NOTHING = 1e-10


def icc(fit: Fit, alpha: float = 0.05) -> pd.DataFrame:
    """Return variances, shares and intraclass correlations of each level.

    Parameters
    ----------
    fit : Fit
    alpha : float
        The intervals cover 1 - alpha.

    Returns
    -------
    DataFrame
        One row for each grouping factor, in the order of the hierarchy: "variance" (mean of z'Tz over the rows),
        "share" of the total (all random effects and σ²; the fixed part counts for nothing), "icc": the correlation of
        two rows of the same level, which share all levels above it too, with "se", "lower" and "upper" (normal on the
        logit scale, from the observed information; where a single variance is zero, or is not told from zero by its
        profile, that of the ratio of variances, from zero on), and "design_effect" 1 + (n̄ - 1) icc with n̄ = Σ n_j²/n
        (Kish 1965).

    Raises
    ------
    DesignError
        For a model without groups.
    """
    independent_errors(fit, "the intraclass correlation")
    z = quantile(alpha)
    problem = fit._problem
    design = problem.design
    if not design.factors:
        raise DesignError("a model without groups has no intraclass correlation")
    _, random, residual = variance_parts(fit)
    total = sum(random.values()) + residual
    covariance = information(fit).covariance.to_numpy()
    rows = {}
    hierarchy = problem.statistics.hierarchy
    for position, k in enumerate(hierarchy.factors):
        factor = design.factors[k]
        above = hierarchy.factors[position : hierarchy.peeled] if position < hierarchy.peeled else (k,)
        value = sum(random[design.factors[j].name] for j in above) / total
        se = _error(problem, set(above), value, total, covariance)
        lower, upper = _limits(fit, value, se, z)
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
    moments = [_second_moments(problem, k) for k in range(len(problem.design.factors))]
    for t, (k, i, j) in enumerate(owners):
        gradient[t] = moments[k][i, j] * (1 if i == j else 2) * ((k in above) - value) / total
    gradient[-1] = -value / total
    if value <= NOTHING:
        return np.nan
    return float(np.sqrt(max(float(gradient @ covariance @ gradient), 0.0)))


def _second_moments(problem: Problem, k: int) -> Matrix:
    """Mean of zz' over the observations, times the scale of T where levels are related."""
    design, factor = problem.design, problem.design.factors[k]
    Z = np.column_stack(factor.columns)
    weighted = Z if design.frequencies is None else Z * design.frequencies[:, None]
    weighted = weighted * factor.level_scale[factor.codes][:, None]
    return np.asarray(Z.T @ weighted / design.nobs)


def _limits(fit: Fit, value: float, se: float, z: float) -> tuple[float, float]:
    single = fit._problem.variances is None and fit._problem.template.m == 1
    if single and _may_be_zero(fit, z):
        return 0.0, _upper(fit, z)
    if not np.isnan(se):
        middle, half = np.log(value / (1 - value)), z * se / (value * (1 - value))
        return tuple(float(1 / (1 + np.exp(-x))) for x in (middle - half, middle + half))  # type: ignore[return-value]
    return (0.0 if value <= NOTHING else np.nan), np.nan


def _may_be_zero(fit: Fit, z: float) -> bool:
    """Whether the criterion at a ratio of variances of zero has risen by no more than z²."""
    return fit._problem.criterion(fit.reml).value(np.zeros(1)) <= fit.criterion + z * z


def _upper(fit: Fit, z: float) -> float:
    """Where the criterion, as a function of the one ratio of variances, has risen by z²."""
    criterion = fit._problem.criterion(fit.reml)
    assert isinstance(criterion, Criterion)
    goal = fit.criterion + z * z
    low, high = 0.0, 1.0
    for _ in range(60):
        if criterion.value(np.array([high])) > goal:
            break
        low, high = high, 2 * high
    else:
        raise NumericalError("the criterion does not rise with the variance: there is no upper limit")
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if criterion.value(np.array([middle])) < goal else (low, middle)
    ratio = float(fit._problem.maps[0][0, 0] * high) ** 2
    ratio *= float(_second_moments(fit._problem, 0)[0, 0])
    return ratio / (1 + ratio)
