"""The forest of a nested hierarchy: its statistics, its factor, and the moments read off it (MATH: kernels 2 and 3).

`Forest` holds what does not depend on θ and gives the passes their room. A top unit with all below it is independent of
the others given the root, so chunks of top units run in parallel; their partial results are added in order.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport log
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import numpy as np

from hlm_ext.moments cimport siblings
from hlm_ext.partition cimport MAX_CHUNKS, Interrupt, chunk_count, threads_for
from hlm_ext.peel cimport eliminate
from hlm_ext.status cimport OK, Failure
from hlm_ext.tree cimport PANEL_ROWS, Level, Scratch, Walk


cdef Py_ssize_t round_up(Py_ssize_t n) noexcept nogil:
    return (n + 7) // 8 * 8


cdef class Forest:
    """Statistics of a nested hierarchy of random effects, ready to be factored at any covariances.

    Parameters
    ----------
    blocks : list of (J_k, q_k, w_k) float64 arrays, C-contiguous
        One per factor, leaves first: Z_kl'W[Z_k, Z_k+1, …, X, y] of each level l; w_k = q_k + q_k+1 + … + p + 1.
    children : list of (J_k + 1,) intp arrays
        One per factor but the first: level l of factor k is the parent of levels children[l] … children[l + 1] - 1 of
        the factor before it.
    total : (p + 1, p + 1) float64 array
        [X y]'W[X y] over all rows.

    Raises
    ------
    ValueError
        If shapes do not fit each other.
    """

    def __init__(self, list blocks, list children, total):
        cdef Py_ssize_t k
        self.depth = len(blocks)
        self.chain = self.depth
        self.total = np.ascontiguousarray(total, dtype=np.float64)
        self.total_view = self.total
        self.p = self.total.shape[0] - 1
        self.keep = [np.ascontiguousarray(block, dtype=np.float64) for block in blocks]
        self._check(children)
        self.packed = sum([block.shape[1] ** 2 for block in self.keep])
        self.lam = np.zeros(self.packed + 1)
        self.cov = np.zeros(self.packed + 1)
        self.levels = <Level *> calloc(self.depth + 1, sizeof(Level))
        if self.levels == NULL:
            raise MemoryError
        cdef const double[:, :, ::1] stat
        cdef double[:, :, ::1] front
        cdef const Py_ssize_t[::1] first
        cdef Py_ssize_t packed = 0
        cdef Level *lv
        for k in range(self.depth):
            lv = &self.levels[k]
            stat = self.keep[k]
            lv.J = stat.shape[0]
            lv.q = stat.shape[1]
            lv.w = stat.shape[2]
            lv.u = lv.w - lv.q
            lv.ldu = round_up(lv.u)
            lv.m = lv.q * (lv.q + 1) // 2
            lv.offset = self.m
            lv.stat = &stat[0, 0, 0]
            lv.front = <double *> lv.stat          # never written for leaves
            lv.lam = &self.lam[packed]
            lv.cov = &self.cov[packed]
            if k > 0:
                front = np.empty_like(self.keep[k])
                first = np.ascontiguousarray(children[k - 1], dtype=np.intp)
                self.keep += [front, first]
                lv.front = &front[0, 0, 0]
                lv.first = &first[0]
            packed += lv.q * lv.q
            self.m += lv.m
        self._plan(children)

    def _check(self, list children):
        if len(children) != max(self.depth - 1, 0):
            raise ValueError(f"{self.depth} factors need {max(self.depth - 1, 0)} arrays of children, "
                             f"got {len(children)}")
        width = self.p + 1
        for k, block in reversed(list(enumerate(self.keep))):
            if block.ndim != 3 or block.shape[0] < 1 or block.shape[1] < 1:
                raise ValueError(f"block {k} must be (J, q, w) with J and q at least 1, got shape {block.shape}")
            width += block.shape[1]
            if block.shape[2] != width:
                raise ValueError(f"block {k} must have {width} columns, got {block.shape[2]}")
        for k, first in enumerate(children):
            below, above = self.keep[k].shape[0], self.keep[k + 1].shape[0]
            if first.shape != (above + 1,) or first[0] != 0 or first[above] != below or (np.diff(first) < 1).any():
                raise ValueError(f"children of factor {k + 1} must be increasing offsets into factor {k}")

    def _plan(self, list children):
        """Cut the top units into chunks and size the scratch."""
        cdef Py_ssize_t k, size = 0
        cdef Py_ssize_t root = round_up(self.p + 1), side = self.p + 1
        for k in range(self.depth):
            size += self._carve(k, NULL, NULL)
        self.scratch_size = size
        size = max(root * root, 2 * self.packed + 2 * self.m * self.m + self.m * side * side)
        self.bounds = self._cuts(children, size)
        self.chunks = self.bounds.shape[0] - 1
        self.partial = np.zeros((self.chunks, size))

    def _cuts(self, list children, Py_ssize_t partial):
        """Top units at which chunks of about equal numbers of levels begin; each returns `partial` doubles."""
        blocks = self.keep[:self.depth]
        if sum([block.shape[0] for block in blocks]) < 512:
            return np.array([0, self.levels[self.depth - 1].J if self.depth else 0], dtype=np.intp)
        counts = np.ones(blocks[0].shape[0], dtype=np.intp)
        for first in children:
            counts = np.add.reduceat(counts, first[:len(first) - 1]) + 1
        work = np.cumsum(counts)
        total = work[len(work) - 1]
        chunks = chunk_count(<Py_ssize_t> total, 256, partial)
        goals = total * np.arange(1, chunks) / chunks
        return np.unique(np.r_[0, np.searchsorted(work, goals), len(work)]).astype(np.intp)

    cdef Py_ssize_t _carve(self, Py_ssize_t k, Scratch *sc, double *room) noexcept:
        """Point the blocks of `sc` into `room` and return their total size; with sc == NULL only the size."""
        cdef Level *lv = &self.levels[k]
        cdef Py_ssize_t q = lv.q, u = lv.u, w = lv.w, ldc = self.levels[k - 1].ldu if k else 0
        cdef Py_ssize_t rows = PANEL_ROWS + q, i, at = 0
        cdef Py_ssize_t[15] sizes
        sizes[:] = [
            w * ldc, rows * lv.ldu, 3 * q * q, q * (w + q), q, 2 * q * u, 2 * q * q, q * u, q * q,
            w if k else 0, (w - 1) * (w - 1) if k else 0, 0 if self.lone else PANEL_ROWS * q * lv.ldu,
            0 if self.lone else q * lv.ldu * q * lv.ldu,
            lv.offset * w * w, lv.offset * (2 * q * u + 2 * q * q + q),
        ]
        cdef double **slots = <double **> sc       # Scratch is its pointers, in this order
        for i in range(15):
            if sc != NULL:
                slots[i] = room + at
            at += round_up(sizes[i])
        return at

    cdef int ready(self, int threads) except -1:
        """Make scratch for so many threads."""
        cdef Py_ssize_t t, k, at
        cdef double[::1] room
        cdef Scratch *grown
        if threads <= self.slots_made:
            return 0
        grown = <Scratch *> calloc(threads * self.chain + 1, sizeof(Scratch))
        if grown == NULL:
            raise MemoryError
        self.rooms = []
        for t in range(threads):
            room = np.zeros(self.scratch_size + 1)
            self.rooms.append(room)
            at = 0
            for k in range(self.chain):
                at += self._carve(k, &grown[t * self.chain + k], &room[at])
        free(self.scratch)
        self.scratch = grown
        self.slots_made = threads
        return 0

    def __dealloc__(self):
        free(self.levels)
        free(self.scratch)

    cdef void set_lambda(self, const double *lam) noexcept:
        """Take packed lower triangular Λ of all factors; D = ΛΛ'."""
        cdef Py_ssize_t k, i, j, c, q, at = 0
        cdef double s
        for k in range(self.depth):
            q = self.levels[k].q
            for i in range(q):
                for j in range(q):
                    self.lam[at + i * q + j] = lam[at + i * q + j] if j <= i else 0.0
            for i in range(q):
                for j in range(i + 1):
                    s = 0
                    for c in range(j + 1):
                        s += self.lam[at + i * q + c] * self.lam[at + j * q + c]
                    self.cov[at + i * q + j] = s
                    self.cov[at + j * q + i] = s
            at += q * q

    cdef bint all_zero(self) noexcept:
        """Whether D = 0: nothing is eliminated then, fronts are the statistics themselves."""
        cdef Py_ssize_t i, k
        cdef Level *lv
        for i in range(self.packed):
            if self.lam[i] != 0:
                return False
        for k in range(1, self.depth):
            lv = &self.levels[k]
            memcpy(lv.front, lv.stat, lv.J * lv.q * lv.w * sizeof(double))
        return True

    cdef Failure factor_chunks(self, double *logdet) except *:
        """Eliminate all factors, chunk by chunk; `partial` gets what they leave, logdet := log|M|."""
        cdef Failure failure = Failure(OK, -1, -1, -1)
        cdef Py_ssize_t c
        cdef int threads = threads_for(self.chunks)
        cdef Walk[MAX_CHUNKS] walks
        cdef Interrupt interrupt = Interrupt()
        logdet[0] = 0
        self.ready(threads)
        memset(walks, 0, self.chunks * sizeof(Walk))
        if threads == 1:
            with nogil:
                for c in range(self.chunks):
                    if not interrupt.stop(0):
                        self.factor_chunk(&walks[c], c, 0, &self.partial[c, 0])
        else:
            for c in prange(self.chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
                if not interrupt.stop(threadid()):
                    self.factor_chunk(&walks[c], c, threadid(), &self.partial[c, 0])
        interrupt.check()
        for c in range(self.chunks):
            if walks[c].failure.status != OK:
                return walks[c].failure
            logdet[0] += 2 * (walks[c].logdet + log(walks[c].product))
        return failure

    cdef Failure factor_into(self, double[:, ::1] schur, double *logdet) except *:
        """schur := S (upper triangle) = [X y]'V⁻¹[X y], logdet := log|M|, at the covariances set before."""
        cdef Failure failure = Failure(OK, -1, -1, -1)
        cdef Py_ssize_t side = self.p + 1, root = round_up(side), c, i, j
        cdef double *into
        logdet[0] = 0
        schur[:, :] = self.total_view
        if self.all_zero():
            return failure
        failure = self.factor_chunks(logdet)
        if failure.status != OK:
            return failure
        for c in range(self.chunks):
            into = &self.partial[c, 0]
            for i in range(side):
                for j in range(i, side):
                    schur[i, j] -= into[i * root + j]
        return failure

    cdef void factor_chunk(self, Walk *walk, Py_ssize_t chunk, Py_ssize_t thread, double *into) noexcept nogil:
        cdef Py_ssize_t root = round_up(self.p + 1)
        walk.levels = self.levels
        walk.scratch = self.scratch + thread * self.depth
        walk.product = 1
        memset(into, 0, root * root * sizeof(double))
        eliminate(walk, self.depth - 1, self.bounds[chunk], self.bounds[chunk + 1], into)

    cdef Failure moments_into(self, const double *e, const double *omega, bint omega_zero, bint second, bint exact,
                              double[::1] post, double[::1] outer, double[:, ::1] trace, double[:, ::1] average,
                              double[:, ::1] tangent, double **effects, double **covariances) except *:
        """Sums over all levels of what `hlm_ext.moments` reads off the factor; e and omega belong to the root.

        post, outer: packed q x q per factor. trace, average: m x m, lower triangle. tangent: m x (p + 1)². Without
        `exact` trace may be left at zero, where it costs more than the rest; here it is always there.
        """
        cdef Failure failure = Failure(OK, -1, -1, -1)
        cdef Py_ssize_t c, i, side2 = (self.p + 1) * (self.p + 1)
        cdef int threads = threads_for(self.chunks)
        cdef Walk[MAX_CHUNKS] walks
        cdef Interrupt interrupt = Interrupt()
        cdef double *part
        post[:] = 0
        outer[:] = 0
        if second:
            trace[:, :] = 0
            average[:, :] = 0
            tangent[:, :] = 0
        if self.depth == 0:
            return failure
        self.ready(threads)
        memset(walks, 0, self.chunks * sizeof(Walk))
        for c in range(self.chunks):
            walks[c].second = second
            walks[c].omega_zero = omega_zero
            walks[c].effects = effects
            walks[c].covariances = covariances
        if threads == 1:
            with nogil:
                for c in range(self.chunks):
                    if not interrupt.stop(0):
                        self.moments_chunk(&walks[c], c, 0, &self.partial[c, 0], e, omega)
        else:
            for c in prange(self.chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
                if not interrupt.stop(threadid()):
                    self.moments_chunk(&walks[c], c, threadid(), &self.partial[c, 0], e, omega)
        interrupt.check()
        for c in range(self.chunks):
            if walks[c].failure.status != OK:
                return walks[c].failure
            self.add_sums(&walks[c], post, outer, trace, average)
            if second:
                part = walks[c].average + self.m * self.m
                for i in range(self.m * side2):
                    (&tangent[0, 0])[i] += part[i]
        return failure

    cdef void moments_chunk(self, Walk *walk, Py_ssize_t chunk, Py_ssize_t thread, double *part, const double *e,
                            const double *omega) noexcept nogil:
        self.open_sums(walk, thread, part)
        walk.levels = self.levels
        siblings(walk, self.depth - 1, self.bounds[chunk], self.bounds[chunk + 1], e, omega,
                 walk.average + self.m * self.m)

    cdef void open_sums(self, Walk *walk, Py_ssize_t thread, double *part) noexcept nogil:
        """Point a walk's sums (packed post and outer, m x m trace and average) into `part`, all zero."""
        walk.scratch = self.scratch + thread * self.chain
        walk.m = self.m
        walk.last = self.chain - 1
        memset(part, 0, (2 * self.packed + 2 * self.m * self.m) * sizeof(double))
        walk.post = part
        walk.outer = part + self.packed
        walk.trace = part + 2 * self.packed
        walk.average = walk.trace + self.m * self.m

    cdef void add_sums(self, const Walk *walk, double[::1] post, double[::1] outer, double[:, ::1] trace,
                       double[:, ::1] average) noexcept:
        """Add the sums of a walk to those of all."""
        cdef Py_ssize_t i
        for i in range(self.packed):
            post[i] += walk.post[i]
            outer[i] += walk.outer[i]
        if walk.second:
            for i in range(self.m * self.m):
                (&trace[0, 0])[i] += walk.trace[i]
                (&average[0, 0])[i] += walk.average[i]
