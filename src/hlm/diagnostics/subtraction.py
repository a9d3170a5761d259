"""Deletion of each group of the only grouping factor: every sum of the model less that of the group (MATH: §7).

At the θ of the fit everything without the group is exact: γ̂, σ̂², gradient and Hessian in the entries of D (see
`hlm_ext.deletion`), and one Newton step from there gives θ̂ without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.covariance import Matrix, Template
from hlm.criterion import Problem
from hlm.design import Factor
from hlm.diagnostics.deletion import Deleted, volume
from hlm.inference.information import jacobian
from hlm.structure import Codes
from hlm_ext.columns import Columns
from hlm_ext.criterion import Criterion
from hlm_ext.deletion import delete_groups
from hlm_ext.gather import leaf_products
from hlm_ext.group_sums import group_sums

if TYPE_CHECKING:
    from hlm.fit import Fit

# Groups at a time: their products take four megabytes.
CHUNK_DOUBLES = 500_000


def can_subtract(problem: Problem) -> bool:
    """Whether the model is a sum over groups of one factor, with every D open to it."""
    factors = problem.design.factors
    return len(factors) == 1 and problem.crossed is None and problem.variances is None


def subtract_groups(fit: Fit, criterion: Criterion) -> Deleted:
    """Delete each group of a model with one grouping factor.

    Parameters
    ----------
    fit : Fit
        See `can_subtract`.
    criterion : Criterion
        Of the fit, standing at the estimate.
    """
    problem = fit._problem
    c, s, template = problem.coordinates, problem.statistics, problem.template
    hierarchy, blocks = s.hierarchy, c.blocks[0]
    J, q, w = blocks.shape
    r, m = w - q, q * (q + 1) // 2
    L = template.factors_of(fit._point)[0]
    D = L @ L.T
    with fit._lock:
        schur = criterion.schur
    J_theta = jacobian(template, fit._point)
    sums = schur, group_sums(blocks, D), np.ascontiguousarray(c.beta_map), J_theta, _curvature(template, m), fit.reml
    rows = np.bincount(problem.ordered[0].codes, problem.design.frequencies, J)
    freedom = np.asarray(criterion.freedom - rows[hierarchy.levels[0]], dtype=np.float64)
    columns, basis = Columns(s.columns), np.ascontiguousarray(c.basis[:, q:])
    out = Deleted.room(J, len(c.beta_map), len(fit._point))
    chunk = max(1, CHUNK_DOUBLES // (r * (r + 4)))
    for lo in range(0, J, chunk):
        part = slice(lo, min(lo + chunk, J))
        place = hierarchy.levels[0][part]
        first = hierarchy.first[lo : part.stop + 1]
        own = leaf_products(columns, hierarchy.rows, first, s.mean, s.factor, basis, s.weights)
        beta, sigma2, variances, logdet, step, gain, moved = delete_groups(blocks[part], own, D, freedom[part], *sums)
        out.fixed[place] = beta @ c.beta_map.T + c.beta_shift
        out.moved[place] = moved @ c.beta_map.T + c.beta_shift
        out.bse[place] = np.sqrt(sigma2[:, None] * variances)
        out.decrement[place] = np.where(np.isnan(gain), np.inf, gain)
        out.sigma[place] = np.sqrt(sigma2) * c.scale
        out.log_volume[place] = (r - 1) * np.log(sigma2) - logdet + volume(c.beta_map)
        out.theta[place] = _user_theta(problem, fit._point + step)
    out.clear(_too_few_left(problem.ordered[0], rows))
    return out


def _too_few_left(factor: Factor, rows: Codes) -> npt.NDArray[np.bool_]:
    """Levels without which `check_design` or `check_residual` would refuse the model: one level, or rows, are left."""
    if factor.size < 3:
        return np.ones(factor.size, dtype=np.bool_)
    second, first = np.partition(rows, -2)[-2:]
    most = np.full(factor.size, first)  # rows of the largest other level
    most[np.argmax(rows)] = second
    return np.asarray(most <= max(map(len, factor.blocks)))


def _user_theta(problem: Problem, points: Matrix) -> Matrix:
    """`Problem.user_theta` of many points (g, m) of a plain template with one factor."""
    factor = problem.design.factors[0]
    roots = np.zeros((len(points), factor.width, factor.width))
    for values, (_, i, j) in zip(points.T, problem.template.owners, strict=True):
        roots[:, i, j] = values
    out = []
    for block in factor.blocks:
        part = (problem.maps[0] @ roots)[:, block][:, :, block]
        upper = np.asarray(np.linalg.qr(part.transpose(0, 2, 1), mode="r"))  # root = R'Q'
        rows, columns = np.triu_indices(len(block))
        out.append(upper[:, rows, columns] * np.where(upper[:, rows, rows] < 0, -1.0, 1.0))
    return np.concatenate(out, axis=1)


def _curvature(template: Template, directions: int) -> Matrix:
    """(a, m, m) second derivatives of the entries of D in θ."""
    unit = np.eye(template.m)
    out = np.zeros((directions, template.m, template.m))
    for s in range(template.m):
        out[:, :, s] = jacobian(template, unit[s])
    return out
