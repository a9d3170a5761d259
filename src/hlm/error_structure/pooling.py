"""Pooled, between, within and no-pooling estimates beside the model's, which is their precision-weighted mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.empirical_bayes.chain import DEPENDENT, stages_of
from hlm.empirical_bayes.ols import group_ols
from hlm.errors import DataError, DesignError
from hlm.residuals.refusals import independent_errors

if TYPE_CHECKING:
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]

# Eigenvalues of an information matrix, in units in which pooled OLS has 1, that are rounding errors.
NONE = 1e-10
# Of a coefficient, what lies in directions without information when it has no estimate.
OPEN = 1e-6


@dataclass(frozen=True, eq=False)
class Poolings:
    """Estimates of γ that use different parts of the data.

    Attributes
    ----------
    table : (r, 5) DataFrame
        "pooled": OLS on all rows. "within": generalised least squares with a free intercept for each group (the
        fixed-effects estimator, where the intercept is all that is random). "between": from the groups' means, what
        "within" leaves. "no pooling": each group by itself, the coefficients regressed on the level-2 regressors
        without weights (plain averages where there are none); two levels only. "HLM": the fit. NaN where a part of the
        data says nothing.
    between, within : (r, r) DataFrame
        Information of the two parts, inverse covariances of their estimates:
        HLM = (B + W)⁻¹ (B γ_between + W γ_within).
    between_score, within_score : (r,) Series
        B γ_between and W γ_within, which exist where the estimates do not.
    """

    table: pd.DataFrame
    between: pd.DataFrame
    within: pd.DataFrame
    between_score: pd.Series
    within_score: pd.Series


def poolings(fit: Fit, effects: Sequence[str] | None = None) -> Poolings:
    """Split what the data say about γ into between and within the groups of the top level.

    With Z the random columns named in `effects` and V the covariance of the model,

        X'V⁻¹X = Σ_j X_j'V⁻¹Z_j (Z_j'V⁻¹Z_j)⁻¹ Z_j'V⁻¹X_j + the rest:

    the rest is the information that remains when each group has coefficients of its own, free, for Z ("within"), the
    sum what it takes away ("between"; Maddala 1971 for one random intercept).

    Parameters
    ----------
    fit : Fit
    effects : sequence of str, optional
        Random effects of the top level that are fitted freely; the intercept when left out, or all where it is not
        random. With all of them, "between" is the precision-weighted regression of the groups' own estimates.

    Returns
    -------
    Poolings

    Raises
    ------
    DesignError
        If there are no random effects, factors are crossed, or fixed effects are constrained.
    DataError
        For an unknown effect, or if there are no fixed effects.
    """
    independent_errors(fit, "the table of poolings")
    design, problem = fit.model.design, fit._problem
    if not design.factors:
        raise DesignError("the model has no random effects: all its estimates are pooled")
    stage = stages_of(fit)[-1]
    if len(problem.coordinates.beta_map) != problem.rank:
        raise DesignError("fixed effects are known or constrained: the data are not all that says something of them")
    swept = _swept(fit, effects)
    with fit._lock:
        sigma2 = fit._criterion.sigma2
        whole = fit._criterion.schur / sigma2
    # Z'V⁻¹[X y] and Z'V⁻¹Z, the group's own effects part of V
    right = swept.T @ (stage.own - stage.A @ stage.effects)
    inside = swept.T @ (stage.A - stage.A @ stage.N @ stage.A) @ swept
    both = np.einsum("jar,jab,jbs->rs", right, np.linalg.pinv(inside, rcond=DEPENDENT, hermitian=True), right) / sigma2
    back = np.linalg.inv(problem.coordinates.beta_map)
    names = fit.cov_params().index
    shift: Array = problem.coordinates.beta_shift
    columns: dict[str, Array] = {"pooled": shift}
    found = []
    for name, part in (("between", both), ("within", whole - both)):
        information, score = part[:-1, :-1], part[:-1, -1]
        columns[name] = _estimate(fit, information, score)
        H = back.T @ information @ back
        found.append((pd.DataFrame(H, index=names, columns=names), pd.Series(back.T @ score + H @ shift, index=names)))
    if len(design.factors) == 1:
        columns["no pooling"] = group_ols(fit, design.factors[0].name).regression().params.to_numpy()
    columns["HLM"] = fit.params[names].to_numpy()
    (B, b), (W, w) = found
    return Poolings(pd.DataFrame(columns, index=names), B, W, b, w)


def _swept(fit: Fit, effects: Sequence[str] | None) -> Array:
    """(q, s) combinations of the engine's random columns of the top level that are the named ones of the user."""
    k = fit._problem.template.order[-1]
    names = list(fit.model.design.factors[k].effects)
    chosen = (["Intercept"] if "Intercept" in names else names) if effects is None else list(effects)
    for effect in chosen:
        if effect not in names:
            factor = fit.model.design.factors[k].name
            raise DataError(f"'{factor}' has no random effect '{effect}'; it has {names}", column=effect)
    back = np.linalg.inv(fit._problem.maps[k])
    return np.asarray(back[:, [names.index(effect) for effect in chosen]], dtype=np.float64)


def _estimate(fit: Fit, information: Array, score: Array) -> Array:
    """Solve for γ in the user's units, NaN for coefficients that the information says nothing of."""
    coordinates = fit._problem.coordinates
    values, vectors = np.linalg.eigh(information)
    kept = values > NONE * max(1.0, float(values.max(initial=0.0)))
    V = vectors[:, kept]
    gamma = coordinates.beta_map @ (V @ (V.T @ score / values[kept])) + coordinates.beta_shift
    left = coordinates.beta_map - coordinates.beta_map @ V @ V.T
    size = np.linalg.norm(coordinates.beta_map, axis=1)
    return np.where(np.linalg.norm(left, axis=1) <= OPEN * size, gamma, np.nan)


def ml_bias(fit: Fit) -> pd.DataFrame:
    """Return the variance components by REML and by ML, which takes γ̂ for γ and is biased downwards.

    The model is fitted once more by the other criterion.

    Returns
    -------
    DataFrame
        One row for each variance and covariance (index "group", "effect", "with") and the residual variance: "REML",
        "ML", "difference" (ML - REML), "ratio" (ML / REML).
    """
    other = fit.model.fit(reml=not fit.reml)
    by = {"REML": fit, "ML": other} if fit.reml else {"REML": other, "ML": fit}
    columns: dict[str, list[float]] = {name: [] for name in by}
    index = []
    for factor in fit.model.design.factors:
        for i, effect in enumerate(factor.effects):
            for j in range(i + 1):
                index.append((factor.name, effect, "" if i == j else factor.effects[j]))
                for name, one in by.items():
                    columns[name].append(float(one.covariances[factor.name].iloc[i, j]))
    index.append(("residual", "", ""))
    for name, one in by.items():
        columns[name].append(one.sigma**2)
    table = pd.DataFrame(columns, index=pd.MultiIndex.from_tuples(index, names=["group", "effect", "with"]))
    table["difference"] = table["ML"] - table["REML"]
    table["ratio"] = (table["ML"] / table["REML"]).where(table["REML"] != 0)
    return table
