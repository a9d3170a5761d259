"""Rows to sufficient statistics (MATH: kernel 1): a first look that shifts and scales, then one pass of products."""

from cython.parallel cimport prange, threadid
from libc.math cimport sqrt
from libc.string cimport memcpy, memset

import numpy as np

from hlm_ext.columns cimport Column, Columns
from hlm_ext.partition cimport Interrupt, chunk_count, threads_for
from hlm_ext.tree cimport hlm_axpy, hlm_product, hlm_rank_update, hlm_select_update

cdef enum:
    ROWS = 128               # rows packed at a time: with 16 columns they stay in the first-level cache
    LOOK_ROWS = 512


cdef void look(const Column *column, Py_ssize_t lo, Py_ssize_t hi, double origin, double *sums) noexcept nogil:
    """sums[0] += Σ (x - origin), sums[1] += Σ (x - origin)², four partial sums each so that they overlap."""
    cdef double s0 = 0, s1 = 0, s2 = 0, s3 = 0, q0 = 0, q1 = 0, q2 = 0, q3 = 0, a, b, c, d
    cdef Py_ssize_t i = lo, stride = column.stride
    cdef const double *x = column.at
    while i + 4 <= hi:
        a = x[i * stride] - origin
        b = x[(i + 1) * stride] - origin
        c = x[(i + 2) * stride] - origin
        d = x[(i + 3) * stride] - origin
        s0 += a
        s1 += b
        s2 += c
        s3 += d
        q0 += a * a
        q1 += b * b
        q2 += c * c
        q3 += d * d
        i += 4
    while i < hi:
        a = x[i * stride] - origin
        s0 += a
        q0 += a * a
        i += 1
    sums[0] += (s0 + s1) + (s2 + s3)
    sums[1] += (q0 + q1) + (q2 + q3)


def scan(Columns columns not None):
    """Take a first look at the columns: a centre and a spread for each, so that products can be formed safely.

    Returns
    -------
    mean : (C,) float64
        Mean of each column; not finite where a value of the column is not.
    spread : (C,) float64
        Standard deviation of each column (about the mean, divisor n); exactly 0 for a constant column.
    """
    cdef Py_ssize_t n = columns.rows, count = columns.count, c, j
    cdef Py_ssize_t chunks = chunk_count(n * count, 65536, 2 * count)
    cdef int threads = threads_for(chunks)
    cdef Interrupt interrupt = Interrupt()
    cdef double[:, :, ::1] sums = np.zeros((chunks, count, 2))
    if threads == 1:
        with nogil:
            for c in range(chunks):
                if not interrupt.stop(0):
                    look_chunk(columns.at, count, n * c // chunks, n * (c + 1) // chunks, &sums[c, 0, 0])
    else:
        for c in prange(chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
            if not interrupt.stop(threadid()):
                look_chunk(columns.at, count, n * c // chunks, n * (c + 1) // chunks, &sums[c, 0, 0])
    interrupt.check()
    mean = np.empty(count)
    spread = np.empty(count)
    cdef double[::1] mean_view = mean, spread_view = spread
    cdef double s, q, d
    for j in range(count):
        s = 0
        q = 0
        for c in range(chunks):
            s += sums[c, j, 0]
            q += sums[c, j, 1]
        d = s / n
        mean_view[j] = columns.at[j].at[0] + d
        q = q / n - d * d
        spread_view[j] = sqrt(q) if q > 0 else (0.0 if q == q else q)
    return mean, spread


cdef void look_chunk(const Column *columns, Py_ssize_t count, Py_ssize_t lo, Py_ssize_t hi,
                     double *sums) noexcept nogil:
    cdef Py_ssize_t block = lo, j
    while block < hi:
        for j in range(count):
            look(&columns[j], block, min(block + LOOK_ROWS, hi), columns[j].at[0], sums + 2 * j)
        block += LOOK_ROWS


cdef void pack(const Column *columns, Py_ssize_t count, const Py_ssize_t *order, Py_ssize_t lo, Py_ssize_t rows,
               const double *shift, const double *factor, const double *weights, Py_ssize_t w,
               double *panel) noexcept nogil:
    """panel[r] := √weight · (columns - shift) · factor of rows lo .. lo + rows - 1 of `order` (NULL: as they stand)."""
    cdef Py_ssize_t j, r, stride
    cdef const double *x
    cdef double s, f
    for j in range(count):
        x = columns[j].at
        stride = columns[j].stride
        s = shift[j]
        f = factor[j]
        if order == NULL:
            x += lo * stride
            for r in range(rows):
                panel[r * w + j] = (x[r * stride] - s) * f
        else:
            for r in range(rows):
                panel[r * w + j] = (x[order[lo + r] * stride] - s) * f
    if weights != NULL:
        for r in range(rows):
            s = sqrt(weights[order[lo + r] if order != NULL else lo + r])
            for j in range(count):
                panel[r * w + j] *= s


cdef void gather_chunk(const Column *columns, Py_ssize_t count, const Py_ssize_t *order, const Py_ssize_t *first,
                       Py_ssize_t lo, Py_ssize_t hi, const double *shift, const double *factor, const double *weights,
                       Py_ssize_t q, const Py_ssize_t *selected, Py_ssize_t w, double *panel, double *products,
                       double *total) noexcept nogil:
    """Products of leaves lo .. hi - 1, whose rows are first[l] .. first[l + 1] - 1."""
    cdef Py_ssize_t row = first[lo], end = first[hi], rows, leaf = lo, at, stop
    while row < end:
        rows = min(<Py_ssize_t> ROWS, end - row)
        pack(columns, count, order, row, rows, shift, factor, weights, w, panel)
        hlm_rank_update(rows, w, panel, w, total, w)
        if q > 0:
            at = row
            while at < row + rows:
                stop = min(first[leaf + 1], row + rows)
                hlm_select_update(stop - at, w, q, selected, panel + (at - row) * w, products + leaf * q * w)
                at = stop
                if at == first[leaf + 1]:
                    leaf += 1
        row += rows


def gather(Columns columns not None, const Py_ssize_t[::1] order, const Py_ssize_t[::1] first not None,
           const double[::1] shift not None, const double[::1] factor not None, const Py_ssize_t[::1] selected not None,
           const double[::1] weights=None):
    """Sum cross-products of the rows, for all of them and for each leaf.

    With x = √weight (column - shift) · factor for each row,

        total[i, j] = Σ_rows x_i x_j,   products[l, a, j] = Σ_rows of leaf l x_selected[a] x_j

    Parameters
    ----------
    columns : Columns
        C columns of n rows.
    order : (n,) intp or None
        Rows sorted by leaf; None when they stand so already.
    first : (J + 1,) intp
        Rows of leaf l are order[first[l] : first[l + 1]]; at least one each.
    shift, factor : (C,) float64
        From `scan`, or 0 and 1.
    selected : (Q,) intp
        Columns whose products are wanted for each leaf; may be empty.
    weights : (n,) float64 or None
        Prior weights, positive.

    Returns
    -------
    total : (C, C) float64
    products : (J, Q, W) float64
        W is C rounded up to a multiple of 8; columns from C on are 0.
    """
    cdef Py_ssize_t n = columns.rows, count = columns.count, w = (count + 7) // 8 * 8, leaves = first.shape[0] - 1
    cdef Py_ssize_t q = selected.shape[0], chunks, c, i, j
    if (order is not None and order.shape[0] != n) or (weights is not None and weights.shape[0] != n):
        raise ValueError(f"order and weights must have {n} entries")
    if shift.shape[0] != count or factor.shape[0] != count:
        raise ValueError(f"shift and factor must have {count} entries")
    if leaves < 1 or first[0] != 0 or first[leaves] != n:
        raise ValueError(f"first must run from 0 to {n}")
    for i in range(leaves):
        if first[i] > first[i + 1]:
            raise ValueError("first must not decrease")
    if order is not None:
        for i in range(n):
            if not 0 <= order[i] < n:
                raise ValueError(f"order[{i}] = {order[i]} is not a row")
    for i in range(q):
        if not 0 <= selected[i] < count:
            raise ValueError("selected names a column that is not there")
    chunks = chunk_count(n, 4096, w * w)
    cuts = np.array([0, leaves], dtype=np.intp)
    if chunks > 1:
        cuts = np.unique(np.r_[cuts, np.searchsorted(first, n * np.arange(1, chunks) // chunks)]).astype(np.intp)
    chunks = len(cuts) - 1
    cdef int threads = threads_for(chunks)
    cdef const Py_ssize_t[::1] bounds = cuts
    products = np.zeros((leaves, max(q, 1), w))
    total = np.zeros((count, count))
    cdef double[:, :, ::1] products_view = products
    cdef double[:, ::1] total_view = total, partial = np.zeros((chunks, w * w))
    cdef double[:, ::1] panels = np.zeros((threads, ROWS * w))
    cdef Interrupt interrupt = Interrupt()
    cdef const Py_ssize_t *rows = NULL
    cdef const double *weight = NULL
    cdef const Py_ssize_t *select = NULL
    if order is not None:
        rows = &order[0]
    if weights is not None:
        weight = &weights[0]
    if q:
        select = &selected[0]
    if threads == 1:
        with nogil:
            for c in range(chunks):
                if not interrupt.stop(0):
                    gather_chunk(columns.at, count, rows, &first[0], bounds[c], bounds[c + 1], &shift[0], &factor[0],
                                 weight, q, select, w, &panels[0, 0], &products_view[0, 0, 0], &partial[c, 0])
    else:
        for c in prange(chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
            if not interrupt.stop(threadid()):
                gather_chunk(columns.at, count, rows, &first[0], bounds[c], bounds[c + 1], &shift[0], &factor[0],
                             weight, q, select, w, &panels[threadid(), 0], &products_view[0, 0, 0], &partial[c, 0])
    interrupt.check()
    for c in range(chunks):
        for i in range(count):
            for j in range(i, count):
                total_view[i, j] += partial[c, i * w + j]
    for i in range(count):
        for j in range(i):
            total_view[i, j] = total_view[j, i]
    return total, products[:, :q]


cdef void transform_levels(Py_ssize_t lo, Py_ssize_t hi, Py_ssize_t Q, Py_ssize_t W, Py_ssize_t q, Py_ssize_t w,
                           Py_ssize_t wide, const double *products, const double *left, const double *right,
                           double *room, double *out) noexcept nogil:
    """out[l] := left' products[l] right; `right` has rows of length `wide`, w rounded up to a multiple of 4."""
    cdef Py_ssize_t l, a, i
    cdef double *row
    for l in range(lo, hi):
        hlm_product(Q, W, wide, products + l * Q * W, right, room)
        row = out + l * q * w
        memset(row, 0, q * w * sizeof(double))
        for i in range(q):
            for a in range(Q):
                if left[a * q + i] != 0:
                    hlm_axpy(w, left[a * q + i], room + a * wide, row + i * w)


cdef void leaf_chunk(const Column *columns, Py_ssize_t count, const Py_ssize_t *order, const Py_ssize_t *first,
                     Py_ssize_t lo, Py_ssize_t hi, const double *shift, const double *factor, const double *weights,
                     const double *basis, Py_ssize_t E, Py_ssize_t w, Py_ssize_t wide, double *room,
                     double *out) noexcept nogil:
    """Products of leaves lo .. hi - 1; `room` holds a panel, products (w x w), both factors and what is between."""
    cdef Py_ssize_t l, i, j, row, rows
    cdef double *total = room + ROWS * w
    cdef double *right = total + w * w
    cdef double *left = right + count * wide
    cdef double *half = left + E * count
    cdef double *whole = half + count * wide
    for i in range(count):
        for j in range(wide):
            right[i * wide + j] = basis[i * E + j] if j < E else 0
        for j in range(E):
            left[j * count + i] = basis[i * E + j]
    for l in range(lo, hi):
        memset(total, 0, w * w * sizeof(double))
        row = first[l]
        while row < first[l + 1]:
            rows = min(<Py_ssize_t> ROWS, first[l + 1] - row)
            pack(columns, count, order, row, rows, shift, factor, weights, w, room)
            hlm_rank_update(rows, w, room, w, total, w)
            row += rows
        for i in range(count):               # in full, and closed up: rows of `count`
            for j in range(count):
                total[i * count + j] = total[i * w + j] if i <= j else total[j * count + i]
        hlm_product(count, count, wide, total, right, half)
        hlm_product(E, count, wide, left, half, whole)
        for i in range(E):
            memcpy(out + (l * E + i) * E, whole + i * wide, E * sizeof(double))


def leaf_products(Columns columns not None, const Py_ssize_t[::1] order, const Py_ssize_t[::1] first not None,
                  const double[::1] shift not None, const double[::1] factor not None,
                  const double[:, ::1] basis not None, const double[::1] weights=None):
    """Sum cross-products of combinations of the columns over the rows of each leaf.

    Parameters
    ----------
    columns : Columns
        C columns of n rows.
    order : (n,) intp or None
        Rows sorted by leaf; None when they stand so already.
    first : (J + 1,) intp
        Rows of leaf l are order[first[l] : first[l + 1]]; some of the leaves will do.
    shift, factor : (C,) float64
    basis : (C, E) float64
        The combinations are ((columns - shift) · factor) @ basis.
    weights : (n,) float64 or None

    Returns
    -------
    (J, E, E) float64
    """
    cdef Py_ssize_t n = columns.rows, count = columns.count, E = basis.shape[1], leaves = first.shape[0] - 1, c, i
    cdef Py_ssize_t w = (count + 7) // 8 * 8, wide = (E + 3) // 4 * 4
    if (order is not None and order.shape[0] != n) or (weights is not None and weights.shape[0] != n):
        raise ValueError(f"order and weights must have {n} entries")
    if shift.shape[0] != count or factor.shape[0] != count or basis.shape[0] != count:
        raise ValueError(f"shift, factor and basis must have {count} entries or rows")
    if leaves < 0 or first[0] < 0 or first[leaves] > n or (np.diff(first) < 0).any():
        raise ValueError(f"first must not decrease, and stay between 0 and {n}")
    out = np.empty((leaves, E, E))
    if leaves == 0 or E == 0:
        return out
    if order is not None:
        for i in range(first[0], first[leaves]):
            if not 0 <= order[i] < n:
                raise ValueError(f"order[{i}] = {order[i]} is not a row")
    cdef Py_ssize_t chunks = chunk_count(leaves, 64, 0)
    cdef int threads = threads_for(chunks)
    cdef double[:, ::1] rooms = np.zeros((threads, (ROWS + w) * w + 2 * count * wide + E * (count + wide) + 16))
    cdef double[:, :, ::1] view = out
    cdef const Py_ssize_t *rows = &order[0] if order is not None else NULL
    cdef const double *weight = &weights[0] if weights is not None else NULL
    cdef Interrupt interrupt = Interrupt()
    for c in prange(chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
        if not interrupt.stop(threadid()):
            leaf_chunk(columns.at, count, rows, &first[0], leaves * c // chunks, leaves * (c + 1) // chunks, &shift[0],
                       &factor[0], weight, &basis[0, 0], E, w, wide, &rooms[threadid(), 0], &view[0, 0, 0])
    interrupt.check()
    return out


def transform(const double[:, :, :] products not None, const double[:, ::1] left not None,
              const double[:, ::1] right not None):
    """Change the columns of per-level products: out[l] = left' products[l] right.

    Parameters
    ----------
    products : (J, Q, W) float64, C-contiguous
    left : (Q, q) float64
    right : (W, w) float64

    Returns
    -------
    (J, q, w) float64
    """
    cdef Py_ssize_t J = products.shape[0], Q = products.shape[1], W = products.shape[2]
    cdef Py_ssize_t q = left.shape[1], w = right.shape[1], chunks, c
    if left.shape[0] != Q or right.shape[0] != W:
        raise ValueError(f"left must have {Q} rows and right {W}")
    cdef Py_ssize_t wide = (w + 3) // 4 * 4
    cdef const double[:, :, ::1] source = np.ascontiguousarray(products)
    out, padded = np.empty((J, q, w)), np.zeros((W, wide))
    padded[:, :w] = right
    cdef double[:, :, ::1] view = out
    cdef const double[:, ::1] rights = padded
    chunks = chunk_count(J, 256, 0)
    cdef int threads = threads_for(chunks)
    cdef double[:, ::1] room = np.empty((threads, Q * wide + 16))     # 16: no cache line is shared by two threads
    if threads == 1:
        with nogil:
            transform_levels(0, J, Q, W, q, w, wide, &source[0, 0, 0], &left[0, 0], &rights[0, 0], &room[0, 0],
                             &view[0, 0, 0])
    else:
        for c in prange(chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
            transform_levels(J * c // chunks, J * (c + 1) // chunks, Q, W, q, w, wide, &source[0, 0, 0], &left[0, 0],
                             &rights[0, 0], &room[threadid(), 0], &view[0, 0, 0])
    return out
