"""What the passes over a nested hierarchy share: one struct per factor, scratch per thread, the result of a walk."""

from hlm_ext.status cimport Failure


cdef extern from "simd.h" nogil:
    void hlm_rank_update(Py_ssize_t rows, Py_ssize_t w, const double *A, Py_ssize_t lda, double *S, Py_ssize_t lds)
    void hlm_select_update(Py_ssize_t rows, Py_ssize_t w, Py_ssize_t q, const Py_ssize_t *z, const double *A, double *P)
    void hlm_product(Py_ssize_t m, Py_ssize_t k, Py_ssize_t n, const double *A, const double *B, double *C)
    void hlm_axpy(Py_ssize_t n, double a, const double *x, double *y)
    int hlm_solve_lu(Py_ssize_t q, Py_ssize_t w, double *G, double *X)
    void hlm_times_symmetric(Py_ssize_t q, Py_ssize_t n, const double *B, Py_ssize_t ldb, const double *S,
                             Py_ssize_t lds, double *Y)
    void hlm_accurate_update(Py_ssize_t n, double a, const double *x, const double *y, double *s, double *t)


cdef struct Level:
    # One factor of the chain. Columns to the right of its own q ("above") are those of its ancestors, then X and y.
    Py_ssize_t J             # levels of the factor
    Py_ssize_t q             # its random columns
    Py_ssize_t u             # columns above: random columns of later factors + p + 1
    Py_ssize_t w             # q + u
    Py_ssize_t ldu           # u rounded up to a multiple of 8: row length of fronts and panels
    Py_ssize_t m             # q (q + 1) / 2 directions of its covariance
    Py_ssize_t offset        # directions of the factors before it
    const double *stat       # IN   J x q x w: cross-products of the rows of each level
    double *front            # OUT  J x q x w: the same after elimination of all descendants; = stat for leaves
    const Py_ssize_t *first  # J + 1: children of level l are first[l] .. first[l + 1] - 1 (NULL for leaves)
    const double *root       # rotated rows where cross-products would cancel, see `hlm_ext.roots`; else NULL
    const double *lam        # q x q lower triangular Λ
    const double *cov        # q x q  D = Λ Λ'


cdef struct Scratch:
    # Room for one thread; one block per factor, see `Forest._plan`.
    double *child_front      # w x ld: what the children subtract from this level (factor pass)
    double *panel            # rows x ldu: stacked R of siblings
    double *small            # 3 q x q
    double *solved           # q x (w + q): (I + A D)^-1 [A | U | I]
    double *t                # q
    double *ko               # 2 q x u: K Ω, then room for one product
    double *quad             # 2 q x q: K Ω K' and U = T - 2 K Ω K'
    double *dk               # q x u: D K
    double *n                # q x q: D (I + A D)^-1
    double *e                # w: (-û; e above)
    double *omega            # (w - 1)^2: covariance of (u, effects above)
    double *pair_panel       # rows x (q ldu): stacked K_1 | K_2 | ...
    double *pair             # (q ldu)^2: sums of K_i' K_j over siblings
    double *tangent          # offset x w x w: derivatives of this level's front in the directions below it
    double *lower            # offset x (2 q u + 2 q q + q): what a level needs of each direction below


cdef struct Walk:
    # What one pass through the forest reads and adds to.
    Level *levels
    Scratch *scratch         # of this thread, one per factor
    Py_ssize_t m             # directions in all
    Py_ssize_t last          # the top factor
    bint second              # second derivatives wanted
    bint omega_zero          # ML in a top level: no covariance above
    double *post             # per factor q x q, packed: sums of Z'PZ
    double *outer            # per factor q x q, packed: sums of (Z'ê)(Z'ê)'
    double *trace            # m x m
    double *average          # m x m
    double **effects         # per factor J x q, or NULL
    double **covariances     # per factor J x q x q, or NULL
    double product           # running product of the diagonal of L; its logarithm is due
    double logdet
    Failure failure


cdef enum:
    PANEL_ROWS = 64          # rows of K or R stacked before one rank update
