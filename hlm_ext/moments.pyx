"""The backward pass: posterior moments and second derivatives, one walk from the top down (MATH: kernel 3, §5).

Notation for a level with front [A | U] and covariance D (all in units of σ²):

    K = (I + AD)⁻¹ U,   T = (I + AD)⁻¹ A,   N = D (I + AD)⁻¹,   J = [-DK; I]

e = (-û of the ancestors; -β̂; 1) and Ω, the covariance of (u of the ancestors, β) given the data, come from above. Then

    t = K e = Z'ê,   û = D t,   Z'PZ = T - K Ω K',   e below = J e,   Ω below = J Ω J' + N

Second derivatives are those of the elimination itself: W_a, the derivative of a front W in the direction E_a of some D,
is linear in what the children pass up, W'_a = J' W_a J (a below) or -K' E_a K (a of this level). Contracted with Ω and
e e', which are the derivatives of the criterion in the front, second derivatives of fronts never appear:

    tr(P V_a P V_b)  +=  tr(T E_a T E_b) - 2 tr(E_a T E_b KΩK')           both of this level
                     +=  -tr(E_a (I+AD)⁻¹ A_b (I+AD)⁻ᵀ) + 2 tr(E_a KΩK_b')  a of this level, b below
                     +=  tr(N A_a N A_b) + 2 tr(Ω Y_a' N Y_b)              both below, Y = the z rows of W J
    f_a' P f_b       +=  t'E_a T E_b t,   -t_b'E_a t,   -(Y_a e)' N (Y_b e)  in the same three cases

with K_b = (I + AD)⁻¹ Y_b, t_b = K_b e. The cost is linear in the number of levels at any depth of nesting.
"""

from libc.string cimport memcpy, memset

from hlm_ext.status cimport NOT_FINITE
from hlm_ext.tree cimport (
    PANEL_ROWS, Level, Scratch, Walk, hlm_axpy, hlm_rank_update, hlm_solve_lu, hlm_times_symmetric,
)


cdef inline double dot(Py_ssize_t n, const double *x, const double *y) noexcept nogil:
    cdef double s = 0
    cdef Py_ssize_t i
    for i in range(n):
        s += x[i] * y[i]
    return s


cdef inline void multiply(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const double *a, Py_ssize_t lda,
                          const double *b, Py_ssize_t ldb, double *c, Py_ssize_t ldc) noexcept nogil:
    """C := A B for small row-major matrices, m x k times k x n."""
    cdef Py_ssize_t i, r
    for i in range(m):
        memset(c + i * ldc, 0, n * sizeof(double))
        for r in range(k):
            hlm_axpy(n, a[i * lda + r], b + r * ldb, c + i * ldc)


cdef int solve_front(Level *lv, Scratch *sc, const double *front, Py_ssize_t width) noexcept nogil:
    """solved := (I + AD)⁻¹ [A | U | I] (the last block when width > w)."""
    cdef Py_ssize_t q = lv.q, w = lv.w, i, j, c
    cdef double s
    for i in range(q):
        for j in range(q):
            s = 1.0 if i == j else 0.0
            for c in range(q):
                s += front[i * w + c] * lv.cov[c * q + j]
            sc.small[i * q + j] = s
        memcpy(sc.solved + i * width, front + i * w, w * sizeof(double))
        for j in range(w, width):
            sc.solved[i * width + j] = 1.0 if j - w == i else 0.0
    return hlm_solve_lu(q, width, sc.small, sc.solved)


cdef inline void own_terms(Walk *walk, Level *lv, Scratch *sc, Py_ssize_t width) noexcept nogil:
    """trace and average += the terms of two directions of this level; T leads `solved`, U = T - 2 KΩK' is in `quad`."""
    cdef Py_ssize_t q = lv.q, i, j, r, s, a = lv.offset, b, m = walk.m
    cdef double *t = sc.t
    cdef double *u = sc.quad + q * q
    cdef double *mat = sc.solved
    cdef double tr, av
    for j in range(q):
        for i in range(j, q):
            b = lv.offset
            for s in range(q):
                for r in range(s, q):
                    if b > a:
                        break
                    # E_a = e_i e_j' + e_j e_i' (once on the diagonal), E_b likewise: up to four products
                    tr = u[s * q + i] * mat[j * width + r]
                    av = t[s] * t[i] * mat[j * width + r]
                    if i != j:
                        tr += u[s * q + j] * mat[i * width + r]
                        av += t[s] * t[j] * mat[i * width + r]
                    if r != s:
                        tr += u[r * q + i] * mat[j * width + s]
                        av += t[r] * t[i] * mat[j * width + s]
                        if i != j:
                            tr += u[r * q + j] * mat[i * width + s]
                            av += t[r] * t[j] * mat[i * width + s]
                    walk.trace[a * m + b] += tr
                    walk.average[a * m + b] += av
                    b += 1
            a += 1


cdef inline void extend_down(Level *lv, Scratch *sc, const double *e, const double *omega,
                             Py_ssize_t width) noexcept nogil:
    """e, Ω, DK and N of this level for the levels below it."""
    cdef Py_ssize_t q = lv.q, u = lv.u, n = lv.u - 1, side = lv.w - 1, i, j, c
    reach_down(lv, sc, width)
    for i in range(q):
        sc.e[i] = -dot(q, lv.cov + i * q, sc.t)
    memcpy(sc.e + q, e, u * sizeof(double))
    for i in range(n):
        memcpy(sc.omega + (q + i) * side + q, omega + i * n, n * sizeof(double))
    for i in range(q):                       # -D K Ω, its transpose, and N + D K Ω K' D
        for j in range(n):
            sc.omega[i * side + q + j] = 0
        for c in range(q):
            hlm_axpy(n, -lv.cov[i * q + c], sc.ko + c * u, sc.omega + i * side + q)
        for j in range(n):
            sc.omega[(q + j) * side + i] = sc.omega[i * side + q + j]
    for i in range(q):
        for j in range(i + 1):
            sc.omega[i * side + j] = 0.5 * (sc.n[i * q + j] + sc.n[j * q + i]) - dot(
                n, sc.omega + i * side + q, sc.dk + j * u)
            sc.omega[j * side + i] = sc.omega[i * side + j]


cdef inline void lower_terms(Walk *walk, Level *lv, Scratch *sc, const double *omega, Py_ssize_t width,
                             double *above) noexcept nogil:
    """trace and average += the terms with directions below this level; their derivatives go on to `above` (u x u)."""
    cdef Py_ssize_t q = lv.q, u = lv.u, w = lv.w, n = lv.u - 1, m = walk.m, low = lv.offset
    cdef Py_ssize_t size = 2 * q * u + 2 * q * q + q, a, b, i, j, c, d
    cdef double *kf = sc.solved + w                     # (I + AD)⁻¹, row length `width`
    cdef double *y
    cdef double *nyo
    cdef double *na
    cdef double *ye
    cdef double *work
    cdef const double *wb
    cdef double *up
    cdef double s, r
    for b in range(low):
        wb = sc.tangent + b * w * w
        y = sc.lower + b * size                         # Y_b = the z rows of W_b J
        nyo = y + q * u                                 # N Y_b Ω
        na = nyo + q * u                                # N A_b
        work = na + q * q
        ye = work + q * q                               # W_b z rows times e
        for i in range(q):
            memcpy(y + i * u, wb + i * w + q, u * sizeof(double))
            for c in range(q):
                hlm_axpy(u, -wb[i * w + c], sc.dk + c * u, y + i * u)
            ye[i] = dot(w, wb + i * w, sc.e)
        # a of this level, b below
        multiply(q, q, q, kf, width, wb, w, na, q)      # na holds (I+AD)⁻¹ A_b for the moment
        for i in range(q):
            for j in range(q):
                # -(I+AD)⁻¹ A_b (I+AD)⁻ᵀ + 2 K_b Ω K'
                s = -dot(q, na + i * q, kf + j * width)
                for c in range(q):
                    s += 2 * kf[i * width + c] * dot(n, y + c * u, sc.ko + j * u)
                work[i * q + j] = s
        a = low
        for j in range(q):
            for i in range(j, q):
                s = work[i * q + j]
                r = dot(q, kf + i * width, ye) * sc.t[j]
                if i != j:
                    s += work[j * q + i]
                    r += dot(q, kf + j * width, ye) * sc.t[i]
                walk.trace[a * m + b] += s
                walk.average[a * m + b] -= r
                a += 1
        multiply(q, q, q, sc.n, q, wb, w, na, q)
        multiply(q, u, q, sc.n, q, y, u, nyo, u)
        if n > 0:
            hlm_times_symmetric(q, n, nyo, u, omega, n, sc.ko + q * u)
            for i in range(q):
                memcpy(nyo + i * u, sc.ko + q * u + i * n, n * sizeof(double))
        # what this direction changes in the fronts above: J' W_b J
        up = above + b * u * u
        for i in range(u):
            hlm_axpy(u, 1.0, wb + (q + i) * w + q, up + i * u)
            for c in range(q):
                hlm_axpy(u, -wb[(q + i) * w + c], sc.dk + c * u, up + i * u)
                hlm_axpy(u, -sc.dk[c * u + i], y + c * u, up + i * u)
    for a in range(low):
        y = sc.lower + a * size
        ye = y + 2 * q * u + 2 * q * q
        na = y + 2 * q * u
        for b in range(a + 1):
            nyo = sc.lower + b * size + q * u
            work = nyo + q * u                          # N A_b
            s = 0
            r = 0
            for i in range(q):
                for d in range(q):
                    s += na[i * q + d] * work[d * q + i]
                    r += ye[i] * sc.n[i * q + d] * (nyo + q * u + 2 * q * q)[d]
                s += 2 * dot(n, y + i * u, nyo + i * u)
            walk.trace[a * m + b] += s
            walk.average[a * m + b] -= r


cdef inline void posterior_covariance(Level *lv, Scratch *sc, Py_ssize_t width, double *v) noexcept nogil:
    """v := D (I + AD)⁻¹ + D KΩK' D: covariance of u given the data, in units of σ² (D - D (Z'PZ) D would cancel)."""
    cdef Py_ssize_t q = lv.q, i, j, c
    cdef double *work = sc.small
    for i in range(q):
        for j in range(q):
            work[i * q + j] = sc.solved[i * width + lv.w + j] + dot(q, sc.quad + i * q, lv.cov + j * q)
    for i in range(q):
        for j in range(i + 1):
            v[i * q + j] = 0
            for c in range(q):
                v[i * q + j] += lv.cov[i * q + c] * work[c * q + j]
            v[j * q + i] = v[i * q + j]


cdef Py_ssize_t solved_width(Walk *walk, Py_ssize_t k) noexcept nogil:
    """Row length of `solved`: the inverse is kept too where a level has others below or its covariance is asked for."""
    return walk.levels[k].w + (walk.levels[k].q if k > 0 or walk.covariances != NULL else 0)


cdef void scalar_leaf(Walk *walk, Level *lv, Scratch *sc, Py_ssize_t l, const double *e, const double *omega,
                      double *post, double *outer) noexcept nogil:
    """`descend` for a leaf with one random column, by far the most common: the same numbers without matrices.

    Leaves K in `solved`, after the place of T, as `descend` does.
    """
    cdef const double *front = lv.front + l * lv.w
    cdef Py_ssize_t u = lv.u, n = lv.u - 1, i, j
    cdef double shrink = 1 / (1 + front[0] * lv.cov[0]), T = shrink * front[0], t = 0, Q = 0, s
    cdef double *K = sc.solved + 1
    for i in range(u):
        K[i] = shrink * front[1 + i]
        t += K[i] * e[i]
    if not (walk.omega_zero and walk.last == 0):
        for i in range(n):
            s = 0
            for j in range(i):
                s += omega[i * n + j] * K[j]
            Q += K[i] * (2 * s + omega[i * n + i] * K[i])
    sc.solved[0] = T
    post[0] += T - Q
    outer[0] += t * t
    if walk.effects != NULL:
        walk.effects[0][l] = lv.cov[0] * t
    if walk.covariances != NULL:
        walk.covariances[0][l] = lv.cov[0] * (shrink + Q * lv.cov[0])
    if walk.second:
        walk.trace[0] += (T - 2 * Q) * T
        walk.average[0] += t * t * T


cdef int solve_level(Walk *walk, Py_ssize_t k, Py_ssize_t l) noexcept nogil:
    """[T | K (| (I + AD)⁻¹)] of one level into `solved`; return 0, or 1 with `walk.failure` filled."""
    cdef Level *lv = &walk.levels[k]
    cdef Scratch *sc = &walk.scratch[k]
    cdef Py_ssize_t q = lv.q, width = solved_width(walk, k), i, j
    cdef double *solved = sc.solved
    cdef double z
    if solve_front(lv, sc, lv.front + l * q * lv.w, width):
        walk.failure.status = NOT_FINITE
        walk.failure.factor = k
        walk.failure.level = l
        return 1
    for i in range(q):
        for j in range(i):
            z = 0.5 * (solved[i * width + j] + solved[j * width + i])
            solved[i * width + j] = z
            solved[j * width + i] = z
    return 0


cdef void reach_down(Level *lv, Scratch *sc, Py_ssize_t width) noexcept nogil:
    """DK and N of a level that was solved."""
    multiply(lv.q, lv.u, lv.q, lv.cov, lv.q, sc.solved + lv.q, width, sc.dk, lv.u)
    multiply(lv.q, lv.q, lv.q, lv.cov, lv.q, sc.solved + lv.w, width, sc.n, lv.q)


cdef int begin_level(Walk *walk, Py_ssize_t k, Py_ssize_t l, const double *e) noexcept nogil:
    """`solve_level`, and t = K e."""
    cdef Level *lv = &walk.levels[k]
    cdef Scratch *sc = &walk.scratch[k]
    cdef Py_ssize_t width = solved_width(walk, k), i
    if solve_level(walk, k, l):
        return 1
    for i in range(lv.q):
        sc.t[i] = dot(lv.u, sc.solved + i * width + lv.q, e)
    return 0


cdef void end_level(Walk *walk, Py_ssize_t k, Py_ssize_t l, bint beta_known) noexcept nogil:
    """Sums, effects and own second derivatives of one level, with KΩ in `ko` (zero when `beta_known`)."""
    cdef Level *lv = &walk.levels[k]
    cdef Scratch *sc = &walk.scratch[k]
    cdef Py_ssize_t q = lv.q, u = lv.u, n = lv.u - 1, width = solved_width(walk, k), i, j
    cdef double *solved = sc.solved
    cdef double *post = walk.post
    cdef double *outer = walk.outer
    for i in range(k):
        post += walk.levels[i].q * walk.levels[i].q
        outer += walk.levels[i].q * walk.levels[i].q
    for i in range(q):
        for j in range(i + 1):
            sc.quad[i * q + j] = 0 if beta_known else dot(n, sc.ko + i * u, solved + j * width + q)
            sc.quad[j * q + i] = sc.quad[i * q + j]
    for i in range(q):
        for j in range(q):
            post[i * q + j] += solved[i * width + j] - sc.quad[i * q + j]
            outer[i * q + j] += sc.t[i] * sc.t[j]
            sc.quad[q * q + i * q + j] = solved[i * width + j] - 2 * sc.quad[i * q + j]
    if walk.effects != NULL:
        for i in range(q):
            walk.effects[k][l * q + i] = dot(q, lv.cov + i * q, sc.t)
    if walk.covariances != NULL:
        posterior_covariance(lv, sc, width, walk.covariances[k] + l * q * q)
    if walk.second:
        own_terms(walk, lv, sc, width)


cdef int descend(Walk *walk, Py_ssize_t k, Py_ssize_t l, const double *e, const double *omega,
                 double *tangent) noexcept nogil:
    """Moments of one level, then of all below it."""
    cdef Level *lv = &walk.levels[k]
    cdef Scratch *sc = &walk.scratch[k]
    cdef Py_ssize_t q = lv.q, u = lv.u, n = lv.u - 1, width = solved_width(walk, k), i
    cdef bint beta_known = walk.omega_zero and k == walk.last or n == 0
    if begin_level(walk, k, l, e):
        return 1
    if beta_known:
        memset(sc.ko, 0, q * u * sizeof(double))
    else:
        hlm_times_symmetric(q, n, sc.solved + q, width, omega, n, sc.ko + q * u)
        for i in range(q):
            memcpy(sc.ko + i * u, sc.ko + q * u + i * n, n * sizeof(double))
    end_level(walk, k, l, beta_known)
    if k > 0:
        extend_down(lv, sc, e, omega, width)
        if siblings(walk, k - 1, lv.first[l], lv.first[l + 1], sc.e, sc.omega, sc.tangent):
            return 1
        if walk.second:
            lower_terms(walk, lv, sc, omega, width, tangent)
    return 0


cdef int siblings(Walk *walk, Py_ssize_t k, Py_ssize_t lo, Py_ssize_t hi, const double *e, const double *omega,
                  double *tangent) noexcept nogil:
    """Moments of levels lo .. hi - 1 of factor k, which have the same parent, and of all below them.

    e has u entries, omega is (u - 1)². When second derivatives are wanted, `tangent` (directions of this factor and
    below, u x u each) is overwritten by the derivatives of the parent's front.
    """
    cdef Level *lv = &walk.levels[k]
    cdef Scratch *sc = &walk.scratch[k]
    cdef Py_ssize_t q = lv.q, u = lv.u, ldu = lv.ldu, ld = lv.q * lv.ldu, width = solved_width(walk, k)
    cdef Py_ssize_t l, i, j, x, y, used = 0, a
    cdef double *block
    cdef double *out
    if walk.second:
        memset(tangent, 0, (lv.offset + lv.m) * u * u * sizeof(double))
        memset(sc.pair, 0, ld * ld * sizeof(double))
    for l in range(lo, hi):
        if k == 0 and q == 1:
            scalar_leaf(walk, lv, sc, l, e, omega, walk.post, walk.outer)
        elif descend(walk, k, l, e, omega, tangent):
            return 1
        if walk.second:
            for i in range(q):
                memcpy(sc.pair_panel + used * ld + i * ldu, sc.solved + i * width + q, u * sizeof(double))
            used += 1
            if used == PANEL_ROWS:
                hlm_rank_update(used, ld, sc.pair_panel, ld, sc.pair, ld)
                used = 0
    if not walk.second:
        return 0
    if used:
        hlm_rank_update(used, ld, sc.pair_panel, ld, sc.pair, ld)
    a = lv.offset
    for j in range(q):
        for i in range(j, q):
            block = sc.pair + j * ldu * ld + i * ldu          # Σ K_j' K_i, j ≤ i
            out = tangent + a * u * u
            for x in range(u):
                for y in range(x, u):
                    if i == j:
                        out[x * u + y] = -block[x * ld + y]
                    else:
                        out[x * u + y] = -(block[x * ld + y] + block[y * ld + x])
                    out[y * u + x] = out[x * u + y]
            a += 1
    return 0
