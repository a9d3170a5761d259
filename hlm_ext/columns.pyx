"""Columns of rows wherever they live, without copying them."""

from libc.stdlib cimport free, malloc

import numpy as np


cdef class Columns:
    """Pointers to float64 columns of equal length.

    Parameters
    ----------
    columns : sequence of (n,) float64 arrays
        Any stride that is a multiple of 8 bytes. Nothing is copied; the arrays are kept alive.

    Raises
    ------
    ValueError, TypeError
        If lengths differ, or a column is not a one-dimensional float64 array.
    """

    def __init__(self, columns):
        cdef const double[:] view
        cdef Py_ssize_t i
        self.keep = list(columns)
        self.count = len(self.keep)
        if self.count == 0:
            raise ValueError("no columns")
        self.rows = len(self.keep[0])
        self.at = <Column *> malloc(self.count * sizeof(Column))
        if self.at == NULL:
            raise MemoryError
        for i in range(self.count):
            if not isinstance(self.keep[i], np.ndarray) or self.keep[i].dtype != np.float64 or self.keep[i].ndim != 1:
                raise TypeError(f"column {i} must be a one-dimensional float64 array")
            view = self.keep[i]
            if view.strides[0] % 8 or (self.rows and <size_t> &view[0] % 8):
                self.keep[i] = np.array(self.keep[i])
                view = self.keep[i]
            if view.shape[0] != self.rows:
                raise ValueError(f"column {i} has {view.shape[0]} rows, column 0 has {self.rows}")
            self.at[i].at = &view[0] if self.rows else NULL
            self.at[i].stride = view.strides[0] // <Py_ssize_t> sizeof(double)

    def __dealloc__(self):
        free(self.at)


def location(const double[:] column not None):
    """Return address and stride in bytes of a float64 column: two columns with the same are the same."""
    return <size_t> &column[0] if column.shape[0] else 0, column.strides[0]
