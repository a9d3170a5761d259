"""Rows in other coordinates: products of shifted columns with a basis, correct to the last digit.

Cross-products square the condition of what they are made of; where that costs too many digits, columns are made
orthogonal row by row and gathered once more. A combination that nearly cancels must then carry no rounding of its own,
so sums run in about twice the working precision and are rounded once (Dot2 of Ogita, Rump and Oishi 2005).
"""

from cython.parallel cimport prange, threadid
from libc.string cimport memset

import numpy as np

from hlm_ext.columns cimport Column, Columns
from hlm_ext.partition cimport Interrupt, chunk_count, threads_for
from hlm_ext.tree cimport hlm_accurate_update

cdef enum:
    ROWS = 128               # rows at a time: their sums stay in the first-level cache


cdef void deviations(const Column *column, Py_ssize_t lo, Py_ssize_t rows, double shift, double *high,
                     double *low) noexcept nogil:
    """high + low := x - shift exactly (Knuth's two-sum)."""
    cdef const double *x = column.at + lo * column.stride
    cdef double a, d, z
    cdef Py_ssize_t r
    for r in range(rows):
        a = x[r * column.stride]
        d = a - shift
        z = d - a
        high[r] = d
        low[r] = (a - (d - z)) - (shift + z)


cdef void project_chunk(const Column *columns, Py_ssize_t count, Py_ssize_t lo, Py_ssize_t hi, const double *shift,
                        const double *factor, const double *basis, Py_ssize_t wide, double *room,
                        double *out) noexcept nogil:
    """Rows lo .. hi - 1; `room` holds high and low deviations, then sums and their corrections, ROWS each."""
    cdef Py_ssize_t row = lo, rows, c, j, r
    cdef double *sums = room + 2 * ROWS
    cdef double *rest = sums + wide * ROWS
    while row < hi:
        rows = min(<Py_ssize_t> ROWS, hi - row)
        memset(sums, 0, 2 * wide * ROWS * sizeof(double))
        for c in range(count):
            deviations(&columns[c], row, rows, shift[c], room, room + ROWS)
            for j in range(wide):
                if basis[c * wide + j] != 0:
                    hlm_accurate_update(rows, factor[c] * basis[c * wide + j], room, room + ROWS, sums + j * ROWS,
                                        rest + j * ROWS)
        for r in range(rows):
            for j in range(wide):
                out[(row + r) * wide + j] = sums[j * ROWS + r] + rest[j * ROWS + r]
        row += rows


def project(Columns columns not None, const double[::1] shift not None, const double[::1] factor not None,
            const double[:, ::1] basis not None):
    """Form the combinations ((columns - shift) · factor) @ basis of the rows.

    Parameters
    ----------
    columns : Columns
        C columns of n rows.
    shift, factor : (C,) float64
        Factors that are powers of two make the deviations exact; others only round the basis, alike for all rows.
    basis : (C, E) float64

    Returns
    -------
    (n, E) float64
        Each entry is within about one rounding of the exact value for factor · basis as rounded to float64.
    """
    cdef Py_ssize_t n = columns.rows, count = columns.count, wide = basis.shape[1], chunks, c
    if shift.shape[0] != count or factor.shape[0] != count or basis.shape[0] != count:
        raise ValueError(f"shift, factor and basis must have {count} entries or rows")
    out = np.empty((n, wide))
    if n == 0 or wide == 0:
        return out
    chunks = chunk_count(n, 1024, 0)
    cdef int threads = threads_for(chunks)
    cdef double[:, ::1] view = out, rooms = np.empty((threads, (2 * wide + 2) * ROWS))
    cdef Interrupt interrupt = Interrupt()
    if threads == 1:
        with nogil:
            for c in range(chunks):
                if not interrupt.stop(0):
                    project_chunk(columns.at, count, n * c // chunks, n * (c + 1) // chunks, &shift[0], &factor[0],
                                  &basis[0, 0], wide, &rooms[0, 0], &view[0, 0])
    else:
        for c in prange(chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
            if not interrupt.stop(threadid()):
                project_chunk(columns.at, count, n * c // chunks, n * (c + 1) // chunks, &shift[0], &factor[0],
                              &basis[0, 0], wide, &rooms[threadid(), 0], &view[0, 0])
    interrupt.check()
    return out
