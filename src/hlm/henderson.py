"""Henderson's equations solved for vectors z, with their derivatives in the covariances (MATH: §7).

For a vector z over the random effects, relative to σ², with Ω = (Z'WZ + D⁻¹)⁻¹ and V₀ = W⁻¹ + ZDZ':

    groups = z'Ωz ,    q = X'WZ Ωz ,    m = D⁻¹Ωz = (I + Z'WZ D)⁻¹ z ,    K = Z'V₀⁻¹X .

In the entry a of D, in which D moves by E_a in each level, the derivatives of the first two are m'E_a m and K'E_a m.
One grouping factor has all in closed form by level. Otherwise the vectors z are put in the place of y (`hlm.sides`):
what the factor leaves of them is z'z - z'Ωz, and of X and them -q', for any structure, a few dozen at a time; rows with
the same z are one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hlm.criterion import Problem
from hlm.sides import sides, with_sides
from hlm_ext.forms import forms

Matrix = npt.NDArray[np.float64]
Levels = npt.NDArray[np.intp]

# Vectors z that are solved for together.
BATCH = 48


@dataclass(frozen=True)
class Solutions:
    """What Henderson's equations give for N vectors z, in units of σ².

    Attributes
    ----------
    groups : (N,) float64
        z'Ωz.
    q : (N, p) float64
    inner : (N, m_D) float64
        m'E_a m; empty unless asked for, as all that follow.
    cross : (N, m_D, p) float64
        K'E_a m.
    second : (N,) float64
        Σ_ab w_ab m'E_a Z'V₀⁻¹Z E_b m for the weights w of pairs of entries.
    mixed : (N, p) float64
        Σ_ab w_ab K'E_a Z'V₀⁻¹Z E_b m.
    """

    groups: Matrix
    q: Matrix
    inner: Matrix
    cross: Matrix
    second: Matrix
    mixed: Matrix

    @classmethod
    def zeros(cls, count: int, p: int, entries: int) -> Solutions:
        """Return those of vectors z = 0."""
        shapes = [(count,), (count, p), (count, entries), (count, entries, p), (count,), (count, p)]
        return cls(*(np.zeros(shape) for shape in shapes))

    def put(self, at: npt.NDArray[np.intp] | slice, found: Solutions) -> None:
        """Write the solutions of some of the vectors."""
        for name, values in vars(found).items():
            getattr(self, name)[at] = values

    def take(self, at: npt.NDArray[np.intp]) -> Solutions:
        """Return the solutions of some of the vectors."""
        return Solutions(*(values[at] for values in vars(self).values()))


def solve(
    problem: Problem, D: list[Matrix], count: int, levels: list[Levels], Z: list[Matrix], weight: Matrix | None = None
) -> Solutions:
    """Solve for the vectors z of N rows.

    Parameters
    ----------
    problem : Problem
    D : list of (q, q) float64
        Of each factor in the order of the formula, in the engine's coordinates, as all here.
    count : int
        N.
    levels : list of (N,) intp
        Of each factor; -1 where z has nothing of it.
    Z : list of (N, q) float64
        Zero where the level is -1; rows that are not finite are left at zero.
    weight : (m_D, m_D) float64, optional
        w of pairs of entries of D; without it derivatives are left out.
    """
    found = Solutions.zeros(count, problem.rank, 0 if weight is None else len(weight))
    if not Z:
        return found
    used = np.any([code >= 0 for code in levels], axis=0) & np.all([np.isfinite(z).all(axis=1) for z in Z], axis=0)
    used = np.flatnonzero(used)
    levels, Z = [code[used] for code in levels], [z[used] for z in Z]
    if problem.crossed is None and len(Z) == 1:
        found.put(used, _one_factor(problem, D[0], levels[0], Z[0], weight))
    elif len(used):
        found.put(used, _several_factors(problem, D, levels, Z, weight))
    for k, (factor, code) in enumerate(zip(problem.design.factors, levels, strict=True)):
        if factor.between is None:
            continue
        rest = factor.between.rest[code]  # levels without rows: what those with rows leave open
        found.groups[used] += rest * ((Z[k] @ D[k]) * Z[k]).sum(axis=1)
        if weight is not None:
            found.inner[used] += rest[:, None] * squares(problem, k, Z[k])
    return found


def squares(problem: Problem, k: int, Z: Matrix) -> Matrix:
    """Return z'E_a z (N, m_D) of vectors z (N, q) of one level of factor k."""
    rows, cols = problem.template.triangles[k]
    out = np.zeros((len(Z), len(problem.template.places)))
    at = [problem.template.places[k, int(i), int(j)] for i, j in zip(rows, cols, strict=True)]
    out[:, at] = Z[:, rows] * Z[:, cols] * np.where(rows == cols, 1.0, 2.0)
    return out


def _one_factor(problem: Problem, D: Matrix, levels: Levels, Z: Matrix, weight: Matrix | None) -> Solutions:
    """Return the solutions from the blocks of the levels."""
    block, width = problem.coordinates.blocks[0], Z.shape[1]
    position = np.empty(len(block), dtype=np.intp)
    position[problem.statistics.hierarchy.levels[0]] = np.arange(len(block))
    used, place = np.unique(position[levels], return_inverse=True)
    A, B = block[used][:, :, :width], block[used][:, :, width:-1]
    inverse = np.linalg.inv(np.eye(width) + A @ D)  # of I + AD
    m = np.einsum("nij,nj->ni", inverse[place], Z)
    solved = m @ D
    groups, q = (Z * solved).sum(axis=1), np.einsum("nip,ni->np", B[place], solved)
    if weight is None:
        empty = Solutions.zeros(len(Z), problem.rank, 0)
        return Solutions(groups, q, empty.inner, empty.cross, empty.second, empty.mixed)
    rows, cols = problem.template.triangles[0]
    E = np.zeros((len(rows), width, width))
    E[np.arange(len(rows)), rows, cols] = E[np.arange(len(rows)), cols, rows] = 1.0
    K, T = inverse @ B, inverse @ A
    moved = np.einsum("aij,nj->nai", E, m)
    weighed = np.einsum("nij,naj->nai", T[place], np.einsum("ab,nbi->nai", weight, moved))
    return Solutions(
        groups,
        q,
        squares(problem, 0, m),
        np.einsum("nip,nai->nap", K[place], moved),
        np.einsum("nai,nai->n", moved, weighed),
        np.einsum("nip,ni->np", K[place], np.einsum("aij,naj->ni", E, weighed)),
    )


def _several_factors(
    problem: Problem, D: list[Matrix], levels: list[Levels], Z: list[Matrix], weight: Matrix | None
) -> Solutions:
    """Return the solutions by right-hand sides, for distinct rows."""
    keys = np.column_stack([*(code.astype(np.float64) for code in levels), *Z])
    _, first, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    found = Solutions.zeros(len(first), problem.rank, 0 if weight is None else len(weight))
    theta = problem.template.theta_of_covariances(D)
    known = [side[:, :, :-1] for side in sides(problem)]
    for lo in range(0, len(first), BATCH):
        part = first[lo : lo + BATCH]
        some = _by_sides(problem, known, theta, [code[part] for code in levels], [z[part] for z in Z], weight)
        found.put(slice(lo, lo + len(part)), some)
    return found.take(place.reshape(-1))


def _by_sides(
    problem: Problem, known: list[Matrix], theta: Matrix, levels: list[Levels], Z: list[Matrix], weight: Matrix | None
) -> Solutions:
    """Return the solutions of a few rows, from one factorisation with their z in the place of y."""
    count, p = len(levels[0]), problem.rank
    L = problem.template.factors_of(theta)
    scales = [factor.level_scale[code] for factor, code in zip(problem.design.factors, levels, strict=True)]
    prior = np.sum([a * ((z @ root) ** 2).sum(axis=1) for a, z, root in zip(scales, Z, L, strict=True)], axis=0)
    # the same whatever the unit of y: z'Ωz ≤ len(Z) for each row, and what is left of the z's below is positive
    size = np.sqrt(np.where(prior > 0, prior, np.sum([(z * z).sum(axis=1) for z in Z], axis=0)))
    Z = [np.divide(z, size[:, None], out=np.zeros_like(z), where=size[:, None] > 0) for z in Z]
    bound = float(len(Z) * count)
    columns = []
    for position, (k, side) in enumerate(zip(problem.template.order, known, strict=True)):
        right = np.zeros((*side.shape[:2], count))
        at = np.empty(side.shape[0], dtype=np.intp)
        at[problem.statistics.hierarchy.levels[position]] = np.arange(len(at))
        rows = np.flatnonzero(levels[k] >= 0)
        relation = problem.design.factors[k].between
        if relation is None:
            right[at[levels[k][rows]], :, rows] = Z[k][rows]
        else:
            right[:, :, rows] = relation.loadings[levels[k][rows]].T[:, None, :] * Z[k][rows].T
        columns.append(np.concatenate([side, right], axis=2))
    total = np.zeros((p + count, p + count))
    total[:p, :p] = problem.coordinates.total[:p, :p]
    total[np.arange(p, p + count), np.arange(p, p + count)] = bound
    criterion = with_sides(problem, columns, total).criterion_with(1.0, False)
    criterion.value(theta)
    left = criterion.schur
    found = Solutions.zeros(count, p, 0 if weight is None else len(weight))
    found.groups[:], found.q[:] = prior * (bound - np.diag(left)[p:]), -left[p:, :p] * size[:, None]
    if weight is not None:
        tangent, products, _ = forms(criterion.forest)
        weighed = np.einsum("ab,abcd->cd", weight, products)
        found.inner[:] = -np.diagonal(tangent[:, p:, p:], axis1=1, axis2=2).T * size[:, None] ** 2
        found.cross[:] = -tangent[:, :p, p:].transpose(2, 0, 1) * size[:, None, None]
        found.second[:], found.mixed[:] = np.diag(weighed)[p:] * size**2, weighed[:p, p:].T * size[:, None]
    return found
