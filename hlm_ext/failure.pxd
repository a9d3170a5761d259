"""Kernel failures as an exception."""

from hlm_ext.status cimport Failure

cdef raise_failure(Failure failure)
