"""Sums over the groups of one grouping factor that the derivatives of its criterion are made of (MATH: §7).

In units of σ², with the statistics A = Z'WZ and B = Z'W[X y] of a group, D the covariance of its effects and E_a the
directions of D:

    K = (I + AD)⁻¹ B,   T = (I + AD)⁻¹ A,   S_a = -K'E_aK,   Q_ab = K'E_aTE_bK

With a root CC' = T the rows C'E_1K | … | C'E_mK of all groups have every Q_ab among their cross-products.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport NAN, sqrt
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import numpy as np

from hlm_ext.moments cimport solve_front
from hlm_ext.partition cimport Interrupt, chunk_count, threads_for
from hlm_ext.tree cimport PANEL_ROWS, Level, Scratch, hlm_axpy, hlm_rank_update


cdef Level level_of(const double[:, :, ::1] blocks, const double[:, ::1] D) except *:
    """Return the shape of a factor and its covariance, checked."""
    cdef Level level
    level.q = blocks.shape[1]
    level.w = blocks.shape[2]
    if level.q < 1 or level.w <= level.q:
        raise ValueError(f"blocks must be (J, q, q + p + 1), got ({blocks.shape[0]}, {level.q}, {level.w})")
    if D.shape[0] != level.q or D.shape[1] != level.q:
        raise ValueError(f"D must be ({level.q}, {level.q}), got ({D.shape[0]}, {D.shape[1]})")
    level.cov = &D[0, 0]
    return level


cdef struct Shape:
    # Of a factor: random columns, p + 1, directions, and row lengths of panels (multiples of 8).
    Py_ssize_t q, r, m, wide, pairs


cdef struct Totals:
    # Sums over a chunk of groups.
    double *trace            # m
    double *traces           # m x m, a ≥ b
    double *slopes           # wide x wide: K_i'K_j, upper triangle
    double *products         # pairs x pairs: (C'E_aK)'(C'E_bK) with CC' = T, upper triangle


cdef void own_traces(Shape *shape, const double *T, Py_ssize_t width, const double *square, Totals *out) noexcept nogil:
    """trace += tr(TE_a), traces += tr(TE_aTE_b), a ≥ b; `square` is T (q x q)."""
    cdef Py_ssize_t q = shape.q, m = shape.m, a = 0, b, i, j, s, c
    for j in range(q):
        for i in range(j, q):
            out.trace[a] += (1 if i == j else 2) * T[i * width + j]
            b = 0
            for s in range(q):
                for c in range(s, q):
                    if b > a:
                        break
                    out.traces[a * m + b] += paired(q, T, width, square, i, j, s, c)
                    b += 1
            a += 1


cdef void root_of(Py_ssize_t q, double *T, double *C) noexcept nogil:
    """C (q x q) with CC' = T, positive semidefinite: Cholesky with complete pivoting. `T` is used up."""
    cdef Py_ssize_t i, j, c, best
    cdef double top = 0, d
    memset(C, 0, q * q * sizeof(double))
    for i in range(q):
        top = max(top, T[i * q + i])
    for c in range(q):
        best = 0
        for i in range(1, q):
            if T[i * q + i] > T[best * q + best]:
                best = i
        if not T[best * q + best] > 1e-16 * top:
            return
        d = 1 / sqrt(T[best * q + best])
        for i in range(q):
            C[i * q + c] = T[i * q + best] * d
        for i in range(q):
            for j in range(q):
                T[i * q + j] -= C[i * q + c] * C[j * q + c]
        for i in range(q):
            T[i * q + best] = 0
            T[best * q + i] = 0


cdef void group_rows(Shape *shape, const double *K, Py_ssize_t width, const double *C, double *own,
                     double *rows) noexcept nogil:
    """Row `own` := K_1 | … | K_q, and q `rows` := C'E_1K | … | C'E_mK."""
    cdef Py_ssize_t q = shape.q, r = shape.r, i, j, c, a = 0
    for i in range(q):
        memcpy(own + i * r, K + i * width, r * sizeof(double))
    memset(rows, 0, q * shape.pairs * sizeof(double))
    for j in range(q):
        for i in range(j, q):
            for c in range(q):
                hlm_axpy(r, C[i * q + c], K + j * width, rows + c * shape.pairs + a * r)
                if i != j:
                    hlm_axpy(r, C[j * q + c], K + i * width, rows + c * shape.pairs + a * r)
            a += 1


cdef void sum_groups(Level *level, Shape *shape, const double *blocks, Py_ssize_t lo, Py_ssize_t hi, double *room,
                     Totals *out) noexcept nogil:
    """Add up groups lo .. hi - 1; `room` holds small matrices and panels, see `group_sums`."""
    cdef Py_ssize_t q = shape.q, w = level.w, g, i, used = 0
    cdef double *square = room + q * q
    cdef double *C = square + q * q
    cdef double *own = C + q * q + q * w
    cdef double *rows = own + PANEL_ROWS * shape.wide
    cdef Scratch sc
    sc.small = room
    sc.solved = C + q * q
    for g in range(lo, hi):
        if solve_front(level, &sc, blocks + g * q * w, w):
            out.trace[0] = NAN
            continue
        for i in range(q):
            memcpy(square + i * q, sc.solved + i * w, q * sizeof(double))
        own_traces(shape, sc.solved, w, square, out)
        root_of(q, square, C)
        group_rows(shape, sc.solved + q, w, C, own + used * shape.wide, rows + used * q * shape.pairs)
        used += 1
        if used == PANEL_ROWS or g + 1 == hi:
            hlm_rank_update(used, shape.wide, own, shape.wide, out.slopes, shape.wide)
            hlm_rank_update(used * q, shape.pairs, rows, shape.pairs, out.products, shape.pairs)
            used = 0


def group_sums(const double[:, :, ::1] blocks not None, const double[:, ::1] D not None):
    """Sum over groups what `hlm_ext.deletion.delete_groups` takes them out of.

    Parameters
    ----------
    blocks : (J, q, q + p + 1) float64
        Z'W[Z X y] of each group.
    D : (q, q) float64
        Covariance of the effects in units of σ².

    Returns
    -------
    trace : (m,) float64
        tr(TE_a) for the m = q (q + 1) / 2 directions of D: its lower triangle, column by column.
    traces : (m, m) float64
        tr(TE_aTE_b).
    slopes : (m, p + 1, p + 1) float64
        S_a.
    products : (m, m, p + 1, p + 1) float64
        Q_ab.

    Raises
    ------
    ValueError
        If shapes do not fit each other.
    """
    cdef Level level = level_of(blocks, D)
    cdef Shape shape
    cdef Py_ssize_t J = blocks.shape[0], q = level.q, r = level.w - q, m = q * (q + 1) // 2, c
    shape.q, shape.r, shape.m, shape.wide, shape.pairs = q, r, m, (q * r + 7) // 8 * 8, (m * r + 7) // 8 * 8
    cdef Py_ssize_t size = m + m * m + shape.wide ** 2 + shape.pairs ** 2
    cdef Py_ssize_t chunks = chunk_count(J, 256, size)
    cdef int threads = threads_for(chunks)
    cdef double[:, ::1] rooms = np.zeros(
        (threads, 3 * q * q + q * level.w + PANEL_ROWS * (shape.wide + q * shape.pairs) + 16))
    partial = np.zeros((chunks, size))
    cdef double[:, ::1] sums = partial
    cdef Totals *totals = <Totals *> malloc(chunks * sizeof(Totals))
    if totals == NULL:
        raise MemoryError
    for c in range(chunks):
        totals[c].trace = &sums[c, 0]
        totals[c].traces = totals[c].trace + m
        totals[c].slopes = totals[c].traces + m * m
        totals[c].products = totals[c].slopes + shape.wide ** 2
    cdef Interrupt interrupt = Interrupt()
    for c in prange(chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
        if not interrupt.stop(threadid()):
            sum_groups(&level, &shape, &blocks[0, 0, 0], J * c // chunks, J * (c + 1) // chunks, &rooms[threadid(), 0],
                       &totals[c])
    free(totals)
    interrupt.check()
    total = np.zeros(size)
    for c in range(chunks):
        total += partial[c]
    trace, traces, own, rows = np.split(total, np.cumsum([m, m * m, shape.wide ** 2]))
    own = _symmetric(own, q * r).reshape(q, r, q, r)
    slopes = np.array([-own[i, :, j] - (own[j, :, i] if i != j else 0) for j in range(q) for i in range(j, q)])
    products = _symmetric(rows, m * r).reshape(m, r, m, r).transpose(0, 2, 1, 3)
    return trace, _symmetric(traces, m, lower=True), slopes, products


def _symmetric(flat, Py_ssize_t n, lower=False):
    """Return the (n, n) matrix of which one triangle is given, in rows that may be longer."""
    side = int(round(len(flat) ** 0.5))
    half = flat.reshape(side, side)[:n, :n]
    half = half.T if lower else half
    return np.triu(half) + np.triu(half, 1).T
