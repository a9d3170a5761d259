"""Conditional information criterion: how well rows of the same groups are predicted.

Vaida and Blanchard (2005): with e = y - Xγ̂ - Zû and ŷ = Hy, ρ = tr H are the effective degrees of freedom,

    -2 log f(y | γ̂, û, σ̂²) = n log(2πσ̂²) - Σ log w + Σ w e²/σ̂²
    ρ = p + Σ_k ⟨D_k, Σ_l Z_l'PZ_l⟩                                (P of REML: H = I - W⁻¹P)
    penalty, σ² estimated, D known:   ML    2 n [(n-p-1)(ρ+1) + p+1] / ((n-p)(n-p-2))
                                      REML  2   [(n-p-1)(ρ+1) + p+1] / (n-p-2)

Greven and Kneib (2010): D is estimated too, and ŷ moves with it. With f_a = V_aPy, H_ab the second derivatives of the
criterion in θ and r² = y'Py,

    tr(∂ŷ/∂y) = ρ + Σ_ab (H⁻¹)_ab (2/σ̂²) (Pf_a)'W⁻¹(Pf_b - (y'PV_bPy / r²) Py) ,     penalty 2 (tr(∂ŷ/∂y) + 1)

Each Pf_a is the residual of a response f_a at the same θ: one more right-hand side, whatever the structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.criterion import Problem
from hlm.errors import DesignError
from hlm.residuals.refusals import independent_errors
from hlm.responses import Prepared
from hlm.sides import level_sums, sides, with_sides
from hlm_ext.criterion import Criterion

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ConditionalAIC:
    """Conditional AIC with its parts.

    Attributes
    ----------
    deviance : float
        -2 log f(y | γ̂, û, σ̂²).
    df : float
        ρ = tr H, effective degrees of freedom with the covariances known.
    estimated_df : float or None
        tr(∂ŷ/∂y), with the covariances estimated; None for a model with structures or known variances.
    vaida_blanchard : float
        With the finite-sample penalty for an estimated σ², covariances known.
    asymptotic : float
        deviance + 2 (ρ + 1).
    greven_kneib : float or None
        deviance + 2 (tr(∂ŷ/∂y) + 1).
    """

    deviance: float
    df: float
    estimated_df: float | None
    vaida_blanchard: float
    asymptotic: float
    greven_kneib: float | None

    def __str__(self) -> str:
        text = f"conditional AIC {self.vaida_blanchard:.2f} (effective df {self.df:.2f}"
        if self.greven_kneib is not None:
            text += f"; with estimated covariances {self.greven_kneib:.2f}, df {self.estimated_df:.2f}"
        return text + ")"


def conditional_aic(fit: Fit) -> ConditionalAIC:
    """Return the conditional AIC of a fit; see the module for its definitions."""
    independent_errors(fit, "the conditional AIC")
    design, problem = fit.model.design, fit._problem
    n, p = fit.nobs, problem.rank + design.absorbed_count
    residual = fit.resid.to_numpy()
    residual = residual if design.kept is None else residual[design.kept]
    weights = design.row_weights
    rss = float(residual @ (residual if weights is None else weights * residual))
    deviance = n * float(np.log(2 * np.pi * fit.sigma**2)) - design.log_weights + rss / fit.sigma**2
    df = effective_df(fit)
    left = n - p - 2
    if left <= 0:
        raise DesignError(f"{n} rows for {p} fixed effects: the conditional AIC needs three more rows than effects")
    penalty = 2 * ((n - p - 1) * (df + 1) + p + 1) / left
    if not fit.reml:
        penalty *= n / (n - p)
    estimated = None
    if problem.variances is None and (problem.restrictions is None or not problem.restrictions.beta):
        estimated = df + _movement(fit)
    return ConditionalAIC(
        deviance,
        df,
        estimated,
        deviance + penalty,
        deviance + 2 * (df + 1),
        None if estimated is None else deviance + 2 * (estimated + 1),
    )


def effective_df(fit: Fit) -> float:
    """Return ρ = tr H: the fixed effects, and each random effect by the part that is not shrunken away."""
    independent_errors(fit, "effective degrees of freedom")
    problem = fit._problem
    df = float(problem.rank + problem.design.absorbed_count)
    if not problem.design.factors:
        return df
    criterion = problem.criterion(True)
    criterion.value(fit._point)
    covariances = [L @ L.T for L in problem.space.factors_of(fit._point)]
    for k, (post, _) in zip(problem.template.order, criterion.moments(), strict=True):
        df += float((covariances[k] * post).sum())
    return df


def _movement(fit: Fit) -> float:
    """Σ_a (∂ŷ/∂θ_a)'(∂θ̂_a/∂y): what the predictions move with the estimated covariances."""
    problem, criterion = fit._problem, fit._criterion
    template = problem.template
    if template.m == 0:
        return 0.0
    assert isinstance(criterion, Criterion)
    prepared = fit.model._prepared if fit.model.problem.coordinates is problem.coordinates else Prepared(problem)
    rows, weights = prepared.rows, problem.statistics.weights
    y = rows[:, -1]
    with fit._lock:
        residual = _residual(problem, rows, y, criterion)
        hessian = criterion.derivatives(problem.curvature[1])[1]
        sigma2, r2 = criterion.sigma2, criterion.residual
    own = residual if weights is None else weights * residual  # Py
    sums = level_sums(problem, rows, own)
    matrices = template.factors_of(fit._point)
    images, ratios, places = [], [], []
    for t, (k, i, j) in enumerate(template.owners):
        change = np.zeros_like(matrices[k])
        change[i] = matrices[k][:, j]
        change = change + change.T
        if not change.any():  # on the boundary θ stays where it is
            continue
        position = template.order.index(k)
        f = _spread(problem, rows, position, sums[position] @ change)
        images.append(_response_residual(fit, prepared, residual, f))
        ratios.append(float(f @ own) / r2)
        places.append(t)
    if not places:
        return 0.0
    A = np.column_stack(images)
    weighted = A if weights is None else A * weights[:, None]
    inner = A.T @ weighted - np.outer(residual @ weighted, ratios)
    inverse = np.linalg.inv(hessian[np.ix_(places, places)])
    return float(2 / sigma2 * (inverse * inner).sum())


def _spread(problem: Problem, rows: Matrix, position: int, effects: Matrix) -> Matrix:
    """Z u over the rows, for effects (J, q) of one factor in the order of the hierarchy."""
    factor = problem.ordered[position]
    at = sum(other.width for other in problem.ordered[:position])
    by_level = np.empty_like(effects)
    by_level[problem.statistics.hierarchy.levels[position]] = effects
    if factor.between is not None:
        by_level = factor.between.root @ by_level
    return np.asarray((rows[:, at : at + factor.width] * by_level[factor.codes]).sum(axis=1))


def _residual(problem: Problem, rows: Matrix, y: Matrix, criterion: Criterion) -> Matrix:
    """y - Xβ̂ - Zû in the engine's coordinates, where the criterion stands."""
    tail = len(criterion.beta) + 1
    left = y - rows[:, rows.shape[1] - tail : -1] @ criterion.beta
    for position, effects in enumerate(criterion.effects()[0]):
        left -= _spread(problem, rows, position, effects)
    return left


def _response_residual(fit: Fit, prepared: Prepared, own: Matrix, f: Matrix) -> Matrix:
    """W⁻¹Pf: the residual of a response f at the θ of the fit.

    The residual of y is linear in y: f is added to y, so that there is always something left, and subtracted again.
    """
    problem, rows = prepared.problem, prepared.rows
    weights = problem.statistics.weights
    y = rows[:, -1]
    size = float(np.sqrt((y @ y) / max(float(f @ f), 1e-300)))
    both = y + size * f
    weighted = both if weights is None else weights * both
    columns = sides(problem)
    for side, sums in zip(columns, level_sums(problem, rows, weighted), strict=True):
        side[:, :, -1] = sums
    X = prepared.fixed
    total = problem.coordinates.total.copy()
    total[-1, :-1] = total[:-1, -1] = X.T @ weighted
    total[-1, -1] = both @ weighted
    criterion = with_sides(problem, columns, total).criterion_with(fit._criterion.freedom, fit.reml)
    criterion.value(fit._point)
    return (_residual(problem, rows, both, criterion) - own) / size
