"""Sums of independent indicators (Poisson binomial distributions), each indicator left out in turn.

How many of J values lie above a node is a sum of J indicators with probabilities p. Its distribution F is built up
once, F(r) ← F(r)(1 - p) + F(r - 1)p for each p, and the one without an indicator follows by undoing this step:

    upwards     f(r) = (F(r) - p f(r - 1)) / (1 - p)            where p ≤ 1/2
    downwards   f(r) = (F(r + 1) - (1 - p) f(r + 1)) / p        where p > 1/2

In this direction errors do not grow.
"""

from cython.parallel cimport prange, threadid

import numpy as np

from hlm_ext.partition cimport Interrupt, chunk_count, threads_for


cdef void build(Py_ssize_t J, const double *p, double *F) noexcept nogil:
    """Distribution F (J + 1) of the sum of J indicators."""
    cdef Py_ssize_t k, r
    cdef double q
    F[0] = 1
    for k in range(J):
        q = p[k]
        F[k + 1] = F[k] * q
        for r in range(k, 0, -1):
            F[r] = F[r] * (1 - q) + F[r - 1] * q
        F[0] *= 1 - q


cdef void add_without(Py_ssize_t J, double p, double weight, const double *F, double *out) noexcept nogil:
    """out (J) += weight · distribution of the sum without an indicator of probability p."""
    cdef Py_ssize_t r
    cdef double f = 0, back
    if p <= 0.5:
        back = 1 / (1 - p)
        for r in range(J):
            f = (F[r] - p * f) * back
            out[r] += weight * f
    else:
        back = 1 / p
        for r in range(J - 1, -1, -1):
            f = (F[r + 1] - (1 - p) * f) * back
            out[r] += weight * f


def leave_one_out(const double[:, ::1] p not None, const double[:, ::1] weight not None):
    """Distributions of sums of indicators without one of them, added up over nodes.

    Parameters
    ----------
    p : (N, J) float64
        Probabilities of J independent indicators at each of N nodes.
    weight : (N, J) float64
        Weight of each node for each indicator.

    Returns
    -------
    (J, J) float64
        Row j: Σ over nodes of weight[:, j] times the distribution of the sum of the others, 0 … J - 1.
    """
    cdef Py_ssize_t N = p.shape[0], J = p.shape[1], chunks, c, j, x
    if weight.shape[0] != N or weight.shape[1] != J:
        raise ValueError(f"weight must be ({N}, {J}), got ({weight.shape[0]}, {weight.shape[1]})")
    out = np.zeros((J, J))
    if N == 0 or J == 0:
        return out
    cdef double[:, ::1] F = np.empty((N, J + 1)), view = out
    cdef Interrupt interrupt = Interrupt()
    # indicators write rows of their own, and add up nodes in order: the same bits for any number of threads
    chunks = chunk_count(N, 8, 0)
    cdef int threads = threads_for(chunks)
    for c in prange(chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
        if not interrupt.stop(threadid()):
            for x in range(N * c // chunks, N * (c + 1) // chunks):
                build(J, &p[x, 0], &F[x, 0])
    interrupt.check()
    chunks = chunk_count(J, 8, 0)
    threads = threads_for(chunks)
    for c in prange(chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
        if not interrupt.stop(threadid()):
            for j in range(J * c // chunks, J * (c + 1) // chunks):
                for x in range(N):
                    if weight[x, j] != 0:
                        add_without(J, p[x, j], weight[x, j], &F[x, 0], &view[j, 0])
    interrupt.check()
    return out
