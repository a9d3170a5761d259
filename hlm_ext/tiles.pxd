"""Symmetric matrices in square tiles on a pattern, with their Cholesky factor."""

from hlm_ext.partition cimport Interrupt


cdef class Tiles:
    cdef readonly Py_ssize_t b, side, count
    cdef readonly object rows, cols
    cdef const Py_ssize_t[::1] row, col
    cdef Py_ssize_t[:, ::1] place            # tile (i, j), or -1
    cdef Py_ssize_t[::1] start               # tiles of column j: start[j] … start[j + 1] - 1
    cdef Py_ssize_t[::1] row_start, row_tile  # tiles of row i left of the diagonal
    cdef double[:, :, ::1] lower             # the factor
    cdef double[:, :, ::1] diagonal          # inverses of its diagonal tiles
    cdef double[:, ::1] room                 # a tile for each thread
    cdef int[::1] done                       # tiles that are made
    cdef Py_ssize_t next                     # the next one to be taken
    cdef int given_up
    cdef Py_ssize_t failed

    cdef double *factor_tile(self, Py_ssize_t t) noexcept nogil
    cdef Py_ssize_t run(self, double[:, :, ::1] z, bint inverse) except -2
    cdef void work(self, double[:, :, ::1] z, bint inverse, Interrupt interrupt, double *room) noexcept nogil
    cdef bint wait(self, Py_ssize_t t) noexcept nogil
    cdef void make_factor(self, Py_ssize_t t, Py_ssize_t j, double *room) noexcept nogil
    cdef void turn(self) noexcept
    cdef void divide(self, Py_ssize_t t, const double *e, double *copy) noexcept nogil
    cdef void make_inverse(self, double[:, :, ::1] z, Py_ssize_t t, Py_ssize_t j, double *room) noexcept nogil
    cdef void inverse_tile(self, double[:, :, ::1] z, Py_ssize_t t, Py_ssize_t j, double *sum) noexcept nogil
    cdef void inverse_diagonal(self, double[:, :, ::1] z, Py_ssize_t j, double *sum) noexcept nogil
    cdef void invert_diagonal(self, const double *d, double *e) noexcept nogil
    cdef void solve_strip(self, double *Y, Py_ssize_t ld, Py_ssize_t r, double *room, bint forward,
                          bint backward) noexcept nogil
    cdef void times_row(self, const double *S, Py_ssize_t i, const double *X, Py_ssize_t r, double *Y) noexcept nogil
