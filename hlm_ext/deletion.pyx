"""Estimates without each group of one grouping factor, by subtraction (MATH: §7).

Everything about such a model is a sum over groups. In units of σ², with the statistics A = Z'WZ, B = Z'W[X y] and
C = [X y]'W[X y] of one group, D the covariance of its effects and E_a the directions of D, its part of the sums is

    K = (I + AD)⁻¹ B,   T = (I + AD)⁻¹ A,   S = C - B'DK,   S_a = -K'E_aK,   Q_ab = K'E_aTE_bK

(S = [X y]'V⁻¹[X y], S_a its derivatives, see `hlm_ext.forms`). What is left of the sums gives γ̂ and σ̂² without the
group, e = (-γ̂; 1), and of the criterion the derivatives in the entries of D, exact at the D of the fit:

    g_a  = Σ tr(TE_a) + [REML: tr(S_X⁻¹S_aX)] + e'S_ae / σ²
    H_ab = -Σ tr(TE_aTE_b) + [REML: 2 tr(S_X⁻¹Q_abX) - tr(S_X⁻¹S_aXS_X⁻¹S_bX)]
           + 2 (e'Q_abe - (S_ae)_X'S_X⁻¹(S_be)_X) / σ² - (e'S_ae)(e'S_be) / (νσ⁴)

and with them one Newton step in the parameters θ of D.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport NAN, log
from libc.string cimport memcpy, memset

import numpy as np

from hlm_ext.group_sums cimport level_of, paired
from hlm_ext.moments cimport solve_front
from hlm_ext.partition cimport Interrupt, chunk_count, threads_for
from hlm_ext.peel cimport cholesky
from hlm_ext.tree cimport Level, Scratch, hlm_axpy, hlm_product
from hlm_ext.trust_region cimport newton_step

# A column of X of which no more than this part of its sum of squares is left beside the others cannot be told from
# rounding: without the group it is dependent on them.
cdef double LEFT = 1e-12
# Curvatures below this part of the largest are none: directions of θ on the boundary.
cdef double FLAT = 1e-9


cdef struct Sums:
    # Sums over all groups, and the shape of everything.
    Py_ssize_t q, p, r, m, s  # random columns, columns of X, r = p + 1, directions of D, length of θ
    Py_ssize_t P             # rows of the map
    Py_ssize_t wide          # r rounded up to a multiple of 4: row length of S_a
    Py_ssize_t pairs         # m (m + 1) / 2 rounded up to a multiple of 4
    Py_ssize_t many          # m rounded up to a multiple of 4
    bint reml
    const double *schur      # r x r
    const double *slopes     # m x r x wide: S_a
    const double *products   # (r r) x pairs: Q_ab, a ≥ b, symmetric parts
    const double *trace      # m: tr(TE_a)
    const double *traces     # m x m: tr(TE_aTE_b)
    const double *beta_map   # P x p
    const double *jacobian   # m x s: ∂D_a/∂θ
    const double *bend       # m x s x s: ∂²D_a/∂θ²


cdef struct Room:
    # Of one thread.
    double *small            # q x q
    double *solved           # q x (q + r): T | K
    double *left             # r x r: S, then its Cholesky factor
    double *root             # p x p: inverse of the factor of S_X
    double *inverse          # p x p: S_X⁻¹
    double *e                # r: (-γ̂; 1)
    double *t                # q: K e
    double *u                # q x q: T - 2 tt'/σ² - 2 K_X S_X⁻¹ K_X'
    double *weight           # r x r: 2 ee'/σ² + 2 S_X⁻¹
    double *forms            # pairs
    double *slopes           # m x r x wide: S_a of the others
    double *inner            # m x p x wide: S_X⁻¹ S_a
    double *turned           # (p wide) x many: its X columns, transposed
    double *crossed          # m x many: tr(S_X⁻¹S_aX S_X⁻¹S_bX)
    double *se               # m x r: S_a e
    double *ese              # m
    double *change           # m x p: S_X⁻¹(S_ae)_X = ∂γ̂/∂D_a
    double *gradient         # m: in the entries of D
    double *hessian          # m x m
    double *half             # m x s: hessian times jacobian
    double *slope            # s: gradient in θ
    double *curved           # s x s: Hessian in θ
    double *work             # of the Newton step


cdef struct Out:
    # Of one group.
    double *beta             # p
    double *sigma2           # 1
    double *variances        # P: diagonal of map S_X⁻¹ map'
    double *logdet           # 1
    double *step             # s
    double *gain             # 1
    double *moved            # p


cdef int subtract(const Sums *sums, const double *own, const double *front, const double *dk, Room *room,
                  Out *out, double freedom) noexcept nogil:
    """Leave S of the others, its inverse, γ̂ and σ̂²; return 1 where they do not determine them."""
    cdef Py_ssize_t p = sums.p, r = sums.r, q = sums.q, w = q + r, i, j, c, x
    cdef double *L = room.left
    cdef double s
    for i in range(r):
        for j in range(i + 1):
            L[i * r + j] = sums.schur[i * r + j] - own[i * r + j]
        for c in range(q):
            hlm_axpy(i + 1, front[c * w + q + i], dk + c * r, L + i * r)
    if not freedom > 0 or cholesky(r, L, r):
        return 1
    out.logdet[0] = 0
    for i in range(p):
        if not L[i * r + i] * L[i * r + i] > LEFT * sums.schur[i * r + i]:
            return 1
        out.logdet[0] += 2 * log(L[i * r + i])
    memset(room.root, 0, p * p * sizeof(double))
    memset(room.inverse, 0, p * p * sizeof(double))
    memset(out.beta, 0, p * sizeof(double))
    for i in range(p):
        for c in range(i):
            hlm_axpy(c + 1, -L[i * r + c], room.root + c * p, room.root + i * p)
        room.root[i * p + i] = 1
        for j in range(i + 1):
            room.root[i * p + j] /= L[i * r + i]
        for j in range(i + 1):
            hlm_axpy(i + 1, room.root[i * p + j], room.root + i * p, room.inverse + j * p)
        hlm_axpy(i + 1, L[p * r + i], room.root + i * p, out.beta)
    for x in range(sums.P):
        out.variances[x] = 0
        for i in range(p):
            s = 0
            for j in range(i + 1):
                s += room.root[i * p + j] * sums.beta_map[x * p + j]
            out.variances[x] += s * s
    out.sigma2[0] = L[p * r + p] * L[p * r + p] / freedom
    return 0


cdef void own_matrices(const Sums *sums, Room *room, double sigma2) noexcept nogil:
    """t, u and weight of one group whose γ̂, σ̂² and S_X⁻¹ without it are known."""
    cdef Py_ssize_t q = sums.q, p = sums.p, r = sums.r, w = q + r, i, j, c, x
    cdef const double *K = room.solved + q
    cdef double s
    for i in range(q):
        s = 0
        for x in range(r):
            s += K[i * w + x] * room.e[x]
        room.t[i] = s
    for i in range(q):
        for j in range(q):
            room.u[i * q + j] = room.solved[i * w + j] - 2 * room.t[i] * room.t[j] / sigma2
    for i in range(r):
        for j in range(r):
            room.weight[i * r + j] = 2 * room.e[i] * room.e[j] / sigma2
    if not sums.reml:
        return
    for i in range(p):
        hlm_axpy(p, 2.0, room.inverse + i * p, room.weight + i * r)
    for i in range(q):                       # one row of K_X S_X⁻¹ at a time, in what is filled later
        memset(room.inner, 0, p * sizeof(double))
        for x in range(p):
            hlm_axpy(p, K[i * w + x], room.inverse + x * p, room.inner)
        for c in range(q):
            s = 0
            for x in range(p):
                s += room.inner[x] * K[c * w + x]
            room.u[i * q + c] -= 2 * s


cdef void other_slopes(const Sums *sums, Room *room) noexcept nogil:
    """S_a of the others, S_X⁻¹S_a, S_ae, e'S_ae and S_X⁻¹(S_ae)_X."""
    cdef Py_ssize_t q = sums.q, p = sums.p, r = sums.r, w = q + r, wide = sums.wide, a = 0, i, j, x, y
    cdef const double *K = room.solved + q
    cdef double *S
    cdef double *inner
    cdef double s
    memcpy(room.slopes, sums.slopes, sums.m * r * wide * sizeof(double))
    memset(room.se, 0, sums.m * r * sizeof(double))
    for j in range(q):
        for i in range(j, q):
            S = room.slopes + a * r * wide
            for x in range(r):
                hlm_axpy(r, K[i * w + x], K + j * w, S + x * wide)
                if i != j:
                    hlm_axpy(r, K[j * w + x], K + i * w, S + x * wide)
            for x in range(r):
                hlm_axpy(r, room.e[x], S + x * wide, room.se + a * r)
            s = 0
            for x in range(r):
                s += room.se[a * r + x] * room.e[x]
            room.ese[a] = s
            inner = room.inner + a * p * wide
            if sums.reml:
                hlm_product(p, p, wide, room.inverse, S, inner)
            memset(room.change + a * p, 0, p * sizeof(double))
            for x in range(p):
                hlm_axpy(p, room.se[a * r + x], room.inverse + x * p, room.change + a * p)
            if sums.reml:
                for x in range(p):
                    for y in range(p):
                        room.turned[(y * wide + x) * sums.many + a] = inner[x * wide + y]
            a += 1
    if sums.reml and p:
        hlm_product(sums.m, p * wide, sums.many, room.inner, room.turned, room.crossed)


cdef void derivatives(const Sums *sums, Room *room, double sigma2, double freedom) noexcept nogil:
    """Gradient and Hessian in the entries of D without the group."""
    cdef Py_ssize_t q = sums.q, p = sums.p, r = sums.r, w = q + r, m = sums.m, a = 0, b, i, j, s, c, x, pair = 0
    cdef double value
    hlm_product(1, r * r, sums.pairs, room.weight, sums.products, room.forms)
    for j in range(q):
        for i in range(j, q):
            value = sums.trace[a] + room.ese[a] / sigma2 - (1 if i == j else 2) * room.solved[i * w + j]
            if sums.reml:
                for x in range(p):
                    value += room.inner[(a * p + x) * sums.wide + x]
            room.gradient[a] = value
            b = 0
            for s in range(q):
                for c in range(s, q):
                    if b > a:
                        break
                    value = 0
                    for x in range(p):
                        value += room.change[a * p + x] * room.se[b * r + x]
                    value = room.forms[pair] - 2 * value / sigma2 - sums.traces[a * m + b]
                    value -= room.ese[a] * room.ese[b] / (freedom * sigma2 * sigma2)
                    value += paired(q, room.solved, w, room.u, i, j, s, c)
                    if sums.reml and p:
                        value -= room.crossed[a * sums.many + b]
                    room.hessian[a * m + b] = value
                    room.hessian[b * m + a] = value
                    pair += 1
                    b += 1
            a += 1


cdef void move(const Sums *sums, Room *room, Out *out) noexcept nogil:
    """One Newton step in θ, and γ̂ there: ∂γ̂/∂D_a = S_X⁻¹(S_ae)_X."""
    cdef Py_ssize_t m = sums.m, s = sums.s, a, b, i
    cdef double along
    memset(room.slope, 0, s * sizeof(double))
    memset(room.curved, 0, s * s * sizeof(double))
    memset(room.half, 0, m * s * sizeof(double))
    for a in range(m):
        for b in range(m):
            hlm_axpy(s, room.hessian[a * m + b], sums.jacobian + b * s, room.half + a * s)
        hlm_axpy(s, room.gradient[a], sums.jacobian + a * s, room.slope)
        hlm_axpy(s * s, room.gradient[a], sums.bend + a * s * s, room.curved)
        for i in range(s):
            if sums.jacobian[a * s + i] != 0:
                hlm_axpy(s, sums.jacobian[a * s + i], room.half + a * s, room.curved + i * s)
    out.gain[0] = newton_step(<int> s, room.slope, room.curved, FLAT, room.work, out.step)
    memcpy(out.moved, out.beta, sums.p * sizeof(double))
    for a in range(m):
        along = 0
        for i in range(s):
            along += sums.jacobian[a * s + i] * out.step[i]
        hlm_axpy(sums.p, along, room.change + a * sums.p, out.moved)


cdef int delete_one(const Sums *sums, Level *level, Room *room, const double *front, const double *own,
                    double freedom, Out *out) noexcept nogil:
    """Fill `out` without one group; return 1 where nothing is determined."""
    cdef Py_ssize_t q = sums.q, p = sums.p, r = sums.r, w = q + r, i, c
    cdef Scratch sc
    sc.small = room.small
    sc.solved = room.solved
    if solve_front(level, &sc, front, w):
        return 1
    memset(room.slopes, 0, q * r * sizeof(double))         # room for DK
    for i in range(q):
        for c in range(q):
            hlm_axpy(r, level.cov[i * q + c], room.solved + c * w + q, room.slopes + i * r)
    if subtract(sums, own, front, room.slopes, room, out, freedom):
        return 1
    for i in range(p):
        room.e[i] = -out.beta[i]
    room.e[p] = 1
    own_matrices(sums, room, out.sigma2[0])
    other_slopes(sums, room)
    derivatives(sums, room, out.sigma2[0], freedom)
    move(sums, room, out)
    return 0


cdef Py_ssize_t carve(const Sums *sums, Room *room, double *at) noexcept nogil:
    """Point `room` into a block that starts at `at`; return its length."""
    cdef Py_ssize_t q = sums.q, p = sums.p, r = sums.r, m = sums.m, k, size = 0
    cdef Py_ssize_t[23] sizes
    cdef double **slots = <double **> room                 # its pointers, in this order
    sizes[:] = [
        q * q, q * (q + r), r * r, p * p, p * p, r, q, q * q, r * r, sums.pairs, m * r * sums.wide,
        m * p * sums.wide + p, p * sums.wide * sums.many, m * sums.many, m * r, m, m * p,
        m, m * m, m * sums.s, sums.s, sums.s * sums.s, sums.s * (2 * sums.s + 36) + 1,
    ]
    for k in range(23):
        if at != NULL:
            slots[k] = at + size
        size += sizes[k]
    return size


cdef void delete_chunk(const Sums *sums, Level *level, Room *room, Py_ssize_t lo, Py_ssize_t hi, const double *blocks,
                       const double *own, const double *freedom, const Out *first) noexcept nogil:
    """Groups lo .. hi - 1; `first` is the place of group 0."""
    cdef Py_ssize_t p = sums.p, r = sums.r, s = sums.s, q = sums.q, g, k, i
    cdef Py_ssize_t[7] sizes
    cdef Out out
    cdef double **from_ = <double **> first
    cdef double **slots = <double **> &out
    sizes[:] = [p, 1, sums.P, 1, s, 1, p]
    for g in range(lo, hi):
        for k in range(7):
            slots[k] = from_[k] + g * sizes[k]
        if delete_one(sums, level, room, blocks + g * q * (q + r), own + g * r * r, freedom[g], &out):
            for k in range(7):
                for i in range(sizes[k]):
                    slots[k][i] = NAN


def delete_groups(
    const double[:, :, ::1] blocks not None, const double[:, :, ::1] own not None, const double[:, ::1] D not None,
    const double[::1] freedom not None, const double[:, ::1] schur not None, tuple sums not None,
    const double[:, ::1] beta_map not None, const double[:, ::1] jacobian not None,
    const double[:, :, ::1] bend not None, bint reml,
):
    """Take each of some groups out of the sums over all.

    Parameters
    ----------
    blocks : (g, q, q + p + 1) float64
        Z'W[Z X y] of each group that is taken out in turn.
    own : (g, p + 1, p + 1) float64
        [X y]'W[X y] of each.
    D : (q, q) float64
        Covariance of the effects in units of σ².
    freedom : (g,) float64
        ν without each group: rows, less p for REML.
    schur : (p + 1, p + 1) float64
        S = [X y]'V⁻¹[X y] of all groups.
    sums : tuple of arrays
        Of all groups, from `hlm_ext.group_sums.group_sums`.
    beta_map : (P, p) float64
        From the β of these columns to those of which standard errors are wanted.
    jacobian : (m, s) float64
        ∂D_a/∂θ of the entries of D, its lower triangle column by column.
    bend : (m, s, s) float64
        ∂²D_a/∂θ².
    reml : bool

    Returns
    -------
    beta : (g, p) float64
    sigma2 : (g,) float64
    variances : (g, P) float64
        Diagonal of map (X'V⁻¹X)⁻¹ map', in units of σ².
    logdet : (g,) float64
        log|X'V⁻¹X|.
    step : (g, s) float64
        Newton step in θ of the criterion, σ² profiled out; NaN where the Hessian has a negative eigenvalue.
    gain : (g,) float64
        What the quadratic model loses along it, infinite there.
    moved : (g, p) float64
        β after the step, to first order.

    All NaN for a group without which X has dependent columns (a part of at most 1e-12 of the sum of squares of one is
    left), ν is not positive, or nothing of y is left.

    Raises
    ------
    ValueError
        If shapes do not fit each other.
    """
    cdef Level level = level_of(blocks, D)
    cdef Py_ssize_t J = blocks.shape[0], q = level.q, r = level.w - q, p = r - 1, m = q * (q + 1) // 2, c, k, size
    cdef Py_ssize_t s = jacobian.shape[1], P = beta_map.shape[0]
    trace, traces, slopes, products = sums
    _check_shapes({
        "own": (own, (J, r, r)), "freedom": (freedom, (J,)), "schur": (schur, (r, r)), "trace": (trace, (m,)),
        "traces": (traces, (m, m)), "slopes": (slopes, (m, r, r)), "products": (products, (m, m, r, r)),
        "beta_map": (beta_map, (P, p)), "jacobian": (jacobian, (m, s)), "bend": (bend, (m, s, s)),
    })
    wide, pairs, many = (r + 3) // 4 * 4, (m * (m + 1) // 2 + 3) // 4 * 4, (m + 3) // 4 * 4
    padded, packed = np.zeros((m, r, wide)), np.zeros((r * r, pairs))
    padded[:, :, :r] = slopes
    a, b = np.tril_indices(m)
    packed[:, :len(a)] = products[a, b].reshape(len(a), r * r).T
    cdef const double[:, :, ::1] slopes_view = padded
    cdef const double[:, ::1] products_view = packed, traces_view = np.ascontiguousarray(traces)
    cdef const double[::1] trace_view = np.ascontiguousarray(trace)
    found = tuple(np.empty(shape) for shape in ((J, p), (J,), (J, P), (J,), (J, s), (J,), (J, p)))
    if J == 0 or s == 0:
        return found
    cdef Sums total
    total.q, total.p, total.r, total.m, total.s, total.reml = q, p, r, m, s, reml
    total.wide, total.pairs, total.many, total.P = wide, pairs, many, P
    total.beta_map = &beta_map[0, 0] if P and p else NULL
    total.schur = &schur[0, 0]
    total.slopes = &slopes_view[0, 0, 0]
    total.products = &products_view[0, 0]
    total.trace = &trace_view[0]
    total.traces = &traces_view[0, 0]
    total.jacobian = &jacobian[0, 0]
    total.bend = &bend[0, 0, 0]
    cdef Out first
    cdef double **slots = <double **> &first
    cdef double[::1] flat
    for k in range(7):
        flat = found[k].reshape(-1) if found[k].size else np.zeros(1)
        slots[k] = &flat[0]
    size = carve(&total, NULL, NULL)
    cdef Py_ssize_t chunks = chunk_count(J, 64, 0)
    cdef int threads = threads_for(chunks), thread
    cdef double[:, ::1] block = np.zeros((threads, size + 16))     # 16: no cache line is shared by two threads
    rooms = np.zeros((threads, sizeof(Room)), dtype=np.uint8)
    cdef unsigned char[:, ::1] rooms_view = rooms
    for thread in range(threads):
        carve(&total, <Room *> &rooms_view[thread, 0], &block[thread, 0])
    cdef Interrupt interrupt = Interrupt()
    for c in prange(chunks, nogil=True, schedule="dynamic", chunksize=1, num_threads=threads):
        if not interrupt.stop(threadid()):
            delete_chunk(&total, &level, <Room *> &rooms_view[threadid(), 0], J * c // chunks, J * (c + 1) // chunks,
                         &blocks[0, 0, 0], &own[0, 0, 0], &freedom[0], &first)
    interrupt.check()
    return found


def _check_shapes(dict wanted):
    for name, (array, shape) in wanted.items():
        if np.shape(array) != shape:
            raise ValueError(f"{name} must be {shape}, got {np.shape(array)}")
