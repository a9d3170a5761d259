"""Kenward and Roger's adjusted covariance and F test (1997), without an n × n matrix (MATH: §7)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hlm.covariance import Matrix
from hlm.errors import DataError, DesignError, NumericalError
from hlm.inference.distributions import Array, Joint
from hlm.inference.fixed import DEPENDENT, Inference
from hlm.inference.information import Curvature, curvature
from hlm.inference.satterthwaite import matched_degrees, satterthwaite_degrees, slopes
from hlm.inference.unit_forms import unit_forms
from hlm_ext.forms import forms

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.prediction_error import Errors

# Where the adjusted degrees of freedom are this close to 2, the scale of F has no limit and is left at 1.
NEAR_TWO = 0.01
# What counts as zero in the moments of F.
NOTHING = 1e-10


class KenwardRoger(Inference):
    """Covariance adjusted for the uncertainty of the variance parameters; scaled F with matching degrees of freedom.

    Parameters are the entries of T and σ², in which V is linear, with their expected information. A variance that is
    estimated as zero is still a parameter here (as in pbkrtest): expected information is there on the boundary too, and
    to take the variance as known would understate the uncertainty; ``boundary="free"`` does so. Where covariances have
    structures, known or tied values, parameters are the directions in which they can move, and V is taken as linear. So
    it is in the parameters of level-1 errors (the method of first order, as SAS calls it), which makes the result the
    same whatever these are: ρ, log ρ or atanh ρ.

    Parameters
    ----------
    fit : Fit
        By REML.
    boundary : {"all", "free"}, optional
        "all" when left out, "free" with structures, known or tied values.

    Raises
    ------
    DataError
        For a fit by ML.
    DesignError
        Beside a residual structure, for covariance structures, known or tied values.
    NumericalError
        Beside a residual structure, if more rows depend on each other than `hlm.inference.unit_forms` takes.
    """

    name = "kenward-roger"
    title = "covariance adjusted for estimated variances, Kenward and Roger's degrees of freedom"

    def __init__(self, fit: Fit, boundary: str | None = None) -> None:
        super().__init__(fit)
        if boundary is None:
            boundary = "all" if fit._problem.variances is None else "free"
        if not fit.reml:
            raise DataError("Kenward-Roger's method is defined for REML: fit with reml=True")
        C = fit._engine_covariance
        with fit._lock:
            criterion = fit._criterion
            of_units = None if fit._problem.residual is None else unit_forms(fit._problem, criterion)
            try:
                found = curvature(fit._problem, criterion, "expected", boundary, of_units)
            except NumericalError:
                found = curvature(fit._problem, criterion, "average", boundary)
                self.note = "average information in the place of the expected one, whose traces are too many here"
            s = criterion.sigma2
            if of_units is None:
                tangent, products, _ = forms(criterion.forest)
            else:
                tangent, products = of_units.tangent, of_units.products
                found = _with_errors(found, len(tangent), s)
        if fit.is_singular:
            known = "are parameters too" if boundary == "all" else "count as known to have none"
            self.note += f"{'; ' if self.note else ''}on the boundary: directions without variance {known}"
        self._C = C
        self._found = found
        self._W = found.covariance
        p = len(C)
        self._forms = tangent[:, :p, :p], products[:, :, :p, :p]
        self._slopes = slopes(found, C, s, tangent)
        self._adjusted = C + 2 * _bias(found, self._W, C, s, tangent, products, self._slopes)

    @property
    def engine_covariance(self) -> Matrix:
        """C + 2 C [Σ W_ab (Q_ab - P_a C P_b)] C."""
        return self._adjusted

    def degrees(self, L: Matrix) -> Array:
        """Kenward and Roger's for a single row: Satterthwaite's with expected information and the unadjusted C."""
        return satterthwaite_degrees(L, self._C, self._slopes, self._W)

    def prediction(self, errors: Errors, theta_uncertainty: bool | None) -> tuple[dict[str, Array], Array]:
        """Return the parts of the adjusted variance of errors of prediction, and degrees of freedom.

        To the variance v given the parameters comes "theta", 2 tr(AG): what their estimation adds in expectation, and
        as much for the bias of v̂ (Kackar and Harville 1984, Prasad and Rao 1990; see `hlm.prediction_error`). Of x'γ
        that is Kenward and Roger's covariance. Degrees of freedom are Satterthwaite's of v with expected information.

        Raises
        ------
        DataError
            If the uncertainty of θ is to be left out.
        DesignError
            Where random effects are predicted beside a residual structure.
        """
        if self.fit._problem.residual is not None and errors.predicted.any():
            raise DesignError(
                "'kenward-roger' has no variance of predicted random effects beside a structure of the level-1 errors: "
                "ask for effects='population', or use 'satterthwaite'"
            )
        if theta_uncertainty is not None and not theta_uncertainty:
            raise DataError(
                "'kenward-roger' is the covariance adjusted for the estimation of the variances: leave "
                "theta_uncertainty out, or use 'satterthwaite'"
            )
        found = errors.variances(self._found, self._forms)
        return found.parts | {"theta": 2 * found.spread}, matched_degrees(found.total, found.slopes, self._W)

    def joint(self, L: Matrix, difference: Array) -> Joint:
        """F with the scale and the degrees of freedom whose first two moments match (Kenward and Roger 1997)."""
        values, vectors = np.linalg.eigh(L @ self._C @ L.T)
        kept = values > DEPENDENT * values.max(initial=0.0)
        q = int(kept.sum())
        if q == 0:
            return Joint(float("nan"), 0.0, float("nan"))
        rows = vectors[:, kept].T
        L, difference = rows @ L, rows @ difference
        F = float(difference @ np.linalg.solve(L @ self._adjusted @ L.T, difference)) / q
        # in coordinates where LCL' = I: tr(Θ C P_a C) and tr(Θ C P_a C Θ C P_b C)
        half = (L.T / np.sqrt(values[kept])).T
        own = np.einsum("ij,zjk,lk->zil", half, self._slopes, half)
        traces = np.einsum("zii->z", own)
        A1 = float(traces @ self._W @ traces)
        A2 = float(np.einsum("zx,zij,xji->", self._W, own, own))
        scale, df = _matched(A1, A2, q)
        return Joint(scale * F, float(q), df, scale)


def _with_errors(found: Curvature, count: int, s: float) -> Curvature:
    """Return information whose `shape` has the `count` directions of D and, beside them, of the level-1 errors."""
    own, free = found.shape.shape
    shape = np.zeros((count, free))
    shape[:own] = found.shape
    shape[own:, found.errors] = s * np.eye(count - own)
    return replace(found, shape=shape)


def _bias(found: Curvature, W: Matrix, C: Matrix, s: float, tangent: Matrix, products: Matrix, dC: Matrix) -> Matrix:
    """C [Σ_zx W_zx (Q_zx - P_z C P_x)] C, with C P_z C = -∂C/∂z.

    In the basis V_a, V₀ of directions Q is Q_ab/σ⁶, -S_a/σ⁶ and S/σ⁶ with S = X'V₀⁻¹X = σ²C⁻¹.
    """
    p = len(C)
    shape, size = found.shape, found.size
    weight = shape @ W @ shape.T  # of V_a and V_b
    mixed = shape @ W @ size  # of V_a and V₀
    alone = float(size @ W @ size)
    inner = np.tensordot(weight, products[:, :, :p, :p], axes=2) - 2 * np.tensordot(mixed, tangent[:, :p, :p], axes=1)
    out: Matrix = C @ inner @ C / s**3 + alone * C / s**2
    half = np.linalg.solve(np.linalg.cholesky(C), dC) if p else dC
    out = out - np.einsum("zx,zij,xik->jk", W, half, half)
    return 0.5 * (out + out.T)


def _matched(A1: float, A2: float, q: int) -> tuple[float, float]:
    """Scale λ and degrees of freedom d such that λF has the first two moments of F(q, d)."""
    if not A2 > 0:
        return 1.0, float("inf")
    B = (A1 + 6 * A2) / (2 * q)
    g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    unit = 3 * q + 2 * (1 - g)
    c1, c2, c3 = g / unit, (q - g) / unit, (q + 2 - g) / unit
    top, first, second, mean = 1 + c1 * B, 1 - c2 * B, 1 - c3 * B, 1 - A2 / q
    if abs(top) < NOTHING:
        top = 0.0
    # F of an exact test has no mean with two degrees of freedom: both are zero then, and equal before
    ratio = 1.0 if max(abs(mean), abs(first)) < NOTHING else mean / first if first else float("inf")
    # 4 + (q + 2) / (qρ - 1) with qρ = ratio² top / second, which is infinite with four
    excess = ratio**2 * top - second
    df = 4 + (q + 2) * second / excess if excess else float("inf")
    scale = 1.0 if abs(df - 2) < NEAR_TWO else mean if df == float("inf") else df * mean / (df - 2)
    return float(scale), float(df)
