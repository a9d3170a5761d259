"""Codes of grouping factors: compact coding, first rows, nesting, and rows sorted by leaf. All in O(n)."""

import numpy as np


def compact_codes(const Py_ssize_t[::1] values not None, Py_ssize_t low, Py_ssize_t high):
    """Code integers low … high in ascending order of value.

    Returns
    -------
    codes : (n,) intp
        Position of each value among the distinct ones.
    distinct : (J,) intp
        The distinct values, ascending.
    """
    cdef Py_ssize_t n = values.shape[0], i, J = 0
    table = np.zeros(high - low + 1, dtype=np.intp)
    codes = np.empty(n, dtype=np.intp)
    cdef Py_ssize_t[::1] seen = table, out = codes
    for i in range(n):
        if values[i] < low or values[i] > high:
            raise ValueError(f"value {values[i]} lies outside of {low} … {high}")
        seen[values[i] - low] = 1
    distinct = np.flatnonzero(table) + low
    for i in range(high - low + 1):
        if seen[i]:
            seen[i] = J
            J += 1
    for i in range(n):
        out[i] = seen[values[i] - low]
    return codes, distinct


cdef out_of_range(Py_ssize_t code, Py_ssize_t row, Py_ssize_t J):
    return ValueError(f"code {code} in row {row} is not one of 0 … {J - 1}")


def first_rows(const Py_ssize_t[::1] codes not None, Py_ssize_t J):
    """Return (J,) intp: the first row of each level, n for a level that has none."""
    cdef Py_ssize_t n = codes.shape[0], i
    out = np.full(J, n, dtype=np.intp)
    cdef Py_ssize_t[::1] first = out
    for i in range(n - 1, -1, -1):
        if not 0 <= codes[i] < J:
            raise out_of_range(codes[i], i, J)
        first[codes[i]] = i
    return out


def appearance(const Py_ssize_t[::1] codes not None, Py_ssize_t J):
    """Return (J,) intp: the levels in the order in which they first appear; every level must."""
    cdef Py_ssize_t n = codes.shape[0], i, found = 0
    out = np.empty(J, dtype=np.intp)
    cdef Py_ssize_t[::1] levels = out
    cdef unsigned char[::1] seen = np.zeros(J + 1, dtype=np.uint8)
    for i in range(n):
        if not 0 <= codes[i] < J:
            raise out_of_range(codes[i], i, J)
        if not seen[codes[i]]:
            seen[codes[i]] = 1
            levels[found] = codes[i]
            found += 1
    if found != J:
        raise ValueError(f"{J - found} of {J} levels have no rows")
    return out


def parents(const Py_ssize_t[::1] child not None, const Py_ssize_t[::1] first not None,
            const Py_ssize_t[::1] parent not None):
    """Find the one level of `parent` that each level of `child` lies in.

    Parameters
    ----------
    child, parent : (n,) intp
        Codes of two factors.
    first : (J,) intp
        First row of each level of `child`.

    Returns
    -------
    of : (J,) intp
        Parent of each level.
    row : int
        First row that contradicts nesting, or -1: the factors are crossed there.
    """
    cdef Py_ssize_t n = child.shape[0], J = first.shape[0], i
    if parent.shape[0] != n:
        raise ValueError(f"child has {n} rows, parent {parent.shape[0]}")
    of = np.asarray(parent)[np.asarray(first)]
    cdef const Py_ssize_t[::1] view = of
    for i in range(n):
        if not 0 <= child[i] < J:
            raise out_of_range(child[i], i, J)
        if view[child[i]] != parent[i]:
            return of, i
    return of, -1


def sort_rows(const Py_ssize_t[::1] codes not None, const Py_ssize_t[::1] position not None):
    """Sort rows stably by the position of their level.

    Parameters
    ----------
    codes : (n,) intp
    position : (J,) intp
        A permutation: where each level goes.

    Returns
    -------
    order : (n,) intp or None
        Rows in order of position; None when they stand so already.
    first : (J + 1,) intp
        Offsets: rows of the level at position l are order[first[l] : first[l + 1]].
    """
    cdef Py_ssize_t n = codes.shape[0], J = position.shape[0], i, at, last = 0
    cdef bint ordered = True
    offsets = np.zeros(J + 1, dtype=np.intp)
    cdef Py_ssize_t[::1] first = offsets
    cdef unsigned char[::1] taken = np.zeros(J + 1, dtype=np.uint8)
    for i in range(J):
        if not 0 <= position[i] < J or taken[position[i]]:
            raise ValueError(f"position must be a permutation of 0 … {J - 1}")
        taken[position[i]] = 1
    for i in range(n):
        if not 0 <= codes[i] < J:
            raise out_of_range(codes[i], i, J)
        at = position[codes[i]]
        first[at + 1] += 1
        if at < last:
            ordered = False
        last = at
    for i in range(J):
        first[i + 1] += first[i]
    if ordered:
        return None, offsets
    rows = np.empty(n, dtype=np.intp)
    cdef Py_ssize_t[::1] out = rows, fill = offsets[:J].copy()
    for i in range(n):
        at = position[codes[i]]
        out[fill[at]] = i
        fill[at] += 1
    return rows, offsets
