"""Elimination of a nested hierarchy, leaves first (MATH: kernel 2).

A level l of a factor has the front F = [A | U] (q x w): cross-products of its random columns with themselves and with
the columns above it, less what its children subtracted. With M = Λ'AΛ + I = LL' and R = L⁻¹Λ'U it adds log|M| to the
determinant and subtracts R'R from the columns above. Whole families go through one rank update.
"""

from libc.math cimport isfinite, log, sqrt
from libc.string cimport memset

from hlm_ext.status cimport NOT_FINITE, NOT_POSITIVE
from hlm_ext.tree cimport PANEL_ROWS, Level, Scratch, Walk, hlm_axpy, hlm_rank_update


cdef int cholesky(Py_ssize_t n, double *a, Py_ssize_t lda) noexcept nogil:
    """Replace the lower triangle of `a` by L with LL' = a; return 0, or 1 + the column whose pivot is not positive."""
    cdef Py_ssize_t i, j, c
    cdef double s
    for j in range(n):
        for i in range(j, n):
            s = a[i * lda + j]
            for c in range(j):
                s -= a[i * lda + c] * a[j * lda + c]
            if i == j:
                if not (s > 0 and isfinite(s)):
                    return <int> (j + 1)
                a[j * lda + j] = sqrt(s)
            else:
                a[i * lda + j] = s / a[j * lda + j]
    return 0


cdef inline void assemble(Level *lv, Py_ssize_t l, const double *child, Py_ssize_t ldc, double *into) noexcept nogil:
    """Front of level l := its statistics - what its children subtracted; the rest of that goes on to `into`."""
    cdef Py_ssize_t q = lv.q, w = lv.w, i, j
    cdef const double *stat = lv.stat + l * q * w
    cdef double *front = lv.front + l * q * w
    for i in range(q):
        for j in range(i, w):
            front[i * w + j] = stat[i * w + j] - child[i * ldc + j]
        for j in range(i):
            front[i * w + j] = front[j * w + i]
    for i in range(lv.u):
        hlm_axpy(lv.u - i, 1.0, child + (q + i) * ldc + q + i, into + i * lv.ldu + i)


cdef inline int whitened_rows(Level *lv, const double *front, double *small, double *rows,
                              double *product) noexcept nogil:
    """Rows := R = L⁻¹Λ'U of one level, product *= diagonal of L; return 0, or 1 + the column that failed."""
    cdef Py_ssize_t q = lv.q, u = lv.u, w = lv.w, ldu = lv.ldu, i, j, c
    cdef const double *lam = lv.lam
    cdef double *al = small
    cdef double *mat = small + q * q
    cdef double s
    cdef int failed
    for i in range(q):                       # A Λ
        for j in range(q):
            s = 0
            for c in range(j, q):
                s += front[i * w + c] * lam[c * q + j]
            al[i * q + j] = s
    for i in range(q):                       # Λ'AΛ + I, lower triangle
        for j in range(i + 1):
            s = 1.0 if i == j else 0.0
            for c in range(i, q):
                s += lam[c * q + i] * al[c * q + j]
            mat[i * q + j] = s
    failed = cholesky(q, mat, q)
    if failed:
        return failed
    for i in range(q):
        product[0] *= mat[i * q + i]
        memset(rows + i * ldu, 0, u * sizeof(double))
        for c in range(i, q):
            if lam[c * q + i] != 0:
                hlm_axpy(u, lam[c * q + i], front + c * w + q, rows + i * ldu)
        for c in range(i):
            hlm_axpy(u, -mat[i * q + c], rows + c * ldu, rows + i * ldu)
        s = 1 / mat[i * q + i]
        for j in range(u):
            rows[i * ldu + j] *= s
    return 0


cdef inline void scalar_row(Level *lv, const double *front, double *row, double *product) noexcept nogil:
    """`whitened_rows` for one random column: M = 1 + λ²a, R = λU / √M."""
    cdef double root = sqrt(1 + lv.lam[0] * lv.lam[0] * front[0]), scale = lv.lam[0] / root
    cdef Py_ssize_t j
    product[0] *= root
    for j in range(lv.u):
        row[j] = scale * front[1 + j]


cdef int level_rows(Walk *walk, Py_ssize_t k, Py_ssize_t l, double *rows) noexcept nogil:
    """Rows (q, ldu) := R of one level whose front is ready; return 0, or 1 with `walk.failure` filled."""
    cdef Level *lv = &walk.levels[k]
    cdef int failed = 0
    if lv.q == 1:
        scalar_row(lv, lv.front + l * lv.w, rows, &walk.product)
    else:
        failed = whitened_rows(lv, lv.front + l * lv.q * lv.w, walk.scratch[k].small, rows, &walk.product)
    return close_level(walk, k, l, failed)


cdef int close_level(Walk *walk, Py_ssize_t k, Py_ssize_t l, int failed) noexcept nogil:
    """Keep the running product in range; return 0, or 1 with `walk.failure` filled (`failed`: 1 + column, or 0)."""
    cdef Level *lv = &walk.levels[k]
    if failed or not isfinite(walk.product):
        walk.failure.status = NOT_FINITE if not isfinite(lv.front[l * lv.q * lv.w]) else NOT_POSITIVE
        walk.failure.factor = k
        walk.failure.level = l
        walk.failure.column = failed - 1 if failed else -1
        return 1
    if walk.product > 1e200:                 # a logarithm for each level would cost more than the rest
        walk.logdet += log(walk.product)
        walk.product = 1
    return 0


cdef int eliminate(Walk *walk, Py_ssize_t k, Py_ssize_t lo, Py_ssize_t hi, double *into) noexcept nogil:
    """Eliminate levels lo .. hi - 1 of factor k with all their descendants; into += Σ R'R (u x u, row length ldu).

    Adds to `walk.logdet` (the logarithm of `walk.product` is due at the end). Returns 0, or 1 with `walk.failure`
    filled.
    """
    cdef Level *lv = &walk.levels[k]
    cdef Scratch *sc = &walk.scratch[k]
    cdef Py_ssize_t l, used = 0, ldc
    for l in range(lo, hi):
        if k > 0:
            ldc = walk.levels[k - 1].ldu
            memset(sc.child_front, 0, lv.w * ldc * sizeof(double))
            if eliminate(walk, k - 1, lv.first[l], lv.first[l + 1], sc.child_front):
                return 1
            assemble(lv, l, sc.child_front, ldc, into)
        if level_rows(walk, k, l, sc.panel + used * lv.ldu):
            return 1
        used += lv.q
        if used + lv.q > PANEL_ROWS:
            hlm_rank_update(used, lv.ldu, sc.panel, lv.ldu, into, lv.ldu)
            used = 0
    if used:
        hlm_rank_update(used, lv.ldu, sc.panel, lv.ldu, into, lv.ldu)
    return 0
