"""Explained variance (R²): by the variances of one model, and against a smaller one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.criterion import Problem
from hlm.design import Design, Factor
from hlm.errors import DataError, DataTypeError, DesignError
from hlm.prediction import fixed_part
from hlm.residuals.refusals import one_variance

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

METHODS = ("nakagawa", "rights-sterba", "snijders-bosker", "raudenbush-bryk")


def r_squared(fit: Fit, method: str = "nakagawa", *, base: Fit | None = None, group: str | None = None) -> pd.Series:
    """Return proportions of explained variance.

    Parameters
    ----------
    fit : Fit
    method : {"nakagawa", "rights-sterba", "snijders-bosker", "raudenbush-bryk"}
        "nakagawa" (Nakagawa and Schielzeth 2013; Johnson 2014): f = variance of Xγ̂ over the rows, r = mean of z'Tz,
        marginal f/(f + r + σ²), conditional (f + r)/(f + r + σ²).
        "rights-sterba" (2019): the same variance split by what varies within groups (fixed f1, slopes v), and between
        them (fixed f2, random m), as parts of the total, within and between variance.
        "snijders-bosker" (1994): level 1: 1 - (r + σ²)/(r₀ + σ₀²); level 2: 1 - (r + σ²/n̄)/(r₀ + σ₀²/n̄), n̄ the harmonic
        mean of the group sizes; against `base`.
        "raudenbush-bryk" (2002): 1 - σ²/σ₀² and 1 - T_qq/T₀_qq of each random effect that both models have.
    base : Fit, optional
        The smaller model, for the last two; of the same rows.
    group : str, optional
        Grouping factor for levels; needed if there are several.

    Returns
    -------
    Series
        Proportions by name. Against a base they can be negative: the larger model then has a larger variance.

    Raises
    ------
    DataError, DataTypeError
        For an unknown method, or a base that is missing, no fit, of other rows, or not of REML or ML as well.
    DesignError
        If a grouping factor must be chosen.
    """
    one_variance(fit, "explained variance")
    if method not in METHODS:
        raise DataError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if method == "nakagawa":
        return _nakagawa(fit)
    if method == "rights-sterba":
        return _rights_sterba(fit, _group(fit, group))
    if base is None or type(base) is not type(fit):
        raise DataTypeError(f"method {method!r} compares with a smaller model: give its fit as base")
    if base.nobs != fit.nobs or not np.array_equal(base.model.design.y, fit.model.design.y):
        raise DataError("base is a fit to other rows or another response")
    if base.reml != fit.reml:
        raise DataError("one fit maximises the restricted likelihood, the other the likelihood: fit both alike")
    if method == "snijders-bosker":
        return _snijders_bosker(fit, base, _group(fit, group))
    return _raudenbush_bryk(fit, base)


def variance_parts(fit: Fit) -> tuple[float, dict[str, float], float]:
    """Return the variance of Xγ̂ over the rows (divisor n - 1), the mean of z'Tz of each factor, and σ²."""
    design = fit.model.design
    fixed = _mean_square(design, fixed_part(fit, design.columns, design.rows)) * design.nobs / (design.nobs - 1)
    random = {}
    for factor in design.factors:
        Z = np.column_stack(factor.columns)
        T = fit.covariances[factor.name].to_numpy()
        random[factor.name] = _mean(design, ((Z @ T) * Z).sum(axis=1) * factor.level_scale[factor.codes])
    return fixed, random, fit.sigma**2


def second_moments(problem: Problem, k: int) -> Matrix:
    """Return the mean of zz' (q, q) of factor k over the rows; where levels are related times the scale of T."""
    design, factor = problem.design, problem.design.factors[k]
    Z = np.column_stack(factor.columns)
    weighted = Z if design.frequencies is None else Z * design.frequencies[:, None]
    weighted = weighted * factor.level_scale[factor.codes][:, None]
    return np.asarray(Z.T @ weighted / design.nobs)


def shared(problem: Problem, k: int) -> tuple[int, ...]:
    """Return the factors that two rows of one level of factor k share: it, and those that it is nested in."""
    hierarchy = problem.statistics.hierarchy
    position = hierarchy.factors.index(k)
    return tuple(hierarchy.factors[position : hierarchy.peeled]) if position < hierarchy.peeled else (k,)


def _mean(design: Design, values: Matrix) -> float:
    """Mean over observations."""
    return float(np.average(values, weights=design.frequencies))


def _mean_square(design: Design, values: Matrix) -> float:
    return _mean(design, (values - _mean(design, values)) ** 2)


def _group(fit: Fit, group: str | None) -> Factor:
    design = fit.model.design
    if group is not None:
        return design.factor(group)
    if not design.factors:
        raise DesignError("a model without groups has no levels among which the variance is divided")
    if len(design.factors) != 1:
        raise DesignError(f"choose a grouping factor: group= one of {[factor.name for factor in design.factors]}")
    return design.factors[0]


def _nakagawa(fit: Fit) -> pd.Series:
    fixed, random, residual = variance_parts(fit)
    both = sum(random.values())
    total = fixed + both + residual
    return pd.Series({"marginal": fixed / total, "conditional": (fixed + both) / total}, name="R2")


def _rights_sterba(fit: Fit, factor: Factor) -> pd.Series:
    design = fit.model.design
    if len(design.factors) != 1:
        raise DesignError("this decomposition is that of a model with one grouping factor")
    design.must_be_independent("this decomposition")
    fixed = fixed_part(fit, design.columns, design.rows)
    means = _group_means(design, factor, fixed[:, None])[:, 0]
    f1, f2 = _mean(design, (fixed - means) ** 2), _mean_square(design, means)
    Z = np.column_stack(factor.columns)
    between = _group_means(design, factor, Z)
    T = fit.covariances[factor.name].to_numpy()
    v = _mean(design, (((Z - between) @ T) * (Z - between)).sum(axis=1))
    m = _mean(design, ((between @ T) * between).sum(axis=1))
    residual = fit.sigma**2
    total, within, other = f1 + f2 + v + m + residual, f1 + v + residual, f2 + m
    parts = {"f1": f1, "f2": f2, "v": v, "m": m}
    out = {f"total {name}": value / total for name, value in parts.items()}
    out |= {
        "total f": (f1 + f2) / total,
        "total fv": (f1 + f2 + v) / total,
        "total fvm": (f1 + f2 + v + m) / total,
        "within f1": f1 / within,
        "within v": v / within,
        "within f1v": (f1 + v) / within,
        "between f2": f2 / other if other > 0 else np.nan,
        "between m": m / other if other > 0 else np.nan,
    }
    return pd.Series(out, name="R2")


def _group_means(design: Design, factor: Factor, columns: Matrix) -> Matrix:
    """Means of the columns over the observations of each row's group."""
    count = np.bincount(factor.codes, design.frequencies, factor.size)
    out = np.empty_like(columns)
    for j, column in enumerate(columns.T):
        values = column if design.frequencies is None else column * design.frequencies
        out[:, j] = (np.bincount(factor.codes, values, factor.size) / count)[factor.codes]
    return out


def _snijders_bosker(fit: Fit, base: Fit, factor: Factor) -> pd.Series:
    count = np.bincount(factor.codes, fit.model.design.frequencies, factor.size)
    size = float(factor.size / (1 / count).sum())
    values = []
    for one in (fit, base):
        _, random, residual = variance_parts(one)
        values.append((sum(random.values()), residual))
    (r, s), (r0, s0) = values
    return pd.Series(
        {"level 1": 1 - (r + s) / (r0 + s0), factor.name: 1 - (r + s / size) / (r0 + s0 / size)}, name="R2"
    )


def _raudenbush_bryk(fit: Fit, base: Fit) -> pd.Series:
    out = {"residual": 1 - fit.sigma**2 / base.sigma**2}
    for name, T in fit.covariances.items():
        if name not in base.covariances:
            continue
        before = base.covariances[name]
        for effect in T.index:
            if effect in before.index and before.loc[effect, effect] > 0:
                out[f"{effect} | {name}"] = 1 - float(T.loc[effect, effect]) / float(before.loc[effect, effect])
    return pd.Series(out, name="R2")
