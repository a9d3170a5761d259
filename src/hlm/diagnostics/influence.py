"""What each group does to the estimates: deletion of whole groups, Cook's distance, DFBETAS, leverages.

A model with one grouping factor is a sum over groups, and each is taken out by subtraction (`subtraction`); in others
the statistics are gathered from the rows that are left (`deletion`). Either way γ̂ and σ̂ at the θ of the fit are exact,
and one Newton step gives θ̂ without the group; its decrement says how far that is to be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.design import Factor
from hlm.diagnostics.deletion import Deleted, delete_rows, refit_without, volume
from hlm.diagnostics.subtraction import can_subtract, subtract_groups
from hlm.errors import DataError, DesignError, HLMError
from hlm.residuals.refusals import independent_errors
from hlm_ext.criterion import Criterion

if TYPE_CHECKING:
    from hlm.fit import Fit

Flags = npt.NDArray[np.bool_]

# A Newton step that gains less than this (units of the criterion) leaves about its square, times a constant of order 1.
TRUSTED = 0.05


@dataclass(frozen=True)
class Influence:
    """Estimates without each group.

    Attributes
    ----------
    table : DataFrame
        One row a group: "cooks_d" (γ̂ at the θ of the fit), "cooks_d_full" (θ̂ moved too), "covratio" (volume of the
        confidence region without the group, relative), "sigma" (without the group, at the θ of the fit or of the
        refit; that of the fit where T is known in absolute terms, or σ itself), "decrement" of the Newton step in θ,
        "trusted" (whether it is small), "refitted".
    params : DataFrame
        γ̂ without each group, θ̂ moved too.
    fixed_theta_params : DataFrame
        γ̂ without each group at the θ of the fit, exact.
    dfbetas : DataFrame
        (γ̂ - γ̂ without the group) / its standard error without the group, at the θ of the fit; NaN for known γ.
    theta : DataFrame
        θ̂ without each group, by one Newton step or by refitting, in the terms of `Fit.theta`.

    All are NaN, and the decrement is infinite, for a group without which the model cannot be fitted: it alone carries a
    fixed column, or too few rows or levels are left. `params` and `theta` are NaN where the step fails, for want of
    positive curvature: refit those.
    """

    table: pd.DataFrame
    params: pd.DataFrame
    fixed_theta_params: pd.DataFrame
    dfbetas: pd.DataFrame
    theta: pd.DataFrame


def influence(fit: Fit, group: str | None = None, refit: str = "none") -> Influence:
    """Delete each group in turn.

    In a model with one grouping factor all deletions together cost some evaluations of the criterion and a pass over
    the rows. With several factors, structures of T, known variances or related levels, each group costs a pass over
    the rows that are left and the derivatives of the criterion once, about one step of the fit's optimiser. That is
    little for tens or hundreds of groups; the students of a large crossed design are thousands of such steps, where one
    may ask for a factor with fewer levels. Known values, constraints and structures hold without the group too. A level
    that others are related to stays known to them, but without rows.

    Parameters
    ----------
    fit : Fit
    group : str, optional
        Grouping factor; needed if there are several.
    refit : {"none", "untrusted", "all"}
        Which deletions are fitted anew instead of by one Newton step: none, those whose step is too long to be trusted,
        or all. Columns stay as they are: what `poly` or `center` learnt from all rows is not learnt anew.

    Returns
    -------
    Influence

    Raises
    ------
    DataError
        For another value of refit.
    DesignError
        For a model without groups; if a factor must be chosen; for absorbed intercepts or a structure of the level-1
        errors: fit a model of the rows without the group then.
    """
    if refit not in ("none", "untrusted", "all"):
        raise DataError(f"refit must be 'none', 'untrusted' or 'all', got {refit!r}")
    problem, criterion = fit._problem, fit._criterion
    factors, absorbed = problem.design.factors, problem.design.absorbed
    independent_errors(fit, "deletion of groups")
    if not factors:
        raise DesignError("a model without groups has no groups to delete")
    if absorbed is not None:
        raise DesignError(
            f"deletion of groups is not offered where intercepts of '{absorbed.name}' are absorbed: fit the model "
            "to the rows without a group, and compare",
            column=absorbed.name,
        )
    if group is None and len(factors) > 1:
        raise DesignError(f"choose a grouping factor: group= one of {[factor.name for factor in factors]}")
    factor = factors[0] if group is None else problem.design.factor(group)
    if can_subtract(problem) and isinstance(criterion, Criterion):
        return _tables(fit, factor, subtract_groups(fit, criterion), refit)
    return _tables(fit, factor, _delete_rows(fit, factor), refit)


def leverages(fit: Fit) -> pd.Series:
    """Return ∂ŷ_i/∂y_i of each row (N,), θ known: the diagonal of the hat matrix H of ŷ = Hy; its sum is tr H."""
    independent_errors(fit, "the leverage of rows")
    design = fit.model.design
    found = fit.predict(interval="confidence", theta_uncertainty=False)
    weights = design.weights
    values = (found["var_fixed"] + found["var_groups"]) / fit.sigma**2
    if weights is not None:
        values = values * design.full_length(weights)
    return values.rename("leverage")


def _delete_rows(fit: Fit, factor: Factor) -> Deleted:
    """Each group by the rows that are left."""
    coordinates = fit._problem.coordinates
    out = Deleted.room(factor.size, len(coordinates.beta_map), len(fit._problem.theta_names))
    for g in range(factor.size):
        try:
            out.put(g, delete_rows(fit, factor.codes != g))
        except HLMError:  # without this group the model cannot be fitted: NaN
            out.decrement[g] = np.inf
    return out


def _tables(fit: Fit, factor: Factor, deleted: Deleted, refit: str) -> Influence:
    trusted = deleted.decrement < TRUSTED
    refitted = _refit(fit, factor, deleted, np.ones_like(trusted) if refit == "all" else ~trusted & (refit != "none"))
    here, c = fit.params.dropna(), fit._problem.coordinates
    own, p = fit._engine_covariance, c.beta_map.shape[1]
    # change'Cov⁻¹change / p; under constraints of the free coefficients, which are fewer
    scaled = np.linalg.solve(np.linalg.cholesky(own), np.linalg.pinv(c.beta_map)).T

    def distance(values: Matrix) -> Matrix:
        return np.asarray((((here.to_numpy() - values) @ scaled) ** 2).sum(axis=1) / max(p, 1), dtype=np.float64)

    change = here.to_numpy() - deleted.fixed
    dfbetas = np.divide(change, deleted.bse, out=np.full_like(change, np.nan), where=deleted.bse > 0)
    table = {
        "cooks_d": distance(deleted.fixed),
        "cooks_d_full": distance(deleted.moved),
        "covratio": np.exp(deleted.log_volume - np.linalg.slogdet(own)[1] - volume(c.beta_map)),
        "sigma": deleted.sigma,
        "decrement": deleted.decrement,
        "trusted": trusted,
        "refitted": refitted,
    }

    def frame(values: Matrix, names: Sequence[str]) -> pd.DataFrame:
        return pd.DataFrame(values, index=factor.labels, columns=list(names))

    return Influence(
        pd.DataFrame(table, index=factor.labels),
        frame(deleted.moved, here.index),
        frame(deleted.fixed, here.index),
        frame(dfbetas, here.index),
        frame(deleted.theta, fit._problem.theta_names),
    )


def _refit(fit: Fit, factor: Factor, deleted: Deleted, asked: Flags) -> Flags:
    """Put the estimates of new fits in the place of steps; return which, of those asked for."""
    done = asked & np.isfinite(deleted.sigma)
    for g in np.flatnonzero(done):
        other = refit_without(fit, factor.codes != g)
        deleted.moved[g], deleted.theta[g], deleted.sigma[g] = other.params.dropna(), other.theta, other.sigma
    return done
