"""Quadratic forms of X and y in V⁻¹ and its derivatives, by extra right-hand sides through the factor (MATH: §7).

With b = [X y] (r = p + 1 columns) and all in units of σ², for directions a, b of the covariances D:

    S_a  = -b'V⁻¹V_aV⁻¹b ,        Q_ab = b'V⁻¹V_aV⁻¹V_bV⁻¹b

One walk from the top down, as in `hlm_ext.moments`, with a matrix E (u x r) in the place of e: the identity at the
root, below a level E ← J E, J = [-DK; I]. Then t = K E = Z'V⁻¹b, the effects of the columns of b are D t, and of the
derivatives W_a of fronts only G_a = W_a E (w x r) is needed:

    Q_ab  +=   (E_a t)'T (E_b t)        both of this level
          +=  -(E_a t)'(I + AD)⁻¹ g_b   a of this level, b below; g_b = the z rows of G_b
          +=  -g_a'N g_b                both below
    G_a above  +=  -K'E_a t             a of this level;    J'G_b   b below

so S_a is what arrives at the root. The cost is that of r right-hand sides for each direction.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import numpy as np

from hlm_ext.crossed cimport CrossedForest
from hlm_ext.failure cimport raise_failure
from hlm_ext.forest cimport Forest
from hlm_ext.moments cimport reach_down, solve_level, solved_width
from hlm_ext.partition cimport Interrupt
from hlm_ext.tree cimport Level, Scratch, Walk, hlm_axpy

from hlm_ext.curvature import Curvature


cdef struct Room:
    # Right-hand sides of one factor, in a walk by one thread.
    double *t                # q x r: Z'V⁻¹b
    double *e                # w x r: E for the levels below
    double *g                # offset x w x r: derivatives of this level's front times E
    double *h                # offset x q x r: (I + AD)⁻¹ g or N g
    double *x                # q x r


cdef struct Sides:
    Py_ssize_t r
    Room *rooms              # one per factor
    double *forms            # m x m x r x r, a ≥ b
    double **effects         # per factor J x q x r, or NULL


cdef void outer_product(Py_ssize_t r, double sign, const double *x, const double *y, double *out) noexcept nogil:
    """out (r x r) += sign · x y'."""
    cdef Py_ssize_t i
    for i in range(r):
        hlm_axpy(r, sign * x[i], y, out + i * r)


cdef void times(Py_ssize_t m, Py_ssize_t n, Py_ssize_t r, const double *a, Py_ssize_t lda, Py_ssize_t step,
                const double *x, double sign, double *out) noexcept nogil:
    """out (m x r) += sign · A x for A[i, j] = a[i · lda + j · step] (m x n), x (n x r)."""
    cdef Py_ssize_t i, j
    for i in range(m):
        for j in range(n):
            hlm_axpy(r, sign * a[i * lda + j * step], x + j * r, out + i * r)


cdef void own_forms(Walk *walk, Sides *sides, Level *lv, Room *room, const double *T, Py_ssize_t width) noexcept nogil:
    """Forms of two directions of one level."""
    cdef Py_ssize_t q = lv.q, r = sides.r, m = walk.m, a = lv.offset, b, i, j, s, c, z
    cdef double *out
    for j in range(q):
        for i in range(j, q):
            b = lv.offset
            for s in range(q):
                for c in range(s, q):
                    if b > a:
                        break
                    # x := T E_b t
                    memset(room.x, 0, q * r * sizeof(double))
                    for z in range(q):
                        hlm_axpy(r, T[z * width + c], room.t + s * r, room.x + z * r)
                        if c != s:
                            hlm_axpy(r, T[z * width + s], room.t + c * r, room.x + z * r)
                    out = sides.forms + (a * m + b) * r * r
                    outer_product(r, 1.0, room.t + j * r, room.x + i * r, out)
                    if i != j:
                        outer_product(r, 1.0, room.t + i * r, room.x + j * r, out)
                    b += 1
            a += 1


cdef void lower_forms(Walk *walk, Sides *sides, Level *lv, Scratch *sc, Room *room, Py_ssize_t width,
                      double *up) noexcept nogil:
    """Forms with directions below this level; `up` (offset x u x r) += their derivatives of the fronts above."""
    cdef Py_ssize_t q = lv.q, u = lv.u, w = lv.w, r = sides.r, m = walk.m, low = lv.offset, a, b, i, j, c
    cdef const double *inverse = sc.solved + w
    cdef double *out
    cdef double *h
    for b in range(low):
        h = room.h + b * q * r
        memset(h, 0, q * r * sizeof(double))
        times(q, q, r, inverse, width, 1, room.g + b * w * r, 1.0, h)
        a = low
        for j in range(q):
            for i in range(j, q):
                out = sides.forms + (a * m + b) * r * r
                outer_product(r, -1.0, room.t + j * r, h + i * r, out)
                if i != j:
                    outer_product(r, -1.0, room.t + i * r, h + j * r, out)
                a += 1
        hlm_axpy(u * r, 1.0, room.g + (b * w + q) * r, up + b * u * r)
        times(u, q, r, sc.dk, 1, u, room.g + b * w * r, -1.0, up + b * u * r)
    for b in range(low):
        h = room.h + b * q * r
        memset(h, 0, q * r * sizeof(double))
        times(q, q, r, sc.n, q, 1, room.g + b * w * r, 1.0, h)
        for a in range(b, low):
            out = sides.forms + (a * m + b) * r * r
            for c in range(q):
                outer_product(r, -1.0, room.g + (a * w + c) * r, h + c * r, out)


cdef int level_forms(Walk *walk, Sides *sides, Py_ssize_t k, Py_ssize_t l, const double *E, double *up) noexcept nogil:
    """Forms of one level and of all below it; `up` (directions of this factor and below, u x r) += G."""
    cdef Level *lv = &walk.levels[k]
    cdef Scratch *sc = &walk.scratch[k]
    cdef Room *room = &sides.rooms[k]
    cdef Py_ssize_t q = lv.q, u = lv.u, w = lv.w, r = sides.r, width = solved_width(walk, k), i, j, a, x
    cdef const double *K = sc.solved + q
    if solve_level(walk, k, l):
        return 1
    memset(room.t, 0, q * r * sizeof(double))
    times(q, u, r, K, width, 1, E, 1.0, room.t)
    own_forms(walk, sides, lv, room, sc.solved, width)
    a = lv.offset
    for j in range(q):
        for i in range(j, q):
            for x in range(u):
                hlm_axpy(r, -K[i * width + x], room.t + j * r, up + (a * u + x) * r)
                if i != j:
                    hlm_axpy(r, -K[j * width + x], room.t + i * r, up + (a * u + x) * r)
            a += 1
    if sides.effects != NULL:
        times(q, q, r, lv.cov, q, 1, room.t, 1.0, sides.effects[k] + l * q * r)
    if k == 0:
        return 0
    reach_down(lv, sc, width)
    memset(room.e, 0, q * r * sizeof(double))
    times(q, q, r, lv.cov, q, 1, room.t, -1.0, room.e)
    memcpy(room.e + q * r, E, u * r * sizeof(double))
    memset(room.g, 0, lv.offset * w * r * sizeof(double))
    for i in range(lv.first[l], lv.first[l + 1]):
        if level_forms(walk, sides, k - 1, i, room.e, room.g):
            return 1
    lower_forms(walk, sides, lv, sc, room, width, up)
    return 0


cdef class _Pass:
    """Room for a walk over one forest."""

    cdef Walk walk
    cdef Sides sides
    cdef object keep
    cdef readonly object forms, effects

    def __cinit__(self, Forest forest, bint effects):
        cdef Py_ssize_t k, at = 0, sweep, q, w, r = forest.p + 1
        cdef Py_ssize_t[5] sizes
        cdef double[::1] room, form
        cdef double[:, :, ::1] effect
        cdef double **slots
        self.sides.rooms = <Room *> calloc(forest.chain + 1, sizeof(Room))
        self.sides.effects = <double **> calloc(forest.chain + 1, sizeof(double *))
        if self.sides.rooms == NULL or self.sides.effects == NULL:
            raise MemoryError
        for sweep in range(2):
            if sweep:
                self.keep = np.zeros(at + 1)
                room = self.keep
            at = 0
            for k in range(forest.chain):
                q = forest.levels[k].q
                w = forest.levels[k].w               # of the widest unit, where they differ
                sizes[:] = [q * r, w * r, forest.levels[k].offset * w * r, forest.levels[k].offset * q * r, q * r]
                slots = <double **> &self.sides.rooms[k]      # its pointers, in this order
                for s in range(5):
                    if sweep:
                        slots[s] = &room[at]
                    at += sizes[s]
        self.forms = np.zeros((forest.m, forest.m, r, r))
        form = self.forms.reshape(-1)
        self.sides.forms = &form[0] if forest.m else NULL
        self.sides.r = r
        self.effects = []
        for k in range(forest.chain if effects else 0):
            self.effects.append(np.zeros((forest.levels[k].J, forest.levels[k].q, r)))
            effect = self.effects[k]
            self.sides.effects[k] = &effect[0, 0, 0]
        if not effects:
            free(self.sides.effects)
            self.sides.effects = NULL
        forest.ready(1)
        self.walk.levels = forest.levels
        self.walk.scratch = forest.scratch
        self.walk.m = forest.m

    def __dealloc__(self):
        free(self.sides.rooms)
        free(self.sides.effects)

    cdef nested(self, Forest forest):
        """Walk all top units of a nested forest; return S_a."""
        cdef Py_ssize_t l, top = forest.depth - 1, r = forest.p + 1
        cdef double[:, ::1] E = np.eye(r)
        cdef Interrupt interrupt = Interrupt()
        cdef bint failed = False
        tangent = np.zeros((forest.m, r, r))
        cdef double[:, :, ::1] up = tangent
        with nogil:
            for l in range(forest.levels[top].J):
                if interrupt.stop(0):
                    break
                failed = level_forms(&self.walk, &self.sides, top, l, &E[0, 0], &up[0, 0, 0])
                if failed:
                    break
        interrupt.check()
        if failed:
            raise_failure(self.walk.failure)
        return tangent

    cdef crossed(self, CrossedForest forest, const double[:, ::1] DK):
        """Walk all units of a crossed forest; return the derivatives of U and S (m_0, C + p + 1, p + 1)."""
        cdef Py_ssize_t unit, t, a, i, r = forest.p + 1, C = DK.shape[0], m = forest.peeled_m
        cdef Py_ssize_t most = max(<Py_ssize_t> 1, forest.levels[forest.chain - 1].u)
        cdef double[:, ::1] E = np.zeros((most, r))
        cdef double[::1] room = np.zeros(m * most * r + 1)
        cdef Interrupt interrupt = Interrupt()
        cdef bint failed = False
        cdef const Py_ssize_t *met
        derivatives = np.zeros((m, C + r, r))
        cdef double[:, :, ::1] out = derivatives
        levels = np.zeros(forest.chain * sizeof(Level) + 1, dtype=np.uint8)
        cdef unsigned char[::1] own = levels
        self.walk.levels = <Level *> &own[0]
        with nogil:
            for unit in range(forest.units):
                if interrupt.stop(0):
                    break
                forest.shape(self.walk.levels, unit)
                met = &forest.columns[0] + forest.offsets[unit]
                t = forest.offsets[unit + 1] - forest.offsets[unit]
                for i in range(t):
                    memset(&E[i, 0], 0, r * sizeof(double))
                    hlm_axpy(r, -1.0, &DK[met[i], 0], &E[i, 0])
                for i in range(r):
                    memset(&E[t + i, 0], 0, r * sizeof(double))
                    E[t + i, i] = 1
                memset(&room[0], 0, m * (t + r) * r * sizeof(double))
                failed = level_forms(&self.walk, &self.sides, forest.chain - 1, unit, &E[0, 0], &room[0])
                if failed:
                    break
                for a in range(m):
                    for i in range(t + r):
                        hlm_axpy(r, 1.0, &room[(a * (t + r) + i) * r], &out[a, met[i] if i < t else C + i - t, 0])
        interrupt.check()
        if failed:
            raise_failure(self.walk.failure)
        return derivatives


def forms(Forest forest not None, bint effects=False):
    """Return the quadratic forms of [X y] at the covariances at which the forest was factored last.

    Parameters
    ----------
    forest : Forest
        Of a `hlm_ext.criterion.Criterion` after `value`.
    effects : bool
        Also return the effects of each column.

    Returns
    -------
    tangent : (m, p + 1, p + 1) float64
        S_a = -[X y]'V⁻¹V_aV⁻¹[X y], derivatives of [X y]'V⁻¹[X y] in the entries of all D: factors leaves first, the
        lower triangle of each D column by column.
    products : (m, m, p + 1, p + 1) float64
        Q_ab = [X y]'V⁻¹V_aV⁻¹V_bV⁻¹[X y].
    modes : list of (J, q, p + 1) float64
        D Z'V⁻¹[X y] of each factor, leaves first; with them V⁻¹b = W(b - Σ Z modes). Empty unless asked for.

    Raises
    ------
    KernelError
        If a level's statistics are not finite.
    """
    cdef _Pass walk = _Pass(forest, effects)
    cdef Py_ssize_t a, b
    if forest.depth == 0:
        return np.zeros((0, forest.p + 1, forest.p + 1)), walk.forms, []
    products, modes = walk.forms, walk.effects
    if isinstance(forest, CrossedForest):
        core = (<CrossedForest> forest).core
        core.solve_columns()
        below = walk.crossed(forest, np.ascontiguousarray(core.DK)) if forest.chain else np.zeros(
            (0, core.size + forest.p + 1, forest.p + 1))
        tangent, own = Curvature(core).forms(below)
        products += own
        if effects:
            modes += [np.stack([core.DK[place] for place in places], axis=1) for places in core.places]
    else:
        tangent = walk.nested(forest)
    for a in range(forest.m):
        for b in range(a):
            products[b, a] = products[a, b].T
    return tangent, products, modes
