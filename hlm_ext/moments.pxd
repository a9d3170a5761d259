"""The backward pass: posterior moments and second derivatives, one walk from the top down (MATH: kernel 3, §5)."""

from hlm_ext.tree cimport Walk

cdef int siblings(Walk *walk, Py_ssize_t k, Py_ssize_t lo, Py_ssize_t hi, const double *e, const double *omega,
                  double *tangent) noexcept nogil
