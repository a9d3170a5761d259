"""A fixed partition of work: the same chunks, hence the same bits, for any number of threads."""

cdef enum:
    MAX_CHUNKS = 64          # partial results of a pass: enough to balance the threads, few enough to add up quickly
    MAX_PARTIAL = 1 << 25    # doubles in all partial results of a pass (256 MiB)

cdef Py_ssize_t chunk_count(Py_ssize_t work, Py_ssize_t grain, Py_ssize_t partial) noexcept nogil
cdef int threads_for(Py_ssize_t chunks) noexcept


cdef class Interrupt:
    cdef double due
    cdef object pending
    cdef readonly bint stopped

    cdef bint stop(self, int thread) noexcept nogil
    cdef int check(self) except -1
