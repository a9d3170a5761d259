"""Columns of rows wherever they live: a frame's blocks, a row-major matrix, one array each."""

cdef struct Column:
    const double *at
    Py_ssize_t stride        # in doubles; 0 repeats one number


cdef class Columns:
    cdef Column *at
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t rows
    cdef list keep
