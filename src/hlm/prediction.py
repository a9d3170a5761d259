"""Predictions for known groups, for the population, for chosen levels and for new groups under a declared policy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm import prediction_error as error
from hlm.design import Column, Design, Factor
from hlm.effects import contributions
from hlm.errors import DataError, DataTypeError, DesignError, RankDeficientWarning, show
from hlm.inference.distributions import normal_quantile
from hlm.inference.hypotheses import estimable_rows
from hlm.structure import Codes

if TYPE_CHECKING:
    from hlm.fit import Fit

POLICIES = ("error", "population", "nan")
INTERVALS = ("confidence", "prediction")
# How nearly columns of new rows must go with each other as those of the fit do, where these are aliased; relative.
TIED = 1e-6


def predict(fit: Fit, new: Any, effects: str | Sequence[str], new_levels: str) -> pd.Series:
    """Predict the response of the rows of the fit or of `new`; see `Fit.predict`."""
    if new_levels not in POLICIES:
        raise DataError(f"new_levels must be one of {', '.join(map(repr, POLICIES))}, got {new_levels!r}")
    design = fit.model.design
    chosen = chosen_factors(design, effects)
    if new is None:
        values = linear_predictor(fit, chosen)
        return design.full_length(values if design.offset is None else values + design.offset).rename("predicted")
    columns, offsets, index = fit.model.new_rows(new)
    values = fixed_part(fit, columns, len(index))
    if fit.aliased:
        values[_without_estimate(fit, columns)] = np.nan
    for offset in offsets:
        values += offset
    for factor in chosen:
        modes = fit.random_effects[factor.name].to_numpy()
        levels, random = _known_levels(fit, new, factor, new_levels)
        unknown = levels < 0
        added = contributions(factor, modes, levels, random)
        values += np.where(unknown, np.nan if new_levels == "nan" else 0.0, added)
    return pd.Series(values, index=index, name="predicted")


def predict_interval(
    fit: Fit,
    new: Any,
    effects: str | Sequence[str],
    new_levels: str,
    interval: str,
    alpha: float,
    theta_uncertainty: bool,
    mean_of: int,
) -> pd.DataFrame:
    """Predict with standard errors and intervals; see `Fit.predict`."""
    if interval not in INTERVALS:
        raise DataError(f"interval must be None or one of {', '.join(map(repr, INTERVALS))}, got {interval!r}")
    z, rows = normal_quantile(alpha), error.check_mean_of(mean_of)
    design = fit.model.design
    if design.absorbed is not None:
        raise DesignError(
            f"an interval of predictions is not offered with absorbed intercepts of '{design.absorbed.name}': their "
            "errors are part of it; see `group_intercepts`",
            column=design.absorbed.name,
        )
    predicted = predict(fit, new, effects, new_levels)
    chosen = [factor.name for factor in chosen_factors(design, effects)]
    used = slice(None) if new is not None or design.kept is None else design.kept
    count = design.rows if new is None else len(predicted)
    columns = design.columns if new is None else fit.model.new_rows(new)[0]
    kept = [column for column, keep in zip(columns, fit._problem.coordinates.kept, strict=True) if keep]
    X = np.column_stack(kept) if kept else np.zeros((count, 0))
    levels, Z = [], []
    for factor in design.factors:
        if new is None:
            found, random = factor.codes, list(factor.columns)
        elif factor.name in chosen:
            found, random = _known_levels(fit, new, factor, new_levels)
        else:
            random = fit.model.new_random_columns(new, factor)
            found = np.full(count, -1)
        levels.append(found if factor.name in chosen else np.full(count, -1))
        Z.append(np.column_stack(random))
    parts = error.variances(fit, error.Rows(X, levels, [z.copy() for z in Z]), theta_uncertainty)
    if interval == "prediction":
        parts["new_groups"] = np.zeros(count)
        for factor, found, z_columns in zip(design.factors, levels, Z, strict=True):
            parts["new_groups"] += np.where(found < 0, error.new_effects(fit, factor, z_columns), 0.0)
        weights = design.weights if new is None else None
        parts["residual"] = np.full(count, fit.sigma**2 / rows) / (1.0 if weights is None else weights)
        parts["residual"] *= _relative_variance(fit, new is None)
    full = {name: np.full(len(predicted), np.nan) for name in parts}
    for name, values in parts.items():
        full[name][used] = values
    return error.table(predicted, full, z, predicted.isna().to_numpy())


def _relative_variance(fit: Fit, rows_of_fit: bool) -> Any:
    """Variances of new errors relative to σ²/w."""
    residual = fit._problem.residual
    if residual is None:
        return 1.0
    if residual.pattern.correlated or not rows_of_fit:
        raise DesignError(
            f"prediction intervals are not offered for errors with a structure ({residual.pattern.describe()}), but "
            "those of the rows of the fit under variances by stratum or covariates; interval='confidence' is"
        )
    return np.square(residual.pattern.row_sd(residual.phi))


def _known_levels(fit: Fit, new: Any, factor: Factor, new_levels: str) -> tuple[Codes, list[Column]]:
    """Levels (-1: new) and random columns of new rows; an unknown level is an error if the policy says so."""
    levels, random, labels = fit.model.new_groups(new, factor)
    unknown = levels < 0
    if unknown.any() and new_levels == "error":
        row = int(np.argmax(unknown))
        label = labels[row]
        raise DataError(
            f"level {show(label)} of '{factor.name}' (row {row}) was not in the fit; new_levels='population' "
            "predicts it without a group effect, new_levels='nan' gives NaN",
            column=factor.name,
            group=label,
            row=row,
        )
    return levels, random


def _without_estimate(fit: Fit, columns: Sequence[Column]) -> npt.NDArray[np.bool_]:
    """Rows whose Xγ depends on what aliased columns would have for coefficients; warns of them."""
    X = np.column_stack(columns)
    found = np.isfinite(X).all(axis=1) & ~estimable_rows(fit, X, TIED)
    if found.any():
        row, others = int(np.argmax(found)), int(found.sum()) - 1
        warnings.warn(
            f"row {row}{f' and {others} more' if others else ''} cannot be predicted, the value is NaN: in the data of "
            f"the fit {', '.join(map(repr, fit.aliased))} went with other columns, here not",
            RankDeficientWarning,
            stacklevel=4,
        )
    return found


def fixed_part(fit: Fit, columns: Sequence[Column], n: int) -> Column:
    """Return Xγ̂ (n,) from the columns of X; aliased ones count for nothing."""
    values = np.zeros(n)
    for column, coefficient in zip(columns, fit.params.to_numpy(), strict=True):
        if not np.isnan(coefficient):
            values += column * coefficient
    return values


def linear_predictor(fit: Fit, chosen: Sequence[Factor]) -> Column:
    """Return Xγ̂ + Σ Zû (n,) of the rows of the fit, without the offset, over the chosen factors."""
    design = fit.model.design
    values = fixed_part(fit, design.columns, design.rows)
    for factor in chosen:
        modes = fit.random_effects[factor.name].to_numpy()
        values += contributions(factor, modes, factor.codes, list(factor.columns))
    return values


def chosen_factors(design: Design, effects: str | Sequence[str]) -> list[Factor]:
    """Return the factors that `effects` names; "all" or "population" (none)."""
    if effects == "all":
        return list(design.factors)
    if effects == "population":
        return []
    if not isinstance(effects, (str, list, tuple)):
        message = f"effects must be 'all', 'population' or names of grouping factors, got {effects!r}"
        raise DataTypeError(message)
    names = [effects] if isinstance(effects, str) else list(effects)
    return [design.factor(name) for name in names]
