"""The profiled criterion of a forest as a function of θ: value, gradient, information (MATH: §3, §5).

θ enters through a template, see `hlm_ext.template`. Everything is in the coordinates of the statistics; the caller's
`constant` carries what a change of units adds.
"""

from libc.math cimport M_PI, isfinite, log
from libc.stdlib cimport free, malloc

import numpy as np

from hlm_ext.failure import KernelError  # no-cython-lint: raised here, to be caught by this name

from hlm_ext.failure cimport raise_failure
from hlm_ext.forest cimport Forest
from hlm_ext.peel cimport cholesky
from hlm_ext.status cimport NO_RESIDUAL, NOT_POSITIVE, OK, Failure
from hlm_ext.template cimport Template


# What rounding may cost a value: this, and this for each row (or degree of freedom).
LOST, LOST_PER_ROW = 1e-9, 1e-13


cdef class Criterion:
    """-2 log-likelihood with β and σ² profiled out, at any θ.

    Parameters
    ----------
    forest : Forest
        Statistics of the hierarchy. A Criterion uses the scratch of its forest: one thread at a time.
    freedom : float
        ν: n for ML, n - p for REML.
    reml : bool
        Add log|X'V⁻¹X|.
    base, entries, coefficients : arrays
        Λ(θ), see `hlm_ext.template.Template`.
    constant : float
        Added to the value.
    rounding : float
        Relative rounding error of the statistics.
    precise : callable, optional
        Gives a `hlm_ext.roots.RootForest` of the same statistics. It is asked for once, as soon as a value would lose
        too many digits with cross-products, and stays.
    """

    cdef readonly Forest forest
    cdef readonly Py_ssize_t m           # length of θ
    cdef readonly bint reml
    cdef readonly double freedom, constant, rounding
    cdef readonly double residual        # r²: penalised residual sum of squares
    cdef readonly double logdet          # log|M|
    cdef readonly double logdet_x        # log|X'V⁻¹X|
    cdef readonly Py_ssize_t evaluations
    cdef readonly double last            # the value at the last θ
    cdef Py_ssize_t moments_at           # evaluation whose moments post and outer hold
    cdef tuple derivatives_at            # (evaluation, information, gradient, hessian) of the last derivatives
    cdef Template template
    cdef double[::1] theta_view, room
    cdef double[:, ::1] schur_view, chol
    cdef double[::1] e, omega, post_view, outer_view, linear, cone
    cdef double[:, ::1] trace, average, tangent_of
    cdef readonly object theta, post, outer, factor_x
    cdef object precise
    cdef bint standing                   # whether `last` and what was factored belong to `theta`

    def __init__(self, Forest forest, double freedom, bint reml, base, entries, coefficients, double constant=0.0,
                 double rounding=2.2e-16, precise=None):
        if forest is None:
            raise TypeError("forest must be a Forest, got None")
        if not freedom > 0:
            raise ValueError(f"freedom must be positive, got {freedom}: there must be more rows than columns of X")
        cdef Py_ssize_t side = forest.p + 1, md = max(forest.m, 1), at
        self.forest = forest
        self.freedom = freedom
        self.reml = reml
        self.constant = constant
        self.rounding = rounding
        self.precise = precise
        self.template = Template(forest, base, entries, coefficients)
        self.m = self.template.m
        self.theta = np.full(self.m, np.nan)
        self.theta_view = self.theta
        self.factor_x = np.zeros((side, side))
        self.chol = self.factor_x
        self.schur_view = np.zeros((side, side))
        self.post, self.outer = np.zeros((2, forest.packed + 1))
        # one block for what is never shown: making many small arrays would take longer than a small fit
        cdef double[::1] room = np.zeros(md * md * 2 + md * side * side + md + 1
                                         + forest.packed + 1 + side + forest.p * forest.p + 1)
        self.trace = <double[:md, :md]> &room[0]
        at = md * md
        self.average = <double[:md, :md]> &room[at]
        at += md * md
        self.tangent_of = <double[:md, :side * side]> &room[at]
        at += md * side * side
        self.linear = room[at:at + md + 1]
        at += md + 1
        self.cone = room[at:at + forest.packed + 1]
        at += forest.packed + 1
        self.e = room[at:at + side]
        at += side
        self.omega = room[at:]
        self.room = room
        self.post_view = self.post
        self.outer_view = self.outer

    def value(self, double[::1] theta not None):
        """Return the criterion at `theta` (m,).

        Raises
        ------
        KernelError
            If a block is not positive definite or the residual vanishes.
        """
        cdef Py_ssize_t i, side = self.forest.p + 1
        cdef Failure failure
        if theta.shape[0] != self.m:
            raise ValueError(f"theta must have {self.m} entries, got {theta.shape[0]}")
        if self._stands_at(theta):
            return self.last
        self.evaluations += 1
        self.standing = False                        # until all has gone well
        self.theta_view[:] = theta
        self.template.put(theta)
        failure = self._factor()
        if self.precise is not None and (failure.status != OK or self._lost() > 0):
            self.refine()
            failure = self._factor()
        if failure.status != OK:
            raise_failure(failure)
        self.residual = self.chol[side - 1, side - 1] ** 2
        self.logdet_x = 0
        for i in range(side - 1):
            self.logdet_x += 2 * log(self.chol[i, i])
        self.last = (self.logdet + (self.logdet_x if self.reml else 0.0) + self.constant
                     + self.freedom * (1 + log(2 * M_PI * self.residual / self.freedom)))
        self.standing = True
        return self.last

    cdef bint _stands_at(self, const double[::1] theta) noexcept:
        """Whether the last evaluation was at this θ."""
        cdef Py_ssize_t i
        for i in range(self.m):
            if self.theta_view[i] != theta[i]:
                return False
        return self.standing

    def refine(self):
        """Go over to the forest of rotated rows, for good; see `precise`."""
        if self.precise is not None:
            self.forest = self.precise()
            self.precise = None
            self.evaluations += 1                    # what was read off the other forest is void
            self.standing = False

    cdef Failure _factor(self) except *:
        """Factor the forest and then S, whose Cholesky factor goes to `chol`."""
        cdef Py_ssize_t i, j, side = self.forest.p + 1
        cdef Failure failure
        cdef int failed = 0
        self.forest.set_lambda(&self.template.packed[0])
        failure = self.forest.factor_into(self.schur_view, &self.logdet)
        if failure.status != OK:
            return failure
        for i in range(side):
            for j in range(i + 1):
                self.chol[i, j] = self.forest.root[j, i] if self.forest.rooted else self.schur_view[j, i]
        if not self.forest.rooted:
            failed = cholesky(side, &self.chol[0, 0], side)
        elif not self.chol[side - 1, side - 1] ** 2 > self.forest.floor:
            failed = <int> side
        if failed:
            failure.status = NOT_POSITIVE
            if failed == side and isfinite(self.schur_view[side - 1, side - 1]):
                failure.status = NO_RESIDUAL
            failure.column = failed - 1
        return failure

    cdef double _lost(self) noexcept:
        """How much more of the value than allowed rounding may have taken where random effects explain the most."""
        cdef Py_ssize_t i, p = self.forest.p
        cdef double lost = self.freedom * self.forest.total_view[p, p] / self.chol[p, p] ** 2
        for i in range(p):
            lost += self.forest.total_view[i, i] / self.chol[i, i] ** 2
        return self.rounding * lost - LOST_PER_ROW * self.freedom - LOST

    @property
    def sigma2(self):
        """σ̂² = r²/ν at the last θ."""
        return self.residual / self.freedom

    @property
    def beta(self):
        """(p,) β̂ at the last θ."""
        self._root(True)
        return -np.asarray(self.e)[:self.forest.p]

    @property
    def cross_inverse(self):
        """(p, p) (X'V⁻¹X)⁻¹ at the last θ; times σ̂² the covariance of β̂."""
        factor = self.factor_x[:self.forest.p, :self.forest.p]
        inverse = np.linalg.solve(factor, np.eye(self.forest.p))
        return inverse.T @ inverse

    @property
    def schur(self):
        """(p + 1, p + 1) [X y]'V⁻¹[X y] at the last θ, in units of σ²."""
        upper = np.triu(self.schur_view)
        return upper + np.triu(upper, 1).T

    cdef void _root(self, bint beta_known) noexcept:
        """e := (-β̂; 1) and Ω := (X'V⁻¹X)⁻¹, or 0 where β counts as known."""
        cdef Py_ssize_t p = self.forest.p, i, j, c
        cdef double s
        for i in range(p - 1, -1, -1):
            s = self.chol[p, i]
            for j in range(i + 1, p):
                s += self.chol[j, i] * self.e[j]      # e = -β̂
            self.e[i] = -s / self.chol[i, i]
        self.e[p] = 1
        for i in range(p * p):
            self.omega[i] = 0
        if beta_known:
            return
        # columns of L⁻¹, then Ω = L⁻ᵀL⁻¹; L⁻¹ is kept in the lower triangle until its row is used up
        cdef double *inv = <double *> malloc((p * p + 1) * sizeof(double))
        for j in range(p):
            for i in range(j, p):
                s = 1.0 if i == j else 0.0
                for c in range(j, i):
                    s -= self.chol[i, c] * inv[c * p + j]
                inv[i * p + j] = s / self.chol[i, i]
        for i in range(p):
            for j in range(i + 1):
                s = 0
                for c in range(i, p):
                    s += inv[c * p + i] * inv[c * p + j]
                self.omega[i * p + j] = s
                self.omega[j * p + i] = s
        free(inv)

    cdef _moments(self, bint second, bint beta_known, double **effects, double **covariances, bint exact=True):
        cdef Failure failure
        if self.evaluations == 0:
            raise ValueError("evaluate the criterion first: call value(theta)")
        self._root(beta_known)
        failure = self.forest.moments_into(&self.e[0], &self.omega[0], beta_known, second, exact,
                                           self.post_view, self.outer_view, self.trace, self.average, self.tangent_of,
                                           effects, covariances)
        if failure.status != OK:
            raise_failure(failure)
        self.moments_at = self.evaluations if beta_known == (not self.reml) else -1

    cdef void _root_terms(self) noexcept:
        """trace and average += what the elimination of β adds; both made symmetric."""
        cdef Py_ssize_t md = self.forest.m, p = self.forest.p, side = p + 1, a, b, i, j
        cdef double s, r
        # rows of `tangent_of` give L⁻¹S_a (p x side), then S_a e and L⁻¹S_aL⁻ᵀ are read from it
        cdef double *work = <double *> malloc((md * (p * p + p) + 1) * sizeof(double))
        cdef double *sa
        cdef double *half
        for a in range(md):
            sa = &self.tangent_of[a, 0]
            half = work + a * (p * p + p)
            for i in range(p):
                s = 0
                for j in range(side):
                    s += sa[i * side + j] * self.e[j]
                half[p * p + i] = s
            self._forward(half + p * p, 1)
            for i in range(p):
                for j in range(p):
                    half[i * p + j] = sa[i * side + j]
            self._forward(half, p)
            for i in range(p):                       # transpose in place: S_a L⁻ᵀ
                for j in range(i):
                    s = half[i * p + j]
                    half[i * p + j] = half[j * p + i]
                    half[j * p + i] = s
            self._forward(half, p)
        for a in range(md):
            for b in range(a + 1):
                s = 0
                r = 0
                if self.reml:
                    for i in range(p * p):
                        s += (work + a * (p * p + p))[i] * (work + b * (p * p + p))[i]
                for i in range(p):
                    r += (work + a * (p * p + p))[p * p + i] * (work + b * (p * p + p))[p * p + i]
                self.trace[a, b] += s
                self.average[a, b] -= r
                self.trace[b, a] = self.trace[a, b]
                self.average[b, a] = self.average[a, b]
        free(work)

    cdef void _forward(self, double *x, Py_ssize_t n) noexcept:
        """x := L⁻¹ x for p x n row-major x."""
        cdef Py_ssize_t p = self.forest.p, i, j, c
        for i in range(p):
            for c in range(i):
                for j in range(n):
                    x[i * n + j] -= self.chol[i, c] * x[c * n + j]
            for j in range(n):
                x[i * n + j] /= self.chol[i, i]

    def derivatives(self, str information="observed"):
        """Return gradient (m,) and Hessian (m, m) in θ at the θ of the last `value`.

        Parameters
        ----------
        information : {"observed", "average", "expected"}
            Second derivatives in D: exact, their average with the expected ones (which needs no traces), or expected
            (Fisher). The curvature of θ → D is exact in all three (MATH: §5).
        """
        if information not in ("observed", "average", "expected"):
            raise ValueError(f"information must be 'observed', 'average' or 'expected', got {information!r}")
        if self.derivatives_at is not None and self.derivatives_at[:2] == (self.evaluations, information):
            return self.derivatives_at[2].copy(), self.derivatives_at[3].copy()
        gradient = np.zeros(self.m)
        hessian = np.zeros((self.m, self.m))
        if self.m == 0:
            return gradient, hessian
        self._moments(True, not self.reml, NULL, NULL, information != "average")
        self._root_terms()
        self._information(0 if information == "observed" else (1 if information == "average" else 2))
        self._cone()
        self.template.gradient(self.cone, gradient)
        self.template.hessian(self.cone, self.average, hessian)
        self.derivatives_at = (self.evaluations, information, gradient.copy(), hessian.copy())
        return gradient, hessian

    def gradient(self):
        """Return the gradient (m,) in θ at the θ of the last `value`; cheaper than `derivatives`."""
        gradient = np.zeros(self.m)
        if self.m:
            self._moments(False, not self.reml, NULL, NULL)
            self._cone()
            self.template.gradient(self.cone, gradient)
        return gradient

    @property
    def trace_products(self):
        """(m_D, m_D) tr(P V_a P V_b) in the entries of all D, from the last `derivatives` or `quadratic_forms`."""
        return np.array(self.trace)

    @property
    def tangent(self):
        """(m_D, p + 1, p + 1) derivatives of `schur` in the entries of all D, as left by the last `derivatives`."""
        side = self.forest.p + 1
        return np.array(self.tangent_of)[:self.forest.m].reshape(self.forest.m, side, side)

    @property
    def second_derivatives(self):
        """(m_D, m_D) second derivatives in the entries of all D, as left by the last `derivatives`."""
        return np.array(self.average)

    def quadratic_forms(self):
        """Return what MINQUE needs, at the θ of the last `value`, in the directions E_a of the entries of all D.

        Returns
        -------
        traces : (m_D,) float64
            tr(P V_a).
        forms : (m_D,) float64
            y'P V_a P y.
        products : (m_D, m_D) float64
            tr(P V_a P V_b).

        Notes
        -----
        Directions: factors leaves first, the lower triangle of each D column by column. P is that of REML or ML.
        """
        cdef Py_ssize_t md = self.forest.m
        traces, forms = np.zeros(md), np.zeros(md)
        if md == 0:
            return traces, forms, np.zeros((0, 0))
        self._moments(True, not self.reml, NULL, NULL)
        self._root_terms()
        self._linear(self.post_view, traces)
        self._linear(self.outer_view, forms)
        return traces, forms, np.array(self.trace)

    cdef void _linear(self, const double[::1] source, double[::1] out) noexcept:
        """out[a] := ⟨source, E_a⟩."""
        cdef Py_ssize_t k, i, j, q, at = 0, a = 0
        for k in range(self.forest.depth):
            q = self.forest.levels[k].q
            for j in range(q):
                for i in range(j, q):
                    out[a] = source[at + i * q + j] * (1 if i == j else 2)
                    a += 1
            at += q * q

    cdef void _information(self, int kind) noexcept:
        """average := second derivatives in the entries of D."""
        cdef Py_ssize_t a, b
        cdef double s2 = self.residual / self.freedom, ra, rb
        cdef double[::1] linear = self.linear
        self._linear(self.post_view if kind == 2 else self.outer_view, linear)
        for a in range(self.forest.m):
            for b in range(self.forest.m):
                ra = linear[a]
                rb = linear[b]
                if kind == 0:
                    self.average[a, b] = (2 * self.average[a, b] / s2 - self.trace[a, b]
                                          - ra * rb / (self.freedom * s2 * s2))
                elif kind == 1:
                    self.average[a, b] = self.average[a, b] / s2 - ra * rb / (self.freedom * s2 * s2)
                else:
                    self.average[a, b] = self.trace[a, b] - ra * rb / self.freedom

    cdef void _cone(self) noexcept:
        """cone := G, the gradient in the D's, packed like the Λ's."""
        cdef Py_ssize_t i
        for i in range(self.forest.packed):
            self.cone[i] = self.post_view[i] - self.outer_view[i] * self.freedom / self.residual

    def moments(self):
        """Return the pairs (Σ Z'PZ, Σ Z'ê ê'Z), each (q, q), of all factors, leaves first, at the last θ.

        G = Σ Z'PZ - Σ Z'ê ê'Z / σ̂² is the gradient in D. Shapes and units are those of the statistics.
        """
        if self.forest.depth and self.moments_at != self.evaluations:
            self._moments(False, not self.reml, NULL, NULL)
        out = []
        cdef Py_ssize_t k, at = 0, q
        for k in range(self.forest.depth):
            q = self.forest.levels[k].q
            out.append(tuple([sums[at:at + q * q].reshape(q, q).copy() for sums in (self.post, self.outer)]))
            at += q * q
        return out

    def effects(self, bint covariances=False, bint beta_known=False):
        """Return û (J_k, q_k) of all factors, leaves first, and, if asked, Cov(u - û)/σ̂² (J_k, q_k, q_k).

        The covariance includes the uncertainty of β̂ unless `beta_known`; both are those at the last θ.
        """
        cdef Py_ssize_t k
        cdef double *means[64]
        cdef double *covs[64]
        cdef double[:, ::1] mean
        cdef double[:, :, ::1] cov
        if self.forest.depth > 64:
            raise ValueError("at most 64 factors")
        out_means = [np.zeros((self.forest.levels[k].J, self.forest.levels[k].q)) for k in range(self.forest.depth)]
        out_covs = [np.zeros((self.forest.levels[k].J, self.forest.levels[k].q, self.forest.levels[k].q))
                    for k in range(self.forest.depth)] if covariances else None
        for k in range(self.forest.depth):
            mean = out_means[k]
            means[k] = &mean[0, 0]
            if covariances:
                cov = out_covs[k]
                covs[k] = &cov[0, 0, 0]
        if self.forest.depth:
            self._moments(False, beta_known, means, covs if covariances else NULL)
        return out_means, out_covs
