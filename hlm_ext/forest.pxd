"""The forest of a nested hierarchy: its statistics, its factor, and the moments read off it (MATH: kernels 2 and 3)."""

from hlm_ext.status cimport Failure
from hlm_ext.tree cimport Level, Scratch, Walk

cdef Py_ssize_t round_up(Py_ssize_t n) noexcept nogil


cdef class Forest:
    cdef Level *levels
    cdef Scratch *scratch                # threads x depth
    cdef Py_ssize_t slots_made
    cdef readonly Py_ssize_t depth       # number of factors
    cdef readonly Py_ssize_t chain       # factors that are eliminated level by level: all, unless there is a core
    cdef bint lone                       # a chain of one factor with a core: sums over siblings are never formed
    cdef readonly Py_ssize_t p           # columns of X
    cdef readonly Py_ssize_t m           # directions of all covariances
    cdef readonly Py_ssize_t packed      # sum of q x q
    cdef Py_ssize_t chunks
    cdef Py_ssize_t[::1] bounds          # chunks + 1: top levels of each chunk
    cdef Py_ssize_t scratch_size
    cdef list keep                       # arrays that `levels` points into
    cdef list rooms                      # arrays that `scratch` points into
    cdef double[::1] lam                 # packed Λ of all factors
    cdef double[::1] cov                 # packed D
    cdef readonly object total           # (p + 1, p + 1): [X y]'[X y]
    cdef double[:, ::1] total_view
    cdef double[:, ::1] partial          # chunks x what a chunk returns
    cdef readonly bint rooted            # whether `factor_into` leaves the Cholesky factor of S in `root`
    cdef double[:, ::1] root             # (p + 1, p + 1) upper triangular
    cdef readonly double floor           # a residual sum of squares up to this counts as none

    cdef Py_ssize_t _carve(self, Py_ssize_t k, Scratch *sc, double *room) noexcept
    cdef int ready(self, int threads) except -1
    cdef void set_lambda(self, const double *lam) noexcept
    cdef bint all_zero(self) noexcept
    cdef Failure factor_chunks(self, double *logdet) except *
    cdef Failure factor_into(self, double[:, ::1] schur, double *logdet) except *
    cdef Failure moments_into(self, const double *e, const double *omega, bint omega_zero, bint second, bint exact,
                              double[::1] post, double[::1] outer, double[:, ::1] trace, double[:, ::1] average,
                              double[:, ::1] tangent, double **effects, double **covariances) except *
    cdef void factor_chunk(self, Walk *walk, Py_ssize_t chunk, Py_ssize_t thread, double *into) noexcept nogil
    cdef void open_sums(self, Walk *walk, Py_ssize_t thread, double *part) noexcept nogil
    cdef void add_sums(self, const Walk *walk, double[::1] post, double[::1] outer, double[:, ::1] trace,
                       double[:, ::1] average) noexcept
    cdef void moments_chunk(self, Walk *walk, Py_ssize_t chunk, Py_ssize_t thread, double *part, const double *e,
                            const double *omega) noexcept nogil
