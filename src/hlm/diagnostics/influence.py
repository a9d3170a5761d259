"""What each group does to the estimates: deletion of whole groups, Cook's distance, DFBETAS, leverages.

A model with one grouping factor is a sum over groups (MATH: §4, §5, §7). With K_j = (I + A_jD)⁻¹Z_j'W[X y],
T_j = A_j(I + DA_j)⁻¹ and directions E_a of D, each group has

    S_j = [X y]'V_j⁻¹[X y] = [X y]'W[X y] - Z'W[X y]' D K_j ,   S_aj = -K_j'E_aK_j ,   Q_abj = K_j'E_aT_jE_bK_j

so its deletion is a subtraction. At the θ of the fit everything without it is exact: γ̂, σ̂², the criterion's gradient
and Hessian in θ. With e = (-γ̂; 1), S_X and P those of the other groups,

    g_a  = tr(TE_a) + [REML: tr(S_X⁻¹ S_aX)] + e'S_ae / σ²
    H_ab = -tr(TE_aTE_b) + [REML: 2 tr(S_X⁻¹Q_abX) - tr(S_X⁻¹S_aX S_X⁻¹S_bX)]
           + 2 (e'Q_abe - (S_ae)_X'S_X⁻¹(S_be)_X) / σ² - (e'S_ae)(e'S_be) / (νσ⁴)

and one Newton step gives θ̂ without the group; its decrement says how far that is to be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Template
from hlm.diagnostics.deletion import refit_without
from hlm.errors import DataError, DesignError
from hlm.inference.information import jacobian
from hlm_ext.columns import Columns
from hlm_ext.criterion import Criterion
from hlm_ext.forms import forms
from hlm_ext.gather import gather, transform

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# Groups at a time: their forms in all pairs of directions fit into some ten megabytes.
CHUNK_DOUBLES = 2_000_000
# Curvatures below this part of the largest are none: directions of θ on the boundary.
FLAT = 1e-9
# A Newton step that gains less than this (units of the criterion) leaves about its square, times a constant of order 1.
TRUSTED = 0.05


@dataclass(frozen=True)
class Influence:
    """Estimates without each group.

    Attributes
    ----------
    table : DataFrame
        One row a group: "cooks_d" (γ̂ at the θ of the fit), "cooks_d_full" (θ̂ moved too), "covratio" (volume of the
        confidence region without the group, relative), "sigma" (without the group), "decrement" of the Newton step in
        θ, "trusted" (whether it is small), "refitted".
    params : DataFrame
        γ̂ without each group, θ̂ moved too.
    fixed_theta_params : DataFrame
        γ̂ without each group at the θ of the fit, exact.
    dfbetas : DataFrame
        (γ̂ - γ̂ without the group) / its standard error without the group, at the θ of the fit.
    theta : DataFrame
        θ̂ without each group, by one Newton step or by refitting (engine's coordinates; NaN where the step fails).
    """

    table: pd.DataFrame
    params: pd.DataFrame
    fixed_theta_params: pd.DataFrame
    dfbetas: pd.DataFrame
    theta: pd.DataFrame


def influence(fit: Fit, refit: str = "none") -> Influence:
    """Delete each group in turn.

    Parameters
    ----------
    fit : Fit
        With one grouping factor.
    refit : {"none", "untrusted", "all"}
        Which deletions are fitted anew instead of by one Newton step: none, those whose step is too long to be trusted,
        or all.

    Returns
    -------
    Influence

    Raises
    ------
    DataError
        For another value of refit.
    DesignError
        For a model with several grouping factors or none, with structures, known values or constraints.
    """
    if refit not in ("none", "untrusted", "all"):
        raise DataError(f"refit must be 'none', 'untrusted' or 'all', got {refit!r}")
    problem, criterion = fit._problem, fit._criterion
    factors = problem.design.factors
    asked = problem.restrictions
    if len(factors) != 1:
        raise DesignError(
            f"influence of groups is offered for one grouping factor; this model has {len(factors)}: "
            "`hlm.diagnostics.deletion.refit_without` fits it without the rows of a group"
        )
    if not isinstance(criterion, Criterion) or (asked is not None and asked.beta):
        raise DesignError("influence is not offered with covariance structures, known values or constraints")
    parts = _delete(fit, criterion)
    return _tables(fit, parts, refit)


def leverages(fit: Fit) -> pd.Series:
    """Return ∂ŷ_i/∂y_i of each row (N,), θ known: the diagonal of the hat matrix H of ŷ = Hy; its sum is tr H."""
    design = fit.model.design
    found = fit.predict(interval="confidence", theta_uncertainty=False)
    weights = design.weights
    values = (found["var_fixed"] + found["var_groups"]) / fit.sigma**2
    if weights is not None:
        values = values * design.full_length(weights)
    return values.rename("leverage")


def _group_products(fit: Fit) -> Matrix:
    """(J, E, E) products of the engine's columns over the rows of each group, in the order of the hierarchy."""
    problem = fit._problem
    s, basis = problem.statistics, problem.coordinates.basis
    places = np.arange(len(s.factor))
    products = gather(Columns(s.columns), s.hierarchy.rows, s.hierarchy.first, s.mean, s.factor, places, s.weights)[1]
    right = np.zeros((products.shape[2], basis.shape[1]))
    right[: len(basis)] = basis
    return transform(products, np.ascontiguousarray(basis), right)


@dataclass
class _Deleted:
    """Of each group: γ̂ at fixed θ and with θ moved, σ̂², log|C|, Cook's distances, step in θ; engine's coordinates."""

    fixed: Matrix
    moved: Matrix
    sigma2: Matrix
    inverse: Matrix
    theta: Matrix
    decrement: Matrix


def _delete(fit: Fit, criterion: Criterion) -> _Deleted:
    problem = fit._problem
    products = _group_products(fit)
    J, E = products.shape[:2]
    q = problem.ordered[0].width
    p = E - q - 1
    with fit._lock:
        schur = criterion.schur
    L = problem.template.factors_of(fit._point)[0]
    D = L @ L.T
    eye = np.eye(q)
    A, B, own = products[:, :q, :q], products[:, :q, q:], products[:, q:, q:]
    K: Matrix = np.linalg.solve(eye + A @ D, B).astype(np.float64, copy=False)
    T: Matrix = np.linalg.solve(eye + A @ D, A).astype(np.float64, copy=False)
    S = own - np.einsum("jqx,qr,jry->jxy", B, D, K)
    pairs = [(i, j) for j in range(q) for i in range(j, q)]
    directions = [_direction(q, i, j) for i, j in pairs]
    J_theta = jacobian(problem.template, fit._point)
    m = problem.template.m
    fixed, moved, sigma2, inverse = np.empty((J, p)), np.empty((J, p)), np.empty(J), np.empty((J, p, p))
    out = _Deleted(fixed, moved, sigma2, inverse, np.empty((J, m)), np.empty(J))
    n_rows = np.bincount(problem.ordered[0].codes, problem.design.frequencies, J)
    freedom = np.asarray(criterion.freedom - n_rows[problem.statistics.hierarchy.levels[0]], dtype=np.float64)
    with fit._lock:
        totals = forms(criterion.forest)[:2]
    sums = _Sums(T, K, directions, totals[0], totals[1], fit.reml)
    bend = _curvature(problem.template, len(pairs))
    chunk = max(1, CHUNK_DOUBLES // (len(pairs) * (p + 1) ** 2 + len(pairs) ** 2 * q * q))
    for lo in range(0, J, chunk):
        part = slice(lo, min(lo + chunk, J))
        gradient, hessian, change = sums.without(part, schur - S[part], freedom[part], out)
        in_theta = gradient @ J_theta
        full = J_theta.T @ hessian @ J_theta + np.tensordot(gradient, bend, 1)
        step, out.decrement[part] = _newton(in_theta, full)
        out.theta[part] = fit._point + step
        # ∂β̂/∂θ = -S_X⁻¹ (S_a e)_X
        out.moved[part] = out.fixed[part] - np.einsum("gax,ga->gx", change, step @ J_theta.T)
    return out


def _direction(q: int, i: int, j: int) -> Matrix:
    E = np.zeros((q, q))
    E[i, j] = E[j, i] = 1.0
    return E


def _newton(gradient: Matrix, hessian: Matrix) -> tuple[Matrix, Matrix]:
    """Newton steps (g, m) and what they gain; NaN and infinity where the Hessian has a negative eigenvalue."""
    values, vectors = np.linalg.eigh(hessian)
    largest = np.abs(values).max(axis=1, initial=0.0)[:, None]
    along = np.einsum("gst,gs->gt", vectors, gradient)
    flat = np.abs(values) <= FLAT * largest
    length = np.where(flat, 0.0, along / np.where(flat, 1.0, values))
    bad = ((values < 0) & ~flat).any(axis=1)
    step = -np.einsum("gst,gt->gs", vectors, length)
    step[bad] = np.nan
    return step, np.where(bad, np.inf, 0.5 * (along * length).sum(axis=1))


class _Sums:
    """Forms of all groups (see the module), and those of all but one."""

    def __init__(
        self, T: Matrix, K: Matrix, directions: list[Matrix], slopes: Matrix, products: Matrix, reml: bool
    ) -> None:
        self.T, self.K, self.reml = T, K, reml
        self.E = np.array(directions)
        self.slopes = slopes
        self.products = 0.5 * (products + products.transpose(0, 1, 3, 2))
        self.trace = np.einsum("jqr,arq->a", T, self.E, optimize=True)
        self.traces = self._pairs(T, T).sum(axis=0)

    def _pairs(self, X: Matrix, Y: Matrix) -> Matrix:
        """tr(E_a X E_b Y) (g, a, b)."""
        left, right = X[:, None] @ self.E, Y[:, None] @ self.E  # g a q q
        return np.asarray(np.einsum("gbqr,garq->gab", left, right, optimize=True))

    def _linear(self, X: Matrix) -> Matrix:
        """⟨E_a, X⟩ (…, a)."""
        return np.asarray(np.tensordot(X, self.E, ([-2, -1], [1, 2])))

    def without(self, part: slice, S: Matrix, freedom: Matrix, out: _Deleted) -> tuple[Matrix, Matrix, Matrix]:
        """Return gradient, Hessian (in D) and -∂β̂/∂D without each group; `S` (g, p + 1, p + 1) is of the others."""
        p, T, K = S.shape[1] - 1, self.T[part], self.K[part]
        inverse = np.linalg.inv(S[:, :p, :p]).astype(np.float64, copy=False) if p else np.zeros((len(S), 0, 0))
        beta = np.einsum("gxy,gy->gx", inverse, S[:, :p, p])
        sigma2 = (S[:, p, p] - np.einsum("gx,gx->g", beta, S[:, :p, p])) / freedom
        out.fixed[part], out.sigma2[part], out.inverse[part] = beta, sigma2, inverse
        e = np.column_stack([-beta, np.ones(len(S))])
        t = np.einsum("gqx,gx->gq", K, e)
        outer = t[:, :, None] * t[:, None, :]
        Et = np.einsum("aqr,gr->gaq", self.E, t)
        Se = np.einsum("axy,gy->gax", self.slopes, e) + Et @ K
        eSe = np.einsum("gax,gx->ga", Se, e)
        gradient = self.trace - self._linear(T) + eSe / sigma2[:, None]
        pairs = np.tensordot(e[:, :, None] * e[:, None, :], self.products, ([1, 2], [2, 3])) - self._pairs(T, outer)
        change = Se[:, :, :p] @ inverse
        hessian = 2 * (pairs - change @ Se[:, :, :p].transpose(0, 2, 1)) / sigma2[:, None, None]
        hessian -= self.traces - self._pairs(T, T)
        hessian -= eSe[:, :, None] * eSe[:, None, :] / (freedom * sigma2**2)[:, None, None]
        if self.reml and p:
            KS = K[:, :, :p] @ inverse
            M = KS @ K[:, :, :p].transpose(0, 2, 1)
            inner = inverse[:, None] @ self.slopes[:, :p, :p]  # g a p p
            gradient += np.einsum("gaxx->ga", inner) + self._linear(M)
            pairs = np.tensordot(inverse, self.products[:, :, :p, :p], ([1, 2], [2, 3])) - self._pairs(T, M)
            mixed = self._linear(KS[:, None] @ self.slopes[:, :p, :p] @ KS.transpose(0, 2, 1)[:, None])
            both = np.einsum("gaxy,gbyx->gab", inner, inner, optimize=True) + self._pairs(M, M)
            hessian += 2 * pairs - both - mixed - mixed.transpose(0, 2, 1)
        return gradient, 0.5 * (hessian + hessian.transpose(0, 2, 1)), change


def _curvature(template: Template, directions: int) -> Matrix:
    """(a, m, m) second derivatives of the entries of D in θ."""
    unit = np.eye(template.m)
    out = np.zeros((directions, template.m, template.m))
    for s in range(template.m):
        out[:, :, s] = jacobian(template, unit[s])
    return out


def _tables(fit: Fit, deleted: _Deleted, refit: str) -> Influence:
    problem = fit._problem
    factor = problem.design.factors[0]
    levels = problem.statistics.hierarchy.levels[0]
    back = np.empty(len(levels), dtype=np.intp)
    back[levels] = np.arange(len(levels))
    c = problem.coordinates
    names = [name for name, keep in zip(problem.design.names, c.kept, strict=True) if keep]
    fixed, moved = (values[back] @ c.beta_map.T + c.beta_shift for values in (deleted.fixed, deleted.moved))
    here = fit.params.dropna().to_numpy()
    sigma2 = deleted.sigma2[back]
    covariance = sigma2[:, None, None] * (c.beta_map @ deleted.inverse[back] @ c.beta_map.T)
    own = fit.cov_params().to_numpy()
    p = len(names)
    trusted = deleted.decrement[back] < TRUSTED
    theta = deleted.theta[back]
    refitted = np.full(len(levels), refit == "all") | (~trusted if refit == "untrusted" else False)
    sigma = np.sqrt(sigma2) * c.scale
    for g in np.flatnonzero(refitted):
        other = refit_without(fit, factor.codes != g)
        moved[g] = other.params.dropna().to_numpy()
        theta[g] = np.nan if other._problem.template.m != problem.template.m else _in_units(fit, other)
        sigma[g] = other.sigma

    def distance(values: Matrix) -> Matrix:
        change = here - values
        return (change * np.linalg.solve(own, change.T).T).sum(axis=1) / p if p else np.zeros(len(values))

    with np.errstate(divide="ignore"):
        ratio = np.exp(np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(own)[1]) if p else np.ones(len(sigma2))
    index = factor.labels
    return Influence(
        pd.DataFrame(
            {
                "cooks_d": distance(fixed),
                "cooks_d_full": distance(moved),
                "covratio": ratio,
                "sigma": sigma,
                "decrement": deleted.decrement[back],
                "trusted": trusted,
                "refitted": refitted,
            },
            index=index,
        ),
        pd.DataFrame(moved, index=index, columns=names),
        pd.DataFrame(fixed, index=index, columns=names),
        pd.DataFrame((here - fixed) / np.sqrt(np.einsum("gii->gi", covariance)), index=index, columns=names),
        pd.DataFrame(theta, index=index, columns=problem.theta_names),
    )


def _in_units(fit: Fit, other: Fit) -> Matrix:
    """θ̂ of another fit in the engine's coordinates of this one."""
    template = fit._problem.template
    D = []
    for k, factor in enumerate(template.factors):
        inverse = np.linalg.inv(fit._problem.maps[k])
        D.append(inverse @ other.covariances[factor.name].to_numpy() @ inverse.T / other.sigma**2)
    return template.theta_of_covariances(D)
