"""Null distributions of likelihood ratios on the boundary: projections of normal vectors onto tangent cones.

The covariances of a model form a cone. At a point of it, the tangent cone is what it looks like from near by: a linear
space (directions along which one can go both ways) and cones of positive semidefinite matrices over the directions
without variance. In the metric of the information I, a likelihood ratio tends to

    max over s in the tangent cone of the larger model (2U's - s'Is)  -  the same for the smaller model,   U ~ N(0, I)

(Chernoff 1954; Self and Liang 1987; Stram and Lee 1994; Shapiro 1988). Where the smaller model lies in the inside of
its own cone, this is a mixture of chi-squares: the weights are the conic intrinsic volumes of the larger model's cone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from scipy.special import gammaln

from hlm.covariance import Template

Matrix = npt.NDArray[np.float64]

# A direction of D with less than this of the largest variance of its block (or of 1, in units where a group of average
# size has reliability 1/2 at 1) lies on the boundary.
BOUNDARY = 1e-9
# Steps of the projection onto cones of matrices, and the change (relative to the normal vector) at which it ends.
STEPS, STILL = 2000, 1e-9
# Of a squared length: what counts as nothing when a projection ends at the tip of a cone or does not move its point.
NOTHING = 1e-12


@dataclass(frozen=True)
class TangentCone:
    """Directions in the entries of all D, in the engine's coordinates and order.

    Attributes
    ----------
    free : (m, a) float64
        A basis of the directions that can be gone both ways.
    pointed : (m, c) float64
        The lower triangles of the cones, orthonormal as matrices.
    sizes : tuple of int
        Side d of each cone of d x d matrices; c = Σ d (d + 1) / 2.
    """

    free: Matrix
    pointed: Matrix
    sizes: tuple[int, ...]


def tangent_cone(template: Template, covariances: list[Matrix]) -> TangentCone:
    """Return the tangent cone of the covariances of a template at D of each factor, in the order of the formula."""
    free: list[list[Matrix]] = []
    pointed: list[list[Matrix]] = []
    sizes: list[int] = []
    for k, factor in enumerate(template.factors):
        for block in factor.blocks:
            index = np.ix_(block, block)
            values, vectors = np.linalg.eigh(covariances[k][index])
            null = values <= BOUNDARY * max(values[-1], 1.0)
            basis = np.zeros((factor.width, len(block)))
            basis[list(block)] = vectors
            pairs = [(i, j) for j in range(len(block)) for i in range(j, len(block))]
            for i, j in pairs:
                change = np.outer(basis[:, i], basis[:, j])
                change = change if i == j else (change + change.T) / np.sqrt(2.0)
                full = [np.zeros((f.width, f.width)) for f in template.factors]
                full[k] = change
                (pointed if null[i] and null[j] else free).append(full)
            if null.any():
                sizes.append(int(null.sum()))
    return TangentCone(packed(template, free), packed(template, pointed), tuple(sizes))


def packed(template: Template, changes: list[list[Matrix]]) -> Matrix:
    """Return changes of all D, formula order, as columns of their entries in the engine's order."""
    columns = [
        np.concatenate([change[k][template.triangles[k]] for k in template.order] or [np.zeros(0)])
        for change in changes
    ]
    rows = sum(len(template.triangles[k][0]) for k in template.order)
    return np.column_stack(columns) if columns else np.zeros((rows, 0))


@dataclass(frozen=True)
class Reduced:
    """A cone after its free directions were projected out, in the metric of the information.

    Attributes
    ----------
    score : (c, m) float64
        The score of the pointed directions = score @ U.
    metric : (c, c) float64
        Their information.
    linear : (m, m) float64
        U' linear U is what the free directions gain.
    """

    score: Matrix
    metric: Matrix
    linear: Matrix
    sizes: tuple[int, ...]


def reduce(cone: TangentCone, information: Matrix) -> Reduced:
    """Project the free directions of a cone out."""
    free, pointed = cone.free, cone.pointed
    inner = free.T @ information @ free
    inverse = np.linalg.pinv(inner, rcond=1e-12, hermitian=True)
    left = pointed.T @ information @ free @ inverse
    score = pointed.T - left @ free.T
    metric = pointed.T @ information @ pointed - left @ (free.T @ information @ pointed)
    return Reduced(score, 0.5 * (metric + metric.T), free @ inverse @ free.T, cone.sizes)


def gains(reduced: Reduced, scores: Matrix) -> tuple[Matrix, Matrix]:
    """Return what the pointed directions gain for each score U (N, m), and the gain if they went both ways."""
    u = scores @ reduced.score.T
    points = project(u, reduced.metric, reduced.sizes)
    inside = 2 * (u * points).sum(axis=1) - np.einsum("ni,ij,nj->n", points, reduced.metric, points)
    whole = (u * np.linalg.solve(reduced.metric, u.T).T).sum(axis=1)
    return np.maximum(inside, 0.0), whole


def project(u: Matrix, metric: Matrix, sizes: tuple[int, ...]) -> Matrix:
    """Return the points a (N, c) of the cones that maximise 2u'a - a' metric a."""
    if all(size == 1 for size in sizes):
        root = np.linalg.cholesky(metric).T
        z = solve_triangular(root, u.T, trans="T").T
        return np.array([nnls(root, row)[0] for row in z]).reshape(u.shape)
    return _accelerated(u, metric, sizes)


def _accelerated(u: Matrix, metric: Matrix, sizes: tuple[int, ...]) -> Matrix:
    """Proximal gradients with momentum that starts anew where it leads uphill (Beck and Teboulle 2009)."""
    # directions are scaled within each cone so that its information is near the identity on average
    step = 1 / float(np.linalg.eigvalsh(metric)[-1])
    a = _nearest(u * step, sizes)
    ahead, t = a, np.ones(len(u))
    size = np.sqrt((u * u).sum(axis=1).max()) * step
    for _ in range(STEPS):
        moved = _nearest(ahead + step * (u - ahead @ metric), sizes)
        change = moved - a
        uphill = ((ahead - moved) * change).sum(axis=1) > 0
        t = np.where(uphill, 1.0, t)
        longer = 0.5 * (1 + np.sqrt(1 + 4 * t * t))
        ahead = moved + ((t - 1) / longer)[:, None] * change
        a, t = moved, longer
        if np.abs(change).max() < STILL * size:
            break
    return a


def _nearest(a: Matrix, sizes: tuple[int, ...]) -> Matrix:
    """The nearest positive semidefinite matrices, given by orthonormal entries (column by column)."""
    out = np.empty_like(a)
    at = 0
    for d in sizes:
        part = slice(at, at + d * (d + 1) // 2)
        at = part.stop
        if d == 1:
            out[:, part] = np.maximum(a[:, part], 0.0)
            continue
        rows, cols = np.array([(i, j) for j in range(d) for i in range(j, d)]).T
        factor = np.where(rows == cols, 1.0, np.sqrt(0.5))
        full = np.zeros((len(a), d, d))
        full[:, rows, cols] = full[:, cols, rows] = a[:, part] * factor
        values, vectors = np.linalg.eigh(full)
        full = (vectors * np.maximum(values, 0.0)[:, None, :]) @ vectors.transpose(0, 2, 1)
        out[:, part] = full[:, rows, cols] / factor
    return out


# ---- weights --------------------------------------------------------------------------------------------------------


def weights(reduced: Reduced, count: int, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """Return the weights (c + 1,) of χ²_0 … χ²_c, and their Monte Carlo covariance (zero where they are exact).

    Up to three variances have closed forms; more are counted in `count` projections; cones of matrices are told by the
    lengths of what is projected and of what is left, which determine the weights (McCoy and Tropp 2014).
    """
    c = len(reduced.metric)
    none = np.zeros((c + 1, c + 1))
    if c == 0:
        return np.ones(1), none
    if all(size == 1 for size in reduced.sizes) and c <= 3:
        return _closed(reduced.metric), none
    root = np.linalg.cholesky(reduced.metric)
    u = rng.standard_normal((count, c)) @ root.T
    if all(size == 1 for size in reduced.sizes):
        positive = (project(u, reduced.metric, reduced.sizes) > 0).sum(axis=1)
        found = np.bincount(positive, minlength=c + 1) / count
        return found, (np.diag(found) - np.outer(found, found)) / count
    identity = Reduced(np.eye(c), reduced.metric, np.zeros((c, c)), reduced.sizes)
    inside, whole = gains(identity, u)
    batches = [_from_lengths(inside[part], whole[part], c) for part in np.array_split(np.arange(count), 20)]
    return _from_lengths(inside, whole, c), np.cov(np.array(batches).T) / 20


def _closed(metric: Matrix) -> Matrix:
    """Weights of an orthant in 1, 2 or 3 dimensions: angles (Shapiro 1985; Self and Liang 1987)."""
    c = len(metric)
    if c == 1:
        return np.array([0.5, 0.5])
    inside, outside = _orthant(np.asarray(np.linalg.inv(metric))), _orthant(metric)
    if c == 2:
        return np.array([outside, 0.5, inside])
    return np.array([outside, 0.5 - inside, 0.5 - outside, inside])


def _orthant(covariance: Matrix) -> float:
    """P(all > 0) of two or three centred normal variables."""
    sd = np.sqrt(np.diag(covariance))
    angles = np.arcsin((covariance / np.outer(sd, sd))[np.tril_indices(len(sd), -1)])
    return float((0.25 + angles.sum() / (2 * np.pi)) if len(sd) == 2 else 0.125 + angles.sum() / (4 * np.pi))


def _from_lengths(inside: Matrix, whole: Matrix, c: int) -> Matrix:
    """Maximum likelihood of the weights: given k, inside/whole is Beta(k/2, (c - k)/2).

    Weights of even and of odd k sum to 1/2 each (Gauss and Bonnet).
    """
    share = inside / whole
    tip, full = share <= NOTHING, share >= 1 - NOTHING
    k = np.arange(1, c)
    middle = np.clip(share[~tip & ~full], NOTHING, 1 - NOTHING)[:, None]
    logs = (k / 2 - 1) * np.log(middle) + ((c - k) / 2 - 1) * np.log1p(-middle)
    densities = np.exp(logs - (gammaln(k / 2) + gammaln((c - k) / 2) - gammaln(c / 2)))
    found = np.full(c + 1, 1 / (c + 1))
    even = np.arange(c + 1) % 2 == 0
    for _ in range(500):
        parts = found[1:c] * densities
        counts = np.r_[tip.sum(), (parts / parts.sum(axis=1, keepdims=True)).sum(axis=0), full.sum()]
        new = np.where(even, counts / counts[even].sum(), counts / counts[~even].sum()) / 2
        if np.abs(new - found).max() < 1e-10:
            break
        found = new
    return found
