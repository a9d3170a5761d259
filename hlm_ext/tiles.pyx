"""Symmetric matrices in square tiles: Cholesky factor, inverse on the pattern of the factor, solves and products.

A matrix is an array (tiles, b, b) of the tiles on and below the diagonal that are not zero; a full pattern is a dense
matrix, so dense and sparse are one code. All arithmetic on tiles is matrix products of fixed size b ≤ 64 by BLAS, which
are too small for it to share among threads: the tiles are shared instead, and bits do not depend on the number of
threads.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport log
from libc.string cimport memcpy, memset
from scipy.linalg.cython_blas cimport dgemm

import numpy as np

from hlm_ext.partition cimport Interrupt, threads_for
from hlm_ext.peel cimport cholesky


cdef extern from "order.h" nogil:
    Py_ssize_t hlm_take(volatile Py_ssize_t *counter)
    void hlm_set(volatile int *flag, int value)
    int hlm_get(volatile int *flag)
    void hlm_yield()

cdef enum:
    TILES_A_THREAD = 20      # fewer are not worth a second thread


cdef void multiply(bint ta, bint tb, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, double alpha, const double *A,
                   Py_ssize_t lda, const double *B, Py_ssize_t ldb, double beta, double *C,
                   Py_ssize_t ldc) noexcept nogil:
    """C := α op(A) op(B) + β C, row-major: C is m x n, op(A) m x k, op(B) k x n."""
    # BLAS is column-major: it sees the transposes, so C' = op(B)' op(A)' keeps both flags and swaps the operands.
    cdef char fa = c"T" if ta else c"N"
    cdef char fb = c"T" if tb else c"N"
    cdef int im = <int> m, jn = <int> n, kk = <int> k, a = <int> lda, b = <int> ldb, c = <int> ldc
    dgemm(&fb, &fa, &jn, &im, &kk, &alpha, <double *> B, &b, <double *> A, &a, &beta, C, &c)


def product(const double[:, ::1] A not None, const double[:, ::1] B not None, Py_ssize_t b=64):
    """Return A B (m, n) by blocks of b, with the same bits for any number of threads."""
    cdef Py_ssize_t m = A.shape[0], k = A.shape[1], n = B.shape[1], r
    if B.shape[0] != k:
        raise ValueError(f"A has {k} columns, B {B.shape[0]} rows")
    out = np.zeros((m, n))
    if not m or not n or not k:
        return out
    cdef double[:, ::1] C = out
    cdef Py_ssize_t blocks = (m + b - 1) // b
    cdef int threads = threads_for(blocks)
    cdef Interrupt interrupt = Interrupt()
    for r in prange(blocks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
        if not interrupt.stop(threadid()):
            product_rows(r * b, min(b, m - r * b), n, k, b, &A[0, 0], &B[0, 0], &C[0, 0])
    interrupt.check()
    return out


cdef void product_rows(Py_ssize_t i, Py_ssize_t rows, Py_ssize_t n, Py_ssize_t k, Py_ssize_t b, const double *A,
                       const double *B, double *C) noexcept nogil:
    cdef Py_ssize_t j, l
    for j from 0 <= j < n by b:
        for l from 0 <= l < k by b:
            multiply(False, False, rows, min(b, n - j), min(b, k - l), 1.0, A + i * k + l, k, B + l * n + j, n, 1.0,
                     C + i * n + j, n)


cdef void transpose(Py_ssize_t b, double *tile) noexcept nogil:
    """tile := tile', by blocks that stay in the cache."""
    cdef Py_ssize_t i, j, r, c
    cdef double held
    for r from 0 <= r < b by 8:
        for c from 0 <= c <= r by 8:
            for i in range(r, min(b, r + 8)):
                for j in range(c, min(i, c + 8)):
                    held = tile[i * b + j]
                    tile[i * b + j] = tile[j * b + i]
                    tile[j * b + i] = held


cdef class Tiles:
    """A tile pattern with its Cholesky factor.

    Parameters
    ----------
    rows, cols : (T,) intp
        Tile row and column of each tile, rows ≥ cols, sorted by column and then by row; every diagonal tile must be
        there, and the pattern must be closed under elimination: (i, j) and (k, j) with i ≥ k > j imply (i, k).
    b : int
        Side of a tile.

    Attributes
    ----------
    side : int
        Tiles along the diagonal.

    Raises
    ------
    ValueError
        If the pattern is not as described.
    """

    def __init__(self, rows, cols, Py_ssize_t b):
        self.rows = np.ascontiguousarray(rows, dtype=np.intp)
        self.cols = np.ascontiguousarray(cols, dtype=np.intp)
        self.row = self.rows
        self.col = self.cols
        self.b = b
        self.count = self.row.shape[0]
        self.side = int(self.cols.max()) + 1 if self.count else 0
        cdef Py_ssize_t t, j, s
        self.place = np.full((self.side, self.side), -1, dtype=np.intp)
        starts = np.searchsorted(self.cols, np.arange(self.side + 1)).astype(np.intp)
        self.start = starts
        for t in range(self.count):
            if not self.col[t] <= self.row[t] < self.side or (
                    t and (self.col[t - 1], self.row[t - 1]) >= (self.col[t], self.row[t])):
                raise ValueError("tiles must lie on or below the diagonal, sorted by column and then by row")
            self.place[self.row[t], self.col[t]] = t
        for j in range(self.side):
            if self.place[j, j] != self.start[j]:
                raise ValueError(f"tile ({j}, {j}) is missing")
            for t in range(self.start[j] + 1, self.start[j + 1]):
                for s in range(self.start[j] + 1, t):
                    if self.place[self.row[t], self.row[s]] < 0:
                        raise ValueError("the pattern is not closed under elimination")
        left = self.rows > self.cols
        order = np.flatnonzero(left)[np.argsort(self.rows[left], kind="stable")].astype(np.intp)
        self.row_tile = order
        self.row_start = np.searchsorted(self.rows[order], np.arange(self.side + 1)).astype(np.intp)
        self.diagonal = np.zeros((max(self.side, 1), b, b))
        self.done = np.zeros(max(self.count, 1), dtype=np.intc)

    cdef double *factor_tile(self, Py_ssize_t t) noexcept nogil:
        return &self.lower[t, 0, 0]

    def factor(self, matrix not None):
        """Overwrite `matrix` (T, b, b) by its Cholesky factor and keep it.

        Returns
        -------
        logdet : float
        failed : int
            Position of a pivot that is not positive, or -1.
        """
        cdef Py_ssize_t j, c, failed
        cdef double logdet = 0
        cdef const double *d
        self.lower = matrix
        failed = self.run(self.lower, False)
        if failed >= 0:
            return logdet, failed
        self.turn()
        for j in range(self.side):
            d = self.factor_tile(self.start[j])
            for c in range(self.b):
                logdet += 2 * log(d[c * self.b + c])
        return logdet, -1

    cdef Py_ssize_t run(self, double[:, :, ::1] z, bint inverse) except -2:
        """Make all tiles of the factor, or of the inverse into z; return the position of a failed pivot, or -1."""
        cdef int threads = threads_for(max(1, self.count // TILES_A_THREAD)), thread
        cdef Interrupt interrupt = Interrupt()
        cdef int[::1] done = self.done
        done[:] = 0
        self.next = 0
        self.given_up = 0
        self.failed = -1
        self.room = np.zeros((threads, self.b * self.b))
        for thread in prange(threads, nogil=True, schedule="static", chunksize=1, num_threads=threads):
            self.work(z, inverse, interrupt, &self.room[thread, 0])
        interrupt.check()
        return self.failed

    cdef void work(self, double[:, :, ::1] z, bint inverse, Interrupt interrupt, double *room) noexcept nogil:
        """Take tiles until none is left: columns first to last, diagonal first; for the inverse the other way round."""
        cdef Py_ssize_t taken, t, j
        while not hlm_get(&self.given_up):
            taken = hlm_take(&self.next)
            if taken >= self.count:
                return
            t = self.count - 1 - taken if inverse else taken
            j = self.col[t]
            if inverse:
                self.make_inverse(z, t, j, room)
            else:
                self.make_factor(t, j, room)
            hlm_set(&self.done[t], 1)
            if interrupt.stop(threadid()):
                hlm_set(&self.given_up, 1)

    cdef bint wait(self, Py_ssize_t t) noexcept nogil:
        """Wait for tile t; False when all is given up."""
        while not hlm_get(&self.done[t]):
            if hlm_get(&self.given_up):
                return False
            hlm_yield()
        return True

    cdef void make_factor(self, Py_ssize_t t, Py_ssize_t j, double *room) noexcept nogil:
        """L_ij := (M_ij - Σ_k L_ik L_jk') L_jj⁻ᵀ, or the factor of the diagonal tile with its inverse.

        Tiles below the diagonal hold L_ij' until all are made: A'B is BLAS's fastest product.
        """
        cdef Py_ssize_t x, k, s, b = self.b, i, c
        cdef double *tile = self.factor_tile(t)
        cdef int failed
        if self.row[t] > j:
            transpose(b, tile)
        for x in range(self.row_start[j], self.row_start[j + 1]):
            k = self.row_tile[x]
            s = self.place[self.row[t], self.col[k]]
            if s >= 0:
                if not (self.wait(s) and self.wait(k)):
                    return
                multiply(True, False, b, b, b, -1.0, self.factor_tile(k), b, self.factor_tile(s), b, 1.0, tile, b)
        if self.row[t] > j:
            if self.wait(self.start[j]):
                self.divide(t, &self.diagonal[j, 0, 0], room)
            return
        failed = cholesky(b, tile, b)
        if failed:
            self.failed = j * b + failed - 1
            hlm_set(&self.given_up, 1)
            return
        for i in range(b):
            for c in range(i + 1, b):
                tile[i * b + c] = 0
        memset(&self.diagonal[j, 0, 0], 0, b * b * sizeof(double))
        self.invert_diagonal(tile, &self.diagonal[j, 0, 0])

    cdef void divide(self, Py_ssize_t t, const double *e, double *copy) noexcept nogil:
        """Tile t := e · tile, e the inverse of its column's diagonal tile."""
        cdef Py_ssize_t b = self.b
        memcpy(copy, self.factor_tile(t), b * b * sizeof(double))
        multiply(False, False, b, b, b, 1.0, e, b, copy, b, 0.0, self.factor_tile(t), b)

    cdef void turn(self) noexcept:
        """From L_ij' to L_ij."""
        cdef Py_ssize_t t
        cdef int threads = threads_for(max(1, self.count // TILES_A_THREAD))
        for t in prange(self.count, nogil=True, schedule="static", num_threads=threads):
            if self.row[t] > self.col[t]:
                transpose(self.b, self.factor_tile(t))

    cdef void invert_diagonal(self, const double *d, double *e) noexcept nogil:
        """e := d⁻¹ for a lower triangular tile."""
        cdef Py_ssize_t i, j, c, b = self.b
        cdef double s
        for i in range(b):
            for c in range(i):
                s = d[i * b + c]
                if s != 0:
                    for j in range(c + 1):
                        e[i * b + j] -= s * e[c * b + j]
            e[i * b + i] += 1
            s = 1 / d[i * b + i]
            for j in range(i + 1):
                e[i * b + j] *= s

    def inverse(self):
        """Return the inverse (T, b, b) of the matrix factored last, on the pattern (Takahashi, Fagan and Chin 1973)."""
        out = np.zeros((self.count, self.b, self.b))
        self.run(out, True)
        return out

    cdef void make_inverse(self, double[:, :, ::1] z, Py_ssize_t t, Py_ssize_t j, double *room) noexcept nogil:
        if self.row[t] > j:
            self.inverse_tile(z, t, j, room)
        else:
            self.inverse_diagonal(z, j, room)

    cdef void inverse_diagonal(self, double[:, :, ::1] z, Py_ssize_t j, double *sum) noexcept nogil:
        """Z_jj := (L_jj⁻ᵀ - Σ_k Z_kj' L_kj) L_jj⁻¹."""
        cdef Py_ssize_t t, i, c, b = self.b
        cdef double *to = &z[self.start[j], 0, 0]
        cdef double s
        for i in range(b):
            for c in range(b):
                sum[i * b + c] = self.diagonal[j, c, i]
        for t in range(self.start[j] + 1, self.start[j + 1]):
            if not self.wait(t):
                return
            multiply(True, False, b, b, b, -1.0, &z[t, 0, 0], b, self.factor_tile(t), b, 1.0, sum, b)
        multiply(False, False, b, b, b, 1.0, sum, b, &self.diagonal[j, 0, 0], b, 0.0, to, b)
        for i in range(b):
            for c in range(i):
                s = 0.5 * (to[i * b + c] + to[c * b + i])
                to[i * b + c] = s
                to[c * b + i] = s

    cdef void inverse_tile(self, double[:, :, ::1] z, Py_ssize_t t, Py_ssize_t j, double *sum) noexcept nogil:
        """Z_ij := -(Σ_k Z_ik L_kj) L_jj⁻¹, k over the tiles below the diagonal of column j."""
        cdef Py_ssize_t i = self.row[t], x, k, s, b = self.b
        memset(sum, 0, b * b * sizeof(double))
        for x in range(self.start[j] + 1, self.start[j + 1]):
            k = self.row[x]
            s = self.place[i, k] if i >= k else self.place[k, i]
            if not self.wait(s):
                return
            multiply(i < k, False, b, b, b, -1.0, &z[s, 0, 0], b, self.factor_tile(x), b, 1.0, sum, b)
        multiply(False, False, b, b, b, 1.0, sum, b, &self.diagonal[j, 0, 0], b, 0.0, &z[t, 0, 0], b)

    def half_solve(self, double[:, ::1] X not None):
        """Return L⁻¹ X for X (side · b, r)."""
        return self._solve(X, True, False)

    def solve(self, double[:, ::1] X not None):
        """Return M⁻¹ X for X (side · b, r) with the matrix M factored last."""
        return self._solve(X, True, True)

    def _solve(self, double[:, ::1] X, bint forward, bint backward):
        cdef Py_ssize_t r = X.shape[1], b = self.b, c, width = 32
        if X.shape[0] != self.side * b:
            raise ValueError(f"X must have {self.side * b} rows, got {X.shape[0]}")
        out = np.array(X)
        if r == 0 or self.side == 0:
            return out
        cdef double[:, ::1] Y = out
        cdef Py_ssize_t strips = (r + width - 1) // width
        cdef int threads = threads_for(strips)
        cdef double[:, ::1] room = np.zeros((threads, b * width))
        cdef Interrupt interrupt = Interrupt()
        for c in prange(strips, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
            if not interrupt.stop(threadid()):
                self.solve_strip(&Y[0, 0] + c * width, r, min(width, r - c * width), &room[threadid(), 0], forward,
                                 backward)
        interrupt.check()
        return out

    cdef void solve_strip(self, double *Y, Py_ssize_t ld, Py_ssize_t r, double *room, bint forward,
                          bint backward) noexcept nogil:
        cdef Py_ssize_t j, t, x, b = self.b, i
        if forward:
            for j in range(self.side):
                for x in range(self.row_start[j], self.row_start[j + 1]):
                    t = self.row_tile[x]
                    multiply(False, False, b, r, b, -1.0, self.factor_tile(t), b, Y + self.col[t] * b * ld, ld, 1.0,
                             Y + j * b * ld, ld)
                multiply(False, False, b, r, b, 1.0, &self.diagonal[j, 0, 0], b, Y + j * b * ld, ld, 0.0, room, r)
                for i in range(b):
                    memcpy(Y + (j * b + i) * ld, room + i * r, r * sizeof(double))
        if backward:
            for j in range(self.side - 1, -1, -1):
                for t in range(self.start[j] + 1, self.start[j + 1]):
                    multiply(True, False, b, r, b, -1.0, self.factor_tile(t), b, Y + self.row[t] * b * ld, ld, 1.0,
                             Y + j * b * ld, ld)
                multiply(True, False, b, r, b, 1.0, &self.diagonal[j, 0, 0], b, Y + j * b * ld, ld, 0.0, room, r)
                for i in range(b):
                    memcpy(Y + (j * b + i) * ld, room + i * r, r * sizeof(double))

    def times(self, const double[:, :, ::1] S not None, double[:, ::1] X not None):
        """Return S X for a symmetric S (T, b, b) on the pattern and X (side · b, r)."""
        cdef Py_ssize_t r = X.shape[1], b = self.b, i
        if S.shape[0] != self.count or X.shape[0] != self.side * b:
            raise ValueError(f"S must have {self.count} tiles and X {self.side * b} rows")
        out = np.zeros((self.side * b, r))
        if r == 0 or self.side == 0:
            return out
        cdef double[:, ::1] Y = out
        cdef int threads = threads_for(self.side)
        cdef Interrupt interrupt = Interrupt()
        for i in prange(self.side, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
            if not interrupt.stop(threadid()):
                self.times_row(&S[0, 0, 0], i, &X[0, 0], r, &Y[i * b, 0])
        interrupt.check()
        return out

    cdef void times_row(self, const double *S, Py_ssize_t i, const double *X, Py_ssize_t r, double *Y) noexcept nogil:
        """Y (b, r) += row i of S times X, by strips that BLAS does not share among threads of its own."""
        cdef Py_ssize_t x, t, b = self.b, bb = self.b * self.b, at = 0, n
        while at < r:
            n = min(b, r - at)
            for x in range(self.row_start[i], self.row_start[i + 1]):
                t = self.row_tile[x]
                multiply(False, False, b, n, b, 1.0, S + t * bb, b, X + self.col[t] * b * r + at, r, 1.0, Y + at, r)
            multiply(False, False, b, n, b, 1.0, S + self.start[i] * bb, b, X + i * b * r + at, r, 1.0, Y + at, r)
            for t in range(self.start[i] + 1, self.start[i + 1]):
                multiply(True, False, b, n, b, 1.0, S + t * bb, b, X + self.row[t] * b * r + at, r, 1.0, Y + at, r)
            at += n

    def full(self, S not None):
        """Return a symmetric S (T, b, b) on the pattern as a (side · b, side · b) array; zero off the pattern."""
        b = self.b
        out = np.zeros((self.side, b, self.side, b))
        out[self.rows, :, self.cols, :] = S
        out[self.cols, :, self.rows, :] = S.transpose(0, 2, 1)
        return out.reshape(self.side * b, self.side * b)

    def dense(self):
        """Whether every tile is there."""
        return self.count == self.side * (self.side + 1) // 2
