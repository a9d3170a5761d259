"""Steps in few dimensions from the eigenvalues of the Hessian: the trust-region subproblem, and Newton's."""

from libc.math cimport INFINITY, NAN, fabs, isfinite, sqrt
from libc.string cimport memcpy, memset
from scipy.linalg.cython_lapack cimport dsyev

import numpy as np

from hlm_ext.peel cimport cholesky

from hlm_ext.linear import eigh


def trust_region_step(const double[::1] gradient not None, const double[:, ::1] hessian not None, double radius):
    """Minimise the model g's + s'Hs/2 over |s| ≤ radius.

    Parameters
    ----------
    gradient : (m,) float64
    hessian : (m, m) float64
        Symmetric, not necessarily positive definite.
    radius : float
        Positive; may be infinite only if the Hessian is positive definite.

    Returns
    -------
    step : (m,) float64
    reduction : float
        What the model gains: -(g's + s'Hs/2) ≥ 0.
    decrement : float
        Newton decrement g'H⁺g/2 over the directions of positive curvature.
    lowest : float
        Smallest eigenvalue of H divided by the largest in size (0 if H = 0).
    inside : bool
        The step is the full Newton step.

    Notes
    -----
    Moré and Sorensen (1983), in the eigenbasis; where g has no part along the lowest eigenvector of an indefinite H
    (the hard case: θ at a saddle by symmetry) the step goes to the boundary along that eigenvector.
    """
    cdef Py_ssize_t m = gradient.shape[0], i, j, _
    if m == 0:
        return np.zeros(0), 0.0, 0.0, 0.0, True
    if hessian.shape[0] != m or hessian.shape[1] != m:
        raise ValueError(f"hessian must be ({m}, {m}), got ({hessian.shape[0]}, {hessian.shape[1]})")
    eigenvalues, eigenvectors = eigh(hessian)
    cdef double[::1] values = eigenvalues, g = np.zeros(m), s = np.zeros(m)
    cdef double[:, :] vectors = eigenvectors
    cdef double size = 0, top, low, shift, norm, slope, decrement = 0, reduction = 0, floor_, gap, rest, lowest_shift
    cdef double highest
    cdef bint inside = False
    top = max(fabs(values[0]), fabs(values[m - 1]))
    floor_ = 1e-14 * top
    for i in range(m):
        for j in range(m):
            g[i] += vectors[j, i] * gradient[j]
        size += g[i] * g[i]
        if values[i] > floor_:
            decrement += 0.5 * g[i] * g[i] / values[i]
    size = sqrt(size)
    low = values[0]
    norm = 0
    if low > -1e-12 * top:
        # flat directions without slope (a rotation of Λ that leaves D as it is) take no step
        inside = True
        for i in range(m):
            if values[i] > floor_:
                s[i] = -g[i] / values[i]
            elif fabs(g[i]) > 1e-10 * size:
                inside = False
            norm += s[i] * s[i]
        norm = sqrt(norm)
        if norm > radius:
            inside = False
    if not inside:
        # |s(shift)| decreases in shift > -low; safeguarded Newton on 1/|s| - 1/radius
        shift = max(0.0, -low) + max(size / radius * 1e-3, 1e-12 * top + 1e-300)
        lowest_shift = max(0.0, -low)
        highest = max(0.0, -low) + size / radius + 1e-300
        if shift > highest:
            shift = highest
        for _ in range(60):
            norm = 0
            slope = 0
            for i in range(m):
                # rounding may leave nothing of the smallest gap
                gap = max(values[i] + shift, floor_, 1e-300)
                s[i] = -g[i] / gap
                norm += s[i] * s[i]
                slope += s[i] * s[i] / gap
            norm = sqrt(norm)
            if norm > radius:
                lowest_shift = shift
            else:
                highest = shift
            if fabs(norm - radius) <= 1e-3 * radius or highest - lowest_shift <= 1e-14 * highest:
                break
            shift = shift + (norm - radius) / radius * norm * norm / slope if slope > 0 else highest
            if not (lowest_shift < shift < highest):
                shift = 0.5 * (lowest_shift + highest)
        if norm > radius:                           # nearly the hard case: shift is -low to the last digit
            for i in range(m):
                s[i] *= radius / norm
        elif norm < 0.999 * radius and low <= 0:    # hard case: the rest of the radius along the lowest eigenvector
            rest = sqrt(max(0.0, radius * radius - (norm * norm - s[0] * s[0]))) - fabs(s[0])
            s[0] += rest if s[0] >= 0 else -rest
    step = np.zeros(m)
    cdef double[::1] out = step
    for i in range(m):
        reduction -= g[i] * s[i] + 0.5 * values[i] * s[i] * s[i]
        for j in range(m):
            out[j] += vectors[j, i] * s[i]
    return step, reduction, decrement, (low / top if top > 0 else 0.0), inside


cdef bint definite_step(Py_ssize_t m, const double *gradient, const double *hessian, double flat, double *room,
                        double *step, double *gain) noexcept nogil:
    """Take the step by Cholesky where that shows that each eigenvalue is above `flat` times the largest; else False."""
    cdef double *L = room
    cdef double *root = room + m * m          # L⁻¹
    cdef double size = 0, inverse = 0, s
    cdef Py_ssize_t i, j, c
    memcpy(L, hessian, m * m * sizeof(double))
    if cholesky(m, L, m):
        return False
    memset(root, 0, m * m * sizeof(double))
    memset(step, 0, m * sizeof(double))
    gain[0] = 0
    for i in range(m):
        root[i * m + i] = 1
        for c in range(i):
            for j in range(c + 1):
                root[i * m + j] -= L[i * m + c] * root[c * m + j]
        s = 0
        for j in range(i + 1):
            root[i * m + j] /= L[i * m + i]
            inverse += root[i * m + j] ** 2
            s += root[i * m + j] * gradient[j]
        for j in range(m):
            size += hessian[i * m + j] ** 2
        gain[0] += 0.5 * s * s
        for j in range(i + 1):
            step[j] -= s * root[i * m + j]
    # the least eigenvalue is at least 1 / tr(H⁻¹), the largest at most |H|
    return inverse * sqrt(size) * flat < 1


cdef double newton_step(int m, const double *gradient, const double *hessian, double flat, double *room,
                        double *step) noexcept nogil:
    """Fill the step of `newton` and return what it gains; `room` is m (2 m + 36) + 1 long."""
    cdef int lwork = 34 * m, info = 0
    cdef double *w = room + m * m
    cdef double largest = 0, gain = 0, along
    cdef Py_ssize_t i, j
    if definite_step(m, gradient, hessian, flat, room, step, &gain):
        return gain
    gain = 0
    for i in range(m * m):
        if not isfinite(hessian[i]):
            info = 1
        room[i] = hessian[i]
    if info == 0:
        dsyev("V", "L", &m, room, &m, w, w + m, &lwork, &info)
    for i in range(m):
        largest = max(largest, fabs(w[i]))
    for i in range(m):
        if info == 0 and w[i] < -flat * largest:
            info = 1
    for i in range(m):
        step[i] = 0 if info == 0 else NAN
    if info != 0:
        return INFINITY
    for i in range(m):
        if fabs(w[i]) <= flat * largest:
            continue
        along = 0
        for j in range(m):                   # LAPACK's columns are our rows
            along += room[i * m + j] * gradient[j]
        gain += 0.5 * along * along / w[i]
        for j in range(m):
            step[j] -= along / w[i] * room[i * m + j]
    return gain


def newton(const double[::1] gradient not None, const double[:, ::1] hessian not None, double flat=1e-9):
    """Take one Newton step.

    Parameters
    ----------
    gradient : (m,) float64
    hessian : (m, m) float64
        Symmetric.
    flat : float
        Directions of which the curvature is not above this part of the largest have none: no step is taken there.

    Returns
    -------
    step : (m,) float64
    gain : float
        What the quadratic model loses along it. NaN and infinity where the Hessian has a negative eigenvalue, or a
        number that is not finite.

    Raises
    ------
    ValueError
        If shapes do not fit each other.
    """
    cdef Py_ssize_t m = gradient.shape[0]
    if hessian.shape[0] != m or hessian.shape[1] != m:
        raise ValueError(f"hessian must be ({m}, {m}), got {np.shape(hessian)}")
    step = np.zeros(m)
    if m == 0:
        return step, 0.0
    cdef double[::1] view = step, room = np.empty(m * (2 * m + 36) + 1)
    gain = newton_step(<int> m, &gradient[0], &hessian[0, 0], flat, &room[0], &view[0])
    return step, gain
