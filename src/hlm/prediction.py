"""Predictions for known groups, for the population, for chosen levels and for new groups under a declared policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hlm.design import Column, Design, Factor
from hlm.effects import contributions
from hlm.errors import DataError, DataTypeError, show

if TYPE_CHECKING:
    from hlm.fit import Fit

POLICIES = ("error", "population", "nan")


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
    for offset in offsets:
        values += offset
    for factor in chosen:
        modes = fit.random_effects[factor.name].to_numpy()
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
        added = contributions(factor, modes, levels, random)
        values += np.where(unknown, np.nan if new_levels == "nan" else 0.0, added)
    return pd.Series(values, index=index, name="predicted")


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
