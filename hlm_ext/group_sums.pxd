"""Sums over the groups of one grouping factor, and what taking groups out of them shares with that."""

from hlm_ext.tree cimport Level


cdef inline double paired(Py_ssize_t q, const double *x, Py_ssize_t width, const double *y, Py_ssize_t i, Py_ssize_t j,
                          Py_ssize_t s, Py_ssize_t c) noexcept nogil:
    """tr(E_a X E_b Y) for the directions (i, j) and (s, c); rows of X are `width` long."""
    cdef double out = x[j * width + s] * y[c * q + i]
    if i != j:
        out += x[i * width + s] * y[c * q + j]
    if s != c:
        out += x[j * width + c] * y[s * q + i]
        if i != j:
            out += x[i * width + c] * y[s * q + j]
    return out


cdef Level level_of(const double[:, :, ::1] blocks, const double[:, ::1] D) except *
