"""Variance of prediction errors, its derivatives in the variance parameters, and what their estimation adds (MATH: §7).

The error of x'γ̂ + z'û for x'γ + z'u has, given the variance parameters, the variance v, in units of σ²

    z'Ωz + (x - q)'S⁻¹(x - q) ,   S = X'V⁻¹X                     (Henderson's equations, Robinson 1991; `hlm.henderson`)

whose parts are the uncertainty of the groups when γ is known, and of γ̂; groups that are not known add z'Tz, a new row
its residual variance. The predictor λ'y is the linear unbiased one with the least variance: so the derivative of v in a
parameter of which V and T are linear functions is that at fixed λ (envelope theorem), and with r = Z'λ - z, by level,

    ∂v/∂D_a = r'E_a r = m'E_a m - 2 h'K'E_a m + h'K'E_a K h ,    h = S⁻¹(x - q) .

It also makes v concave, with second derivatives -2 G, G_ab = r'E_a Z'PZ E_b r the covariances of the derivatives of the
predictor. With A the covariance of the estimates,

    E v̂ ≈ v - tr(AG)    and    mean squared error of the estimated predictor ≈ v + tr(AG)      (Kackar, Harville 1984)

so that v̂ + 2 tr(AG) has no bias to that order (Prasad and Rao 1990, Harville and Jeske 1992): for x'γ̂ this is Kenward
and Roger's adjusted covariance, with predicted effects its extension to them. Given the data, the estimation of θ adds
g'Ag: g the derivative of the prediction in θ at the data (in the conditional form of Booth and Hobert 1998).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hlm import henderson
from hlm.criterion import Problem
from hlm.residuals.criterion import STEP as RESIDUAL_STEP
from hlm.residuals.criterion import at_estimate, gathered
from hlm_ext.forms import forms

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.inference.information import Curvature

Matrix = npt.NDArray[np.float64]
Levels = npt.NDArray[np.intp]

# Steps of the derivative of predictions in θ, in standard errors: central differences are good to about the square.
STEP = 1e-3
# Rows whose derivatives are held at once.
CHUNK = 1 << 14


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
    noise : callable, optional
        Variances (N,) of the errors of new rows relative to σ², at the parameters φ of a residual structure. With it
        the response is predicted: effects that are not add their variance.
    """

    X: Matrix
    levels: list[Levels]
    Z: list[Matrix]
    noise: Callable[[Matrix], Matrix] | None = None


@dataclass(frozen=True)
class Variances:
    """Variances of errors of prediction, given the variance parameters, with their derivatives.

    Attributes
    ----------
    parts : dict
        (N,) each. "fixed": from γ̂; "groups": from û, γ known; of predictions of the response "new_groups", z'Tz of
        effects that are not predicted, and "residual".
    slopes : (N, r) float64
        Derivatives of their sum in the free variance parameters.
    spread : (N,) float64
        tr(AG), what the estimation of the parameters adds in expectation.
    """

    parts: dict[str, Matrix]
    slopes: Matrix
    spread: Matrix

    @property
    def total(self) -> Matrix:
        """(N,) v."""
        return np.asarray(sum(self.parts.values()))


class Errors:
    """Errors of prediction of rows by a fit.

    Parameters
    ----------
    fit : Fit
    rows : Rows

    Attributes
    ----------
    X : (N, p) float64
        Fixed columns in the engine's coordinates: x'γ = X @ engine's β + a constant.
    predicted : (N,) bool
        Whether random effects are predicted in a row.
    """

    def __init__(self, fit: Fit, rows: Rows) -> None:
        problem = fit._problem
        self.fit = fit
        self.rows = rows
        self.X = rows.X @ problem.coordinates.beta_map
        scale = problem.coordinates.scale
        Z = [scale * (columns @ problem.maps[k]) for k, columns in enumerate(rows.Z)]
        known = [levels[:, None] >= 0 for levels in rows.levels]
        self._Z = [np.where(seen, columns, 0.0) for seen, columns in zip(known, Z, strict=True)]
        self._open = [np.where(seen, 0.0, columns) for seen, columns in zip(known, Z, strict=True)]
        self.predicted: npt.NDArray[np.bool_] = np.any([np.zeros((len(self.X), 1), bool), *known], axis=0)[:, 0]

    def parts(self) -> dict[str, Matrix]:
        """Return the parts of the variances given the variance parameters; see `Variances`."""
        fit = self.fit
        with fit._lock:
            inverse = fit._criterion.cross_inverse
        found = henderson.solve(fit._problem, self._covariances, len(self.X), self.rows.levels, self._Z)
        left = self.X - found.q
        return self._named(((left @ inverse) * left).sum(axis=1), found.groups)

    def variances(self, curvature: Curvature, of_columns: tuple[Matrix, Matrix] | None = None) -> Variances:
        """Return variances with their derivatives in the parameters of `curvature`, the expectation by its covariance.

        Parameters
        ----------
        curvature : Curvature
            Information at the estimates.
        of_columns : ((k, t, t), (k, k, t, t)) float64, optional
            Forms of X and maybe more in the directions of `curvature.shape`, those of D first; left out, D has all.
            With others `spread` is right for rows without predicted effects only.
        """
        fit, shape = self.fit, curvature.shape
        weight = shape @ curvature.covariance @ shape.T
        with fit._lock:
            criterion = fit._criterion
            s, inverse = criterion.sigma2, criterion.cross_inverse
            tangent, products = of_columns or forms(criterion.forest)[:2]
        p, m = len(inverse), len(fit._problem.template.places)
        tangent = tangent[:, :p, :p]
        weighed = np.einsum("ab,abij->ij", weight, products[:, :, :p, :p])
        fixed, groups, spread = (np.zeros(len(self.X)) for _ in range(3))
        slopes = np.zeros((len(self.X), len(tangent)))
        slopes[:, :m] = self._of_new_groups(m)
        for at in (slice(lo, lo + CHUNK) for lo in range(0, len(self.X), CHUNK)):
            levels, Z = [code[at] for code in self.rows.levels], [z[at] for z in self._Z]
            found = henderson.solve(fit._problem, self._covariances, len(self.X[at]), levels, Z, weight[:m, :m])
            left = self.X[at] - found.q
            h = left @ inverse
            fixed[at], groups[at] = (h * left).sum(axis=1), found.groups
            moved = -np.einsum("aij,nj->nai", tangent, h)  # K'E_a K h
            t = moved.copy()
            t[:, :m] -= found.cross  # K'E_a r
            slopes[at] += np.einsum("nai,ni->na", moved, h)
            slopes[at, :m] += found.inner - 2 * np.einsum("nai,ni->na", found.cross, h)
            spread[at] = found.second + np.einsum("ni,ni->n", h @ weighed - 2 * found.mixed, h)
            spread[at] -= np.einsum("ab,nai,ij,nbj->n", weight, t, inverse, t, optimize=True)
        parts = self._named(fixed, groups)
        slopes = slopes @ shape + np.multiply.outer(sum(parts.values()) / s, curvature.size)
        if fit._problem.residual is not None:
            slopes[:, curvature.errors] = s * self._of_residual()
        return Variances(parts, slopes, np.maximum(spread, 0.0) / s)

    @property
    def _covariances(self) -> list[Matrix]:
        """D of each factor in the engine's coordinates, order of the formula."""
        return [L @ L.T for L in self.fit._problem.space.factors_of(self.fit._point)]

    def _named(self, fixed: Matrix, groups: Matrix) -> dict[str, Matrix]:
        """Return all parts, in the user's units, from those in units of σ²."""
        fit = self.fit
        with fit._lock:
            s = fit._criterion.sigma2
        parts = {"fixed": s * fixed, "groups": s * groups}
        if self.rows.noise is None:
            return parts
        parts["new_groups"] = np.zeros(len(self.X))
        for factor, levels, Z in zip(fit._problem.design.factors, self.rows.levels, self.rows.Z, strict=True):
            T = fit.covariances[factor.name].to_numpy()
            parts["new_groups"] += np.where(levels < 0, ((Z @ T) * Z).sum(axis=1), 0.0)
        residual = fit._problem.residual
        parts["residual"] = fit.sigma**2 * self.rows.noise(np.zeros(0) if residual is None else residual.phi)
        return parts

    def _of_new_groups(self, entries: int) -> Matrix:
        """Return derivatives (N, m_D) of the variance of effects that are not predicted."""
        out = np.zeros((len(self.X), entries))
        if self.rows.noise is not None:
            for k, Z in enumerate(self._open):
                out += henderson.squares(self.fit._problem, k, Z)
        return out

    def _of_residual(self) -> Matrix:
        """Return derivatives (N, r) of v/σ² in the parameters of the residual structure, by central differences."""
        fit = self.fit
        estimated = fit._problem.residual
        assert estimated is not None
        structure = gathered(replace(fit._problem, residual=None), estimated.pattern)
        out = np.zeros((len(self.X), estimated.pattern.size))
        for a in range(out.shape[1]):
            for sign in (1.0, -1.0):
                phi = estimated.phi.copy()
                phi[a] += sign * RESIDUAL_STEP
                out[:, a] += sign / (2 * RESIDUAL_STEP) * self._relative(structure.at(phi), phi)
        return out

    def _relative(self, problem: Problem, phi: Matrix) -> Matrix:
        """Return what of v/σ² depends on the residual structure, in a problem with other parameters of it."""
        criterion = problem.criterion(self.fit.reml)
        criterion.value(self.fit._point)
        found = henderson.solve(problem, self._covariances, len(self.X), self.rows.levels, self._Z)
        left = self.X - found.q
        out = found.groups + ((left @ criterion.cross_inverse) * left).sum(axis=1)
        if self.rows.noise is not None:
            out += problem.coordinates.scale**2 * self.rows.noise(phi)
        return np.asarray(out)

    def theta(self) -> Matrix:
        """Return g'Ag (N,) by central differences of β̂ and û along the eigenvectors of the covariance of θ̂."""
        fit = self.fit
        problem = fit._problem
        if problem.residual is not None:
            hessian = problem.residual.hessian
        else:
            with fit._lock:
                hessian = fit._criterion.derivatives(problem.curvature[1])[1]
        moved, space, point = at_estimate(problem, fit._point, fit.reml)
        values, vectors = np.linalg.eigh(hessian)
        out = np.zeros(len(self.X))
        for value, direction in zip(values, vectors.T, strict=True):
            if value <= 1e-9 * values[-1]:
                continue
            step = STEP * float(np.sqrt(2 / value))
            ends = []
            for sign in (1.0, -1.0):
                moved.value(space.move(point, sign * step * direction))
                ends.append(self._predictions(moved))
            out += 2 / value * ((ends[0] - ends[1]) / (2 * step)) ** 2
        return out

    def _predictions(self, criterion: Any) -> Matrix:
        """Return x'β̂ + z'û, where the criterion stands."""
        problem = self.fit._problem
        out = self.X @ criterion.beta
        for position, effects in enumerate(criterion.effects()[0]):
            k = problem.template.order[position]
            levels, Z = self.rows.levels[k], self._Z[k]
            relation = problem.design.factors[k].between
            if relation is not None:
                out += (Z * (relation.loadings @ effects)[levels]).sum(axis=1)
                continue
            at = np.empty(len(effects), dtype=np.intp)
            at[problem.statistics.hierarchy.levels[position]] = np.arange(len(at))
            out += (Z * effects[at[np.maximum(levels, 0)]]).sum(axis=1)
        return np.asarray(out)
