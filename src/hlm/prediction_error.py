"""Variance of prediction errors, and intervals (MATH: §7).

The error of x'γ̂ + z'û for x'γ + z'u has, given θ, the variance (in units of σ²; Ω = (Z'WZ + D⁻¹)⁻¹, S = X'V⁻¹X)

    z'Ωz + (x - q)'S⁻¹(x - q) ,   q = X'WZ Ωz                    (Henderson's equations, Robinson 1991)

whose parts are the uncertainty of the groups when γ is known, and of γ̂. One grouping factor has both in closed form by
level. Otherwise the vectors z are put in the place of y (`hlm.sides`): what the factor leaves of them is z'z - z'Ωz,
and of X and them -q', for any structure, a few dozen rows of new data at a time; rows with the same z are one.

The estimation of θ adds g'Ag: g the derivative of the prediction in θ, at the data, A the covariance of θ̂ (Kackar and
Harville 1984, in the conditional form of Booth and Hobert 1998).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.criterion import Problem
from hlm.errors import DataError
from hlm.residuals.criterion import at_estimate
from hlm.sides import sides, with_sides

if TYPE_CHECKING:
    from hlm.design import Factor
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]
Levels = npt.NDArray[np.intp]

# Vectors z that are solved for together.
BATCH = 48
# Steps of the derivative of predictions in θ, in standard errors: central differences are good to about the square.
STEP = 1e-3


@dataclass(frozen=True)
class Rows:
    """Rows to predict, in the user's units.

    Attributes
    ----------
    X : (N, r) float64
        Fixed columns that are not aliased.
    levels : list of (N,) intp
        For each factor of the design: the level, -1 where the row's effect of that factor is not predicted.
    Z : list of (N, q) float64
    """

    X: Matrix
    levels: list[Levels]
    Z: list[Matrix]


def variances(fit: Fit, rows: Rows, theta_uncertainty: bool) -> dict[str, Matrix]:
    """Return the parts of the variance of the error of prediction of each row, (N,) each.

    Returns
    -------
    dict
        "fixed": from γ̂; "groups": from û, γ known; "theta": from θ̂ (zero unless wanted).
    """
    problem = fit._problem
    sigma2 = fit._criterion.sigma2
    scale = problem.coordinates.scale
    X = rows.X @ problem.coordinates.beta_map
    Z = [scale * (columns @ problem.maps[k]) for k, columns in enumerate(rows.Z)]
    for columns, levels in zip(Z, rows.levels, strict=True):
        columns[levels < 0] = 0.0
    with fit._lock:
        inverse = fit._criterion.cross_inverse
    if not Z:
        groups, q = np.zeros(len(X)), np.zeros(X.shape)
    elif problem.crossed is None and len(Z) == 1:
        groups, q = _one_factor(fit, rows.levels[0], Z[0])
    else:
        groups, q = _several_factors(fit, rows.levels, Z)
    for k, (factor, levels) in enumerate(zip(problem.design.factors, rows.levels, strict=True)):
        if factor.between is not None:  # levels without rows: what those with rows leave open
            groups = groups + factor.between.rest[levels] * ((Z[k] @ _covariances(fit)[k]) * Z[k]).sum(axis=1)
    left = X - q
    fixed = ((left @ inverse) * left).sum(axis=1)
    theta = _from_theta(fit, X, rows.levels, Z) if theta_uncertainty else np.zeros(len(X))
    return {"fixed": sigma2 * fixed, "groups": sigma2 * groups, "theta": theta}


def _covariances(fit: Fit) -> list[Matrix]:
    """D of each factor in the engine's coordinates, order of the formula."""
    return [L @ L.T for L in fit._problem.space.factors_of(fit._point)]


def _one_factor(fit: Fit, levels: Levels, Z: Matrix) -> tuple[Matrix, Matrix]:
    """z'Ωz (N,) and q (N, p) from the blocks of the levels."""
    problem = fit._problem
    block, width = problem.coordinates.blocks[0], Z.shape[1]
    D = _covariances(fit)[0]
    position = np.empty(len(block), dtype=np.intp)
    position[problem.statistics.hierarchy.levels[0]] = np.arange(len(block))
    used, place = np.unique(position[np.maximum(levels, 0)], return_inverse=True)
    A = block[used][:, :, :width]
    omega = D @ np.linalg.inv(np.eye(width) + A @ D)
    solved = np.einsum("nij,nj->ni", omega[place], Z)
    q = np.einsum("nip,ni->np", block[used][:, :, width:-1][place], solved)
    return (Z * solved).sum(axis=1), q


def _several_factors(fit: Fit, levels: list[Levels], Z: list[Matrix]) -> tuple[Matrix, Matrix]:
    """z'Ωz (N,) and q (N, p) by right-hand sides, for distinct rows."""
    problem = fit._problem
    p = problem.rank
    keys = np.column_stack([*(code.astype(np.float64) for code in levels), *Z])
    _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    groups, q = np.zeros(len(first)), np.zeros((len(first), p))
    theta = problem.template.theta_of_covariances(_covariances(fit))
    known = [side[:, :, :-1] for side in sides(problem)]
    for lo in range(0, len(first), BATCH):
        part = first[lo : lo + BATCH]
        own = slice(lo, lo + len(part))
        groups[own], q[own] = _solve(problem, known, theta, [code[part] for code in levels], [z[part] for z in Z])
    place = place.reshape(-1)
    return groups[place], q[place]


def _solve(
    problem: Problem, known: list[Matrix], theta: Matrix, levels: list[Levels], Z: list[Matrix]
) -> tuple[Matrix, Matrix]:
    """z'Ωz and q of a few rows, from one factorisation with their z in the place of y."""
    count, p = len(levels[0]), problem.rank
    L = problem.template.factors_of(theta)
    scales = [factor.level_scale[code] for factor, code in zip(problem.design.factors, levels, strict=True)]
    prior = np.sum([a * ((z @ root) ** 2).sum(axis=1) for a, z, root in zip(scales, Z, L, strict=True)], axis=0)
    # the same whatever the unit of y: z'Ωz ≤ len(Z) for each row, and what is left of the z's below is positive
    size = np.sqrt(prior)
    Z = [np.divide(z, size[:, None], out=np.zeros_like(z), where=size[:, None] > 0) for z in Z]
    bound = float(len(Z) * count)
    columns = []
    for position, (k, side) in enumerate(zip(problem.template.order, known, strict=True)):
        right = np.zeros((*side.shape[:2], count))
        at = np.empty(side.shape[0], dtype=np.intp)
        at[problem.statistics.hierarchy.levels[position]] = np.arange(len(at))
        rows = np.flatnonzero(levels[k] >= 0)
        relation = problem.design.factors[k].between
        if relation is None:
            right[at[levels[k][rows]], :, rows] = Z[k][rows]
        else:
            right[:, :, rows] = relation.loadings[levels[k][rows]].T[:, None, :] * Z[k][rows].T
        columns.append(np.concatenate([side, right], axis=2))
    total = np.zeros((p + count, p + count))
    total[:p, :p] = problem.coordinates.total[:p, :p]
    total[np.arange(p, p + count), np.arange(p, p + count)] = bound
    criterion = with_sides(problem, columns, total).criterion_with(1.0, False)
    criterion.value(theta)
    left = criterion.schur
    return prior * (bound - np.diag(left)[p:]), -left[p:, :p] * size[:, None]


def _from_theta(fit: Fit, X: Matrix, levels: list[Levels], Z: list[Matrix]) -> Matrix:
    """g'Ag (N,) by central differences of β̂ and û along the eigenvectors of the covariance of θ̂."""
    problem = fit._problem
    if problem.residual is not None:
        hessian = problem.residual.hessian
    else:
        with fit._lock:
            hessian = fit._criterion.derivatives(problem.curvature[1])[1]
    moved, space, point = at_estimate(problem, fit._point, fit.reml)
    values, vectors = np.linalg.eigh(hessian)
    out = np.zeros(len(X))
    for value, direction in zip(values, vectors.T, strict=True):
        if value <= 1e-9 * values[-1]:
            continue
        step = STEP * float(np.sqrt(2 / value))
        ends = []
        for sign in (1.0, -1.0):
            moved.value(space.move(point, sign * step * direction))
            ends.append(_predictions(problem, moved, X, levels, Z))
        out += 2 / value * ((ends[0] - ends[1]) / (2 * step)) ** 2
    return out


def _predictions(problem: Problem, criterion: Any, X: Matrix, levels: list[Levels], Z: list[Matrix]) -> Matrix:
    """x'β̂ + z'û, where the criterion stands."""
    out = X @ criterion.beta
    for position, effects in enumerate(criterion.effects()[0]):
        k = problem.template.order[position]
        relation = problem.design.factors[k].between
        if relation is not None:
            out += (Z[k] * (relation.loadings @ effects)[levels[k]]).sum(axis=1)
            continue
        at = np.empty(len(effects), dtype=np.intp)
        at[problem.statistics.hierarchy.levels[position]] = np.arange(len(at))
        out += (Z[k] * effects[at[np.maximum(levels[k], 0)]]).sum(axis=1)
    return np.asarray(out)


def new_effects(fit: Fit, factor: Factor, Z: Matrix) -> Matrix:
    """z'Tz (N,): the variance of the effect of a level that is not known."""
    T = fit.covariances[factor.name].to_numpy()
    return np.asarray(((Z @ T) * Z).sum(axis=1))


def table(
    predicted: pd.Series, parts: dict[str, Matrix], quantile: float, unknown: npt.NDArray[np.bool_]
) -> pd.DataFrame:
    """Return predictions with standard errors, limits and the parts of the variance; NaN where there is none."""
    frame = pd.DataFrame({"predicted": predicted})
    total = sum(parts.values(), np.zeros(len(predicted)))
    frame["se"] = np.where(unknown, np.nan, np.sqrt(np.maximum(total, 0.0)))
    frame["lower"] = frame["predicted"] - quantile * frame["se"]
    frame["upper"] = frame["predicted"] + quantile * frame["se"]
    for name, values in parts.items():
        frame[f"var_{name}"] = np.where(unknown, np.nan, values)
    return frame


def check_mean_of(mean_of: Any) -> float:
    """Return the number of rows that a prediction is the mean of."""
    if isinstance(mean_of, bool) or not isinstance(mean_of, (int, np.integer)) or mean_of < 1:
        raise DataError(f"mean_of must be a whole number of at least 1, got {mean_of!r}")
    return float(mean_of)
