"""Starts for models with structures, known values or constraints."""

from __future__ import annotations

import numpy as np

from hlm.covariance import Matrix
from hlm.optimize.start import FLOOR, RELATIVE_FLOOR, moments
from hlm.variance.criterion import VarianceCriterion
from hlm_ext.criterion import KernelError


def starts(criterion: VarianceCriterion) -> list[Matrix]:
    """Return points to start from, the one of the lowest criterion first.

    They are that of the moments of the OLS residuals, that of groups of reliability 1/2, and for structures whose
    criterion may have several minima the first one with each of their shapes.

    Raises
    ------
    KernelError
        If the criterion is finite at none of them.
    """
    variances = criterion.variances
    known = variances.sigma_known**2 if variances.sigma_known else None
    covariances, sigma2 = moments(criterion.inner, variances.template, known)
    points = []
    for matrices, floors in (
        (covariances, (FLOOR, RELATIVE_FLOOR)),
        ([np.eye(len(D)) for D in covariances], (0.0, 0.0)),
    ):
        try:
            points.append(variances.point(matrices, sigma2, *floors))
        except KernelError:
            continue
    if not points and variances.conditions:
        points.append(variances.project(np.full(variances.size, 0.5)))
    points += shaped(criterion, points[0]) if points else []
    valued = []
    error: KernelError | None = None
    for place, x in enumerate(points):
        try:
            valued.append((criterion.value(x), place))
        except KernelError as failure:
            error = failure
    if not valued:
        raise error or KernelError("no covariance satisfies the constraints", -1, -1, -1)
    return [points[place] for _, place in sorted(valued)]


def shaped(criterion: VarianceCriterion, x: Matrix) -> list[Matrix]:
    """Return x with the shapes of each structure that has some, at the same size."""
    variances = criterion.variances
    out = []
    for part in variances.parts:
        q = len(part.block)
        F = part.root(x)
        size = float((F * F).sum())
        shapes = part.structure.shapes(q)
        for theta in shapes[2:-1:4]:
            root = np.asarray(part.structure.root(theta, q))
            D = root @ root.T * (size / max(float((root * root).sum()), 1e-300))
            trial = x.copy()
            trial[part.index] = part.structure.start(D)
            try:
                out.append(variances.project(trial))
            except KernelError:
                continue
    return out
