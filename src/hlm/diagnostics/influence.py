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
from hlm.design import Factor
from hlm.diagnostics.deletion import delete_rows, newton_steps, refit_without
from hlm.errors import DataError, DesignError
from hlm.inference.information import jacobian
from hlm.residuals.refusals import independent_errors
from hlm_ext.columns import Columns
from hlm_ext.criterion import Criterion
from hlm_ext.forms import forms
from hlm_ext.gather import gather, transform

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# Groups at a time: their forms in all pairs of directions fit into some ten megabytes.
CHUNK_DOUBLES = 2_000_000
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


def influence(fit: Fit, group: str | None = None, refit: str = "none") -> Influence:
    """Delete each group in turn.

    In a model with one grouping factor all deletions together cost some evaluations of the criterion; in others each
    costs a pass over the rows that are left, and an evaluation.

    Parameters
    ----------
    fit : Fit
    group : str, optional
        Grouping factor; needed if there are several.
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
        For a model without groups, with structures, known values, constraints or related levels; if a factor must be
        chosen.
    """
    if refit not in ("none", "untrusted", "all"):
        raise DataError(f"refit must be 'none', 'untrusted' or 'all', got {refit!r}")
    problem, criterion = fit._problem, fit._criterion
    problem.design.must_be_independent("influence")
    factors = problem.design.factors
    asked = problem.restrictions
    if not isinstance(criterion, Criterion) or (asked is not None and asked.beta):
        raise DesignError("influence is not offered with covariance structures, known values or constraints")
    independent_errors(fit, "deletion of groups")
    if not factors:
        raise DesignError("a model without groups has no groups to delete")
    if group is None and len(factors) > 1:
        raise DesignError(f"choose a grouping factor: group= one of {[factor.name for factor in factors]}")
    factor = factors[0] if group is None else problem.design.factor(group)
    parts = _delete(fit, criterion) if len(factors) == 1 else _delete_rows(fit, factor)
    return _tables(fit, factor, parts, refit)


def leverages(fit: Fit) -> pd.Series:
    """Return ∂ŷ_i/∂y_i of each row (N,), θ known: the diagonal of the hat matrix H of ŷ = Hy; its sum is tr H."""
    independent_errors(fit, "the leverage of rows")
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
    """Of each group, levels in their order: γ̂ and its covariance at fixed θ, γ̂ with θ moved, σ̂, θ, decrement."""

    fixed: Matrix
    covariance: Matrix
    moved: Matrix
    sigma: Matrix
    theta: Matrix
    decrement: Matrix


def _room(fit: Fit, count: int) -> _Deleted:
    p, m = len(fit.params.dropna()), fit._problem.template.m
    shapes = [(count, p), (count, p, p), (count, p), (count,), (count, m), (count,)]
    return _Deleted(*(np.full(shape, np.nan) for shape in shapes))


def _delete_rows(fit: Fit, factor: Factor) -> _Deleted:
    """Each group by the rows that are left."""
    out = _room(fit, factor.size)
    for g in range(factor.size):
        try:
            found = delete_rows(fit, factor.codes != g)
        except DesignError:  # without this group the model cannot be fitted: NaN
            out.decrement[g] = np.inf
            continue
        out.fixed[g], out.covariance[g], out.sigma[g] = found.fixed, found.covariance, found.sigma
        out.moved[g], out.decrement[g] = found.moved, found.decrement
        out.theta[g] = _in_engine(fit, found.D)
    return out


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
    S = own - B.transpose(0, 2, 1) @ (D @ K)
    pairs = [(i, j) for j in range(q) for i in range(j, q)]
    directions = [_direction(q, i, j) for i, j in pairs]
    J_theta = jacobian(problem.template, fit._point)
    out = _room(fit, J)
    c, levels = problem.coordinates, problem.statistics.hierarchy.levels[0]
    n_rows = np.bincount(problem.ordered[0].codes, problem.design.frequencies, J)
    freedom = np.asarray(criterion.freedom - n_rows[levels], dtype=np.float64)
    with fit._lock:
        totals = forms(criterion.forest)[:2]
    sums = _Sums(T, K, directions, totals[0], totals[1], fit.reml)
    bend = _curvature(problem.template, len(pairs))
    chunk = max(1, CHUNK_DOUBLES // (len(pairs) * (p + 1) ** 2 + len(pairs) ** 2 * q * q))
    for lo in range(0, J, chunk):
        part = slice(lo, min(lo + chunk, J))
        other, gradient, hessian, change = sums.without(schur - S[part], freedom[part], part)
        in_theta = gradient @ J_theta
        full = J_theta.T @ hessian @ J_theta + np.tensordot(gradient, bend, 1)
        place = levels[part]
        step, out.decrement[place] = newton_steps(in_theta, full)
        out.theta[place] = fit._point + step
        out.fixed[place] = other.beta @ c.beta_map.T + c.beta_shift
        # ∂β̂/∂θ = -S_X⁻¹ (S_a e)_X
        moved = other.beta - np.einsum("gax,ga->gx", change, step @ J_theta.T)
        out.moved[place] = moved @ c.beta_map.T + c.beta_shift
        out.covariance[place] = other.sigma2[:, None, None] * (c.beta_map @ other.inverse @ c.beta_map.T)
        out.sigma[place] = np.sqrt(other.sigma2) * c.scale
    return out


def _direction(q: int, i: int, j: int) -> Matrix:
    E = np.zeros((q, q))
    E[i, j] = E[j, i] = 1.0
    return E


@dataclass
class _Own:
    """Of each group deleted at fixed θ, engine's coordinates: γ̂, σ̂², (X'V⁻¹X)⁻¹."""

    beta: Matrix
    sigma2: Matrix
    inverse: Matrix


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

    def without(self, S: Matrix, freedom: Matrix, part: slice) -> tuple[_Own, Matrix, Matrix, Matrix]:
        """Return estimates, gradient and Hessian in D, and -∂β̂/∂D without each group of a part.

        `S` (g, p + 1, p + 1) and `freedom` (g,) are those of the others.
        """
        p, T, K = S.shape[1] - 1, self.T[part], self.K[part]
        inverse = np.linalg.inv(S[:, :p, :p]).astype(np.float64, copy=False) if p else np.zeros((len(S), 0, 0))
        beta = np.einsum("gxy,gy->gx", inverse, S[:, :p, p])
        sigma2 = (S[:, p, p] - np.einsum("gx,gx->g", beta, S[:, :p, p])) / freedom
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
        return _Own(beta, sigma2, inverse), gradient, 0.5 * (hessian + hessian.transpose(0, 2, 1)), change


def _curvature(template: Template, directions: int) -> Matrix:
    """(a, m, m) second derivatives of the entries of D in θ."""
    unit = np.eye(template.m)
    out = np.zeros((directions, template.m, template.m))
    for s in range(template.m):
        out[:, :, s] = jacobian(template, unit[s])
    return out


def _tables(fit: Fit, factor: Factor, deleted: _Deleted, refit: str) -> Influence:
    names = list(fit.params.dropna().index)
    p, here, own = len(names), fit.params.dropna().to_numpy(), fit.cov_params().to_numpy()
    fixed, moved, theta, sigma = deleted.fixed, deleted.moved, deleted.theta, deleted.sigma
    trusted = deleted.decrement < TRUSTED
    refitted = np.full(factor.size, refit == "all") | (~trusted if refit == "untrusted" else False)
    for g in np.flatnonzero(refitted & np.isfinite(sigma)):
        other = refit_without(fit, factor.codes != g)
        moved[g] = other.params.dropna().to_numpy()
        D = [T.to_numpy() / other.sigma**2 for T in other.covariances.values()]
        theta[g], sigma[g] = _in_engine(fit, D), other.sigma

    def distance(values: Matrix) -> Matrix:
        change = here - values
        return (change * np.linalg.solve(own, change.T).T).sum(axis=1) / p if p else np.zeros(len(values))

    with np.errstate(divide="ignore"):
        ratio = (
            np.exp(np.linalg.slogdet(deleted.covariance)[1] - np.linalg.slogdet(own)[1]) if p else np.ones(factor.size)
        )
    index = factor.labels
    return Influence(
        pd.DataFrame(
            {
                "cooks_d": distance(fixed),
                "cooks_d_full": distance(moved),
                "covratio": ratio,
                "sigma": sigma,
                "decrement": deleted.decrement,
                "trusted": trusted,
                "refitted": refitted,
            },
            index=index,
        ),
        pd.DataFrame(moved, index=index, columns=names),
        pd.DataFrame(fixed, index=index, columns=names),
        pd.DataFrame((here - fixed) / np.sqrt(np.einsum("gii->gi", deleted.covariance)), index=index, columns=names),
        pd.DataFrame(theta, index=index, columns=fit._problem.theta_names),
    )


def _in_engine(fit: Fit, covariances: list[Matrix]) -> Matrix:
    """θ in the engine's coordinates of T/σ² of each factor."""
    inverses = [np.linalg.inv(matrix) for matrix in fit._problem.maps]
    D = [M @ T @ M.T for M, T in zip(inverses, covariances, strict=True)]
    return fit._problem.template.theta_of_covariances(D)
