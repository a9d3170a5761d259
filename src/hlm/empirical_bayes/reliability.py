"""Reliability of the random coefficients, and HLM's chi-square of each variance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from hlm.empirical_bayes.chain import level
from hlm.empirical_bayes.level_one import level_one
from hlm.errors import DataError

if TYPE_CHECKING:
    from hlm.design import Factor
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]

KINDS = ("hlm", "shrinkage", "prediction")


def reliabilities(fit: Fit, name: str, kind: str = "hlm") -> pd.DataFrame:
    """Return the reliability of each random coefficient of each group.

    Parameters
    ----------
    fit : Fit
    name : str
        Grouping factor.
    kind : {"hlm", "shrinkage", "prediction"}
        "hlm": T_qq / (T_qq + V_jqq), V_j the sampling covariance of the group's own estimate (Raudenbush and Bryk
        2002, chapter 3; what HLM prints). NaN where a group has too few rows for an own estimate. At a higher level of
        a nested hierarchy V_j is the covariance of the generalised least squares estimate, lower levels' effects being
        part of the error.
        "shrinkage": the diagonal of T (T + V_j)⁻¹, the share of its own estimate that a coefficient keeps when the
        others of the group are used too (MATH: §4). Defined for every group; may lie outside [0, 1] when q > 1.
        "prediction": 1 - Var(u - û)_qq / Var(u)_qq, the squared correlation of û with u, γ̂ being estimated. Defined
        for crossed factors and related levels too.
        With one random coefficient the first two are the same, and the third less only by what γ̂ costs.

    Returns
    -------
    (J, q) DataFrame
        0 where T_qq = 0.

    Raises
    ------
    DataError
        For an unknown kind.
    DesignError
        For an unknown factor; for the first two kinds where factors are crossed.
    """
    if kind not in KINDS:
        raise DataError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    factor = fit.model.design.factor(name)
    variance = np.diag(fit.covariances[name])
    if kind == "prediction":
        error = np.diagonal(fit.random_effects_cov[name], axis1=1, axis2=2)
        variance = factor.level_scale[:, None] * variance
        values = np.divide(variance - error, variance, out=np.zeros_like(error), where=variance > 0)
        return pd.DataFrame(values, index=factor.all_labels, columns=list(factor.effects))
    own = level(fit, name)
    if kind == "shrinkage":
        values = np.diagonal(own.shrinkage, axis1=1, axis2=2)
    else:
        values = variance / (variance + np.diagonal(own.own_cov, axis1=1, axis2=2))
    return pd.DataFrame(values, index=factor.labels, columns=list(factor.effects))


def reliability(fit: Fit, kind: str = "hlm") -> pd.DataFrame:
    """Return the average reliability of each random coefficient of each factor; see `reliabilities`.

    Parameters
    ----------
    fit : Fit
    kind : {"hlm", "shrinkage", "prediction"}
        See `reliabilities`.

    Returns
    -------
    DataFrame
        One row for each (group, effect): "reliability", the average over the groups that have one, and "groups", their
        number J'.
    """
    parts = []
    for factor in fit.model.design.factors:
        table = reliabilities(fit, factor.name, kind)
        parts.append(pd.DataFrame({"reliability": table.mean(), "groups": table.notna().sum()}))
    return _by_effect(fit, parts)


def variance_tests(fit: Fit) -> pd.DataFrame:
    """Test that the variance of each random coefficient is zero: HLM's chi-square.

    Q = Σ_j (β̂_jq - (𝐙_j γ̂)_q)² / V_jqq over the J' groups that have an own estimate β̂_j with sampling covariance V_j,
    on J' - S - 1 degrees of freedom, S the number of predictors in the coefficient's equation (Raudenbush and Bryk
    2002, chapter 3). Where a higher level has the same random coefficient, groups are compared within its units: each
    unit's precision-weighted mean is taken out, and a degree of freedom for each.

    Returns
    -------
    DataFrame
        One row for each (group, effect): "variance", "std. dev.", "chi2", "df", "p" and "groups" (J').

    Raises
    ------
    DesignError
        Where factors are crossed.
    """
    factors = fit.model.design.factors
    parts = [_tests_of(fit, factor, _above(factor, factors)) for factor in factors]
    return _by_effect(fit, parts)


def _by_effect(fit: Fit, parts: list[pd.DataFrame]) -> pd.DataFrame:
    names = [factor.name for factor in fit.model.design.factors]
    if not parts:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []], names=["group", "effect"]))
    return pd.concat(parts, keys=names, names=["group", "effect"])


def _above(factor: Factor, factors: tuple[Factor, ...]) -> list[Factor]:
    """Factors of a nested hierarchy that `factor` is nested in, nearest first."""
    return sorted((other for other in factors if other.size < factor.size), key=lambda other: -other.size)


def _tests_of(fit: Fit, factor: Factor, above: list[Factor]) -> pd.DataFrame:
    own, equation = level(fit, factor.name), level_one(fit, factor)
    variance = np.diag(fit.covariances[factor.name])
    rows = []
    for q, effect in enumerate(factor.effects):
        use = np.isfinite(own.own[:, q])
        error, precision = own.own[use, q], 1 / own.own_cov[use, q, q]
        predictors = np.nan_to_num(equation.Z[use, q], nan=1.0) != 0
        units = next((other for other in above if effect in other.effects), None)
        if units is None:
            spent = int(predictors.any(axis=0).sum())
        else:
            of = np.empty(factor.size, dtype=np.intp)
            of[factor.codes] = units.codes
            of = np.unique(of[use], return_inverse=True)[1]
            # the ancestors' conditional means are in the own estimates: any constant of a unit goes with its mean
            mean = np.bincount(of, precision * error) / np.bincount(of, precision)
            error = error - mean[of]
            inside = _varies(equation.Z[use, q], of)
            spent = int(of.max()) + 1 + int(inside.sum()) if len(of) else 0
        chi2, df = float(precision @ error**2), int(use.sum()) - spent
        p = float(chdtrc(df, chi2)) if df > 0 else np.nan
        rows.append([variance[q], np.sqrt(variance[q]), chi2 if df > 0 else np.nan, df, p, int(use.sum())])
    columns = ["variance", "std. dev.", "chi2", "df", "p", "groups"]
    return pd.DataFrame(rows, index=list(factor.effects), columns=columns).astype({"df": int, "groups": int})


def _varies(values: Array, units: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which columns of `values` (J, r) differ between groups of one unit."""
    first = np.zeros(units.max() + 1, dtype=np.intp)
    first[units[::-1]] = np.arange(len(units))[::-1]
    change = values - values[first[units]]
    # NaN: the group's rows leave it open
    return np.asarray((np.abs(np.nan_to_num(change)) > 0).any(axis=0))
