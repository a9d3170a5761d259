"""Tables of profile likelihoods: intervals of several parameters, and the profile of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hlm.errors import DataError, NumericalError
from hlm.inference.distributions import normal_quantile
from hlm.profiles.parameters import Parameter, icc_parameter, parameters
from hlm.profiles.profile import BranchEnd, Profile

if TYPE_CHECKING:
    from hlm.fit import Fit

COLUMNS = ["estimate", "lower", "upper", "note"]


def intervals(fit: Fit, names: list[str] | None = None, alpha: float = 0.05) -> pd.DataFrame:
    """Return profile intervals: estimate, lower, upper, and a note where a limit was not found; see `Fit.profile`."""
    return intervals_of(fit, chosen(fit, names), alpha)


def intervals_of(fit: Fit, found: list[Parameter], alpha: float) -> pd.DataFrame:
    """Return profile intervals of some parameters; see `intervals`."""
    target = normal_quantile(alpha)
    rows: dict[str, tuple[float, float, float, str]] = {}
    for p in found:
        if not p.free:
            rows[p.name] = (p.estimate, p.estimate, p.estimate, "known")
        elif np.isnan(p.estimate):
            rows[p.name] = (np.nan, p.low, p.high, "a variance is estimated as zero: nothing is known of it")
        else:
            profile = Profile(fit, p)
            lower, upper = (p.natural(profile.limit(sign * target)) for sign in (-1.0, 1.0))
            rows[p.name] = (p.natural(p.estimate), lower, upper, profile.note)
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)


def fixed_intervals(fit: Fit, alpha: float) -> pd.DataFrame:
    """Return profile intervals of the fixed effects (lower, upper); NaN for those that are aliased."""
    found = intervals(fit, [str(name) for name in fit.params.dropna().index], alpha)
    failed = found["note"][found[["lower", "upper"]].isna().any(axis=1)]
    if len(failed):
        raise NumericalError("; ".join(f"{name}: {note}" for name, note in failed.items()))
    return found[["lower", "upper"]].reindex(fit.params.index)


def chosen(fit: Fit, names: list[str] | str | None) -> list[Parameter]:
    """Return the parameters of those names, all but intraclass correlations if None.

    Raises
    ------
    DataError
        For a name that has no profile, listing those that have one.
    """
    every = {parameter.name: parameter for parameter in parameters(fit)}
    if names is None:
        return list(every.values())
    if fit._problem.residual is None:
        every |= {f"icc({factor.name})": icc_parameter(fit, factor.name) for factor in fit.model.design.factors}
    out = []
    for name in [names] if isinstance(names, str) else names:
        if name not in every:
            why = " (fixed effects have one with reml=False only)" if fit.reml and name in fit.params.index else ""
            raise DataError(f"no profile of {name!r}{why}; there are {list(every)}", column=str(name))
        out.append(every[name])
    return out


def profile_table(fit: Fit, name: str, points: int, alpha: float) -> pd.DataFrame:
    """Return a profile at values between and a little beyond its limits; see `Fit.profile`."""
    (parameter,) = chosen(fit, name)
    if not parameter.free:
        raise DataError(f"{name} is known: it has no profile", column=name)
    if np.isnan(parameter.estimate):
        raise DataError(f"{name} has no estimate: one of its variances is zero", column=name)
    profile, target = Profile(fit, parameter), normal_quantile(alpha)
    ends = [profile.limit(sign * target) for sign in (-1.0, 1.0)]
    if np.isnan(ends).any():
        raise NumericalError(f"profile of {name}: {profile.note}")
    reached = list(profile.points)
    low, high = np.clip(ends, min(reached), max(reached))  # a limit may be infinite, or beyond the end of a branch
    for value in np.linspace(low, high, max(points, 3)):
        try:
            profile.zeta(float(value))
        except BranchEnd:
            continue
    table = pd.DataFrame(sorted(profile.points.items()), columns=["value", "zeta"])
    table["value"] = [parameter.natural(value) for value in table["value"]]
    table["deviance"] = fit.criterion + table["zeta"] ** 2
    return table
