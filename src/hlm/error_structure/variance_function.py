"""Var(Y | x), covariances within groups and intraclass correlations as functions of x."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DataError, DegenerateError
from hlm.residuals.refusals import independent_errors

if TYPE_CHECKING:
    from hlm.design import Factor
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]


def variance_function(fit: Fit, at: Mapping[str, Any] | pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the variance of a response as a function of its random columns, level by level.

    Var(Y | x) = Σ_k z_k' T_k z_k + σ², z_k the values that x gives to the random columns of factor k.

    Parameters
    ----------
    fit : Fit
    at : mapping or DataFrame, optional
        Values of the random columns by name, one row each; a single number holds for all rows. "Intercept" is 1 when
        left out. Not needed when all effects are intercepts.

    Returns
    -------
    (N, …) DataFrame
        The columns of `at`; the part of each grouping factor, by name, "residual" (of a row of weight 1), "variance",
        "std. dev."; and "icc.g" for each factor g: the correlation of two responses at this x that share the level of g
        (and those of the factors g is nested in), but no lower one.

    Raises
    ------
    DataError
        If a random column is not given, naming it.
    """
    fit.model.design.must_be_independent("the variance function")
    independent_errors(fit, "the variance function")
    values, n = _values(fit, at)
    parts = {factor.name: _form(fit, factor, values, values) for factor in fit.model.design.factors}
    total = sum(parts.values(), np.full(n, fit.sigma**2))
    columns: dict[str, Array] = {name: value for name, value in values.items() if name != "Intercept"}
    columns |= parts
    columns |= {"residual": np.full(n, fit.sigma**2), "variance": total, "std. dev.": np.sqrt(total)}
    for factor in fit.model.design.factors:
        shared = sum((parts[name] for name in _shared(fit, factor)), np.zeros(n))
        columns[f"icc.{factor.name}"] = shared / total
    return pd.DataFrame(columns)


def within_covariance(
    fit: Fit, name: str, at: Mapping[str, Any] | pd.DataFrame, other: Mapping[str, Any] | pd.DataFrame
) -> pd.DataFrame:
    """Return covariance and correlation of two responses in the same level of a factor, one at x and one at x'.

    z' T z' summed over the factor and those it is nested in.

    Parameters
    ----------
    fit : Fit
    name : str
    at, other : mapping or DataFrame
        As in `variance_function`, N rows each (or one).

    Returns
    -------
    (N, 2) DataFrame
        "covariance" and "correlation".
    """
    independent_errors(fit, "the covariance within groups")
    factor = fit.model.design.factor(name)
    first, n = _values(fit, at)
    second, m = _values(fit, other)
    if n != m and 1 not in (n, m):
        raise DataError(f"at has {n} rows, other has {m}")
    factors = [fit.model.design.factor(shared) for shared in _shared(fit, factor)]
    covariance = sum((_form(fit, f, first, second) for f in factors), np.zeros(1))
    size = variance_function(fit, at)["std. dev."].to_numpy() * variance_function(fit, other)["std. dev."].to_numpy()
    return pd.DataFrame({"covariance": covariance + np.zeros(max(n, m)), "correlation": covariance / size})


def least_variance(fit: Fit, effect: str, at: Mapping[str, Any] | None = None) -> pd.Series:
    """Return the value of a random column at which responses vary least.

    Var(Y | x) is a parabola in each random column; its vertex is at -Σ_k Σ_r T_k[e, r] z_r / Σ_k T_k[e, e], over the
    factors over which the column varies. With an intercept and one slope this is -τ01/τ11.

    Parameters
    ----------
    fit : Fit
    effect : str
        Random column, other than the intercept.
    at : mapping, optional
        Single values of the other random columns.

    Returns
    -------
    Series
        The column's value, "variance" and "std. dev." there.

    Raises
    ------
    DataError
        For an unknown column.
    DegenerateError
        If it has no variance over any factor: the variance of a response does not depend on it.
    """
    factors = [factor for factor in fit.model.design.factors if effect in factor.effects]
    if not factors or effect == "Intercept":
        raise DataError(f"no random column '{effect}' other than intercepts", column=effect)
    square = sum(float(fit.covariances[factor.name].loc[effect, effect]) for factor in factors)
    if square == 0:
        raise DegenerateError(f"'{effect}' has no variance: Var(Y | x) does not depend on it", column=effect)
    others, n = _values(fit, dict(at or {}) | {effect: 0.0})
    if n != 1:
        raise DataError("at must hold single values")
    linear = 0.0
    for factor in factors:
        T = fit.covariances[factor.name]
        linear += sum(float(T.loc[effect, r]) * float(others[r][0]) for r in factor.effects if r != effect)
    x = -linear / square
    row = variance_function(fit, dict(at or {}) | {effect: x}).iloc[0]
    return pd.Series({effect: x, "variance": row["variance"], "std. dev.": row["std. dev."]}, name="least variance")


def _values(fit: Fit, at: Mapping[str, Any] | pd.DataFrame | None) -> tuple[dict[str, Array], int]:
    """Values of each random column, and how many rows they are for."""
    needed = list(dict.fromkeys(effect for factor in fit.model.design.factors for effect in factor.effects))
    given = {} if at is None else dict(at.items())
    unknown = [str(name) for name in given if name not in needed]
    if unknown:
        raise DataError(f"'{unknown[0]}' is no random column; these are {needed}", column=unknown[0])
    values = {}
    for name in needed:
        if name not in given and name != "Intercept":
            raise DataError(f"the value of the random column '{name}' is needed: at={{'{name}': ...}}", column=name)
        try:
            values[name] = np.atleast_1d(np.asarray(given.get(name, 1.0), dtype=np.float64))
        except (TypeError, ValueError):
            raise DataError(f"values of '{name}' must be numbers", column=name) from None
    try:
        shape = np.broadcast_shapes(*(value.shape for value in values.values()))
    except ValueError:
        raise DataError("values of the random columns differ in length") from None
    n = shape[0] if shape else 1
    return {name: np.broadcast_to(value, (n,)) for name, value in values.items()}, n


def _form(fit: Fit, factor: Factor, first: dict[str, Array], second: dict[str, Array]) -> Array:
    T = fit.covariances[factor.name].to_numpy()
    one = np.stack([first[effect] for effect in factor.effects], axis=1)
    two = np.stack([second[effect] for effect in factor.effects], axis=1)
    out: Array = ((one @ T) * two).sum(axis=1)
    return out


def _shared(fit: Fit, factor: Factor) -> list[str]:
    """Names of the factors whose level two rows of one level of `factor` have in common."""
    hierarchy = fit._problem.statistics.hierarchy
    names = [fit.model.design.factors[k].name for k in hierarchy.factors]
    place = names.index(factor.name)
    return names[place : hierarchy.peeled] if place < hierarchy.peeled else [factor.name]
