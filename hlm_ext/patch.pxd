"""Between the few core columns that a unit meets and the tiles of the core."""

from hlm_ext.tiles cimport Tiles


cdef struct Patch:
    # The core columns met by a unit, ascending, then those of X and y.
    const Py_ssize_t *met
    const Py_ssize_t *tile   # the tile of each
    Py_ssize_t t             # how many core columns
    Py_ssize_t side          # p + 1


cdef void add_matrix(Tiles tiles, Py_ssize_t j, Patch patch, const double *block, Py_ssize_t ld, double sign, double *F,
                     double *U) noexcept nogil
cdef void add_product(Tiles tiles, Py_ssize_t j, Patch patch, const double *x, const double *y, double sign, double *F,
                      double *U) noexcept nogil
cdef void covariance(Tiles tiles, Patch patch, const double *N, const double *spread, const double *with_beta,
                     const double *omega, double *out) noexcept nogil
cdef void times_covariance(Tiles tiles, Patch patch, const double *N, const double *spread, const double *with_beta,
                           const double *omega, Py_ssize_t q, const double *K, Py_ssize_t ldk, double *out,
                           Py_ssize_t ldo) noexcept nogil
cdef bint meets(Patch patch, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil
cdef void add_row(Py_ssize_t side, Py_ssize_t i, double scale, const double *x, double *S) noexcept nogil
cdef void add_corner(Patch patch, const double *block, Py_ssize_t ld, double sign, double *S) noexcept nogil
