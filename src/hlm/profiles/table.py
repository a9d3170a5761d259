"""The table of variances: standard deviations, correlations and σ with standard errors and intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DataError, NumericalError
from hlm.inference.information import information
from hlm.profiles import profile
from hlm.profiles.profile import Parameter

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

METHODS = ("wald", "profile")
SCALES = ("sd", "variance")
ON_BOUNDARY = "on the boundary: profile likelihood"
MAY_BE_ZERO = "may be zero: profile likelihood"
# An estimate of more than this many quantiles of standard errors is not zero, without a look at the profile: the
# variance is half as many of its own standard errors away from zero.
FAR = 3.0


def variance_table(fit: Fit, alpha: float = 0.05, method: str = "wald", scale: str = "sd") -> pd.DataFrame:
    """Return standard deviations (or variances), correlations and σ (or σ²) with standard errors and intervals.

    Parameters
    ----------
    fit : Fit
    alpha : float
        The intervals cover 1 - alpha.
    method : {"wald", "profile"}
        "wald": normal on the scale of log sd and atanh of the correlation, from the observed information of (T, σ²);
        where that cannot hold, because the profile does not tell a standard deviation from zero, by the profile.
        "profile": where the profile deviance rises by the quantile of χ²(1).
    scale : {"sd", "variance"}
        "variance": rows "var(x | g)" and "sigma²" in the place of "sd(x | g)" and "sigma"; the limits are the squares.

    Returns
    -------
    DataFrame
        One row for each parameter ("sd(x | g)", "cor(x, z | g)", "sigma"): estimate, se, lower, upper, and in "note"
        what was done where normal theory does not hold. On the boundary (a standard deviation of zero, a correlation of
        ±1) there is no standard error; the interval is that of the profile then, closed at the boundary. What is known
        has a standard error of zero. Where a structure of covariances or errors keeps fits from having profiles,
        intervals of the logarithm stay and never hold zero.

    Raises
    ------
    DataError
        For another method, scale or alpha.
    DesignError
        For profiles with covariance structures, known values or constraints.

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
    z = profile.quantile(alpha)
    parameters = [parameter for parameter in profile.parameters(fit) if parameter.kind != "fixed"]
    found = information(fit)
    rows: dict[str, list[Any]] = {}
    boundary, zeros = [], set()
    unprofiled = profile.is_restricted(fit) or fit._problem.residual is not None
    for parameter in parameters:
        gradient = _gradient(fit, parameter)
        se = np.nan if gradient is None else _error(gradient, found.covariance.to_numpy())
        low, high = _limits(parameter, se, z)
        note = "known" if se == 0 else ""
        if gradient is None or method == "profile":
            boundary.append(parameter.name)
            note = "" if method == "profile" else ON_BOUNDARY
        elif not unprofiled and _may_be_zero(fit, parameter, se, z):
            boundary.append(parameter.name)
            zeros.add(parameter.place)
            note = MAY_BE_ZERO
        elif parameter.kind == "cor" and any((parameter.place[0], i) in zeros for i in parameter.place[1:]):
            low, high, note = -1.0, 1.0, "a standard deviation may be zero: any correlation"
        rows[parameter.name] = [parameter.estimate, se, low, high, note]
    if boundary and method == "wald" and unprofiled:
        for name in boundary:
            rows[name][4] = "on the boundary: no interval"
    elif boundary:
        for name, lower, upper, note in profile.intervals(fit, boundary, alpha).drop(columns="estimate").itertuples():
            rows[str(name)][2:] = [lower, upper, note or rows[str(name)][4]]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "se", "lower", "upper", "note"])
    return table if scale == "sd" else _squared(table)


def _may_be_zero(fit: Fit, parameter: Parameter, se: float, z: float) -> bool:
    """Whether the profile interval of a standard deviation holds zero."""
    if parameter.kind != "sd" or parameter.estimate > FAR * z * se:
        return False
    try:
        return profile.Profile(fit, parameter).zeta(0.0) >= -z
    except NumericalError:  # intervals of the profile would say so; Wald's do not need it
        return False


def _squared(table: pd.DataFrame) -> pd.DataFrame:
    """The table with variances in the place of standard deviations."""
    out = table.copy()
    deviation = [not str(name).startswith("cor(") for name in out.index]
    out.loc[deviation, "se"] *= 2 * out.loc[deviation, "estimate"]
    out.loc[deviation, ["estimate", "lower", "upper"]] **= 2
    return out.rename(index=lambda name: "sigma²" if name == "sigma" else name.replace("sd(", "var(", 1))


def _error(gradient: Matrix, covariance: Matrix) -> float:
    return float(np.sqrt(max(float(gradient @ covariance @ gradient), 0.0)))


def _limits(parameter: Parameter, se: float, z: float) -> tuple[float, float]:
    """Normal on the scale of the logarithm, or of atanh."""
    value = parameter.estimate
    if np.isnan(se):
        return np.nan, np.nan
    if parameter.kind == "cor":
        middle, half = float(np.arctanh(value)), z * se / (1 - value * value)
        return float(np.tanh(middle - half)), float(np.tanh(middle + half))
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
    if not abs(value) < 1 - EDGE:
        return None
    i, j = effects
    pair = (k, i, j) if (k, i, j) in place else (k, j, i)
    out[place[pair]] = 1 / np.sqrt(T[i, i] * T[j, j])
    out[place[k, i, i]], out[place[k, j, j]] = -0.5 * value / T[i, i], -0.5 * value / T[j, j]
    return out


# A variance below this part of its unit (where a group of average size has reliability 1/2), or a correlation as near
# to one, is on the boundary.
EDGE = 1e-9
