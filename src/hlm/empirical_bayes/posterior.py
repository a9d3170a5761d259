"""The joint posterior of one random coefficient over the groups of a factor, without a J × J matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.empirical_bayes.chain import innovations, stages_of
from hlm.empirical_bayes.level_one import level_one
from hlm.errors import DataError, show
from hlm.structure import Codes

if TYPE_CHECKING:
    from hlm.design import Factor
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Posterior:
    """E_j = mean_j + shared_j'δ + Σ_m loading_jm'ν_m[unit_jm] + ν_j, all of δ, ν independent and normal.

    δ is standard normal (the uncertainty of γ̂); ν_m what is new in the groups of a level above, shared by those inside
    them; ν_j what is a group's own.

    Attributes
    ----------
    labels : (J,) Index
    mean, variance : (J,) float64
        Estimate, and variance of the group's own ν.
    shared : (J, r) float64
    loadings : list of (J, q_m) float64
        Scaled so that ν_m is standard normal.
    units : list of (J,) intp
    """

    labels: pd.Index
    mean: Array
    variance: Array
    shared: Array
    loadings: list[Array]
    units: list[Codes]

    @property
    def total(self) -> Array:
        """Variance (J,) of each group."""
        out: Array = self.variance + (self.shared**2).sum(axis=1)
        for loading in self.loadings:
            out = out + (loading**2).sum(axis=1)
        return out

    def difference(self, i: Codes, j: Codes) -> tuple[Array, Array]:
        """Return mean and variance of E_i - E_j for arrays of pairs."""
        variance = self.variance[i] + self.variance[j] + ((self.shared[i] - self.shared[j]) ** 2).sum(axis=1)
        for loading, unit in zip(self.loadings, self.units, strict=True):
            same = unit[i] == unit[j]
            together = ((loading[i] - loading[j]) ** 2).sum(axis=1)
            apart = (loading[i] ** 2).sum(axis=1) + (loading[j] ** 2).sum(axis=1)
            variance += np.where(same, together, apart)
        return self.mean[i] - self.mean[j], np.where(i == j, 0.0, variance)

    def draws(self, count: int, random: np.random.Generator) -> Array:
        """Return (count, J) draws."""
        J, r = self.shared.shape
        out = self.mean + np.sqrt(self.variance) * random.standard_normal((count, J))
        if r:
            out += random.standard_normal((count, r)) @ self.shared.T
        for loading, unit in zip(self.loadings, self.units, strict=True):
            new = random.standard_normal((count, int(unit.max()) + 1, loading.shape[1]))
            out += np.einsum("sjq,jq->sj", new[:, unit], loading)
        return out


def posterior(fit: Fit, name: str, effect: str, of: str, groups: Sequence[Any] | None) -> Posterior:
    """Return the posterior of one random coefficient.

    Parameters
    ----------
    fit : Fit
        Of a nested hierarchy.
    name, effect : str
        Grouping factor and random effect.
    of : {"effects", "coefficients"}
        Of u_j, or of β_j = (𝐙_j γ)_q + u_j.
    groups : sequence of labels, optional
        Some of the groups; all when left out.

    Raises
    ------
    DataError
        For an unknown effect or group, or when no group differs from another.
    DesignError
        For an unknown factor, or where factors are crossed.
    """
    factor = fit.model.design.factor(name)
    q = _place(factor, effect, of)
    problem = fit._problem
    stages = stages_of(fit)
    k = problem.template.order.index(fit.model.design.factors.index(factor))
    order = np.argsort(problem.statistics.hierarchy.levels[k])
    row = problem.maps[problem.template.order[k]][q]
    with fit._lock:
        sigma2, inverse = fit._criterion.sigma2, fit._criterion.cross_inverse
    scale = problem.coordinates.scale
    shared = -scale * (row @ stages[k].effects[:, :, :-1])[order]
    mean = fit.random_effects[name].to_numpy()[:, q].copy()
    if of == "coefficients":
        Z = level_one(fit, factor).Z[:, q]
        mean += Z @ fit.params.dropna().to_numpy()
        shared += Z @ problem.coordinates.beta_map
    root = np.linalg.cholesky(sigma2 * inverse)
    loadings: list[Array] = []
    for P, above in zip(innovations(stages, k), stages[k + 1 :], strict=True):
        loading = row @ P
        # N may be singular: its symmetric root is defined all the same
        values, vectors = np.linalg.eigh(above.N)
        half = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        parent = stages[k].parents[len(loadings)]
        loadings.append(fit.sigma * np.einsum("jq,jqs->js", loading, half[parent]))
    variance = fit.sigma**2 * np.einsum("a,jab,b->j", row, stages[k].N, row)
    found = Posterior(
        factor.labels,
        mean,
        variance[order],
        shared @ root,
        [loading[order] for loading in loadings],
        [parent[order] for parent in stages[k].parents],
    )
    if fit.covariances[name].iloc[q, q] == 0 and of == "effects":
        raise DataError(f"'{effect}' does not vary over '{name}' (its variance is 0): there is nothing to compare")
    return found if groups is None else _subset(found, factor, groups)


def _place(factor: Factor, effect: str, of: str) -> int:
    if of not in ("effects", "coefficients"):
        raise DataError(f"of must be 'effects' or 'coefficients', got {of!r}")
    if effect not in factor.effects:
        raise DataError(f"'{factor.name}' has no random effect '{effect}'; it has {list(factor.effects)}")
    return factor.effects.index(effect)


def positions(labels: pd.Index, name: str, groups: Sequence[Any]) -> Codes:
    """Return the positions of groups among the labels, or raise `DataError` naming one that is not there."""
    at: Codes = labels.get_indexer(pd.Index(groups, tupleize_cols=isinstance(labels, pd.MultiIndex))).astype(np.intp)
    if (at < 0).any():
        label = groups[int(np.argmax(at < 0))]
        raise DataError(f"no level {show(label)} of '{name}' in the fit", column=name, group=label)
    return at


def _subset(whole: Posterior, factor: Factor, groups: Sequence[Any]) -> Posterior:
    at = positions(whole.labels, factor.name, groups)
    if len(np.unique(at)) < len(at):
        raise DataError("groups names a group twice")
    return Posterior(
        whole.labels[at],
        whole.mean[at],
        whole.variance[at],
        whole.shared[at],
        [loading[at] for loading in whole.loadings],
        [unit[at] for unit in whole.units],
    )
