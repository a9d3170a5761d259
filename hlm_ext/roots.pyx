"""Elimination of a nested hierarchy by orthogonal transformations (QR), for fits that explain nearly everything.

With a residual that is a small part of the response, S = [X y]'W[X y] - R'R (MATH: kernel 2) cancels, and
cross-products have lost the digits before. Here rows are never multiplied with each other. The rows of a leaf, rotated,
are

    [Z U] = Q [R V; 0 E]          R: q x q upper triangular, E upper triangular

where E, which no random column of the leaf takes part in, goes to the level above once and for all, and the rest adds

    log|I + RDR'|  to the determinant, and the rows  C⁻ᵀV  to the level above,  C'C = I + RDR' = I + (RΛ)(RΛ)'

since V'(I + RDR')⁻¹V = U'U - E'E - U'ZΛ(I + Λ'Z'ZΛ)⁻¹Λ'Z'U: a sum, in which nothing cancels. The level above rotates
all rows that it gets and goes on likewise; at the root they leave the Cholesky factor of S itself.
"""

from libc.math cimport fabs, isfinite, sqrt
from libc.string cimport memcpy, memset

import numpy as np

from hlm_ext.forest cimport Forest
from hlm_ext.partition cimport Interrupt
from hlm_ext.peel cimport close_level
from hlm_ext.status cimport OK, Failure
from hlm_ext.tree cimport PANEL_ROWS, Level, Scratch, Walk, hlm_axpy

# Squares below this are left as they are: entries are of order one.
cdef double NOTHING = 1e-290


cdef void absorb(Py_ssize_t m, Py_ssize_t w, double *rows, Py_ssize_t ld, double *R, Py_ssize_t ldr,
                 double *room) noexcept nogil:
    """Rotate m rows (overwritten) into the upper triangular R (w x w): R'R += rows'rows. `room`: w doubles."""
    cdef Py_ssize_t j, r, n
    cdef double s, a, h, v, b
    for j in range(w):
        s = 0
        for r in range(m):
            s += rows[r * ld + j] * rows[r * ld + j]
        if s < NOTHING:
            continue
        a = R[j * ldr + j]
        h = sqrt(a * a + s)
        if a > 0:
            h = -h
        v = a - h
        b = 2 / (v * v + s)
        R[j * ldr + j] = h
        n = w - j - 1
        memset(room, 0, n * sizeof(double))
        hlm_axpy(n, v, R + j * ldr + j + 1, room)
        for r in range(m):
            hlm_axpy(n, rows[r * ld + j], rows + r * ld + j + 1, room)
        hlm_axpy(n, -b * v, room, R + j * ldr + j + 1)
        for r in range(m):
            hlm_axpy(n, -b * rows[r * ld + j], room, rows + r * ld + j + 1)


def leaf_roots(const double[:, ::1] rows not None, const Py_ssize_t[::1] order, const Py_ssize_t[::1] first not None,
               const Py_ssize_t[::1] parents not None, Py_ssize_t above, Py_ssize_t q,
               const double[::1] weights=None):
    """Rotate the rows of each leaf until its random columns are in as many of them.

    Parameters
    ----------
    rows : (n, w) float64
        Random columns of the leaves (q), those of the levels above, X, y.
    order, first
        As in `hlm_ext.gather.gather`.
    parents : (J,) intp
        Where the rest of each leaf goes.
    above : int
        Number of parents.
    q : int
    weights : (n,) float64 or None

    Returns
    -------
    roots : (J, q, w) float64
        [R V] of each leaf.
    rests : (above, w - q, w - q) float64
        The rest of the leaves of each parent, rotated to upper triangular.
    """
    cdef Py_ssize_t n = rows.shape[0], w = rows.shape[1], u = rows.shape[1] - q, J = first.shape[0] - 1
    cdef Py_ssize_t l, i, j, r, at, count, row
    cdef double root
    if parents.shape[0] != J or first[J] != n or not 0 < q <= w:
        raise ValueError(f"first must run from 0 to {n}, and parents have {J} entries")
    if (order is not None and order.shape[0] != n) or (weights is not None and weights.shape[0] != n):
        raise ValueError(f"order and weights must have {n} entries")
    for l in range(J):
        if not 0 <= parents[l] < above or not 0 <= first[l] <= first[l + 1]:
            raise ValueError(f"leaf {l} has no place")
    for i in range(n if order is not None else 0):
        if not 0 <= order[i] < n:
            raise ValueError(f"order[{i}] = {order[i]} is not a row")
    roots, rests = np.zeros((J, q, w)), np.zeros((above, u, u))
    cdef double[:, :, ::1] top = roots, rest = rests
    cdef double[:, ::1] panel = np.empty((PANEL_ROWS, w)), tri = np.empty((w, w))
    cdef double[::1] room = np.empty(w + 1)
    cdef Interrupt interrupt = Interrupt()
    with nogil:
        for l in range(J):
            if l % 64 == 0 and interrupt.stop(0):
                break
            tri[:, :] = 0
            at = first[l]
            while at < first[l + 1]:
                count = min(<Py_ssize_t> PANEL_ROWS, first[l + 1] - at)
                for r in range(count):
                    row = order[at + r] if order is not None else at + r
                    root = sqrt(weights[row]) if weights is not None else 1.0
                    for j in range(w):
                        panel[r, j] = rows[row, j] * root
                absorb(count, w, &panel[0, 0], w, &tri[0, 0], w, &room[0])
                at += count
            for i in range(q):
                memcpy(&top[l, i, 0], &tri[i, 0], w * sizeof(double))
            if u > 0:
                absorb(u, u, &tri[q, q], w, &rest[parents[l], 0, 0], u, &room[0])
    interrupt.check()
    return roots, rests


cdef inline int rotate_level(Level *lv, const double *top, Py_ssize_t ld, Scratch *sc, double *out,
                             double *product) noexcept nogil:
    """out := C⁻ᵀV (q x ldu), product *= |C| for [R V] in `top`."""
    cdef Py_ssize_t q = lv.q, u = lv.u, ldu = lv.ldu, i, j, c
    cdef double *C = sc.small
    cdef double *half = sc.small + q * q
    cdef double s
    for i in range(q):
        for j in range(q):
            C[i * q + j] = 1.0 if i == j else 0.0
            s = 0
            for c in range(max(i, j), q):
                s += lv.lam[c * q + i] * top[j * ld + c]
            half[i * q + j] = s
    absorb(q, q, half, q, C, q, sc.solved)
    for i in range(q):
        if not isfinite(C[i * q + i]):
            return <int> (i + 1)
        product[0] *= fabs(C[i * q + i])
        memset(out + i * ldu, 0, ldu * sizeof(double))
        memcpy(out + i * ldu, top + i * ld + q, u * sizeof(double))
        for c in range(i):
            hlm_axpy(u, -C[c * q + i], out + c * ldu, out + i * ldu)
        s = 1 / C[i * q + i]
        for j in range(u):
            out[i * ldu + j] *= s
    return 0


cdef int eliminate_roots(Walk *walk, Py_ssize_t k, Py_ssize_t lo, Py_ssize_t hi, double *into) noexcept nogil:
    """Eliminate levels lo .. hi - 1 of factor k with all their descendants; their rows go `into` (u x ldu, triangular).

    See `hlm_ext.peel.eliminate`.
    """
    cdef Level *lv = &walk.levels[k]
    cdef Scratch *sc = &walk.scratch[k]
    cdef Py_ssize_t q = lv.q, u = lv.u, w = lv.w, l, i, c, at, count, used = 0, ld = lv.w
    cdef const double *top
    cdef double *tri = sc.child_front
    cdef double *front
    for l in range(lo, hi):
        if k == 0:
            top = lv.root + l * q * w
        else:
            ld = walk.levels[k - 1].ldu
            memset(tri, 0, w * ld * sizeof(double))
            if k == 1:
                for i in range(w):
                    memcpy(tri + i * ld, lv.root + (l * w + i) * w, w * sizeof(double))
            if eliminate_roots(walk, k - 1, lv.first[l], lv.first[l + 1], tri):
                return 1
            top = tri
            front = lv.front + l * q * w     # [A | U] = R'[R V], which the moments read
            memset(front, 0, q * w * sizeof(double))
            for i in range(q):
                for c in range(i + 1):
                    hlm_axpy(w, tri[c * ld + i], tri + c * ld, front + i * w)
        if close_level(walk, k, l, rotate_level(lv, top, ld, sc, sc.panel + used * lv.ldu, &walk.product)):
            return 1
        used += q
        if used + q > PANEL_ROWS:
            absorb(used, u, sc.panel, lv.ldu, into, lv.ldu, sc.solved)
            used = 0
        if k > 0:
            at = 0
            while at < u:
                count = min(u - at, PANEL_ROWS + q - used)
                for i in range(count):
                    memcpy(sc.panel + (used + i) * lv.ldu, tri + (q + at + i) * ld + q, u * sizeof(double))
                absorb(used + count, u, sc.panel, lv.ldu, into, lv.ldu, sc.solved)
                at += count
                used = 0
    if used:
        absorb(used, u, sc.panel, lv.ldu, into, lv.ldu, sc.solved)
    return 0


cdef class RootForest(Forest):
    """A `Forest` that keeps rows, rotated, instead of their cross-products; slower, and right where those cancel.

    Parameters
    ----------
    blocks, children, total
        See `Forest`.
    roots, rests
        Of the leaves, from `leaf_roots`.
    floor : float
        A residual sum of squares that is no larger than this counts as none.
    """

    def __init__(self, list blocks, list children, total, roots, rests, double floor=0.0):
        Forest.__init__(self, blocks, children, total)
        cdef Py_ssize_t side = self.p + 1
        cdef const double[:, :, ::1] view
        if self.depth == 0:
            raise ValueError("a forest of rotated rows needs a factor")
        self.roots = [np.ascontiguousarray(roots, dtype=np.float64), np.ascontiguousarray(rests, dtype=np.float64)]
        above = self.levels[1].J if self.depth > 1 else 1
        if self.roots[0].shape != (self.levels[0].J, self.levels[0].q, self.levels[0].w):
            raise ValueError("roots must have the shape of the first block")
        if self.roots[1].shape != (above, self.levels[0].u, self.levels[0].u):
            raise ValueError(f"rests must be ({above}, {self.levels[0].u}, {self.levels[0].u})")
        view = self.roots[0]
        self.levels[0].root = &view[0, 0, 0]
        self.rest = np.zeros((side, side))
        if self.depth > 1:
            view = self.roots[1]
            self.levels[1].root = &view[0, 0, 0]
        else:
            self.rest = self.roots[1][0]
        self.rooted = True
        self.floor = floor
        self.root = np.zeros((side, side))

    cdef void factor_chunk(self, Walk *walk, Py_ssize_t chunk, Py_ssize_t thread, double *into) noexcept nogil:
        walk.levels = self.levels
        walk.scratch = self.scratch + thread * self.depth
        walk.product = 1
        memset(into, 0, (self.p + 1) * self.levels[self.depth - 1].ldu * sizeof(double))
        eliminate_roots(walk, self.depth - 1, self.bounds[chunk], self.bounds[chunk + 1], into)

    cdef Failure factor_into(self, double[:, ::1] schur, double *logdet) except *:
        """`Forest.factor_into`; the Cholesky factor of S, transposed, is left in `root`."""
        cdef Py_ssize_t side = self.p + 1, ld = self.levels[self.depth - 1].ldu, c, i, j
        cdef double[::1] room = np.empty(side + 1)
        cdef Failure failure = self.factor_chunks(logdet)
        if failure.status != OK:
            return failure
        self.root[:, :] = self.rest
        for c in range(self.chunks):
            absorb(side, side, &self.partial[c, 0], ld, &self.root[0, 0], side, &room[0])
        for i in range(side):
            if self.root[i, i] < 0:
                for j in range(i, side):
                    self.root[i, j] = -self.root[i, j]
        for i in range(side):
            for j in range(i, side):
                schur[i, j] = 0
                for c in range(i + 1):
                    schur[i, j] += self.root[c, i] * self.root[c, j]
        return failure
