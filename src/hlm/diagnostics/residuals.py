"""Residuals of the rows: marginal, conditional, and scaled to be uncorrelated.

With V = LL' the covariance of the rows in units of σ², rows in the order of the hierarchy, L⁻¹(y - Xγ̂)/σ̂ has variances
of one and no correlations (but for the estimation of γ): each row less what the rows before it predict. A nested
hierarchy is whitened level by level, leaves first: V = V₁ + Z₂D₂Z₂', L = L₁ chol(I + L₁⁻¹Z₂D₂Z₂'L₁⁻¹'). Each level is a
recursion over the rows of its groups (Kalman 1960), done for all groups at once, so no matrix of the rows is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DataError, DesignError
from hlm.prediction import linear_predictor

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

KINDS = ("conditional", "marginal", "pearson", "cholesky")


def residuals(fit: Fit, kind: str = "conditional") -> pd.Series:
    """Return residuals (N,) of the rows of the input, NaN where a row was dropped.

    Parameters
    ----------
    fit : Fit
    kind : {"conditional", "marginal", "pearson", "cholesky"}
        y - Xγ̂ - Zû; y - Xγ̂; the conditional ones over the standard deviations of the errors; the marginal ones in
        units of σ̂, made uncorrelated with variance one by a square root of their covariance (nested models).

    Raises
    ------
    DataError
        For another kind.
    DesignError
        For "cholesky" with crossed factors, or frequencies.
    """
    if kind not in KINDS:
        raise DataError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    design = fit.model.design
    if kind in ("conditional", "pearson"):
        values = design.y - linear_predictor(fit, design.factors)
        if kind == "pearson":
            residual = fit._problem.residual
            sd = fit.sigma * (1.0 if residual is None else residual.pattern.row_sd(residual.phi))
            values = values / sd * (1.0 if design.weights is None else np.sqrt(design.weights))
        return design.full_length(values).rename(kind)
    values = design.y - linear_predictor(fit, [])
    if kind == "cholesky":
        values = _whitened(fit, values / fit.sigma)
    return design.full_length(values).rename(kind)


def _whitened(fit: Fit, values: Matrix) -> Matrix:
    problem, design = fit._problem, fit.model.design
    hierarchy = problem.statistics.hierarchy
    if not hierarchy.is_nested:
        raise DesignError("scaled residuals need nested groups: with crossed factors all rows are correlated")
    if design.frequencies is not None:
        raise DesignError("scaled residuals need one row for each observation; these have frequencies")
    order = np.arange(design.rows) if hierarchy.rows is None else hierarchy.rows
    root = np.ones(design.rows) if design.weights is None else np.sqrt(design.weights)
    factors = problem.ordered
    columns = [column for factor in factors for column in factor.columns]
    edges = np.cumsum([0, *(factor.width for factor in factors)])
    table = root[:, None] * np.column_stack([*columns, values])
    if problem.residual is not None:
        table = problem.residual.pattern.whiten(table, problem.residual.phi)
    table = table[order]
    for k, factor in enumerate(factors):
        D = fit.covariances[factor.name].to_numpy() / fit.sigma**2
        codes = factor.codes[order]
        table[:, edges[k + 1] :] = _whiten_groups(table[:, edges[k] : edges[k + 1]], table[:, edges[k + 1] :], codes, D)
    out = np.empty(design.rows)
    out[order] = table[:, -1]
    return out


def _whiten_groups(Z: Matrix, columns: Matrix, codes: Codes, D: Matrix) -> Matrix:
    """chol(I + ZDZ')⁻¹ columns, groups in contiguous rows: what earlier rows of the group predict is taken out."""
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    sizes = np.diff(np.r_[starts, len(codes)])
    by_size = np.argsort(-sizes, kind="stable")
    starts, sizes = starts[by_size], sizes[by_size]
    P = np.repeat(D[None], len(starts), axis=0)
    mean = np.zeros((len(starts), len(D), columns.shape[1]))
    out = np.empty_like(columns)
    for step in range(int(sizes[0])):
        live = int(np.searchsorted(-sizes, -step, side="left"))  # groups with more rows than `step`
        rows = starts[:live] + step
        z = Z[rows]
        Pz = np.einsum("gij,gj->gi", P[:live], z)
        variance = 1 + (z * Pz).sum(axis=1)
        left = columns[rows] - np.einsum("gi,gic->gc", z, mean[:live])
        out[rows] = left / np.sqrt(variance)[:, None]
        gain = Pz / variance[:, None]
        mean[:live] += gain[:, :, None] * left[:, None, :]
        P[:live] -= gain[:, :, None] * Pz[:, None, :]
    return out
