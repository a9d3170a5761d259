"""Fixed chunks of work and the number of threads that share them."""

import os


cdef int _threads = 1


def set_num_threads(int threads):
    """Set how many threads the kernels use; results have the same bits for any number.

    Parameters
    ----------
    threads : int
        At least 1.
    """
    global _threads
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    _threads = threads


def get_num_threads():
    """Return how many threads the kernels use.

    The default is OMP_NUM_THREADS when it is set, else the number of processors this process may run on.
    """
    return _threads


def _default_threads():
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if text.isdigit() and int(text) > 0:
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


set_num_threads(_default_threads())
if hasattr(os, "register_at_fork"):
    # The OpenMP runtime of GCC cannot start its threads again in a forked child: there the kernels run on one.
    os.register_at_fork(after_in_child=lambda: set_num_threads(1))


cdef Py_ssize_t chunk_count(Py_ssize_t work, Py_ssize_t grain) noexcept nogil:
    """Return how many chunks `work` units are cut into when a chunk should hold at least `grain` of them."""
    cdef Py_ssize_t chunks = work // grain
    return 1 if chunks < 1 else (MAX_CHUNKS if chunks > MAX_CHUNKS else chunks)


cdef int threads_for(Py_ssize_t chunks) noexcept:
    """Return the number of threads worth starting for so many chunks."""
    return <int> chunks if chunks < _threads else _threads
