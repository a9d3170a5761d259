"""The criterion as a function of free variance parameters, by the chain rule from the compiled one in all entries of D.

The compiled criterion is evaluated at any D; its moments and second derivatives in the entries of D are those of

    v(D, s) = log|M| + [REML: log|X'V⁻¹X|] + ν log(2πs) + r²(D)/s ,      s = σ² ,

with s = r²/ν put in. For s known or free beside D (MATH: §5; T absolute, D = T/s) the derivatives of v itself follow
from the same numbers: ∂v/∂D = Σ Z'PZ - Σ Z'êê'Z/s, ∂²v/∂D² = 2 f'Pf/s - tr(PV_aPV_b), ∂²v/∂D∂s = Σ Z'êê'Z/s²,
∂v/∂s = ν/s - r²/s², ∂²v/∂s² = 2r²/s³ - ν/s².
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hlm.covariance import Matrix
from hlm.variance.parts import Variances
from hlm_ext.criterion import Criterion


class VarianceCriterion:
    """What `hlm_ext.criterion.Criterion` is in θ, in the free parameters x of a `Variances`.

    Gradient and Hessian are those along the constraints, in the coordinates of `Variances.tangent`.

    Parameters
    ----------
    inner : Criterion
        Of the plain template.
    variances : Variances
    """

    def __init__(self, inner: Criterion, variances: Variances) -> None:
        self.inner = inner
        self.variances = variances
        self.theta = np.full(variances.size, np.nan)
        self.last = np.nan
        self._places = _places(variances)
        self._at: tuple[int, str, Matrix, Matrix] | None = None

    # ---- readings that are those of the compiled criterion --------------------------------------------------------

    reml = property(lambda self: self.inner.reml)
    freedom = property(lambda self: self.inner.freedom)
    residual = property(lambda self: self.inner.residual)
    evaluations = property(lambda self: self.inner.evaluations)
    forest = property(lambda self: self.inner.forest)
    beta = property(lambda self: self.inner.beta)
    cross_inverse = property(lambda self: self.inner.cross_inverse)
    schur = property(lambda self: self.inner.schur)
    trace_products = property(lambda self: self.inner.trace_products)
    second_derivatives = property(lambda self: self.inner.second_derivatives)
    tangent = property(lambda self: self.inner.tangent)

    def moments(self) -> list[tuple[Matrix, Matrix]]:
        """Return Σ Z'PZ and Σ Z'êê'Z of all factors, leaves first."""
        return self.inner.moments()

    def effects(self, covariances: bool = False, beta_known: bool = False) -> tuple[list[Matrix], list[Matrix] | None]:
        """Return û of all factors, leaves first, and Cov(u - û)/σ²."""
        return self.inner.effects(covariances, beta_known)

    @property
    def m(self) -> int:
        """Free dimensions."""
        return self.variances.m

    @property
    def sigma2(self) -> float:
        """The engine's σ² at the last x: known, free or profiled out."""
        return self.inner.sigma2 if self.variances.profiled else self.variances.sigma_of(self.theta) ** 2

    # ---- value and derivatives ------------------------------------------------------------------------------------

    def value(self, x: Matrix) -> float:
        """Return -2 log-likelihood at x.

        Raises
        ------
        KernelError
            As the compiled criterion, or if x has no finite covariance.
        """
        theta = self.variances.engine_theta(x)
        profiled = self.inner.value(theta)
        self.theta = np.array(x)
        if self.variances.profiled:
            self.last = profiled
            return profiled
        c, s = self.inner, self.sigma2
        # the profiled value has ν(1 + log(2πr²/ν)) where v has ν log(2πs) + r²/s
        self.last = c.logdet + (c.logdet_x if c.reml else 0.0) + c.constant
        self.last += c.freedom * float(np.log(2 * np.pi * s)) + c.residual / s
        return self.last

    def derivatives(self, information: str = "observed") -> tuple[Matrix, Matrix]:
        """Return gradient (m,) and Hessian (m, m) at the x of the last `value`; see `Criterion.derivatives`."""
        if self._at is not None and self._at[:2] == (self.evaluations, information):
            return self._at[2].copy(), self._at[3].copy()
        x = self.theta
        gradient, hessian = self._ambient(information)
        if self.variances.conditions:
            _, slopes = self.variances.conditions_at(x)
            multipliers = np.asarray(np.linalg.lstsq(slopes.T, gradient, rcond=1e-12)[0], dtype=np.float64)
            basis = self.variances.tangent(slopes)
            hessian = hessian - self.variances.bending(x, multipliers)
            gradient, hessian = basis.T @ gradient, basis.T @ hessian @ basis
        self._at = (self.evaluations, information, gradient, hessian)
        return gradient.copy(), hessian.copy()

    def jacobian(self) -> Matrix:
        """Return the derivatives (m_D + 1, m) of the entries of all D, leaves first, and of σ² in the directions of x.

        Where σ² is profiled out, the last row is zero.
        """
        return self._ambient_jacobian() @ self.variances.tangent(self.variances.conditions_at(self.theta)[1])

    def information(self, kind: str) -> tuple[Matrix, Matrix, float]:
        """Return second derivatives of v in the entries of D, in those and s, and in s: "expected" or "average".

        Nothing is profiled out, whether σ² is known, one of x, or maximised over.
        """
        inner, s = self.inner, self.sigma2
        nu, own = inner.freedom, inner.sigma2
        moments = inner.moments()
        if kind == "expected":
            products = inner.quadratic_forms()[2]
            return products, self.variances.template.packed([post for post, _ in moments]) / s, nu / s**2
        outer = self.variances.template.packed([own for _, own in moments])
        inner.derivatives("average")
        second = inner.second_derivatives[: len(outer), : len(outer)] + np.outer(outer, outer) / (nu * own * own)
        return own / s * second, outer / s**2, inner.residual / s**3

    def _in_D(self, information: str) -> tuple[list[Matrix], Matrix, Matrix, float, float]:
        """Return G of each factor (formula order), ∂²v/∂D², ∂²v/∂D∂s, ∂v/∂s, ∂²v/∂s²."""
        inner, variances = self.inner, self.variances
        moments = inner.moments()
        s = self.sigma2
        cone: list[Matrix] = [np.zeros((0, 0))] * len(moments)
        for k, (post, outer) in zip(variances.template.order, moments, strict=True):
            cone[k] = post - outer / s
        inner.derivatives(information)
        second = inner.second_derivatives
        if variances.profiled:
            return cone, second, np.zeros(inner.forest.m), 0.0, 0.0
        nu, r2, own = inner.freedom, inner.residual, inner.sigma2
        post, outer = (self.variances.template.packed([pair[i] for pair in moments]) for i in (0, 1))
        slope = nu / s - r2 / s**2
        if information == "expected":
            return cone, inner.trace_products, post / s, slope, nu / s**2
        # f'Pf from what the compiled criterion made of it with σ² profiled out
        second = second + np.outer(outer, outer) / (nu * own * own)
        if information == "average":
            return cone, own / s * second, 0.5 * (outer / s + post) / s, slope, r2 / s**3
        products = inner.trace_products
        return cone, own / s * (second + products) - products, outer / s**2, slope, 2 * r2 / s**3 - nu / s**2

    def _ambient(self, information: str) -> tuple[Matrix, Matrix]:
        """Return gradient and Hessian in all of x, as if there were no conditions."""
        variances, x = self.variances, self.theta
        cone, second, mixed, slope, curvature = self._in_D(information)
        scale = 1 / variances.sigma_of(x) ** 2  # D = WFF'W' / s in absolute terms
        size = variances.size
        gradient, hessian = np.zeros(size), np.zeros((size, size))
        radial = 0.0  # ⟨G, D⟩
        tilt = np.zeros(size)  # ⟨G, ∂D/∂x⟩
        for part in variances.parts:
            G = cone[part.factor][np.ix_(part.block, part.block)]
            C = part.W @ part.root(x)
            radial += scale * float((G * (C @ C.T)).sum())
            if not len(part.index):
                continue
            first, bent = (part.W @ derivative for derivative in part.derivatives(x))
            dD = _symmetric(scale * (first @ C.T))
            tilt[part.index] += (G * dD).sum(axis=(1, 2))
            bending = np.einsum("aik,ij,bjk->ab", first, G, first) + np.einsum("abik,ik->ab", bent, G @ C)
            hessian[np.ix_(part.index, part.index)] += 2 * scale * bending
        gradient += tilt
        if variances.sigma >= 0:
            at, sigma = variances.sigma, x[variances.sigma]
            gradient[at] += -2 / sigma * radial + slope * 2 * sigma
            hessian[at, at] += 6 / sigma**2 * radial + 2 * slope
            tilt[at] = 0.0
            hessian[at] += -2 / sigma * tilt
            hessian[:, at] += -2 / sigma * tilt
        jacobian = self._ambient_jacobian()
        return gradient, hessian + jacobian.T @ bordered(second, mixed, curvature) @ jacobian

    def _ambient_jacobian(self) -> Matrix:
        """Return `jacobian` in all of x, as if there were no conditions."""
        variances, x = self.variances, self.theta
        scale = 1 / variances.sigma_of(x) ** 2
        out = np.zeros((self.inner.forest.m + 1, variances.size))
        for part, places in zip(variances.parts, self._places, strict=True):
            rows, cols = np.tril_indices(len(part.block))
            C = part.W @ part.root(x)
            if variances.sigma >= 0:
                out[places, variances.sigma] = -2 / x[variances.sigma] * scale * (C @ C.T)[rows, cols]
            if len(part.index):
                dD = _symmetric(scale * (part.W @ part.derivatives(x)[0] @ C.T))
                out[np.ix_(places, part.index)] += dD[:, rows, cols].T
        if variances.sigma >= 0:
            out[-1, variances.sigma] = 2 * x[variances.sigma]
        return out


def bordered(second: Matrix, mixed: Matrix, corner: float) -> Matrix:
    """Return [[second, mixed], [mixed', corner]]."""
    return np.block([[second, mixed[:, None]], [mixed[None, :], np.full((1, 1), corner)]])


def _symmetric(half: Matrix) -> Matrix:
    """Return half + half' of each matrix."""
    return np.asarray(half + half.transpose(0, 2, 1))


def _places(variances: Variances) -> list[Any]:
    """For each part: where the lower triangle of its D, row by row, stands among the entries of all D."""
    place, out = variances.template.places, []
    for part in variances.parts:
        rows, cols = np.tril_indices(len(part.block))
        pairs = [(part.block[i], part.block[j]) for i, j in zip(rows, cols, strict=True)]
        out.append(np.array([place[part.factor, max(pair), min(pair)] for pair in pairs], dtype=np.intp))
    return out
