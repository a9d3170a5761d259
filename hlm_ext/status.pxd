"""How kernels report failure: a small struct that Python turns into an exception naming the group or column."""

cdef enum Status:
    OK = 0
    NOT_FINITE = 1       # a number overflowed or was not finite
    NOT_POSITIVE = 2     # a block that must be positive definite is not
    NO_RESIDUAL = 3      # the residual sum of squares is zero: the model reproduces the response


cdef struct Failure:
    Status status
    Py_ssize_t factor    # depth of the factor, leaves first; -1 when none is concerned
    Py_ssize_t level     # level of that factor, in the order of the forest
    Py_ssize_t column    # column, or -1
