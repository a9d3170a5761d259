"""Linear algebra of a few rows and columns, without the overhead of a general library."""

from libc.math cimport hypot, sqrt
from scipy.linalg.cython_lapack cimport dsyev

import numpy as np


cdef int must_be_square(Py_ssize_t rows, Py_ssize_t columns) except -1:
    if rows != columns:
        raise ValueError(f"the matrix must be square, got ({rows}, {columns})")
    return 0


cdef enum:
    DROPPED = 0
    KEPT = 1
    OPEN = 2

# A column of which less than this part of its sum of squares is left after those before it cannot be judged from
# cross-products: they carry some 1e-16 of it as rounding, more where the columns before it depended on each other too.
cdef double TELLING = 1e-8


def orthonormal(const double[:, ::1] gram not None, const double[::1] floor=None):
    """Find W, upper triangular, that makes independent columns orthonormal: W'GW = I.

    Parameters
    ----------
    gram : (p, p) float64
        G = X'X.
    floor : (p,) float64, optional
        A column is dropped when no more than this is left of its sum of squares after the columns before it; 0 if None.

    Returns
    -------
    state : (p,) int8
        1 for a column that is independent of those before it, 0 for one that is dropped, and 2 (open) for one of which
        so little is left that the cross-products cannot tell. r columns are not dropped.
    W : (r, r) float64
        X[:, state > 0] @ W has orthonormal columns; those of open ones have been relieved of the columns before them,
        but not normalised, and later ones have not been relieved of them.

    Notes
    -----
    Modified Gram-Schmidt on the Gram matrix: later columns are judged against earlier ones, as statisticians expect.
    """
    cdef Py_ssize_t p = gram.shape[0], r = 0, i, j, c
    cdef double s, least
    must_be_square(gram.shape[0], gram.shape[1])
    state = np.zeros(p, dtype=np.int8)
    factor = np.zeros((p, p))
    cdef signed char[::1] mark = state
    cdef double[:, ::1] L = factor           # rows of columns that are not dropped
    cdef Py_ssize_t[::1] place = np.zeros(p + 1, dtype=np.intp)
    for j in range(p):
        least = floor[j] if floor is not None else 0.0
        if not gram[j, j] > least:
            continue
        for c in range(r):
            s = gram[j, place[c]]
            for i in range(c):
                s -= L[r, i] * L[c, i]
            L[r, c] = s / L[c, c] if mark[place[c]] == KEPT else 0.0
        s = gram[j, j]
        for c in range(r):
            s -= L[r, c] * L[r, c]
        if not s > TELLING * gram[j, j]:
            mark[j] = OPEN
            s = gram[j, j]
        elif s > least:
            mark[j] = KEPT
        else:
            continue
        L[r, r] = sqrt(s)
        place[r] = j
        r += 1
    inverse = np.zeros((r, r))
    cdef double[:, ::1] W = inverse          # W = L⁻ᵀ: W[j, i] = (L⁻¹)[i, j]
    for j in range(r):
        for i in range(j, r):
            s = 1.0 if i == j else 0.0
            for c in range(j, i):
                s -= L[i, c] * W[j, c]
            W[j, i] = s / L[i, i]
    return state, inverse


def orthonormal_basis(const double[:, ::1] total not None, const double[::1] mean not None,
                      const double[::1] factor not None, const double[::1] multiple not None,
                      const double[::1] noise not None, Py_ssize_t constant, const Py_ssize_t[::1] places not None,
                      double aliased, bint shifted=True):
    """Make columns orthonormal that are given by a pool of shifted and scaled ones.

    Parameters
    ----------
    total : (C, C) float64
        Cross-products of the pool, whose columns are (x - mean) · factor.
    mean, factor : (C,) float64
    multiple : (C,) float64
        Value of a pool column that is constant (it is kept as 1), else 0.
    noise : (C,) float64
        Length of the rounding errors that the values of each pool column came with.
    constant : int
        Position of a constant column in the pool, -1 without one.
    places : (b,) intp
        Positions of the columns in the pool.
    aliased : float
        A column is dropped when what is left of it after those before it is no longer than this, in units of noise.
    shifted : bool
        Whether a constant column among the b may undo the shift of those after it. (Those before it are not shifted:
        whether they are aliased must not depend on it.)

    Returns
    -------
    state : (b,) int8
        See `orthonormal`; r columns are not dropped.
    B : (C, r) float64
        pool @ B is orthonormal, but for open columns.
    back : (r, r) float64
        columns that are not dropped = pool @ B @ back⁻¹: their coefficients are back @ those of the basis. Upper
        triangular.
    at : int
        Position among those of the constant column that undoes the shift, -1 without one.
    """
    cdef Py_ssize_t C = mean.shape[0], b = places.shape[0], i, j, c, r, at = -1
    cdef double s
    cdef double[:, ::1] g = np.zeros((b, b))
    # part of 1 in each column, its scale, and what is too little of it
    cdef double[::1] own = np.zeros(b + 1), d = np.zeros(b + 1), floor = np.zeros(b)
    cdef Py_ssize_t[::1] place = np.zeros(b + 1, dtype=np.intp)
    for j in range(b):
        if not 0 <= places[j] < C:
            raise ValueError("places names a column that is not in the pool")
        if multiple[places[j]] != 0:
            place[j] = constant
            d[j] = multiple[places[j]]
            if shifted and at < 0:
                at = j
        else:
            place[j] = places[j]
            d[j] = 1 / factor[places[j]]
    for j in range(b):
        if constant >= 0 and not (at >= 0 and j > at):
            own[j] = mean[places[j]] * factor[places[j]]
        floor[j] = (aliased * noise[places[j]]) ** 2
    for i in range(b):
        for j in range(i + 1):
            s = total[place[i], place[j]]
            if own[i] != 0:
                s += own[i] * total[constant, place[j]]
            if own[j] != 0:
                s += own[j] * total[place[i], constant]
                s += own[i] * own[j] * total[constant, constant]
            g[i, j] = s
            g[j, i] = s
    state, W = orthonormal(g, floor)
    cdef const signed char[::1] mark = state
    if at >= 0 and mark[at] != KEPT:         # earlier columns add up to it: it cannot carry the shift of the others
        return orthonormal_basis(total, mean, factor, multiple, noise, constant, places, aliased, False)
    r = W.shape[0]
    B, back = np.zeros((C, r)), np.zeros((r, r))
    cdef double[:, ::1] basis = B, inverse = back, w = W
    cdef Py_ssize_t row = 0, top = -1
    for j in range(b):
        if mark[j] == DROPPED:
            continue
        if j == at:
            top = row
        for c in range(r):
            basis[place[j], c] += w[row, c]
            if own[j] != 0:
                basis[constant, c] += own[j] * w[row, c]
            inverse[row, c] += w[row, c] / d[j]
            if at >= 0 and j > at:
                inverse[top, c] -= mean[places[j]] / (d[j] * d[at]) * w[row, c]
        row += 1
    return state, B, back, top


def eigh(const double[:, :] matrix not None):
    """Eigenvalues, ascending, and eigenvectors (columns) of a small symmetric matrix; LAPACK's dsyev.

    Parameters
    ----------
    matrix : (q, q) float64
        Its symmetric part is taken.

    Returns
    -------
    values : (q,) float64
    vectors : (q, q) float64

    Raises
    ------
    ArithmeticError
        If a number is not finite.
    """
    cdef int q = <int> matrix.shape[0], lwork = max(1, 34 * q), info = 0
    cdef Py_ssize_t i, j
    must_be_square(matrix.shape[0], matrix.shape[1])
    values, vectors = np.zeros(q), np.zeros((q, q))
    if q == 0:
        return values, vectors
    cdef double[::1] w = values, work = np.empty(lwork)
    cdef double[:, ::1] v = vectors
    for i in range(q):
        for j in range(q):
            v[i, j] = 0.5 * (matrix[i, j] + matrix[j, i])
    dsyev("V", "L", &q, &v[0, 0], &q, &w[0], &work[0], &lwork, &info)
    if info != 0:
        raise ArithmeticError("the matrix holds numbers that are not finite")
    return values, vectors.T                 # LAPACK's columns are our rows


def lower_factor(const double[:, :] root not None):
    """Return lower triangular L (q, q), diagonal ≥ 0, with LL' = root root' for any square root, singular or not.

    Givens rotations of the columns: nothing is divided by a pivot, so a covariance without full rank loses nothing.
    """
    cdef Py_ssize_t q = root.shape[0], i, j, r
    cdef double a, b, h, x
    must_be_square(root.shape[0], root.shape[1])
    factor = np.array(root, order="C")
    cdef double[:, ::1] L = factor
    for i in range(q):
        for j in range(i + 1, L.shape[1]):
            if L[i, j] == 0:
                continue
            h = hypot(L[i, i], L[i, j])
            a = L[i, i] / h
            b = L[i, j] / h
            for r in range(i, q):
                x = L[r, i]
                L[r, i] = a * x + b * L[r, j]
                L[r, j] = a * L[r, j] - b * x
            L[i, j] = 0
        if L[i, i] < 0:
            for r in range(i, q):
                L[r, i] = -L[r, i]
    return factor


def lower_root(const double[:, :] matrix not None, double least=0.0, double relative=0.0):
    """Return lower triangular L with LL' = D after eigenvalues of D below a floor were raised to it.

    Parameters
    ----------
    matrix : (q, q) float64
        Symmetric D.
    least, relative : float
        The floor is max(least, relative · largest eigenvalue); 0 projects on the positive semidefinite matrices.
    """
    values, vectors = eigh(matrix)
    cdef double[::1] w = values
    cdef double[:, :] v = vectors
    cdef Py_ssize_t q = values.shape[0], i, j
    cdef double bottom = max(least, relative * w[q - 1]) if q else 0.0, s
    for j in range(q):
        s = sqrt(max(w[j], bottom))
        for i in range(q):
            v[i, j] *= s
    return lower_factor(vectors)
