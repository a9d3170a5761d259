"""The joint posterior of one random coefficient over the groups of a factor, without a J × J matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.empirical_bayes.chain import chain_roots, innovations, stages_of
from hlm.empirical_bayes.coefficients import response_to_beta
from hlm.empirical_bayes.level_one import level_one
from hlm.errors import DataError, show
from hlm.sides import with_sides
from hlm.structure import Codes
from hlm_ext.criterion import Criterion
from hlm_ext.forms import forms

if TYPE_CHECKING:
    from hlm.design import Factor
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]

# Levels of a crossed factor up to which their joint covariance is made: a few matrices of that size.
MOST = 3000


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
    name, effect : str
        Grouping factor and random effect.
    of : {"effects", "coefficients"}
        Of u_j, or of β_j = (𝐙_j γ)_q + u_j.
    groups : sequence of labels, optional
        Some of the groups; all when left out.

    Raises
    ------
    DataError
        For an unknown effect or group, or when no group differs from another; for a crossed factor of many levels.
    DesignError
        For an unknown factor.
    """
    factor = fit.model.design.factor(name)
    fit.model.design.must_be_independent("the joint posterior of groups")
    q = _place(factor, effect, of)
    if fit.covariances[name].iloc[q, q] == 0 and of == "effects":
        raise DataError(f"'{effect}' does not vary over '{name}' (its variance is 0): there is nothing to compare")
    mean = fit.random_effects[name].to_numpy()[:, q].copy()
    shared = response_to_beta(fit, name)[:, q]
    if of == "coefficients":
        Z = level_one(fit, factor).Z[:, q]
        mean += Z @ fit.params.dropna().to_numpy()
        shared = shared + Z @ fit._problem.coordinates.beta_map
    with fit._lock:
        shared = shared @ np.linalg.cholesky(fit._criterion.sigma2 * fit._criterion.cross_inverse)
    if fit._problem.crossed is None:
        found = Posterior(factor.labels, mean, *_nested(fit, factor, q, shared))
    else:
        # all groups depend on each other: a root of their covariance stands beside that of γ̂
        values, vectors = np.linalg.eigh(_covariance_in_crossed(fit, factor, q))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        found = Posterior(factor.labels, mean, np.zeros(len(mean)), np.hstack([shared, root]), [], [])
    return found if groups is None else _subset(found, factor, groups)


def _nested(fit: Fit, factor: Factor, q: int, shared: Array) -> tuple[Array, Array, list[Array], list[Codes]]:
    """Variance, shared, loadings and units of a `Posterior` in a nested hierarchy."""
    problem = fit._problem
    stages = stages_of(fit)
    k = problem.template.order.index(fit.model.design.factors.index(factor))
    order = np.argsort(problem.statistics.hierarchy.levels[k])
    row = problem.maps[problem.template.order[k]][q]
    loadings: list[Array] = []
    for P, parent, above in zip(innovations(stages, k), stages[k].parents, stages[k + 1 :], strict=True):
        # N may be singular: its symmetric root is defined all the same
        values, vectors = np.linalg.eigh(above.N)
        half = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        loadings.append(fit.sigma * np.einsum("jq,jqs->js", row @ P, half[parent])[order])
    variance = fit.sigma**2 * np.einsum("a,jab,b->j", row, stages[k].N, row)
    return variance[order], shared, loadings, [parent[order] for parent in stages[k].parents]


def _covariance_in_crossed(fit: Fit, factor: Factor, q: int) -> Array:
    """Return Cov(u - û | y, γ) (J, J) of one effect of a factor of a crossed design.

    D - D Z'V⁻¹Z D by one right-hand side for each level, its column of Z D (MATH: §7).

    Raises
    ------
    DataError
        For more than `MOST` levels.
    """
    problem, J = fit._problem, factor.size
    if J > MOST:
        raise DataError(f"'{factor.name}' has {J} levels; in crossed designs {MOST} are the most that are compared")
    hierarchy, order = problem.statistics.hierarchy, problem.template.order
    k = order.index(fit.model.design.factors.index(factor))
    roots = chain_roots(fit)
    row = problem.maps[order[k]][q]
    a = roots[k] @ (roots[k].T @ row)
    rows = problem.statistics.rows(problem.coordinates.basis)
    edges = np.cumsum([0, *(f.width for f in problem.ordered)])
    value = rows[:, edges[k] : edges[k + 1]] @ a
    weighted = value if problem.statistics.weights is None else value * problem.statistics.weights
    sides = []
    for m, other in enumerate(problem.ordered):
        pairs = other.codes * J + factor.codes
        sums = [np.bincount(pairs, rows[:, i] * weighted, other.size * J) for i in range(edges[m], edges[m + 1])]
        sides.append(np.stack(sums, axis=1).reshape(other.size, J, other.width).transpose(0, 2, 1)[hierarchy.levels[m]])
    size = np.bincount(factor.codes, value * weighted, J)
    total = np.diag(np.where(size > 0, size, 1.0))  # a column of zeros has no sides and says nothing
    changed = with_sides(problem, [np.ascontiguousarray(side) for side in sides], total)
    criterion = changed.criterion_with(float(problem.design.nobs), False)
    inner = fit._criterion if isinstance(fit._criterion, Criterion) else fit._criterion.inner
    criterion.value(inner.theta)
    modes = np.empty((J, J))
    modes[hierarchy.levels[k]] = row @ forms(criterion.forest, True)[2][k]
    out = np.diag(np.full(J, row @ a)) - modes
    return np.asarray(fit.sigma**2 * 0.5 * (out + out.T), dtype=np.float64)


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
