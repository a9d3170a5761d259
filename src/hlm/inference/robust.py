"""Cluster-robust covariances CR0 to CR3 of the fixed effects, for nested and crossed designs (MATH: §7).

The fitted model is the working model. With H = V⁻¹X, residuals e = y - Xβ̂ and M = (X'V⁻¹X)⁻¹,
β̂ - β = M Σ_i H_i'ε_i over the rows of clusters i, and

    V_CR = M [Σ_i H_i'A_i e_i e_i'A_i'H_i] M

with A_i = 1 (CR0), √(J/(J - 1)) (CR1), the A_i for which A_i Var(e_i) A_i' = V_ii under the working model (CR2; Bell
and McCaffrey 2002, Pustejovsky and Tipton 2018), or (1 - X_iMH_i')⁻¹ (CR3, near to leaving clusters out one by one).
With V_ii = LL' and K = V_ii - X_iMX_i', CR2's is A_i = L (L'KL)^(-½) L'. Rows are those of the engine, times the roots
of their weights (with a residual structure made white), in units of σ².

V_ii - 1 and X_i span few directions, in all others A_i is 1: where that is fewer than there are rows, A_i is made on an
orthonormal basis of them. The rows of H come from the effects of the columns of X, see `hlm_ext.forms`.

Where factors cross, clusters depend on each other through the levels that they share. The sandwich leaves that out;
what the fitted model says of it, M [Σ_{i≠j} H_i'V_ijH_j] M = M - M [Σ_i H_i'V_iiH_i] M, is added (not for
between="none"), so that CR2 is unbiased under the working model in crossed designs too.

Degrees of freedom (Satterthwaite for one row, Hotelling's T² with matching moments for several: HTZ, Tipton and
Pustejovsky 2015) need, for a_i = A_i'H_iMl and b_j likewise, a_i'Var(e)_ij b_j = a_i'V_ij b_j - a_i'X_iMX_j'b_j: of
V_ij what clusters have in common is kept as sparse rows Y_i = Λ'Z_i'a_i over the levels of all factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hlm.covariance import Matrix
from hlm.errors import DataError, DesignError
from hlm.inference.clusters import contributions, crosses
from hlm.inference.distributions import Array, Joint
from hlm.inference.fixed import DEPENDENT, Inference

if TYPE_CHECKING:
    from hlm.fit import Fit


class ClusterRobust(Inference):
    """Cluster-robust standard errors with Satterthwaite's degrees of freedom; HTZ tests of several hypotheses.

    Clusters are the levels of a grouping factor of the model. The covariance allows any dependence and any variances
    within clusters; between clusters, which there is where factors cross, it has what the fitted model has.

    Parameters
    ----------
    fit : Fit
    kind : {"CR0", "CR1", "CR2", "CR3"}
    cluster : str, optional
        A grouping factor; the one with fewest levels when left out.
    between : {"model", "none"}
        Dependence between clusters: as in the fitted model, or none, which leaves the plain sandwich.

    Raises
    ------
    DesignError
        For a factor that is not there, or levels that are related by a known matrix.
    DataError
        If the model has no grouping factor, or one of a single level; or for another choice of `between`.
    """

    def __init__(self, fit: Fit, kind: str, cluster: str | None = None, between: str = "model") -> None:
        super().__init__(fit)
        if between not in ("model", "none"):
            raise DataError(f"between must be 'model' or 'none', got {between!r}")
        design = fit.model.design
        if not design.factors:
            raise DataError("cluster-robust inference needs a grouping factor in the model")
        factor = min(design.factors, key=lambda f: f.size) if cluster is None else design.factor(cluster)
        for related in design.factors:
            if related.between is not None:
                raise DesignError(
                    f"levels of '{related.name}' are related by a known matrix: there are no independent clusters",
                    column=related.name,
                )
        if factor.size < 2:
            raise DataError(
                f"'{factor.name}' has one level: cluster-robust inference needs several", column=factor.name
            )
        self.name = kind
        self.title = (
            f"cluster-robust standard errors ({kind}, clusters: {factor.name}), Satterthwaite's degrees of freedom"
        )
        with fit._lock:
            self._found = contributions(fit, factor, "CR0" if kind == "CR1" else kind)
            self._M: Matrix = fit._criterion.cross_inverse
            s = fit._criterion.sigma2
        # CR1's factor on each A_i
        self._scale = factor.size / (factor.size - 1) if kind == "CR1" else 1.0
        scores = self._found.u @ self._M
        self._covariance: Matrix = self._scale * (scores.T @ scores)
        self._between = np.zeros_like(self._M)  # in units of σ²
        if between == "model" and any(crosses(f, factor) for f in design.factors):
            self._between = self._M - self._M @ self._found.inside.sum(axis=0) @ self._M
            self._covariance = self._covariance + s * self._between
            self.note = f"dependence between levels of '{factor.name}' that share others is that of the fitted model"

    @property
    def engine_covariance(self) -> Matrix:
        """M [Σ H_i'A_i e_i e_i'A_i'H_i] M, and what the model has between clusters."""
        return self._covariance

    def degrees(self, L: Matrix) -> Array:
        """(Σ P_ii + what is between)² / Σ P_ij², P_ij = a_i'Var(e)_ij a_j under the working model."""
        out = np.empty(len(L))
        for r, row in enumerate(L):
            one = self._reading(row @ self._M)
            spread = _inner(one, one, one, one)
            out[r] = (one.trace(one) + row @ self._between @ row) ** 2 / spread if spread > 0 else np.inf
        return out

    def joint(self, L: Matrix, difference: Array) -> Joint:
        """Hotelling's T² whose degrees of freedom η match the variances of the entries of LV_CRL' (HTZ).

        F = (η - q + 1) / (ηq) · (Lβ̂ - r)'(LV_CRL')⁻¹(Lβ̂ - r) on q and η - q + 1.
        """
        readings = [self._reading(row) for row in L @ self._M]
        expected = np.array([[one.trace(other) for other in readings] for one in readings]).reshape(len(L), len(L))
        expected += L @ self._between @ L.T
        values, vectors = np.linalg.eigh(expected)
        kept = values > DEPENDENT * values.max(initial=0.0)
        q = int(kept.sum())
        if q == 0:
            return Joint(float("nan"), 0.0, float("nan"))
        L, difference = vectors[:, kept].T @ L, vectors[:, kept].T @ difference
        readings = [self._reading(row) for row in (L / np.sqrt(values[kept])[:, None]) @ self._M]
        total = 0.0
        for s, one in enumerate(readings):
            for t, other in enumerate(readings[: s + 1]):
                variance = _inner(one, one, other, other) + _inner(one, other, other, one)
                total += variance * (1 if s == t else 2)
        eta = q * (q + 1) / total
        Q = float(difference @ np.linalg.solve(L @ self._covariance @ L.T, difference))
        scale = (eta - q + 1) / eta
        if scale <= 0:
            return Joint(float("nan"), float(q), float("nan"))
        return Joint(scale * Q / q, float(q), eta - q + 1, scale)

    def _reading(self, row: Array) -> _Reading:
        """What P needs of a_i l, l = row: the square root of M goes to h."""
        lower = np.linalg.cholesky(self._M) if len(self._M) else self._M
        found, row = self._found, np.sqrt(self._scale) * row
        shape = len(found.u), found.columns
        Y = sparse.csr_array((found.Y @ row, (found.cluster, found.place)), shape=shape)
        return _Reading(found.own, row, Y, found.h @ row @ lower)


@dataclass(frozen=True, eq=False)
class _Reading:
    """a_i l of all clusters: with b, a_i'Var(e)_ij b_j = δ_ij a_i'b_i + Y_i'Y_j - h_i'h_j."""

    own: Matrix
    row: Array
    Y: sparse.csr_array
    h: Matrix

    def diagonal(self, other: _Reading) -> Array:
        """a_i'b_i (J,)."""
        return np.asarray(self.own @ self.row @ other.row, dtype=np.float64)

    def trace(self, other: _Reading) -> float:
        """Σ P_ii."""
        return float(self.diagonal(other).sum() + (self.Y * other.Y).sum() - (self.h * other.h).sum())


def _inner(a: _Reading, b: _Reading, c: _Reading, d: _Reading) -> float:
    """Σ_ij P^ab_ij P^cd_ij, without a matrix over pairs of clusters."""
    one, two = a.diagonal(b), c.diagonal(d)
    rest = [np.asarray((x.Y * y.Y).sum(axis=1)).reshape(-1) - (x.h * y.h).sum(axis=1) for x, y in ((a, b), (c, d))]
    total = float(one @ two + one @ rest[1] + two @ rest[0])
    # tr(Y_a'Y_c (Y_b'Y_d)') and so on: sums over pairs of columns instead of pairs of clusters
    for first, second, sign in (("Y", "Y", 1.0), ("Y", "h", -1.0), ("h", "Y", -1.0), ("h", "h", 1.0)):
        left = getattr(a, first).T @ getattr(c, second)
        right = left if b is a and d is c else getattr(b, first).T @ getattr(d, second)
        total += sign * float((left * right).sum())
    return total
