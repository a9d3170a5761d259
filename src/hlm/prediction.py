"""Predictions for known groups, for the population, for chosen levels and for new groups under a declared policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hlm.design import Design, Factor
from hlm.effects import contributions
from hlm.errors import DataError, show

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
        columns, offsets, index = list(design.columns), [] if design.offset is None else [design.offset], None
        n = design.nobs
    else:
        columns, offsets, index = fit.model.new_rows(new)
        n = len(index)
    values = np.zeros(n)
    for column, beta in zip(columns, fit.params.to_numpy(), strict=True):
        if not np.isnan(beta):
            values += column * beta
    for offset in offsets:
        values += offset
    for factor in chosen:
        modes = fit.random_effects[factor.name].to_numpy()
        if new is None:
            values += contributions(factor, modes, factor.codes, list(factor.columns))
            continue
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
    if new is None:
        return design.full_length(values).rename("predicted")
    return pd.Series(values, index=index, name="predicted")


def chosen_factors(design: Design, effects: str | Sequence[str]) -> list[Factor]:
    """Return the factors that `effects` names; "all" or "population" (none)."""
    if effects == "all":
        return list(design.factors)
    if effects == "population":
        return []
    names = [effects] if isinstance(effects, str) else list(effects)
    return [design.factor(name) for name in names]
