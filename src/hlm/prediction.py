"""Predictions for known groups, for the population, for chosen levels and for new groups under a declared policy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import Column, Design, Factor
from hlm.effects import contributions
from hlm.errors import DataError, DataTypeError, DesignError, RankDeficientWarning, show
from hlm.inference.distributions import Array, checked_alpha, t_quantile
from hlm.inference.hypotheses import estimable_rows
from hlm.prediction_error import Errors, Rows
from hlm.structure import Codes

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.inference.fixed import Inference

POLICIES = ("error", "population", "nan")
INTERVALS = ("confidence", "prediction")
# How nearly columns of new rows must go with each other as those of the fit do, where these are aliased; relative.
TIED = 1e-6
# Of the variance of an error of prediction, as they are shown.
PARTS = ("fixed", "groups", "theta", "new_groups", "residual")


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
        _warn_of_aliased(fit, _without_estimate(fit, columns))
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
    view: Inference,
    new: Any,
    effects: str | Sequence[str],
    new_levels: str,
    interval: str,
    alpha: float,
    theta_uncertainty: bool | None,
    mean_of: int,
) -> pd.DataFrame:
    """Predict with standard errors and intervals as `view` has them; see `Fit.predict`."""
    if interval not in INTERVALS:
        raise DataError(f"interval must be one of {', '.join(map(repr, INTERVALS))}, got {interval!r}")
    if theta_uncertainty is not None and not isinstance(theta_uncertainty, (bool, np.bool_)):
        raise DataTypeError(f"theta_uncertainty must be True, False or None, got {theta_uncertainty!r}")
    alpha, mean_of = checked_alpha(alpha), _checked_mean_of(mean_of)
    fit = view.fit
    design = fit.model.design
    if design.absorbed is not None:
        raise DesignError(
            f"an interval of predictions is not offered with absorbed intercepts of '{design.absorbed.name}': their "
            "errors are part of it; see `group_intercepts`",
            column=design.absorbed.name,
        )
    predicted = predict(fit, new, effects, new_levels)
    missing = predicted.isna().to_numpy()
    if fit.aliased and new is not None:
        missing = missing | _without_estimate(fit, fit.model.new_rows(new)[0])
    X, levels, Z = _columns(fit, new, chosen_factors(design, effects), new_levels)
    fresh = effects == "population" or (bool(levels) and all((code < 0).all() for code in levels))
    noise = None if interval == "confidence" else _noise(fit, new, len(X), mean_of, fresh)
    parts, df = view.prediction(Errors(fit, Rows(X, levels, Z, noise)), theta_uncertainty)
    used = slice(None) if new is not None or design.kept is None else design.kept

    def over_input(values: Array) -> Array:
        full = np.full(len(predicted), np.nan)
        full[used] = values
        full[missing] = np.nan
        return full

    shown = {name: over_input(parts[name]) for name in PARTS if name in parts}
    se = np.sqrt(np.maximum(sum(shown.values()), 0.0))
    df = np.where(np.isnan(se), np.nan, over_input(df))
    half = t_quantile(df, alpha) * se
    columns = {"predicted": predicted, "se": se, "df": df, "lower": predicted - half, "upper": predicted + half}
    return pd.DataFrame(columns).assign(**{f"var_{name}": values for name, values in shown.items()})


def _checked_mean_of(mean_of: Any) -> int:
    """Return the number of rows that a prediction is the mean of."""
    if isinstance(mean_of, bool) or not isinstance(mean_of, (int, np.integer)) or mean_of < 1:
        raise DataError(f"mean_of must be a whole number of at least 1, got {mean_of!r}")
    return int(mean_of)


def _columns(fit: Fit, new: Any, chosen: list[Factor], new_levels: str) -> tuple[Array, list[Codes], list[Array]]:
    """Return X, and for each factor levels (-1: not predicted) and random columns, of rows of the fit or new ones."""
    design = fit.model.design
    columns, _, index = (design.columns, [], range(design.rows)) if new is None else fit.model.new_rows(new)
    kept = [column for column, keep in zip(columns, fit._problem.coordinates.kept, strict=True) if keep]
    X = np.column_stack(kept) if kept else np.zeros((len(index), 0))
    levels, Z = [], []
    for factor in design.factors:
        found = np.full(len(X), -1, dtype=np.intp)
        if new is None:
            random = list(factor.columns)
            found = factor.codes if factor in chosen else found
        elif factor in chosen:
            found, random = _known_levels(fit, new, factor, new_levels)
        else:
            random = fit.model.new_random_columns(new, factor)
        levels.append(found)
        Z.append(np.column_stack(random))
    return X, levels, Z


def _noise(fit: Fit, new: Any, count: int, mean_of: int, fresh: bool) -> Callable[[Array], Array]:
    """Return the variances (N,) of new errors, or of means of so many, relative to σ², as a function of φ.

    `fresh` says that the rows are of new groups, with whose errors no observed ones go.
    """
    residual, weights = fit._problem.residual, fit.model.design.weights
    known = np.full(count, 1.0 / mean_of)
    if new is None and weights is not None:
        known = known / weights
    if residual is None:
        return lambda phi: known
    pattern = residual.pattern
    if pattern.correlated and (mean_of > 1 or not fresh):
        what = "the mean of several rows" if mean_of > 1 else "a row of a known group"
        raise DesignError(
            f"the errors of a group are correlated ({pattern.describe()}): a prediction interval for {what} would need "
            "how the new errors go with each other and with those observed; effects='population' predicts one row of "
            "a new group, interval='confidence' the expected response"
        )
    return lambda phi: known * np.square(pattern.row_sd(phi, new))


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
    """Rows whose Xγ depends on what aliased columns would have for coefficients."""
    X = np.column_stack(columns)
    return np.isfinite(X).all(axis=1) & ~estimable_rows(fit, X, TIED)


def _warn_of_aliased(fit: Fit, rows: npt.NDArray[np.bool_]) -> None:
    """Say which rows are predicted as if the coefficients of aliased columns were zero."""
    if not rows.any():
        return
    row, others = int(np.argmax(rows)), int(rows.sum()) - 1
    warnings.warn(
        f"row {row}{f' and {others} more' if others else ''}: in the data of the fit "
        f"{', '.join(map(repr, fit.aliased))} went with other columns, here not; there is no estimate of their own "
        "coefficients, which are taken for zero",
        RankDeficientWarning,
        stacklevel=5,
    )


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
