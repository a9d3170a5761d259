"""What ignoring the groups does to standard errors: naive and cluster-robust OLS beside the model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DesignError
from hlm.residuals.refusals import independent_errors

if TYPE_CHECKING:
    from hlm.design import Factor
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]


def standard_errors(fit: Fit, cluster: str | None = None) -> pd.DataFrame:
    """Compare the standard errors of ordinary least squares with those under the model.

    Parameters
    ----------
    fit : Fit
    cluster : str, optional
        Grouping factor whose levels are the clusters of the robust covariance; the one with fewest levels when left
        out.

    Returns
    -------
    DataFrame
        One row for each estimated coefficient (weighted least squares where rows have weights):

        * "OLS", "naive": estimate, and standard error as if rows were independent, s² = RSS/(n - p);
        * "robust": cluster-robust, (X'X)⁻¹ Σ_c X_c'e_c e_c'X_c (X'X)⁻¹ times J/(J - 1) · (n - 1)/(n - p);
        * "OLS, model": what the standard error of OLS is if the model holds, (X'X)⁻¹ X'VX (X'X)⁻¹;
        * "design effect": its square over that of "naive";
        * "HLM", "model": the fit's estimate and standard error.

    Raises
    ------
    DesignError
        For an unknown factor, or a model without random or without fixed effects.
    """
    independent_errors(fit, "the table of standard errors")
    design, problem = fit.model.design, fit._problem
    if not design.factors:
        raise DesignError("the model has no random effects: its standard errors are those of OLS")
    if problem.rank == 0:
        raise DesignError("the model has no fixed effects: there are no standard errors to compare")
    factor = min(design.factors, key=lambda f: f.size) if cluster is None else design.factor(cluster)
    coordinates = problem.coordinates
    # the engine's X is orthonormal and its y the residual of OLS, of sum of squares n
    estimate, root = coordinates.beta_shift, coordinates.beta_map
    n, r = design.nobs, problem.rank + design.absorbed_count
    naive = n / (n - r) * (root @ root.T)
    J = factor.size
    score = _scores(fit, factor, estimate) @ (root / coordinates.scale)
    robust = root @ (score.T @ score) @ root.T / coordinates.scale**2
    robust *= J / (J - 1) * (n - 1) / (n - r)
    model = fit.sigma**2 / coordinates.scale**2 * np.eye(r)
    for other in design.factors:
        model += _spread(fit, other)
    model = root @ model @ root.T
    names, free = fit.cov_params().index, np.diag(naive) > 0
    return pd.DataFrame(
        {
            "OLS": estimate,
            "naive": np.sqrt(np.diag(naive)),
            "robust": np.sqrt(np.diag(robust)),
            "OLS, model": np.sqrt(np.diag(model)),
            "design effect": np.divide(np.diag(model), np.diag(naive), out=np.full(len(names), np.nan), where=free),
            "HLM": fit.params[names].to_numpy(),
            "model": fit.bse[names].to_numpy(),
        },
        index=names,
    )


def _kept(fit: Fit) -> list[Array]:
    kept = fit._problem.coordinates.kept
    return [column for column, keep in zip(fit.model.design.columns, kept, strict=True) if keep]


def _scores(fit: Fit, factor: Factor, estimate: Array) -> Array:
    """Σ x w e of each level (J, r), e the residual of OLS."""
    design, columns = fit.model.design, _kept(fit)
    error = design.y.copy()
    for column, value in zip(columns, estimate, strict=True):
        error -= column * value
    if design.row_weights is not None:
        error *= design.row_weights
    return np.column_stack([np.bincount(factor.codes, column * error, factor.size) for column in columns])


def _spread(fit: Fit, factor: Factor) -> Array:
    """Σ_lm K_lm B_l' T B_m over the levels of a factor, B_l = Z_l'WX; X and y in the engine's coordinates."""
    design, coordinates = fit.model.design, fit._problem.coordinates
    weights, fixed = design.row_weights, _kept(fit)
    B = np.empty((factor.size, factor.width, len(fixed)))
    for j, z in enumerate(factor.columns):
        weighted = z if weights is None else z * weights
        for c, column in enumerate(fixed):
            B[:, j, c] = np.bincount(factor.codes, weighted * column, factor.size)
    if factor.between is not None:
        B = np.tensordot(factor.between.loadings[: factor.size].T, B, axes=1)
    B = B @ (coordinates.beta_map / coordinates.scale)
    T = fit.covariances[factor.name].to_numpy() / coordinates.scale**2
    out: Array = np.einsum("jar,ab,jbs->rs", B, T, B)
    return out
