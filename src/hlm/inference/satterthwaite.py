"""Satterthwaite's degrees of freedom (MATH: §7; Giesbrecht and Burns 1985, Fai and Cornelius 1996)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hlm.covariance import Matrix
from hlm.inference.distributions import Array
from hlm.inference.fixed import Inference
from hlm.inference.information import Curvature, curvature

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.prediction_error import Errors


def slopes(found: Curvature, C: Matrix, s: float, tangent: Matrix) -> Matrix:
    """Derivatives (r, p, p) of C = (X'V⁻¹X)⁻¹ in the free variance parameters z.

    ∂C/∂z = -C P_z C with P_z = -X'V⁻¹V_zV⁻¹X: S_a/σ⁴ for V_a and -X'V⁻¹X/σ² for V₀.

    Parameters
    ----------
    found : Curvature
    C : (p, p)
        σ²(X'V₀⁻¹X)⁻¹.
    s : float
        σ².
    tangent : (m_D, p + 1, p + 1)
        S_a in units of σ², derivatives of [X y]'V₀⁻¹[X y] in the entries of D.
    """
    p = len(C)
    moved = C @ tangent[:, :p, :p] @ C / (s * s)
    out: Matrix = -np.tensordot(found.shape.T, moved, axes=1) + found.size[:, None, None] * (C / s)
    return out


class Satterthwaite(Inference):
    """Model-based standard errors with Satterthwaite's degrees of freedom.

    df(l'γ) = 2 (l'Cl)² / Var(l'Ĉl), the variance from the observed information of all variance parameters; on the
    boundary directions without variance count as known to have none.
    """

    name = "satterthwaite"
    title = "model-based standard errors, Satterthwaite's degrees of freedom"

    def __init__(self, fit: Fit) -> None:
        super().__init__(fit)
        C = fit._engine_covariance
        with fit._lock:
            criterion = fit._criterion
            found = curvature(fit._problem, criterion, "observed")
            s = criterion.sigma2
            criterion.derivatives("average" if found.error else "observed")
            tangent = criterion.tangent
        self._found = found
        self._slopes = slopes(found, C, s, tangent)
        if fit._problem.residual is not None:
            self._slopes[found.errors] = s * fit._problem.residual.cross_slopes
        if fit.is_singular:
            self.note = "on the boundary: directions without variance count as known to have none"
        if found.error:
            self.note += f"{'; ' if self.note else ''}information by differences, relative error {found.error:.0e}"

    @property
    def engine_covariance(self) -> Matrix:
        """σ̂²(X'V⁻¹X)⁻¹."""
        return self.fit._engine_covariance

    def degrees(self, L: Matrix) -> Array:
        """2 (l'Cl)² / (g'Ag), g the derivative of l'Cl."""
        return satterthwaite_degrees(L, self.engine_covariance, self._slopes, self._found.covariance)

    def prediction(self, errors: Errors, theta_uncertainty: bool | None) -> tuple[dict[str, Array], Array]:
        """Return the parts of the variance v of errors of prediction, and degrees of freedom 2v² / (g'Ag).

        g is the derivative of all of v that is asked for (Francq, Lin and Hoyer 2019, of prediction intervals); of x'γ
        these are `degrees`. What the estimation of θ adds, g'Ag of the prediction, is left out of x'γ, as from all
        standard errors of this method, and added where random effects are predicted, unless told otherwise.
        """
        found = errors.variances(self._found)
        df = matched_degrees(found.total, found.slopes, self._found.covariance)
        theta = np.zeros(len(df))
        if theta_uncertainty or (theta_uncertainty is None and errors.predicted.any()):
            theta = errors.theta() * (True if theta_uncertainty else errors.predicted)
        return found.parts | {"theta": theta}, df


def satterthwaite_degrees(L: Matrix, C: Matrix, dC: Matrix, A: Matrix) -> Array:
    """2 (l'Cl)² / (g'Ag) of each row of L; infinite where l'Cl does not depend on the variance parameters."""
    value = np.einsum("ij,jk,ik->i", L, C, L)
    g = np.einsum("ij,zjk,ik->iz", L, dC, L)
    return matched_degrees(value, g, A)


def matched_degrees(value: Array, g: Matrix, A: Matrix) -> Array:
    """Degrees of freedom of estimated variances (r,) whose derivatives in ẑ are g (r, m): 2 v² / (g'Ag)."""
    spread = np.einsum("iz,zx,ix->i", g, A, g)
    df: Array = np.divide(2 * value**2, spread, out=np.full(len(g), np.inf), where=spread > 0)
    return df
