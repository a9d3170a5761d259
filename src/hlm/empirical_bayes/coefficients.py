"""Empirical Bayes coefficients β_j = 𝐙_j γ + u_j of the groups, with their conditional covariances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from hlm import effects
from hlm.empirical_bayes.level_one import level_one
from hlm.errors import DataError
from hlm.inference.information import curvature
from hlm.residuals.criterion import at_estimate
from hlm_ext.forms import forms

if TYPE_CHECKING:
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]

# Step of central differences in θ (whose entries are near 1 in the engine's coordinates): the cube root of the rounding
# error, where what is cut off and what is rounded are of one size.
STEP = float(np.finfo(np.float64).eps) ** (1 / 3)


@dataclass(frozen=True, eq=False)
class GroupCoefficients:
    """Coefficients of the groups of one factor, and their uncertainty.

    Attributes
    ----------
    estimates : (J, k) DataFrame
        β̂_j = 𝐙_j γ̂ + û_j: the random coefficients, then those whose variation between groups has no random part.
    cov : (J, k, k) float64
        Cov(β̂_j - β_j), in the order of the columns of `estimates`.
    """

    estimates: pd.DataFrame
    cov: Array = field(repr=False)

    @property
    def bse(self) -> pd.DataFrame:
        """Standard errors of the coefficients, (J, k)."""
        size = np.sqrt(np.diagonal(self.cov, axis1=1, axis2=2))
        return pd.DataFrame(size, index=self.estimates.index, columns=self.estimates.columns)

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Return normal intervals of coverage 1 - alpha: columns (coefficient, "lower" | "upper")."""
        if not 0 < alpha < 1:
            raise DataError(f"alpha must be between 0 and 1, got {alpha}")
        half = -ndtri(alpha / 2) * self.bse
        parts = {"lower": self.estimates - half, "upper": self.estimates + half}
        both = pd.concat(parts, axis=1).swaplevel(axis=1)
        return both[[(name, end) for name in self.estimates.columns for end in parts]]


def empirical_bayes(fit: Fit, name: str, theta_uncertainty: bool = False) -> GroupCoefficients:
    """Return the empirical Bayes coefficients of the groups of a factor.

    Parameters
    ----------
    fit : Fit
    name : str
        Grouping factor.
    theta_uncertainty : bool
        Add the uncertainty of θ̂ to that of u and γ̂, to first order: Σ_ab (∂β̂_j/∂θ_a) Cov(θ̂)_ab (∂β̂_j/∂θ_b)' (Kackar
        and Harville 1984; Kass and Steffey 1989), Cov(θ̂) from the second derivatives of the criterion. On the boundary
        only directions of θ that are free count.

    Returns
    -------
    GroupCoefficients
        cov = (𝐙_j + G_j) Cov(γ̂) (𝐙_j + G_j)' + Cov(u_j | y, γ), G_j = dû_j/dγ = -D Z_j'V⁻¹X: what Henderson's equations
        give for γ and u together.

    Raises
    ------
    DesignError
        For an unknown factor, or related levels.
    """
    factor = fit.model.design.factor(name)
    fit.model.design.must_be_independent("the covariance of groups' coefficients")
    equation = level_one(fit, factor)
    q, Z = equation.random, equation.Z
    estimates = Z @ fit.params.dropna().to_numpy()
    estimates[:, :q] += fit.random_effects[name].to_numpy()
    F = Z @ fit._problem.coordinates.beta_map
    F[:, :q] += response_to_beta(fit, name)
    with fit._lock:
        F = F @ np.linalg.cholesky(fit._criterion.sigma2 * fit._criterion.cross_inverse)
    cov = F @ F.transpose(0, 2, 1)
    cov[:, :q, :q] += fit.conditional_covariances(beta_known=True)[name]
    if theta_uncertainty:
        slopes_gamma, slopes_u, theta_cov = theta_sensitivity(fit)
        slopes = Z @ slopes_gamma
        slopes[:, :q] += slopes_u[name]
        cov += slopes @ theta_cov @ slopes.transpose(0, 2, 1)
    return GroupCoefficients(pd.DataFrame(estimates, index=factor.labels, columns=equation.names), cov)


def response_to_beta(fit: Fit, name: str) -> Array:
    """Return dû/dβ (J, q, r) of a factor's groups, û in the user's units and β in the engine's."""
    problem = fit._problem
    k = fit.model.design.factors.index(fit.model.design.factor(name))
    position = problem.template.order.index(k)
    with fit._lock:
        modes = forms(fit._criterion.forest, True)[2][position]
    out = np.empty((len(modes), modes.shape[1], problem.rank))
    out[problem.statistics.hierarchy.levels[position]] = modes[:, :, : problem.rank]
    return np.asarray(-problem.coordinates.scale * (problem.maps[k] @ out), dtype=np.float64)


def theta_sensitivity(fit: Fit) -> tuple[Array, dict[str, Array], Array]:
    """Return how γ̂ and û follow θ, and the covariance of θ̂ in the engine's coordinates.

    θ stands for the m free directions of the optimiser: with structures or constraints those that keep to them, with a
    structure of the level-1 errors its parameters too.

    Returns
    -------
    gamma : (r, m) float64
        ∂γ̂/∂θ, by central differences (relative error some 1e-10).
    effects : dict of (J, q, m) float64
        ∂û/∂θ of each factor.
    cov : (m, m) float64
        From the observed information; zero in directions that are not free.
    """
    problem = fit._problem
    with fit._lock:
        covariance = curvature(problem, fit._criterion).covariance
    criterion, space, theta = at_estimate(problem, fit._point, fit.reml)
    m = space.m
    cov = covariance[:m, :m]
    gamma, modes = [], []
    for a in range(m):
        step = STEP * max(1.0, abs(theta[a]) if len(theta) == m else 0.0)
        ends = []
        for sign in (1, -1):
            criterion.value(space.move(theta, sign * step * np.eye(m)[a]))
            ends.append((problem.coordinates.beta_map @ criterion.beta, effects.random_effects(problem, criterion)[0]))
        (b1, u1), (b0, u0) = ends
        gamma.append((b1 - b0) / (2 * step))
        modes.append([(x - y) / (2 * step) for x, y in zip(u1, u0, strict=True)])
    names = [factor.name for factor in problem.design.factors]
    slopes = {
        name: np.stack([mode[k] for mode in modes], axis=2) if modes else np.zeros((*fit._modes[k].shape, 0))
        for k, name in enumerate(names)
    }
    return np.array(gamma).reshape(m, problem.rank).T, slopes, cov
