"""The table of variances: standard deviations, correlations and σ with standard errors and intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from hlm.bootstrap import bootstrap
from hlm.errors import DataError, NumericalError
from hlm.inference.distributions import normal_quantile
from hlm.inference.information import information
from hlm.profiles.intervals import intervals_of
from hlm.profiles.parameters import Parameter, variance_parameters
from hlm.profiles.profile import Profile

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

METHODS = ("wald", "profile", "bootstrap")
SCALES = ("sd", "variance")
ON_BOUNDARY = "on the boundary: profile likelihood"
MAY_BE_ZERO = "may be zero: profile likelihood"
# An estimate of more than this many quantiles of standard errors is not zero, without a look at the profile: the
# variance is half as many of its own standard errors away from zero.
FAR = 3.0


def variance_table(
    fit: Fit, alpha: float = 0.05, method: str = "wald", scale: str = "sd", **options: Any
) -> pd.DataFrame:
    """Return standard deviations (or variances), correlations and σ (or σ²) with standard errors and intervals.

    Parameters
    ----------
    fit : Fit
    alpha : float
        The intervals cover 1 - alpha.
    method : {"wald", "profile", "bootstrap"}
        "wald": normal on the scale of log sd and atanh of the correlation (the logit between the ends of its range
        where a structure has others than ±1), from the observed information of (T, σ²); where that cannot hold, because
        the profile does not tell a standard deviation from zero, by the profile.
        "profile": where the profile deviance rises by the quantile of χ²(1). "bootstrap": percentiles and standard
        deviations of `Fit.bootstrap`.
    scale : {"sd", "variance"}
        "variance": rows "var(x | g)" and "sigma²" in the place of "sd(x | g)" and "sigma"; the limits are the squares,
        standard errors by the delta method.
    **options
        Of `Fit.bootstrap`: ``count``, ``seed``, ``workers``.

    Returns
    -------
    DataFrame
        One row for each parameter ("sd(x | g)", "cor(x, z | g)", "sigma"; "sd(g)", "cor(g)", "rho(g)" of a structure
        with one of each, "residual.rho" and the like of the level-1 errors): estimate, se, lower, upper, and in "note"
        what was done where normal theory does not hold. On the boundary (a standard deviation of zero, a correlation of
        ±1) there is no standard error; the interval is that of the profile then, closed at the boundary. What is known
        has a standard error of zero.

    Raises
    ------
    DataError
        For another method, scale or alpha.

    Notes
    -----
    A standard deviation whose profile holds zero could be zero: an interval of its logarithm ends above zero whatever
    the data say, and would miss it whenever the estimate is not zero itself. With the quantile of χ²(1) the profile
    covers a zero with probability 1 - alpha/2, as half of the likelihood-ratio statistics are zero there (Self and
    Liang 1987). The profile of a correlation with such an effect holds all values: at each of them the standard
    deviation can go to zero.
    """
    if method not in METHODS:
        raise DataError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if scale not in SCALES:
        raise DataError(f"scale must be one of {', '.join(map(repr, SCALES))}, got {scale!r}")
    if options and method != "bootstrap":
        raise DataError(f"{', '.join(options)}: options are those of method='bootstrap'")
    table = _by_bootstrap(fit, alpha, options) if method == "bootstrap" else _by_likelihood(fit, alpha, method)
    return table if scale == "sd" else _squared(table)


def _by_bootstrap(fit: Fit, alpha: float, options: Mapping[str, Any]) -> pd.DataFrame:
    drawn = bootstrap(fit, **options)
    table = drawn.table(alpha).loc[drawn.variances]
    count = len(drawn.replicates)
    note = [f"{number} of {count} replicates" if number < count else "" for number in table["replicates"]]
    return table[["estimate", "se", "lower", "upper"]].assign(note=note)


def _by_likelihood(fit: Fit, alpha: float, method: str) -> pd.DataFrame:
    """Wald and profile intervals."""
    z = normal_quantile(alpha)
    covariance = information(fit).covariance.to_numpy()
    rows: dict[str, list[Any]] = {}
    profiled, found = [], variance_parameters(fit)
    for parameter in found:
        value = parameter.natural(parameter.estimate)
        if not parameter.free:
            rows[parameter.name] = [value, 0.0, value, value, "known"]
            continue
        se = _searched_error(fit, parameter, covariance)
        low, high = (parameter.natural(limit) for limit in _limits(parameter, se, z))
        note = ""
        if np.isnan(se) or method == "profile":
            profiled.append(parameter)
            note = "" if method == "profile" else ON_BOUNDARY
        elif parameter.kind == "sd" and may_be_zero(fit, parameter, se, z):
            profiled.append(parameter)
            note = MAY_BE_ZERO
        rows[parameter.name] = [value, se * _slope(parameter), low, high, note]
    for name, lower, upper, note in intervals_of(fit, profiled, alpha).drop(columns="estimate").itertuples():
        rows[str(name)][2:] = [lower, upper, note or rows[str(name)][4]]
    _open_correlations(found, rows)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "se", "lower", "upper", "note"])


def _open_correlations(parameters: list[Parameter], rows: dict[str, list[Any]]) -> None:
    """Let correlations with an effect whose standard deviation may be zero be any: see the notes of the table."""
    said = "a standard deviation may be zero: any correlation"
    zeros = {p.place for p in parameters if p.kind == "sd" and p.free and rows[p.name][2] == 0}
    for p in parameters:
        row = rows[p.name]
        if p.kind != "cor" or not p.free or row[2:4] == [p.low, p.high]:
            continue
        if any((p.place[0], effect) in zeros for effect in p.place[1:]):
            row[2:] = [p.low, p.high, f"{row[4]}; {said}" if row[4] else said]


def may_be_zero(fit: Fit, parameter: Parameter, se: float, z: float) -> bool:
    """Whether the profile interval of a standard deviation, or of a share of variance, holds zero."""
    if parameter.estimate > FAR * z * se:
        return False
    try:
        return Profile(fit, parameter).zeta(0.0) >= -z
    except NumericalError:  # intervals of the profile would say so; Wald's do not need it
        return False


def _squared(table: pd.DataFrame) -> pd.DataFrame:
    """The table with variances in the place of standard deviations."""
    out = table.copy()
    deviation = [str(name) == "sigma" or str(name).startswith("sd(") for name in out.index]
    out.loc[deviation, "se"] *= 2 * out.loc[deviation, "estimate"]
    out.loc[deviation, ["estimate", "lower", "upper"]] **= 2
    return out.rename(index=lambda name: "sigma²" if name == "sigma" else name.replace("sd(", "var(", 1))


def _searched_error(fit: Fit, parameter: Parameter, covariance: Matrix) -> float:
    """Standard error on the scale that profiles search; NaN on the boundary."""
    if parameter.kind == "residual":
        return float(fit.residual.bse.iloc[parameter.place[0]])
    gradient = _gradient(fit, parameter)
    return np.nan if gradient is None else float(np.sqrt(max(float(gradient @ covariance @ gradient), 0.0)))


def _slope(parameter: Parameter) -> float:
    """Derivative of the parameter in what profiles search."""
    if parameter.kind != "residual":
        return 1.0
    value = parameter.estimate
    return (parameter.natural(value + STEP) - parameter.natural(value - STEP)) / (2 * STEP)


def _limits(parameter: Parameter, se: float, z: float) -> tuple[float, float]:
    """Normal on the scale of the logarithm, for correlations of the logit between the ends of their range."""
    value, low, high = parameter.estimate, parameter.low, parameter.high
    if np.isnan(se):
        return np.nan, np.nan
    if parameter.kind == "residual":
        return value - z * se, value + z * se
    if parameter.kind == "cor":
        middle = float(np.log((value - low) / (high - value)))
        half = z * se * (high - low) / ((value - low) * (high - value))
        return tuple(low + (high - low) * float(expit(x)) for x in (middle - half, middle + half))  # type: ignore[return-value]
    with np.errstate(over="ignore"):  # an estimate so near zero says nothing of an upper limit: it is infinite
        factor = np.exp(z * se / value)
    return float(value / factor), float(value * factor)


def _gradient(fit: Fit, parameter: Parameter) -> Matrix | None:
    """Derivatives in the entries of T, in the order of θ, and σ²; None on the boundary."""
    owners = fit._problem.template.owners
    out = np.zeros(len(owners) + 1)
    value = parameter.estimate
    if parameter.kind == "sigma":
        out[-1] = 0.5 / value
        return out
    k = parameter.place[0]
    factor = fit.model.design.factors[k]
    T = fit.covariances[factor.name].to_numpy()
    unit = fit.sigma**2 * (fit._problem.maps[k] ** 2).sum(axis=1)
    place = {owner: t for t, owner in enumerate(owners)}
    effects = parameter.place[1:]
    if any(T[i, i] <= EDGE * unit[i] for i in effects):
        return None
    if parameter.kind == "sd":
        out[place[k, effects[0], effects[0]]] = 0.5 / value
        return out
    if not parameter.low + EDGE < value < parameter.high - EDGE:
        return None
    i, j = effects
    pair = (k, i, j) if (k, i, j) in place else (k, j, i)
    out[place[pair]] = 1 / np.sqrt(T[i, i] * T[j, j])
    out[place[k, i, i]], out[place[k, j, j]] = -0.5 * value / T[i, i], -0.5 * value / T[j, j]
    return out


# A variance below this part of its unit (where a group of average size has reliability 1/2), or a correlation as near
# to one, is on the boundary.
EDGE = 1e-9
# Difference by which a standard error changes its scale.
STEP = 1e-5
