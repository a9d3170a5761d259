"""Crossed designs: peeled factors with a core (MATH: kernel 2, §3)."""

from hlm_ext.forest cimport Forest
from hlm_ext.patch cimport Patch
from hlm_ext.status cimport Failure
from hlm_ext.tiles cimport Tiles
from hlm_ext.tree cimport Level, Walk


cdef struct Share:
    # What each unit of a batch adds to the core: the matrix that is left of it, or, where a unit is a single level,
    # products of its rows, sign · (x y' + y x'), or sign · x x' for x = y.
    double sign
    bint padded              # rows of the matrix are rounded up
    Py_ssize_t direction     # else: which of a row of matrices
    Py_ssize_t[2] rows       # a single level: from, to
    Py_ssize_t apart         # rows from x to y


cdef class CrossedForest(Forest):
    cdef readonly object core
    cdef Tiles tiles
    cdef Py_ssize_t units
    cdef const Py_ssize_t[::1] offsets, columns, tile_of
    cdef Py_ssize_t[:, ::1] begin        # first level of each peeled factor in each unit
    cdef Py_ssize_t[:, ::1] at           # and where its statistics begin
    cdef Py_ssize_t[::1] cuts            # chunks + 1: units of each chunk
    cdef Py_ssize_t[::1] batches         # batches + 1: chunks of each batch
    cdef Py_ssize_t[::1] room_at         # place of each unit's matrix in the room of its batch
    cdef double[::1] batch_room
    cdef Level *own_levels               # one set for each thread: their shapes change from unit to unit
    cdef Py_ssize_t threads_made
    cdef Py_ssize_t peeled_m             # directions of the peeled factors
    cdef double[::1] spare               # e and Ω of a unit, for each thread
    cdef Py_ssize_t spare_size

    cdef _check_pattern(self)
    cdef _lay_out(self, list widths, list children)
    cdef _plan_batches(self)
    cdef int open_batch(self, Py_ssize_t chunks, Walk *walks) except -1
    cdef void shape(self, Level *levels, Py_ssize_t unit) noexcept nogil
    cdef list core_covariances(self)
    cdef bint peeled_zero(self) noexcept
    cdef Failure factor_units(self, double *logdet) except *
    cdef void factor_units_of(self, Walk *walk, Py_ssize_t chunk, Py_ssize_t thread) noexcept nogil
    cdef Patch patch(self, Py_ssize_t unit) noexcept nogil
    cdef add_units(self, Py_ssize_t batch, Share share, double[:, :, ::1] F, double[:, ::1] U, double[:, ::1] S)
    cdef void add_column(self, Py_ssize_t j, Py_ssize_t lo, Py_ssize_t hi, Share share, double *F,
                         double *U) noexcept nogil
    cdef double *block(self, Py_ssize_t unit, Patch patch, Share share, Py_ssize_t *ld) noexcept nogil
    cdef hand_over(self, Py_ssize_t k, double **effects, double **covariances)
    cdef Failure unit_moments(self, root_e, root_omega, bint second, double[::1] post, double[::1] outer,
                              double[:, ::1] trace, double[:, ::1] average, W, W_cross, W_corner, double **effects,
                              double **covariances) except *
    cdef add_tangents(self, Py_ssize_t batch, W, W_cross, W_corner)
    cdef void unit_moments_of(self, Walk *walk, Py_ssize_t chunk, Py_ssize_t thread, double *part, double[::1] e,
                              double[::1] shift, double[:, :, ::1] N, double[:, ::1] spread, double[:, ::1] with_beta,
                              double[:, ::1] omega) noexcept nogil
    cdef int lone_moments(self, Walk *walk, Py_ssize_t unit, const double *e, double[:, :, ::1] N,
                          double[:, ::1] spread, double[:, ::1] with_beta, double[:, ::1] omega) noexcept nogil
