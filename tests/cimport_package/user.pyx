"""A foreign module that uses the kernels from Cython."""

from hlm_ext.forest cimport Forest
from hlm_ext.status cimport OK, Failure

import numpy as np


def logdet(Forest forest, double[::1] packed):
    """log|M| at a packed Λ, straight from the C method."""
    cdef double value = 0
    cdef double[:, ::1] schur = np.zeros((forest.p + 1, forest.p + 1))
    forest.set_lambda(&packed[0])
    cdef Failure failure = forest.factor_into(schur, &value)
    if failure.status != OK:
        raise ArithmeticError("factor")
    return value
