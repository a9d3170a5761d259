"""The backward pass: posterior moments and second derivatives, one walk from the top down (MATH: kernel 3, §5)."""

from hlm_ext.tree cimport Level, Scratch, Walk

cdef int siblings(Walk *walk, Py_ssize_t k, Py_ssize_t lo, Py_ssize_t hi, const double *e, const double *omega,
                  double *tangent) noexcept nogil
cdef int solve_front(Level *lv, Scratch *sc, const double *front, Py_ssize_t width) noexcept nogil
cdef int solve_level(Walk *walk, Py_ssize_t k, Py_ssize_t l) noexcept nogil
cdef void reach_down(Level *lv, Scratch *sc, Py_ssize_t width) noexcept nogil
cdef int begin_level(Walk *walk, Py_ssize_t k, Py_ssize_t l, const double *e) noexcept nogil
cdef void end_level(Walk *walk, Py_ssize_t k, Py_ssize_t l, bint beta_known) noexcept nogil
cdef Py_ssize_t solved_width(Walk *walk, Py_ssize_t k) noexcept nogil
