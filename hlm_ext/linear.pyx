"""Orthonormal coordinates from a Gram matrix."""

from libc.math cimport sqrt

import numpy as np


def orthonormal(const double[:, ::1] gram not None, double aliased):
    """Find W, upper triangular, that makes independent columns orthonormal: W'GW = I.

    Parameters
    ----------
    gram : (p, p) float64
        G = X'X.
    aliased : float
        A column is left out when no more than this part of its sum of squares is left after the columns before it.

    Returns
    -------
    kept : (p,) bool
        Columns that are independent of those before them; r of them.
    W : (r, r) float64
        X[:, kept] @ W has orthonormal columns. W is the inverse of the transposed Cholesky factor.

    Notes
    -----
    Modified Gram-Schmidt on the Gram matrix: later columns are judged against earlier ones, as statisticians expect.
    """
    cdef Py_ssize_t p = gram.shape[0], r = 0, i, j, c
    cdef double s
    kept = np.zeros(p, dtype=bool)
    factor = np.zeros((p, p))
    cdef double[:, ::1] L = factor           # rows of kept columns only
    cdef Py_ssize_t[::1] place = np.zeros(p + 1, dtype=np.intp)
    for j in range(p):
        for c in range(r):
            s = gram[j, place[c]]
            for i in range(c):
                s -= L[r, i] * L[c, i]
            L[r, c] = s / L[c, c]
        s = gram[j, j]
        for c in range(r):
            s -= L[r, c] * L[r, c]
        if gram[j, j] > 0 and s > aliased * gram[j, j]:
            L[r, r] = sqrt(s)
            place[r] = j
            kept[j] = True
            r += 1
    inverse = np.zeros((r, r))
    cdef double[:, ::1] W = inverse          # W = L⁻ᵀ: W[j, i] = (L⁻¹)[i, j]
    for j in range(r):
        for i in range(j, r):
            s = 1.0 if i == j else 0.0
            for c in range(j, i):
                s -= L[i, c] * W[j, c]
            W[j, i] = s / L[i, i]
    return kept, inverse
