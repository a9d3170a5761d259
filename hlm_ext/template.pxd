"""Λ(θ): a template of constants and multiples of the entries of θ, and the way back of derivatives (MATH: §5)."""

from hlm_ext.forest cimport Forest


cdef struct Entry:
    # What one entry of θ does to one entry of Λ.
    Py_ssize_t index         # of θ
    Py_ssize_t factor        # whose Λ it is
    Py_ssize_t row
    Py_ssize_t col
    Py_ssize_t q             # the Λ is q x q
    Py_ssize_t block         # and begins here among the packed ones
    Py_ssize_t start         # the first of the directions of its D
    double coefficient


cdef class Template:
    cdef readonly Py_ssize_t m           # length of θ
    cdef Py_ssize_t count
    cdef Entry *entries
    cdef const double[::1] base
    cdef double[::1] packed              # Λ of all factors at the last θ
    cdef double[:, ::1] jacobian         # directions x m: dD / dθ

    cdef _place(self, Forest forest, Py_ssize_t s, Py_ssize_t position)
    cdef void put(self, const double[::1] theta) noexcept
    cdef void gradient(self, const double[::1] G, double[::1] out) noexcept
    cdef void hessian(self, const double[::1] G, const double[:, ::1] second, double[:, ::1] out) noexcept
