"""Elimination by orthogonal transformations of rows instead of their cross-products."""

from hlm_ext.forest cimport Forest

cdef void absorb(Py_ssize_t m, Py_ssize_t w, double *rows, Py_ssize_t ld, double *R, Py_ssize_t ldr,
                 double *room) noexcept nogil


cdef class RootForest(Forest):
    cdef list roots                      # arrays that `levels` points into
    cdef const double[:, ::1] rest       # (p + 1, p + 1): what no random column takes part in, for a single factor
