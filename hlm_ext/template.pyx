"""Λ(θ): a template of constants and multiples of the entries of θ, and the way back of derivatives (MATH: §5).

Derivatives come in the entries of the covariances D = ΛΛ' and leave in θ:

    dD = dΛ Λ' + Λ dΛ',    ⟨G, ∂²D⟩ = 2 tr(G dΛ_s dΛ_t')
"""

from libc.stdlib cimport calloc, free

import numpy as np

from hlm_ext.forest cimport Forest


cdef class Template:
    """Which entries of the packed factors Λ are constants, and which are multiples of an entry of θ.

    Parameters
    ----------
    forest : Forest
        Gives the sizes of the factors.
    base : (Σ q²,) float64
        Packed constant part of the Λ's, factors leaves first, row-major q x q each.
    entries : (E, 2) intp
        Pairs (position in the packed Λ's, index of θ).
    coefficients : (E,) float64
        Λ[position] = base[position] + Σ coefficient · θ[index].

    Raises
    ------
    ValueError
        If shapes do not fit each other, or an entry lies outside of the factors or above a diagonal.
    """

    def __init__(self, Forest forest not None, base, entries, coefficients):
        cdef const Py_ssize_t[:, ::1] pairs = np.ascontiguousarray(entries, dtype=np.intp).reshape(-1, 2)
        cdef const double[::1] scale = np.ascontiguousarray(coefficients, dtype=np.float64)
        cdef Py_ssize_t s
        self.base = np.ascontiguousarray(base, dtype=np.float64)
        self.count = pairs.shape[0]
        if self.base.shape[0] != forest.packed or self.count != scale.shape[0]:
            raise ValueError(f"base must have {forest.packed} entries, and coefficients one for each of entries")
        free(self.entries)
        self.entries = <Entry *> calloc(self.count + 1, sizeof(Entry))
        if self.entries == NULL:
            raise MemoryError
        self.m = 0
        for s in range(self.count):
            self.entries[s].index = pairs[s, 1]
            self.entries[s].coefficient = scale[s]
            self._place(forest, s, pairs[s, 0])
            self.m = max(self.m, pairs[s, 1] + 1)
        cdef Py_ssize_t rows = max(forest.m, 1), columns = max(self.m, 1)
        cdef double[::1] room = np.zeros(rows * columns + forest.packed + 1)
        self.jacobian = <double[:rows, :columns]> &room[0]
        self.packed = room[rows * columns:]

    cdef _place(self, Forest forest, Py_ssize_t s, Py_ssize_t position):
        """Find factor, row and column of entry s of the template."""
        cdef Entry *entry = &self.entries[s]
        cdef Py_ssize_t k = 0, at = position, q
        while k < forest.depth and at >= forest.levels[k].q ** 2:
            at -= forest.levels[k].q ** 2
            k += 1
        if k == forest.depth or at < 0:
            raise ValueError(f"entry {s} lies outside of the packed factors")
        q = forest.levels[k].q
        if at // q < at % q:
            raise ValueError(f"entry {s} lies above the diagonal of its factor")
        entry.factor = k
        entry.row = at // q
        entry.col = at % q
        entry.q = q
        entry.block = position - at
        entry.start = forest.levels[k].offset

    def __dealloc__(self):
        free(self.entries)

    cdef void put(self, const double[::1] theta) noexcept:
        """packed := Λ(θ)."""
        cdef Py_ssize_t i
        cdef Entry *entry
        for i in range(self.base.shape[0]):
            self.packed[i] = self.base[i]
        for i in range(self.count):
            entry = &self.entries[i]
            self.packed[entry.block + entry.row * entry.q + entry.col] += entry.coefficient * theta[entry.index]

    cdef void gradient(self, const double[::1] G, double[::1] out) noexcept:
        """out (m,) += derivatives in θ at the last one, given those in the D's, packed like the Λ's."""
        cdef Py_ssize_t s, c
        cdef Entry *entry
        for s in range(self.count):
            entry = &self.entries[s]
            for c in range(entry.q):
                out[entry.index] += (2 * entry.coefficient * G[entry.block + entry.row * entry.q + c]
                                     * self.packed[entry.block + c * entry.q + entry.col])

    cdef void hessian(self, const double[::1] G, const double[:, ::1] second, double[:, ::1] out) noexcept:
        """out (m, m) += second derivatives in θ, given both derivatives in the D's; `second` is by directions."""
        cdef Py_ssize_t s, t, i, c, a, b
        cdef Entry *entry
        cdef Entry *other
        cdef double z
        self.jacobian[:, :] = 0
        for s in range(self.count):
            entry = &self.entries[s]
            i = entry.row
            for c in range(entry.q):                 # the entries (max(i, c), min(i, c)) of dD
                a, b = (i, c) if i >= c else (c, i)
                a = entry.start + b * entry.q - b * (b - 1) // 2 + a - b
                self.jacobian[a, entry.index] += (
                    entry.coefficient * self.packed[entry.block + c * entry.q + entry.col] * (2 if i == c else 1))
            for t in range(self.count):
                other = &self.entries[t]
                if other.factor == entry.factor and other.col == entry.col:
                    out[entry.index, other.index] += (
                        2 * entry.coefficient * other.coefficient * G[entry.block + i * entry.q + other.row])
        for a in range(second.shape[0]):
            for s in range(self.m):
                z = 0
                for b in range(second.shape[1]):
                    z += second[a, b] * self.jacobian[b, s]
                if z == 0:
                    continue
                for t in range(self.m):
                    out[t, s] += self.jacobian[a, t] * z
