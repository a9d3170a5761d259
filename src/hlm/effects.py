"""Random effects of a fit in the user's units: conditional modes and their covariances."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.criterion import Problem
from hlm.design import Factor
from hlm.variance.relation import Relation
from hlm_ext.crossed import CrossedForest
from hlm_ext.forest import Forest

Array = npt.NDArray[np.float64]


class Effects(Protocol):
    """What has random effects; see `hlm_ext.criterion.Criterion.effects`."""

    @property
    def sigma2(self) -> float:
        """σ² of the engine."""

    @property
    def theta(self) -> Array:
        """The point of the last value."""

    @property
    def forest(self) -> Forest:
        """The statistics, factored."""

    def effects(self, covariances: bool = False, beta_known: bool = False) -> tuple[list[Array], list[Array] | None]:
        """Return û of all factors, leaves first, and Cov(u - û)/σ²."""


def random_effects(
    problem: Problem, criterion: Effects, covariances: bool = False, beta_known: bool = False
) -> tuple[list[Array], list[Array] | None]:
    """Return û (J, q) of each factor in the order of the formula, and (J, q, q) covariances if asked.

    Levels without rows that are known to be related to others follow those with rows (see `Factor.all_labels`).

    Parameters
    ----------
    problem : Problem
    criterion : Criterion or VarianceCriterion
        Evaluated at the θ of the fit.
    covariances : bool
        Also return Cov(u - û | θ, σ²).
    beta_known : bool
        Leave the uncertainty of β̂ out of the covariances.
    """
    means, covs = criterion.effects(covariances, beta_known)
    order = problem.template.order
    out: list[Array] = [np.zeros((0, 0))] * len(order)
    out_covs: list[Array] = [np.zeros((0, 0, 0))] * len(order)
    scale = problem.coordinates.scale
    for position, k in enumerate(order):
        effect_map = problem.maps[k] * scale
        levels = problem.statistics.hierarchy.levels[position]
        mean, cov = means[position], None if covs is None else covs[position]
        relation = problem.design.factors[k].between
        if relation is not None:
            mean = relation.loadings @ mean
            cov = None if cov is None else _related_covariances(problem, criterion, k, relation)
            levels = np.arange(len(mean))
        out[k] = np.empty_like(mean)
        out[k][levels] = mean @ effect_map.T
        if cov is not None:
            out_covs[k] = np.empty_like(cov)
            out_covs[k][levels] = criterion.sigma2 * (effect_map @ cov @ effect_map.T)
    return out, (out_covs if covariances else None)


def _related_covariances(problem: Problem, criterion: Effects, k: int, relation: Relation) -> Array:
    """Return Cov(u - û)/σ² (L, q, q) of related levels, those without rows last, after `criterion.effects`."""
    hierarchy = problem.statistics.hierarchy
    forest = criterion.forest
    assert isinstance(forest, CrossedForest), "related levels form a core"
    out = forest.core.covariances(hierarchy.factors.index(k) - hierarchy.peeled, relation.loadings)
    L = problem.space.factors_of(np.array(criterion.theta))[k]
    return np.asarray(out + relation.rest[:, None, None] * (L @ L.T))


def effects_table(factor: Factor, values: Array) -> pd.DataFrame:
    """Return û of a factor as a table: levels × effects."""
    return pd.DataFrame(values, index=factor.all_labels, columns=list(factor.effects))


def contributions(factor: Factor, values: Array, levels: npt.NDArray[np.intp], columns: list[Array]) -> Array:
    """Return Σ_j z_j u_j of each row: `levels` (n,) are positions in the factor, `columns` q arrays (n,)."""
    total = np.zeros(len(levels))
    for j, column in enumerate(columns):
        total += column * values[levels, j]
    return total


def flat_directions(problem: Problem, covariances: list[Matrix], deficiencies: list[int]) -> dict[str, list[str]]:
    """Name the directions of each factor in which the random effects have no variance.

    Parameters
    ----------
    problem : Problem
    covariances : list of (q, q)
        D of each factor in the engine's coordinates, order of the formula.
    deficiencies : list of int
        For each: how many directions have no variance.

    Returns
    -------
    dict
        Factor name → texts such as ``"Intercept"`` or ``"0.31·Intercept - 0.95·cses"``, without factors of full rank.
    """
    out = {}
    for factor, D, missing, effect_map in zip(
        problem.design.factors, covariances, deficiencies, problem.maps, strict=True
    ):
        if missing == 0:
            continue
        T = effect_map @ D @ effect_map.T
        size = np.sqrt(np.maximum(np.diag(T), 0))
        zero = [
            j
            for j in range(factor.width)
            if size[j] <= 1e-9 * max(1e-300, np.sqrt(np.abs(effect_map[j]) @ np.abs(effect_map[j])))
        ]
        texts = [factor.effects[j] for j in zero]
        rest = [j for j in range(factor.width) if j not in zero]
        if rest and missing > len(zero):
            correlation = T[np.ix_(rest, rest)] / np.outer(size[rest], size[rest])
            vectors = np.linalg.eigh(correlation)[1][:, : missing - len(zero)]
            texts += [_combination([factor.effects[j] for j in rest], v / size[rest]) for v in vectors.T]
        out[factor.name] = texts
    return out


def _combination(names: list[str], weights: Array) -> str:
    weights = weights / np.abs(weights).max()
    if weights[np.argmax(np.abs(weights))] < 0:
        weights = -weights
    text = ""
    for name, weight in zip(names, weights, strict=True):
        if abs(weight) < 1e-6:
            continue
        sign = "-" if weight < 0 else ("+" if text else "")
        text += (f" {sign} " if text else sign) + f"{abs(weight):.3g}·{name}"
    return text
