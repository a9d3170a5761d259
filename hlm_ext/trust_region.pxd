"""Steps in few dimensions from the eigenvalues of the Hessian: the trust-region subproblem, and Newton's."""

cdef double newton_step(int m, const double *gradient, const double *hessian, double flat, double *room,
                        double *step) noexcept nogil
