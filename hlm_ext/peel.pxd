"""Elimination of a nested hierarchy, leaves first (MATH: kernel 2)."""

from hlm_ext.tree cimport Walk

cdef int eliminate(Walk *walk, Py_ssize_t k, Py_ssize_t lo, Py_ssize_t hi, double *into) noexcept nogil
cdef int level_rows(Walk *walk, Py_ssize_t k, Py_ssize_t l, double *rows) noexcept nogil
cdef int close_level(Walk *walk, Py_ssize_t k, Py_ssize_t l, int failed) noexcept nogil
cdef int cholesky(Py_ssize_t n, double *a, Py_ssize_t lda) noexcept nogil
