"""Fixed chunks of work and the number of threads that share them."""

import os

from cpython.exc cimport PyErr_CheckSignals
from libc.time cimport CLOCKS_PER_SEC, clock

cdef double LOOK_EVERY = 0.05

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


cdef Py_ssize_t chunk_count(Py_ssize_t work, Py_ssize_t grain, Py_ssize_t partial) noexcept nogil:
    """Return how many chunks `work` units are cut into: at least `grain` units and `partial` doubles of result each."""
    cdef Py_ssize_t chunks = min(work // grain, <Py_ssize_t> MAX_CHUNKS, <Py_ssize_t> MAX_PARTIAL // (partial + 1))
    return 1 if chunks < 1 else chunks


cdef int threads_for(Py_ssize_t chunks) noexcept:
    """Return the number of threads worth starting for so many chunks."""
    return <int> chunks if chunks < _threads else _threads


cdef double now() noexcept nogil:
    return <double> clock() / CLOCKS_PER_SEC


cdef class Interrupt:
    """Ctrl-C during a pass: the calling thread looks for signals between chunks, but not more often than it must.

    The interpreter is entered only when 0.05 s of processor time have passed, so short passes never wait for its lock.
    """

    def __cinit__(self):
        self.due = now() + LOOK_EVERY

    cdef bint stop(self, int thread) noexcept nogil:
        """Whether the pass is to be given up; called by each thread before a chunk."""
        if thread == 0 and not self.stopped and now() > self.due:
            with gil:
                try:
                    PyErr_CheckSignals()
                except BaseException as error:
                    self.pending = error
                    self.stopped = True
            self.due = now() + LOOK_EVERY
        return self.stopped

    cdef int check(self) except -1:
        """After the pass: raise what came up during it."""
        if self.stopped:
            raise self.pending
        return 0
