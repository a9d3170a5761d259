"""Between the few core columns that a unit meets and the tiles of the core: what the unit adds, and what it reads.

Columns are ascending, so those in one tile follow each other: every inner loop runs within one row or column of a tile.
"""

from libc.string cimport memset


cdef Py_ssize_t first_from(Patch patch, Py_ssize_t column) noexcept nogil:
    """Place of the first column of the patch that is not before `column`."""
    cdef Py_ssize_t low = 0, high = patch.t, middle
    while low < high:
        middle = (low + high) // 2
        if patch.met[middle] < column:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline void add_run(Tiles tiles, Py_ssize_t j, Patch patch, Py_ssize_t first, Py_ssize_t last, double scale,
                         const double *u, const double *x, const double *v, const double *y, double *F,
                         double *U) noexcept nogil:
    """F[a, first + i] += scale (u[i] x[a] + v[i] y[a]) for columns first … last - 1, all in column j of tiles.

    Row by row, since what lies in one row of a tile shares its cache lines; rows of X and y go to U.
    """
    cdef Py_ssize_t b = tiles.b, a = first, i, k, end, runs = last - first
    cdef const Py_ssize_t *met = patch.met + first
    cdef double *row
    cdef double *start
    cdef double xa, ya
    while a < patch.t:
        k = patch.tile[a]
        start = F + (tiles.place[k, j] - k) * b * b - j * b
        while a < patch.t and patch.tile[a] == k:
            row = start + patch.met[a] * b
            xa = scale * x[a]
            ya = scale * y[a]
            end = min(runs, a - first + 1)
            for i in range(end):
                row[met[i]] += u[i] * xa + v[i] * ya
            if k == j:                           # a diagonal tile has both triangles
                for i in range(min(end, a - first)):
                    start[met[i] * b + patch.met[a]] += u[i] * xa + v[i] * ya
            a += 1
    for a in range(patch.side):
        for i in range(runs):
            U[met[i] * patch.side + a] += scale * (u[i] * x[patch.t + a] + v[i] * y[patch.t + a])


cdef void add_matrix(Tiles tiles, Py_ssize_t j, Patch patch, const double *block, Py_ssize_t ld, double sign, double *F,
                     double *U) noexcept nogil:
    """Column j of tiles of F, and U, += sign · the unit's matrix (upper triangle, row length ld)."""
    cdef Py_ssize_t c = first_from(patch, j * tiles.b)
    cdef double one = 1.0, zero = 0.0
    while c < patch.t and patch.tile[c] == j:
        add_run(tiles, j, patch, c, c + 1, sign, &one, block + c * ld, &zero, block + c * ld, F, U)
        c += 1


cdef void add_product(Tiles tiles, Py_ssize_t j, Patch patch, const double *x, const double *y, double sign, double *F,
                      double *U) noexcept nogil:
    """`add_matrix` for the matrix (xy' + yx') / 2, which is never formed."""
    cdef Py_ssize_t c = first_from(patch, j * tiles.b), last = c
    while last < patch.t and patch.tile[last] == j:
        last += 1
    add_run(tiles, j, patch, c, last, 0.5 * sign, y + c, x, x + c, y, F, U)


cdef void covariance(Tiles tiles, Patch patch, const double *N, const double *spread, const double *with_beta,
                     const double *omega, double *out) noexcept nogil:
    """out (t + p)² := covariance of (core effects that the unit meets, β) given the data.

    N + spread spread' of the core's effects (see `hlm_ext.core`), `with_beta` with β, `omega` of β.
    """
    cdef Py_ssize_t t = patch.t, p = patch.side - 1, side = t + p, b = tiles.b, a, c, x, i, k, row
    cdef const double *one
    for a in range(t):
        i = patch.met[a]
        row = i - patch.tile[a] * b
        c = 0
        while c <= a:
            k = patch.tile[c]
            one = N + (tiles.place[patch.tile[a], k] * b + row) * b - k * b
            while c <= a and patch.tile[c] == k:
                out[a * side + c] = one[patch.met[c]]
                c += 1
        for c in range(a + 1):
            for x in range(p):
                out[a * side + c] += spread[i * p + x] * spread[patch.met[c] * p + x]
            out[c * side + a] = out[a * side + c]
        for x in range(p):
            out[a * side + t + x] = with_beta[i * p + x]
            out[(t + x) * side + a] = with_beta[i * p + x]
    for x in range(p):
        for i in range(p):
            out[(t + x) * side + t + i] = omega[x * p + i]


cdef void times_covariance(Tiles tiles, Patch patch, const double *N, const double *spread, const double *with_beta,
                           const double *omega, Py_ssize_t q, const double *K, Py_ssize_t ldk, double *out,
                           Py_ssize_t ldo) noexcept nogil:
    """out (q, t + p) := K (q, t + p) times the matrix of `covariance`, which is never formed."""
    cdef Py_ssize_t t = patch.t, p = patch.side - 1, b = tiles.b, a, c, x, y, i, k, r, row
    cdef const double *one
    cdef double s, z
    for r in range(q):
        memset(out + r * ldo, 0, (t + p) * sizeof(double))
    for a in range(t):
        i = patch.met[a]
        row = i - patch.tile[a] * b
        c = 0
        while c < a:
            k = patch.tile[c]
            one = N + (tiles.place[patch.tile[a], k] * b + row) * b - k * b
            if q == 1:
                s = 0
                z = K[a]
                while c < a and patch.tile[c] == k:
                    s += K[c] * one[patch.met[c]]
                    out[c] += z * one[patch.met[c]]
                    c += 1
                out[a] += s
            else:
                while c < a and patch.tile[c] == k:
                    z = one[patch.met[c]]
                    for r in range(q):
                        out[r * ldo + a] += K[r * ldk + c] * z
                        out[r * ldo + c] += K[r * ldk + a] * z
                    c += 1
        k = patch.tile[a]
        z = N[(tiles.place[k, k] * b + row) * b + row]
        for r in range(q):
            out[r * ldo + a] += K[r * ldk + a] * z
    for r in range(q):
        for x in range(p):
            s = 0
            z = 0
            for c in range(t):
                s += K[r * ldk + c] * spread[patch.met[c] * p + x]
                z += K[r * ldk + c] * with_beta[patch.met[c] * p + x]
            for y in range(p):
                z += K[r * ldk + t + y] * omega[y * p + x]
            for a in range(t):
                i = patch.met[a] * p + x
                out[r * ldo + a] += s * spread[i] + K[r * ldk + t + x] * with_beta[i]
            out[r * ldo + t + x] = z


cdef bint meets(Patch patch, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    """Whether some columns of the patch may lie in lo … hi - 1."""
    return patch.t > 0 and patch.met[0] < hi and patch.met[patch.t - 1] >= lo


cdef void add_row(Py_ssize_t side, Py_ssize_t i, double scale, const double *x, double *S) noexcept nogil:
    """Row i of S (side²) += scale · x."""
    cdef Py_ssize_t j
    for j in range(side):
        S[i * side + j] += scale * x[j]


cdef void add_corner(Patch patch, const double *block, Py_ssize_t ld, double sign, double *S) noexcept nogil:
    """S += sign · the part of a unit's matrix in X and y (upper triangle; `block` is its first row there)."""
    cdef Py_ssize_t i, j
    for i in range(patch.side):
        for j in range(i, patch.side):
            S[i * patch.side + j] += sign * block[i * ld + patch.t + j]
            if j > i:
                S[j * patch.side + i] = S[i * patch.side + j]
