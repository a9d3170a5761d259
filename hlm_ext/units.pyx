"""Statistics of the peeled part of a crossed design: of each top unit with all below it, from rows of engine columns.

A top unit meets few of the core's columns. Its statistics are kept over those alone, for each level l of factor k:

    Z_kl'[Z_k, Z_k+1, …, core columns met by the unit, X, y]

so that the fronts of `hlm_ext.peel` are small and dense.
"""

from libc.stdlib cimport qsort

import numpy as np


cdef int ascending(const void *x, const void *y) noexcept nogil:
    cdef Py_ssize_t a = (<const Py_ssize_t *> x)[0], b = (<const Py_ssize_t *> y)[0]
    return (a > b) - (a < b)


def touched_columns(const Py_ssize_t[:, ::1] starts not None, const Py_ssize_t[::1] widths not None, Py_ssize_t size,
                    const Py_ssize_t[::1] order, const Py_ssize_t[::1] first not None):
    """Return which core columns the rows of each unit meet.

    Parameters
    ----------
    starts : (n, c) intp
        For each row and core factor: position of the first column of its level.
    widths : (c,) intp
        Columns of a level of each core factor.
    size : int
        Number of core columns.
    order : (n,) intp or None
        Rows sorted by unit.
    first : (units + 1,) intp
        Offsets of each unit's rows.

    Returns
    -------
    offsets : (units + 1,) intp
    columns : (offsets[-1],) intp
        Ascending in each unit.
    """
    cdef Py_ssize_t units = first.shape[0] - 1, factors = starts.shape[1], u, x, row, k, s, i, sweep, at
    cdef Py_ssize_t[::1] marker = np.full(size + 1, -1, dtype=np.intp)
    offsets, columns = np.zeros(units + 1, dtype=np.intp), np.zeros(1, dtype=np.intp)
    cdef Py_ssize_t[::1] offset = offsets, column = columns
    if starts.shape[0] and factors and (np.min(starts) < 0 or np.max(np.asarray(starts) + np.asarray(widths)) > size):
        raise ValueError("starts names a column that is not there")
    for sweep in range(2):
        marker[:] = -1
        at = 0
        with nogil:
            for u in range(units):
                for x in range(first[u], first[u + 1]):
                    row = order[x] if order is not None else x
                    for k in range(factors):
                        s = starts[row, k]
                        if marker[s] != u:
                            marker[s] = u
                            if sweep:
                                for i in range(widths[k]):
                                    column[at + i] = s + i
                            at += widths[k]
                offset[u + 1] = at
                if sweep and at > offset[u]:
                    qsort(&column[offset[u]], at - offset[u], sizeof(Py_ssize_t), ascending)
        if not sweep:
            columns = np.zeros(max(at, 1), dtype=np.intp)
            column = columns
    return offsets, columns[:at]


def unit_statistics(const double[:, ::1] rows not None, const Py_ssize_t[::1] order,
                    const Py_ssize_t[::1] leaf_rows not None, list children not None,
                    const Py_ssize_t[::1] widths not None, const Py_ssize_t[:, ::1] starts not None,
                    const Py_ssize_t[::1] core_widths not None, const Py_ssize_t[::1] offsets not None,
                    const Py_ssize_t[::1] columns not None, Py_ssize_t size):
    """Sum the cross-products of each level of the peeled factors over the columns that its unit meets.

    Parameters
    ----------
    rows : (n, E) float64
        Engine columns: of the peeled factors (leaves first), of the core factors, X, y.
    order, leaf_rows
        Rows sorted by leaf, and the offsets of each leaf's rows.
    children : list of (J_k + 1,) intp
        For each peeled factor but the first: offsets of the children of each level in the factor before it.
    widths : (d,) intp
        Columns of each peeled factor.
    starts, core_widths, size
        As for `touched_columns`.
    offsets, columns
        From `touched_columns`.

    Returns
    -------
    list of float64 arrays
        For each peeled factor: the (q, w) blocks of its levels one after the other; w = its columns, those of later
        peeled factors, the core columns of its unit, p + 1.
    """
    cdef Py_ssize_t d = widths.shape[0], factors = core_widths.shape[0], E = rows.shape[1], peeled = 0, cores = 0
    cdef Py_ssize_t k, u, l, x, row, i, j, c, t, w, q, z, own, at, units = offsets.shape[0] - 1, tail
    for k in range(d):
        peeled += widths[k]
    for k in range(factors):
        cores += core_widths[k]
    tail = E - peeled - cores
    # leaves below each level of each factor, hence the rows of each
    spans = [np.asarray(leaf_rows)]
    for first in children:
        spans.append(spans[len(spans) - 1][np.asarray(first)])
    unit_of = np.arange(units)
    owners = [unit_of]
    for first in reversed(children):
        unit_of = np.repeat(unit_of, np.diff(np.asarray(first)))
        owners.insert(0, unit_of)
    cdef Py_ssize_t[::1] local = np.zeros(size + 1, dtype=np.intp)
    cdef const Py_ssize_t[::1] span, owner
    cdef Py_ssize_t[::1] begin
    cdef double[::1] block
    out = []
    own = 0
    for k in range(d):
        q = widths[k]
        span = np.ascontiguousarray(spans[k], dtype=np.intp)
        owner = np.ascontiguousarray(owners[k], dtype=np.intp)
        met = np.diff(np.asarray(offsets))[np.asarray(owner)]
        begin = np.r_[0, np.cumsum(q * (met + (peeled - own) + tail))].astype(np.intp)
        stat = np.zeros(begin[begin.shape[0] - 1])
        block = stat
        with nogil:
            u = -1
            for l in range(owner.shape[0]):
                if owner[l] != u:
                    u = owner[l]
                    for i in range(offsets[u], offsets[u + 1]):
                        local[columns[i]] = i - offsets[u]
                t = offsets[u + 1] - offsets[u]
                w = peeled - own + t + tail
                for x in range(span[l], span[l + 1]):
                    row = order[x] if order is not None else x
                    for i in range(q):
                        at = begin[l] + i * w
                        for j in range(own, peeled):
                            block[at + j - own] += rows[row, own + i] * rows[row, j]
                        at += peeled - own
                        z = peeled
                        for c in range(factors):
                            for j in range(core_widths[c]):
                                block[at + local[starts[row, c]] + j] += rows[row, own + i] * rows[row, z + j]
                            z += core_widths[c]
                        at += t
                        for j in range(tail):
                            block[at + j] += rows[row, own + i] * rows[row, peeled + cores + j]
        out.append(stat)
        own += q
    return out


def plan_batches(const Py_ssize_t[::1] sizes not None, Py_ssize_t chunks, Py_ssize_t chunk_room, Py_ssize_t batch_room):
    """Cut units into chunks, and chunks into batches, by the room that each unit takes.

    Parameters
    ----------
    sizes : (units,) intp
        Doubles that a unit takes.
    chunks : int
        Most chunks in a batch.
    chunk_room, batch_room : int
        Doubles after which a chunk, or a batch, ends (a unit that takes more has one of its own).

    Returns
    -------
    cuts : (chunks in all + 1,) intp
        First unit of each chunk.
    batches : (batches + 1,) intp
        First chunk of each batch.
    places : (units + 1,) intp
        Where each unit's room begins in that of its batch.
    room : int
        Doubles that the largest batch takes, at least 1.
    """
    cdef Py_ssize_t u, used = 0, in_batch = 0, most = 1, first = 0, made = 0, began = 0, units = sizes.shape[0]
    cdef Py_ssize_t[::1] place = np.zeros(units + 1, dtype=np.intp)
    cuts, batches = [0], [0]
    for u in range(units):
        if u > first and used + sizes[u] > chunk_room:
            first = u
            used = 0
            cuts.append(u)
            made += 1
            if made - began >= chunks or in_batch + sizes[u] > batch_room:
                began = made
                in_batch = 0
                batches.append(made)
        place[u] = in_batch
        used += sizes[u]
        in_batch += sizes[u]
        most = max(most, in_batch)
    if units:
        cuts.append(units)
        batches.append(made + 1)
    return np.array(cuts, dtype=np.intp), np.array(batches, dtype=np.intp), np.asarray(place), most
