"""Crossed designs: peeled factors with a core (MATH: kernel 2, §3).

The levels of the peeled factors are eliminated as in a nested hierarchy, a top unit with all below it at a time. What a
unit subtracts from the core columns it meets, from X and y is a small dense matrix, or, where a unit is one level, a
product of q rows that is never formed. They are computed in parallel for a batch of units, then added to the tiles of
the core in parallel: each column of tiles by one thread, units in order, so bits do not depend on how many there are.
`hlm_ext.core.Core` does the rest.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport log
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import numpy as np

from hlm_ext.forest cimport Forest, round_up
from hlm_ext.moments cimport begin_level, end_level, siblings, solved_width
from hlm_ext.partition cimport Interrupt, threads_for
from hlm_ext.patch cimport (
    Patch, add_corner, add_matrix, add_product, add_row, covariance, meets, times_covariance,
)
from hlm_ext.peel cimport eliminate, level_rows
from hlm_ext.status cimport NOT_POSITIVE, OK, Failure
from hlm_ext.tree cimport Level, Scratch, Walk

from hlm_ext.curvature import Curvature
from hlm_ext.units import plan_batches

cdef enum:
    BATCH = 64               # chunks of units whose matrices wait for being added to the core
    CHUNK_ROOM = 1 << 17     # doubles of such matrices in a chunk
    BATCH_ROOM = 1 << 22     # … and in a batch


cdef class CrossedForest(Forest):
    """Statistics of a crossed design, ready to be factored at any covariances.

    Parameters
    ----------
    stats : list of float64 arrays
        Of the peeled factors, leaves first, as `hlm_ext.units.unit_statistics` returns them.
    counts, widths : lists of int
        J and q of each factor: peeled ones, then core ones.
    children : list of (J_k + 1,) intp arrays
        For each peeled factor but the first.
    offsets, columns : intp arrays
        Core columns met by each top unit, as `hlm_ext.units.touched_columns` returns them.
    core : hlm_ext.core.Core
        Statistics of the core factors, X and y.

    Raises
    ------
    ValueError
        If shapes do not fit each other.
    """

    def __init__(self, list stats, list counts, list widths, list children, offsets, columns, core):
        cdef Py_ssize_t k, q, packed = 0, above, met
        cdef Level *lv
        cdef double[::1] stat, front
        cdef const Py_ssize_t[::1] first
        self.core = core
        self.tiles = core.tiles
        self.total = core.S
        self.p = core.S.shape[0] - 1
        self.depth = len(widths)
        self.chain = len(stats)
        self.lone = self.chain == 1
        self.offsets = np.ascontiguousarray(offsets, dtype=np.intp)
        self.columns = np.ascontiguousarray(columns, dtype=np.intp)
        self.tile_of = np.asarray(self.columns) // self.tiles.b
        self.units = self.offsets.shape[0] - 1 if self.chain else 0
        self._check(stats, counts, widths, children)
        self.packed = sum([q * q for q in widths])
        self.lam, self.cov = np.zeros((2, self.packed + 1))
        self.levels = <Level *> calloc(self.depth + 1, sizeof(Level))
        if self.levels == NULL:
            raise MemoryError
        self.keep = list(stats)
        met = int(np.diff(self.offsets).max()) if self.units else 0
        above = sum(widths[:self.chain]) + met + self.p + 1
        for k in range(self.depth):
            lv = &self.levels[k]
            lv.J = counts[k]
            lv.q = q = widths[k]
            lv.m = q * (q + 1) // 2
            lv.offset = self.m
            lv.lam = &self.lam[packed]
            lv.cov = &self.cov[packed]
            if k < self.chain:                   # room for the widest unit
                lv.w = above
                lv.u = above - q
                lv.ldu = round_up(lv.u)
                above -= q
                stat = stats[k]
                lv.stat = &stat[0]
                lv.front = <double *> lv.stat
                if k > 0:
                    front = np.empty_like(stats[k])
                    first = np.ascontiguousarray(children[k - 1], dtype=np.intp)
                    self.keep += [front, first]
                    lv.front = &front[0]
                    lv.first = &first[0]
                self.peeled_m += lv.m
            packed += q * q
            self.m += lv.m
        self._lay_out(widths, children)
        self._plan_batches()
        self._check_pattern()

    def _check(self, list stats, list counts, list widths, list children):
        if len(counts) != self.depth or self.chain > self.depth or len(children) != max(self.chain - 1, 0):
            raise ValueError("counts, widths, stats and children must describe the same factors")
        if self.units and (counts[self.chain - 1] != self.units or self.offsets[self.units] != self.columns.shape[0]):
            raise ValueError("offsets must have one entry more than there are top units, and end at the last column")

    cdef _check_pattern(self):
        """The tiles must have room for every pair of columns that a unit meets."""
        cdef Py_ssize_t u, a, c, b = self.tiles.b, size = self.tiles.side * self.tiles.b
        cdef bint first
        for u in range(self.units):
            for a in range(self.offsets[u], self.offsets[u + 1]):
                first = a == self.offsets[u]
                if not (0 <= self.columns[a] < size and (first or self.columns[a - 1] < self.columns[a])):
                    raise ValueError(f"columns of unit {u} must be ascending positions in the core")
                if not first and self.columns[a] // b == self.columns[a - 1] // b:
                    continue                     # its tile has been looked at
                for c in range(self.offsets[u], a):
                    if self.tiles.place[self.columns[a] // b, self.columns[c] // b] < 0:
                        raise ValueError(f"the tiles have no room for columns {self.columns[c]} and {self.columns[a]}")

    cdef _lay_out(self, list widths, list children):
        """Where each unit's levels and statistics begin."""
        cdef Py_ssize_t k
        begins = [np.arange(self.units + 1)]
        for first in reversed(children):
            begins.insert(0, np.asarray(first)[begins[0]])
        met = np.diff(np.asarray(self.offsets)) if self.units else np.zeros(0, dtype=np.intp)
        places = []
        for k in range(self.chain):
            q = widths[k]
            width = sum(widths[k:self.chain]) + met + self.p + 1
            places.append(np.r_[0, np.cumsum(np.diff(begins[k]) * q * width)])
            if len(self.keep[k]) != places[k][self.units]:
                raise ValueError(f"the statistics of factor {k} must have {places[k][self.units]} entries")
        self.begin = np.array(begins, dtype=np.intp).reshape(max(self.chain, 1), -1)
        self.at = np.array(places, dtype=np.intp).reshape(self.chain, self.units + 1) if self.chain else np.zeros(
            (1, 1), dtype=np.intp)
        self.scratch_size = 0
        for k in range(self.chain):
            self.scratch_size += self._carve(k, NULL, NULL)
        widest = (int(met.max()) if self.units else 0) + self.p + 1
        self.spare_size = round_up(widest) + (round_up(widest * widest) if self.chain > 1 else 0)

    cdef _plan_batches(self):
        """Fixed chunks of units and batches of chunks, by the room that their matrices or rows take."""
        met = np.diff(np.asarray(self.offsets)) + self.p + 1 if self.units else np.zeros(0, dtype=np.intp)
        padded = (met + 7) // 8 * 8
        if self.lone:
            sizes = self.levels[0].q * padded
        else:                                    # a rank update also writes what it is padded with
            sizes = np.maximum(padded ** 2, self.peeled_m * met ** 2)
        self.cuts, self.batches, self.room_at, room = plan_batches(sizes, BATCH, CHUNK_ROOM, BATCH_ROOM)
        self.batch_room = np.zeros(room)
        self.partial = np.zeros((BATCH, 2 * self.packed + 2 * self.m * self.m + 1))

    def __dealloc__(self):
        free(self.own_levels)

    cdef int open_batch(self, Py_ssize_t chunks, Walk *walks) except -1:
        """Clear the walks; return the number of threads, with scratch and levels for each."""
        cdef int threads = threads_for(chunks)
        memset(walks, 0, BATCH * sizeof(Walk))
        self.ready(threads)
        if threads > self.threads_made:
            free(self.own_levels)
            self.own_levels = <Level *> calloc(threads * self.chain + 1, sizeof(Level))
            if self.own_levels == NULL:
                raise MemoryError
            self.spare = np.zeros(threads * self.spare_size + 1)
            self.threads_made = threads
        return threads

    cdef void shape(self, Level *levels, Py_ssize_t unit) noexcept nogil:
        """Levels of one unit: the columns above are those of its ancestors, the core columns it meets, X and y."""
        cdef Py_ssize_t k, u = self.offsets[unit + 1] - self.offsets[unit] + self.p + 1, shift
        for k in range(self.chain - 1, -1, -1):
            levels[k] = self.levels[k]
            levels[k].u = u
            levels[k].w = u + levels[k].q
            levels[k].ldu = (u + 7) // 8 * 8
            u += levels[k].q
            # blocks of one unit have one size, and levels are counted from the first of all units
            shift = self.at[k, unit] - self.begin[k, unit] * levels[k].q * levels[k].w
            levels[k].stat += shift
            levels[k].front += shift

    # ---- factor ---------------------------------------------------------------------------------------------------

    cdef Failure factor_into(self, double[:, ::1] schur, double *logdet) except *:
        cdef Failure failure = Failure(OK, -1, -1, -1)
        cdef bint untouched = self.peeled_zero()
        self.core.start(untouched)
        logdet[0] = 0
        if not untouched:
            failure = self.factor_units(logdet)
            if failure.status != OK:
                return failure
        more, left, failed = self.core.factor(self.core_covariances())
        if failed >= 0:
            failure.status = NOT_POSITIVE
            return failure
        logdet[0] += more
        np.asarray(schur)[:, :] = left
        return failure

    cdef list core_covariances(self):
        cdef Py_ssize_t k, q, at = 0
        out = []
        for k in range(self.depth):
            q = self.levels[k].q
            if k >= self.chain:
                out.append(np.array(self.cov[at:at + q * q]).reshape(q, q))
            at += q * q
        return out

    cdef bint peeled_zero(self) noexcept:
        """Whether D = 0 in all peeled factors: their fronts are then the statistics themselves."""
        cdef Py_ssize_t i, k, size = 0
        for k in range(self.chain):
            size += self.levels[k].q * self.levels[k].q
        for i in range(size):
            if self.lam[i] != 0:
                return False
        for k in range(1, self.chain):
            size = self.at[k, self.units]
            for i in range(size):
                self.levels[k].front[i] = self.levels[k].stat[i]
        return True

    cdef Failure factor_units(self, double *logdet) except *:
        cdef Failure failure = Failure(OK, -1, -1, -1)
        cdef Walk[BATCH] walks
        cdef Py_ssize_t batch, c, lo, hi
        cdef Interrupt interrupt = Interrupt()
        cdef Share share
        cdef int threads
        share.sign = -1.0
        share.padded = True
        share.rows[:] = [0, self.levels[0].q]
        share.apart = 0
        for batch in range(self.batches.shape[0] - 1):
            lo = self.batches[batch]
            hi = self.batches[batch + 1]
            threads = self.open_batch(hi - lo, walks)
            for c in prange(lo, hi, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
                if not interrupt.stop(threadid()):
                    self.factor_units_of(&walks[c - lo], c, threadid())
            interrupt.check()
            for c in range(hi - lo):
                if walks[c].failure.status != OK:
                    return walks[c].failure
                logdet[0] += 2 * (walks[c].logdet + log(walks[c].product))
            self.add_units(batch, share, self.core.F, self.core.U, self.core.S)
        return failure

    cdef void factor_units_of(self, Walk *walk, Py_ssize_t chunk, Py_ssize_t thread) noexcept nogil:
        cdef Py_ssize_t unit, ld
        cdef double *into
        walk.levels = self.own_levels + thread * self.chain
        walk.scratch = self.scratch + thread * self.chain
        walk.product = 1
        for unit in range(self.cuts[chunk], self.cuts[chunk + 1]):
            self.shape(walk.levels, unit)
            into = &self.batch_room[self.room_at[unit]]
            if self.lone:
                if level_rows(walk, 0, unit, into):
                    return
            else:
                ld = walk.levels[self.chain - 1].ldu
                memset(into, 0, ld * ld * sizeof(double))
                if eliminate(walk, self.chain - 1, unit, unit + 1, into):
                    return

    cdef Patch patch(self, Py_ssize_t unit) noexcept nogil:
        """The core columns met by a unit."""
        cdef Patch out
        out.met = &self.columns[0] + self.offsets[unit]
        out.tile = &self.tile_of[0] + self.offsets[unit]
        out.t = self.offsets[unit + 1] - self.offsets[unit]
        out.side = self.p + 1
        return out

    cdef add_units(self, Py_ssize_t batch, Share share, double[:, :, ::1] F, double[:, ::1] U, double[:, ::1] S):
        """F, U and S += the share of each unit of a batch."""
        cdef Py_ssize_t lo = self.cuts[self.batches[batch]], hi = self.cuts[self.batches[batch + 1]]
        cdef Py_ssize_t unit, row, i, j, ld
        cdef double *block
        cdef const double *one
        cdef const double *other
        cdef int threads = threads_for(self.tiles.side)
        cdef Interrupt interrupt = Interrupt()
        for j in prange(self.tiles.side, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
            if not interrupt.stop(threadid()):
                self.add_column(j, lo, hi, share, &F[0, 0, 0], &U[0, 0])
        interrupt.check()
        for unit in range(lo, hi):
            patch = self.patch(unit)
            block = self.block(unit, patch, share, &ld)
            if not self.lone:
                add_corner(patch, block + patch.t * ld, ld, share.sign, &S[0, 0])
                continue
            for row in range(share.rows[0], share.rows[1]):
                one = block + row * ld + patch.t
                other = one + share.apart * ld
                for i in range(patch.side):
                    add_row(patch.side, i, share.sign * one[i], other, &S[0, 0])
                    if share.apart != 0:
                        add_row(patch.side, i, share.sign * other[i], one, &S[0, 0])

    cdef void add_column(self, Py_ssize_t j, Py_ssize_t lo, Py_ssize_t hi, Share share, double *F,
                         double *U) noexcept nogil:
        """The part of `add_units` in column j of tiles."""
        cdef Py_ssize_t unit, ld, row
        cdef double weight = share.sign if share.apart == 0 else 2 * share.sign
        cdef double *block
        cdef Patch patch
        for unit in range(lo, hi):
            patch = self.patch(unit)
            if not meets(patch, j * self.tiles.b, (j + 1) * self.tiles.b):
                continue
            block = self.block(unit, patch, share, &ld)
            if not self.lone:
                add_matrix(self.tiles, j, patch, block, ld, share.sign, F, U)
                continue
            for row in range(share.rows[0], share.rows[1]):
                add_product(self.tiles, j, patch, block + row * ld, block + (row + share.apart) * ld, weight, F, U)

    cdef double *block(self, Py_ssize_t unit, Patch patch, Share share, Py_ssize_t *ld) noexcept nogil:
        """Where a unit's matrix or rows are, and how long a row is."""
        cdef double *room = &self.batch_room[self.room_at[unit]]
        ld[0] = patch.t + patch.side
        if self.lone or share.padded:
            ld[0] = round_up(ld[0])
            return room
        return room + share.direction * ld[0] * ld[0]

    # ---- moments --------------------------------------------------------------------------------------------------

    cdef Failure moments_into(self, const double *e, const double *omega, bint omega_zero, bint second, bint exact,
                              double[::1] post, double[::1] outer, double[:, ::1] trace, double[:, ::1] average,
                              double[:, ::1] tangent, double **effects, double **covariances) except *:
        cdef Failure failure = Failure(OK, -1, -1, -1)
        cdef Py_ssize_t k, q, i, at = 0, p = self.p
        core = self.core
        root_e = np.array(<double[:p + 1]> <double *> e)
        root_omega = np.array(<double[:p, :p]> <double *> omega) if p else np.zeros((0, 0))
        sums = core.moments(root_e, root_omega)
        post[:] = 0
        outer[:] = 0
        trace[:, :] = 0
        average[:, :] = 0
        W = np.zeros((self.peeled_m if second else 0, *core.F.shape))
        W_cross = np.zeros((len(W), *core.U.shape))
        W_corner = np.zeros((len(W), p + 1, p + 1))
        if self.chain:
            failure = self.unit_moments(root_e, root_omega, second, post, outer, trace, average, W, W_cross, W_corner,
                                        effects, covariances)
            if failure.status != OK:
                return failure
        for k in range(self.depth):
            q = self.levels[k].q
            if k >= self.chain:
                np.asarray(post)[at:at + q * q] = sums[0][k - self.chain].reshape(-1)
                np.asarray(outer)[at:at + q * q] = sums[1][k - self.chain].reshape(-1)
                if effects != NULL:
                    self.hand_over(k, effects, covariances)
            at += q * q
        if second:
            traces, averages, tangents = Curvature(core).second(root_e, root_omega, W, W_cross, W_corner, exact)
            np.asarray(trace)[:self.m, :self.m] += traces
            np.asarray(average)[:self.m, :self.m] += averages
            if not exact:
                trace[:, :] = 0
            for i in range(self.m):
                np.asarray(tangent)[i] = tangents[i].reshape(-1)
        return failure

    cdef hand_over(self, Py_ssize_t k, double **effects, double **covariances):
        """Effects of core factor k, and their covariances if asked for."""
        cdef Py_ssize_t J = self.levels[k].J, q = self.levels[k].q
        places = self.core.places[k - self.chain]
        np.asarray(<double[:J, :q]> effects[k])[:, :] = np.array([self.core.effects[place] for place in places]).T
        if covariances != NULL:
            np.asarray(<double[:J, :q, :q]> covariances[k])[:, :, :] = self.core.covariances(k - self.chain)

    cdef Failure unit_moments(self, root_e, root_omega, bint second, double[::1] post, double[::1] outer,
                              double[:, ::1] trace, double[:, ::1] average, W, W_cross, W_corner, double **effects,
                              double **covariances) except *:
        cdef Failure failure = Failure(OK, -1, -1, -1)
        cdef Py_ssize_t batch, c, lo, hi, i
        cdef Walk[BATCH] walks
        cdef double[::1] e = root_e, shift = self.core.effects
        cdef double[:, :, ::1] N = self.core.N
        cdef double[:, ::1] spread = np.ascontiguousarray(self.core.spread), with_beta = np.ascontiguousarray(
            self.core.with_beta), omega = np.ascontiguousarray(root_omega)
        cdef Interrupt interrupt = Interrupt()
        cdef int threads
        for batch in range(self.batches.shape[0] - 1):
            lo = self.batches[batch]
            hi = self.batches[batch + 1]
            threads = self.open_batch(hi - lo, walks)
            for c in range(hi - lo):
                walks[c].second = second
                walks[c].effects = effects
                walks[c].covariances = covariances
            for c in prange(lo, hi, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
                if not interrupt.stop(threadid()):
                    self.unit_moments_of(&walks[c - lo], c, threadid(), &self.partial[c - lo, 0], e, shift, N, spread,
                                         with_beta, omega)
            interrupt.check()
            for c in range(hi - lo):
                if walks[c].failure.status != OK:
                    return walks[c].failure
                self.add_sums(&walks[c], post, outer, trace, average)
            if second:
                self.add_tangents(batch, W, W_cross, W_corner)
        if second:
            for i in range(self.m):
                for c in range(i):
                    trace[c, i] = trace[i, c]
                    average[c, i] = average[i, c]
        return failure

    cdef add_tangents(self, Py_ssize_t batch, W, W_cross, W_corner):
        """Derivatives of the core in all directions of the peeled factors.

        Those of the matrix of a unit are in its room. Where a unit is a single level they are -K'EK, E the direction.
        """
        cdef Py_ssize_t k, i, j
        cdef Share share
        share.sign = -1.0 if self.lone else 1.0
        share.padded = False
        share.direction = 0
        for k in range(self.chain):
            for j in range(self.levels[k].q):
                for i in range(j, self.levels[k].q):
                    share.rows[:] = [i, i + 1]
                    share.apart = j - i
                    self.add_units(batch, share, W[share.direction], W_cross[share.direction],
                                   W_corner[share.direction])
                    share.direction += 1

    cdef void unit_moments_of(self, Walk *walk, Py_ssize_t chunk, Py_ssize_t thread, double *part, double[::1] e,
                              double[::1] shift, double[:, :, ::1] N, double[:, ::1] spread, double[:, ::1] with_beta,
                              double[:, ::1] omega) noexcept nogil:
        cdef Py_ssize_t unit, t, p = self.p, i, widest = self.levels[self.chain - 1].u
        cdef double *unit_e = &self.spare[thread * self.spare_size]
        cdef double *unit_omega = unit_e + (widest + 7) // 8 * 8
        self.open_sums(walk, thread, part)
        walk.levels = self.own_levels + thread * self.chain
        for unit in range(self.cuts[chunk], self.cuts[chunk + 1]):
            self.shape(walk.levels, unit)
            t = self.offsets[unit + 1] - self.offsets[unit]
            for i in range(t):
                unit_e[i] = -shift[self.columns[self.offsets[unit] + i]]
            for i in range(p + 1):
                unit_e[t + i] = e[i]
            if self.lone:
                if self.lone_moments(walk, unit, unit_e, N, spread, with_beta, omega):
                    return
                continue
            covariance(self.tiles, self.patch(unit), &N[0, 0, 0], start_of(spread), start_of(with_beta),
                       start_of(omega), unit_omega)
            if siblings(walk, self.chain - 1, unit, unit + 1, unit_e, unit_omega, &self.batch_room[self.room_at[unit]]):
                return

    cdef int lone_moments(self, Walk *walk, Py_ssize_t unit, const double *e, double[:, :, ::1] N,
                          double[:, ::1] spread, double[:, ::1] with_beta, double[:, ::1] omega) noexcept nogil:
        """Moments of a unit that is a single level; its K stays in the room of the batch."""
        cdef Level *lv = walk.levels
        cdef Scratch *sc = walk.scratch
        cdef Py_ssize_t width = solved_width(walk, 0), i
        cdef double *K = &self.batch_room[self.room_at[unit]]
        if begin_level(walk, 0, unit, e):
            return 1
        for i in range(lv.q):
            memcpy(K + i * lv.ldu, sc.solved + i * width + lv.q, lv.u * sizeof(double))
        times_covariance(self.tiles, self.patch(unit), &N[0, 0, 0], start_of(spread), start_of(with_beta),
                         start_of(omega), lv.q, K, lv.ldu, sc.ko, lv.u)
        end_level(walk, 0, unit, False)
        return 0


cdef const double *start_of(double[:, ::1] matrix) noexcept nogil:
    return &matrix[0, 0] if matrix.shape[0] and matrix.shape[1] else NULL
