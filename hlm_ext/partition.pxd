"""A fixed partition of work: the same chunks, hence the same bits, for any number of threads."""

cdef enum:
    MAX_CHUNKS = 64      # partial results of a pass: few enough to add up quickly
    BATCH = 16           # chunks between two looks for Ctrl-C; also the number of partial results in memory at a time

cdef Py_ssize_t chunk_count(Py_ssize_t work, Py_ssize_t grain) noexcept nogil
cdef int threads_for(Py_ssize_t chunks) noexcept
