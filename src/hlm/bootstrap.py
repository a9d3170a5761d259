"""Bootstrap of a fit: replicates of all its parameters, and intervals with their Monte Carlo error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betainc, ndtr, ndtri

from hlm.errors import DataError, DataTypeError, NumericalError
from hlm.inference.distributions import checked_alpha
from hlm.measures.explained import shared
from hlm.profiles.parameters import share_of, shares, variance_parameters
from hlm.replicates import replicate
from hlm.simulation import simulator_of

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]
Statistic = Callable[["Fit"], Any]

KINDS = ("parametric",)
METHODS = ("percentile", "basic", "normal", "bc")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Replicates of the parameters of a fit.

    Attributes
    ----------
    kind : {"parametric"}
        How responses were drawn.
    estimates : Series
        Of the fit: fixed effects, standard deviations, correlations, sigma, parameters of the level-1 errors,
        intraclass correlations ("icc(g)"), and what the user's statistic gives.
    replicates : DataFrame
        The same of each drawn response, one row each; NaN where the fit failed, and for correlations with an effect
        whose variance is zero.
    singular : int
        Replicates with a direction of the random effects without variance; they are in `replicates`.
    failures : dict of str to int
        Responses that no fit was found for, by reason; they are in no interval.
    fixed, variances : list of str
        Names of the fixed effects, and of the variance parameters.
    """

    kind: str
    estimates: pd.Series
    replicates: pd.DataFrame
    singular: int
    failures: dict[str, int]
    fixed: list[str] = field(repr=False)
    variances: list[str] = field(repr=False)

    @property
    def bias(self) -> pd.Series:
        """Mean of the replicates less the estimate."""
        return (self.replicates.mean() - self.estimates).rename("bias")

    @property
    def bse(self) -> pd.Series:
        """Standard errors: standard deviations of the replicates."""
        return self.replicates.std().rename("bse")

    def cov(self) -> pd.DataFrame:
        """Return the covariance of the replicates."""
        return self.replicates.cov()

    def conf_int(self, alpha: float = 0.05, method: str = "percentile") -> pd.DataFrame:
        """Return intervals of all parameters.

        Parameters
        ----------
        alpha : float
            The intervals cover 1 - alpha.
        method : {"percentile", "basic", "normal", "bc"}
            Quantiles of the replicates; 2 · estimate less those; estimate less bias and normal quantiles of the
            standard error; quantiles moved by the median bias (Efron's bias-corrected ones, without acceleration).
            Davison and Hinkley (1997), chapter 5.

        Returns
        -------
        DataFrame
            "lower", "upper", and "lower_error", "upper_error": their Monte Carlo standard errors, of quantiles by
            Maritz and Jarrett (1978).

        Raises
        ------
        DataError
            For another method or alpha, or too few replicates for its quantiles.
        """
        alpha = checked_alpha(alpha)
        if method not in METHODS:
            raise DataError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
        rows = {}
        for name, column in self.replicates.items():
            values = np.sort(column.dropna().to_numpy(dtype=np.float64))
            rows[name] = _interval(values, float(self.estimates[str(name)]), alpha, method, str(name))
        columns = ["lower", "upper", "lower_error", "upper_error"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def table(self, alpha: float = 0.05, method: str = "percentile") -> pd.DataFrame:
        """Return estimate, bias, standard error, interval and its Monte Carlo error, and the number of replicates."""
        table = pd.DataFrame({"estimate": self.estimates, "bias": self.bias, "se": self.bse})
        return table.join(self.conf_int(alpha, method)).assign(replicates=self.replicates.notna().sum())

    def __str__(self) -> str:
        fitted = len(self.replicates) - sum(self.failures.values())
        lines = [f"{self.kind.capitalize()} bootstrap: {fitted} of {len(self.replicates)} responses fitted"]
        if self.singular:
            lines.append(f"  {self.singular} of them with a singular covariance of random effects")
        lines += [f"  no fit: {why} ({count})" for why, count in self.failures.items()]
        try:
            table = self.table()
        except DataError as error:  # too few for limits
            table = pd.DataFrame({"estimate": self.estimates, "bias": self.bias, "se": self.bse})
            lines.append(f"  no limits: {error}")
        lines += ["  " + line for line in table.to_string(float_format="{:.4g}".format).splitlines()]
        return "\n".join(lines)


def bootstrap(
    fit: Fit,
    count: int = 1000,
    *,
    kind: str = "parametric",
    statistic: Statistic | None = None,
    seed: Any = 0,
    workers: int = 1,
) -> Bootstrap:
    """Draw responses from a fit and fit its model to each.

    Parameters
    ----------
    fit : Fit
    count : int
        How many responses.
    kind : {"parametric"}
        New random effects and errors, normal, of the estimated variances (`Fit.simulate`).
    statistic : callable, optional
        From a fit to a number, or to a mapping or Series of numbers by name: further columns.
    seed : int or numpy.random.Generator
        One seed, one answer, whatever the number of workers and threads: response i is
        ``fit.simulate(1, np.random.default_rng(seed).spawn(count)[i])``.
    workers : int
        Threads that share the responses.

    Returns
    -------
    Bootstrap

    Raises
    ------
    DataError, DataTypeError
        For another kind or count, a statistic that is no function or whose names change; rows with frequencies.
    DesignError
        For a model with absorbed intercepts.
    NumericalError
        If none of the responses could be fitted.

    Examples
    --------
    >>> import hlm
    >>> fit = hlm.Model("Reaction ~ Days + (1 | Subject)", hlm.datasets.load("sleepstudy")).fit()
    >>> found = fit.bootstrap(50, seed=1)
    >>> found.conf_int().columns.to_list()
    ['lower', 'upper', 'lower_error', 'upper_error']
    """
    if kind not in KINDS:
        raise DataError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    if statistic is not None and not callable(statistic):
        raise DataTypeError(f"statistic must be a function of a fit, got {type(statistic).__name__}")
    reading = _Reading(fit, statistic)
    estimates = reading(fit)
    rows, failures = replicate(
        [fit], simulator_of(fit), lambda new: (reading(new[0]), new[0].is_singular), count, seed, workers
    )
    found = [row for row in rows if row is not None]
    if not found:
        raise NumericalError(f"no drawn response could be fitted: {failures}")
    for values, _ in found:
        if values.keys() != estimates.keys():
            raise DataError(f"statistic must give the same names of every fit: {list(values)}, not {list(estimates)}")
    blank = dict.fromkeys(estimates, np.nan)
    table = pd.DataFrame([blank if row is None else row[0] for row in rows], columns=list(estimates), dtype=np.float64)
    table.index.name = "replicate"
    singular = sum(bool(one) for _, one in found)
    return Bootstrap(
        kind, pd.Series(estimates, name="estimate"), table, singular, failures, reading.fixed, reading.variances
    )


class _Reading:
    """The parameters of a fit by name, of any fit of the same design."""

    def __init__(self, fit: Fit, statistic: Statistic | None) -> None:
        self.statistic = statistic
        self.fixed = [str(name) for name in fit.params.dropna().index]
        self.variances = [parameter.name for parameter in variance_parameters(fit)]
        # mean z'Tz is linear in T, with coefficients that are those of the design
        self.total = shares(fit, (), -1.0)
        self.own = {}
        if fit._problem.residual is None:
            for k, factor in enumerate(fit.model.design.factors):
                self.own[f"icc({factor.name})"] = shares(fit, shared(fit._problem, k), 0.0)

    def __call__(self, fit: Fit) -> dict[str, float]:
        out = {str(name): float(value) for name, value in fit.params.dropna().items()}
        out |= {parameter.name: parameter.natural(parameter.estimate) for parameter in variance_parameters(fit)}
        out |= {name: share_of(fit, own, self.total) for name, own in self.own.items()}
        if self.statistic is not None:
            given = self.statistic(fit)
            named = given.items() if isinstance(given, (Mapping, pd.Series)) else [("statistic", given)]
            for name, value in named:
                if str(name) in out:
                    raise DataError(f"statistic: {name!r} is a parameter of the fit; give it another name")
                out[str(name)] = float(value)
        return out


def _interval(
    values: Matrix, estimate: float, alpha: float, method: str, name: str
) -> tuple[float, float, float, float]:
    """Limits and their Monte Carlo errors from sorted replicates."""
    n, z = len(values), float(-ndtri(alpha / 2))
    if method == "normal":
        return _normal(values, estimate, z)
    levels = np.array([alpha / 2, 1 - alpha / 2])
    if method == "bc":
        below = ((values < estimate).sum() + 0.5 * (values == estimate).sum()) / max(n, 1)
        levels = ndtr(2 * ndtri(below) + np.array([-z, z]))
    if np.isnan(estimate) or (n and values[0] == values[-1]):
        same = values[0] if n else np.nan
        return same, same, 0.0, 0.0
    if not (n + 1) * alpha / 2 >= 1:
        raise DataError(f"{n} replicates of {name} are too few for quantiles of {alpha / 2:g}: draw more", column=name)
    places = np.clip(levels * (n + 1), 1, n) - 1  # the i-th of n values is the quantile of i / (n + 1)
    limits = np.interp(places, np.arange(n), values)
    errors = [_quantile_error(values, float(level)) for level in levels]
    if method == "basic":
        limits, errors = (2 * estimate - limits)[::-1], errors[::-1]
    return float(limits[0]), float(limits[1]), errors[0], errors[1]


def _quantile_error(values: Matrix, level: float) -> float:
    """Standard error of a quantile of sorted values: that of a beta order statistic of them (Maritz and Jarrett)."""
    n = len(values)
    a = float(np.clip(level * (n + 1), 1.0, n))
    weights = np.diff(betainc(a, n + 1 - a, np.arange(n + 1) / n))
    mean = float(weights @ values)
    return float(np.sqrt(max(float(weights @ (values - mean) ** 2), 0.0)))


def _normal(values: Matrix, estimate: float, z: float) -> tuple[float, float, float, float]:
    """estimate - bias ± z · s; errors by the delta method, from the third and fourth moments of the replicates."""
    n = len(values)
    if n < 2:
        return np.nan, np.nan, np.nan, np.nan
    mean, s = float(values.mean()), float(values.std(ddof=1))
    centre = 2 * estimate - mean
    if s == 0:
        return centre, centre, 0.0, 0.0
    away = (values - mean) / s
    skewness, kurtosis = float((away**3).mean()), float((away**4).mean())
    errors = [s * np.sqrt(max(1 + z * z * (kurtosis - 1) / 4 + sign * z * skewness, 0.0) / n) for sign in (1, -1)]
    return centre - z * s, centre + z * s, float(errors[0]), float(errors[1])
