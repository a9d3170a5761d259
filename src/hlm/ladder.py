"""The ladder: null model, random intercept, random coefficients, means as outcomes, full model; each step tested."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hlm.comparison.compare import Comparison, compare
from hlm.design import Factor
from hlm.errors import DesignError
from hlm.specification.columns import Piece
from hlm.specification.part_reader import PartReader

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.levels import Levels
    from hlm.model import Model

STEPS = ("null", "random intercept", "random coefficients", "means as outcomes", "full")


@dataclass(frozen=True, eq=False)
class Ladder:
    """The fits of a sequence of models, each of which contains the one before.

    Attributes
    ----------
    fits : dict of str to Fit
        By step, by the estimation that was asked for; a step that would add nothing is left out.
    table : DataFrame
        For each step: parameters, criterion, -2 log-likelihood by ML, AIC and BIC of it, and the test against the step
        before: statistic, degrees of freedom, p-value (correct on the boundary), null distribution. Steps that add
        fixed effects are tested by ML, steps that add variances by REML if that was asked for.
    variances : DataFrame
        Step × variance component: σ² and the variance of each random coefficient of each level.
    explained : DataFrame
        Step × variance component: the proportion by which it is less than in the step where it came in; negative where
        it grew.
    tests : dict of str to Comparison
    """

    fits: dict[str, Fit]
    table: pd.DataFrame
    variances: pd.DataFrame
    explained: pd.DataFrame
    tests: dict[str, Comparison]

    def explained_since(self, step: str) -> pd.DataFrame:
        """Return the proportion by which each variance is less than in a given step."""
        return 1 - self.variances / self.variances.loc[step]

    @property
    def _titled(self) -> list[tuple[str, pd.DataFrame]]:
        return [("Ladder", self.table), ("Variances", self.variances), ("Proportion explained", self.explained)]

    def __str__(self) -> str:
        shown = [f"{title}\n{t.to_string(float_format='{:.4f}'.format, na_rep='')}" for title, t in self._titled]
        return "\n\n".join(shown)

    def _repr_html_(self) -> str:
        shown = [f"<h4>{title}</h4>{t.to_html(float_format='{:.4f}'.format, na_rep='')}" for title, t in self._titled]
        return "".join(shown)


def climb(model: Model, reml: bool, seed: Any, **options: Any) -> Ladder:
    """Fit the ladder of a model; see `Model.ladder`."""
    if model.design.absorbed is not None:
        raise DesignError("a model with absorbed intercepts has no ladder: its intercepts do not vary at random")
    models = _models(model)
    fits = {step: part.fit(reml=reml, **options) for step, part in models.items()}
    likelihoods = fits if not reml else {step: part.fit(reml=False, **options) for step, part in models.items()}
    tests: dict[str, Comparison] = {}
    steps = list(models)
    for before, step in pairwise(steps):
        pair = fits if models[before].design.names == models[step].design.names else likelihoods
        tests[step] = compare(pair[before], pair[step], seed=seed)
    rows = []
    for step, fit in fits.items():
        ml, test = likelihoods[step], tests.get(step)
        row: dict[str, Any] = {
            "parameters": fit.df_model,
            "criterion": fit.criterion,
            "-2 log-likelihood (ML)": ml.criterion,
            "AIC": ml.aic,
            "BIC": ml.bic,
            "statistic": np.nan if test is None else test.statistic,
            "df": np.nan if test is None else test.df,
            "p": np.nan if test is None else test.pvalue,
            "null distribution": "" if test is None else test.distribution,
        }
        rows.append(row)
    variances = pd.DataFrame({step: _components(fit) for step, fit in fits.items()}).T
    variances = variances[_components(fits[steps[-1]]).index]
    first = variances.apply(lambda column: column[column.first_valid_index()])
    return Ladder(fits, pd.DataFrame(rows, index=steps), variances, 1 - variances / first, tests)


def _components(fit: Fit) -> pd.Series:
    """σ² and the variance of each random effect: "school: cses"."""
    found = {"level 1": fit.sigma**2}
    for name, T in fit.covariances.items():
        found.update({f"{name}: {effect}": float(T.loc[effect, effect]) for effect in T.index})
    return pd.Series(found)


def _models(model: Model) -> dict[str, Model]:
    """The models of the steps that add something."""
    levels, design = model.level_structure, model.design
    kinds = [_kind(column, levels) for column in levels.pieces]
    chosen: dict[str, tuple[tuple[int, ...], bool]] = {}
    wanted = {"intercept"}
    for step, more in zip(STEPS, ("", "lower", "", "upper", "cross"), strict=True):
        wanted.add(more)
        columns = tuple(k for k, kind in enumerate(kinds) if kind in wanted)
        choice = (columns, step not in STEPS[:2] or not any(_slopes(f, levels) for f in design.factors))
        if choice not in chosen.values():
            chosen[step] = choice
    return {step: part_of(model, columns, slopes) for step, (columns, slopes) in chosen.items()}


def _kind(column: tuple[Piece, ...], levels: Levels) -> str:
    """Whether a fixed column is the intercept, of level 1, of upper levels, or a product across."""
    met = {levels.level_of(piece.expression) > 1 for piece in column}
    return "intercept" if not met else "cross" if len(met) == 2 else "upper" if met.pop() else "lower"


def _slopes(factor: Factor, levels: Levels) -> list[int]:
    """Random effects of a factor that are not its intercept."""
    return [j for j, column in enumerate(levels.random_pieces[factor.name]) if column]


def part_of(model: Model, columns: tuple[int, ...], slopes: bool) -> Model:
    """Return the model with some of its fixed columns, and with or without its random slopes; same rows.

    Parameters
    ----------
    model : Model
    columns : tuple of int
    slopes : bool
    """
    levels, design = model.level_structure, model.design
    kept = {
        factor.name: [j for j in range(factor.width) if slopes or j not in _slopes(factor, levels)]
        for factor in design.factors
    }
    factors = tuple(_factor_with(factor, kept[factor.name]) for factor in design.factors if kept[factor.name])
    part = type(model).__new__(type(model))
    reader = model._reader
    part._reader = None if reader is None else PartReader(reader, columns, kept, levels.groupings)
    part.design = replace(
        design,
        names=tuple(design.names[k] for k in columns),
        columns=tuple(design.columns[k] for k in columns),
        factors=factors,
    )
    return part


def _factor_with(factor: Factor, kept: list[int]) -> Factor:
    """A factor with some of its effects; a structure that needs all of a block's columns is left with it."""
    if len(kept) == factor.width:
        return factor
    place = {j: k for k, j in enumerate(kept)}
    blocks, structures = [], []
    for block, structure in zip(factor.blocks, factor.all_structures, strict=True):
        own = tuple(place[j] for j in block if j in place)
        if own:
            blocks.append(own)
            structures.append(structure if len(own) == len(block) else None)
    return replace(
        factor,
        columns=tuple(factor.columns[j] for j in kept),
        effects=tuple(factor.effects[j] for j in kept),
        blocks=tuple(blocks),
        structures=tuple(structures) if any(structures) else (),
    )
