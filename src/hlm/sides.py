"""Right-hand sides: the columns Z'W[X y] of the statistics, taken out and put back, for any structure.

What random effects are made of (Z'WZ) stays; the columns beside it may be those of X and y, of a new response, or any
others that are to be solved for. With the columns C = Z'c in their place and total c'c (or any other), the factor of
kernel 2 leaves c'V⁻¹c = c'c - C'Λ M⁻¹Λ'C: so one evaluation solves for all of them (MATH: §3, §7).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hlm.criterion import Problem
from hlm.crossed import CrossedStatistics
from hlm_ext.criterion import Criterion

Matrix = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


def sides(problem: Problem) -> list[Matrix]:
    """Return Z_kl'W[X y] of all levels (J, q, p + 1), factors and levels in the order of the hierarchy."""
    crossed, tail = problem.crossed, len(problem.coordinates.total)
    if crossed is None:
        return [np.ascontiguousarray(block[:, :, -tail:]) for block in problem.coordinates.blocks]
    out = []
    for k, stat in enumerate(crossed.stats):
        ends = np.cumsum(_row_lengths(problem, crossed, k))
        out.append(stat[ends[:, None] - np.arange(tail, 0, -1)].reshape(-1, problem.ordered[k].width, tail))
    for factor, first in zip(problem.ordered[len(crossed.stats) :], crossed.positions, strict=True):
        out.append(crossed.cross[first[:, None] + np.arange(factor.width)])
    return out


def with_sides(problem: Problem, columns: list[Matrix], total: Matrix) -> Problem:
    """Return the problem with other right-hand sides (J, q, t) of each factor, and `total` (t, t) for [X y]'W[X y].

    Its forest is right; coordinates and rank are those of the problem given.
    """
    tail = len(problem.coordinates.total)
    if problem.crossed is None:
        blocks = [
            np.concatenate([block[:, :, :-tail], side], axis=2)
            for block, side in zip(problem.coordinates.blocks, columns, strict=True)
        ]
        return replace(problem, coordinates=replace(problem.coordinates, blocks=blocks, total=total))
    crossed = problem.crossed
    stats = []
    for k, (stat, side) in enumerate(zip(crossed.stats, columns, strict=False)):
        lengths = _row_lengths(problem, crossed, k)
        new = side.shape[2]
        old = np.ones(len(stat), dtype=bool)
        old[np.cumsum(lengths)[:, None] - np.arange(tail, 0, -1)] = False
        ends = np.cumsum(lengths - tail + new)
        places = ends[:, None] - np.arange(new, 0, -1)
        changed = np.empty(int(ends[-1]))
        kept = np.ones(len(changed), dtype=bool)
        kept[places] = False
        changed[kept] = stat[old]
        changed[places] = side.reshape(-1, new)
        stats.append(changed)
    cross = np.zeros((len(crossed.cross), len(total)))
    for factor, first, side in zip(
        problem.ordered[len(stats) :], crossed.positions, columns[len(stats) :], strict=True
    ):
        cross[first[:, None] + np.arange(factor.width)] = side
    return replace(
        problem,
        coordinates=replace(problem.coordinates, total=total),
        crossed=replace(crossed, stats=stats, cross=cross, corner=total),
    )


def transformed(problem: Problem, basis: Matrix, freedom: float, reml: bool, constant: float = 0.0) -> Criterion:
    """Return a criterion of the problem with the columns [X y] @ basis; the last one takes the place of y.

    Parameters
    ----------
    problem : Problem
    basis : (p + 1, t) float64
        In the coordinates of the engine.
    freedom : float
        ν of the criterion.
    reml : bool
    constant : float
        Added to the value.
    """
    total = basis.T @ problem.coordinates.total @ basis
    changed = with_sides(problem, [side @ basis for side in sides(problem)], total)
    return changed.criterion_with(freedom, reml, constant)


def level_sums(problem: Problem, rows: Matrix, values: Matrix) -> list[Matrix]:
    """Return Σ z v over the rows of each level, (J, q), factors and levels in the order of the hierarchy.

    Where levels are related, those of the independent ones that they are made of (see `hlm.variance.mixing`).

    Parameters
    ----------
    problem : Problem
    rows : (n, E) float64
        Columns of each factor first, in the order of the hierarchy.
    values : (n,) float64
        v, times the weight where that is wanted.
    """
    hierarchy = problem.statistics.hierarchy
    out: list[Matrix] = []
    if hierarchy.factors:
        peeled = sum(factor.width for factor in problem.ordered[: hierarchy.peeled])
        products = rows[:, :peeled] * values[:, None]
        if hierarchy.rows is not None:
            products = products[hierarchy.rows]
        sums = np.add.reduceat(products, hierarchy.first[:-1], axis=0)
        at = 0
        for k, factor in enumerate(problem.ordered[: hierarchy.peeled]):
            if k:
                sums = np.add.reduceat(sums, hierarchy.children[k - 1][:-1], axis=0)
            out.append(np.ascontiguousarray(sums[:, at : at + factor.width]))
            at += factor.width
        for factor in problem.ordered[hierarchy.peeled :]:
            one = [np.bincount(factor.codes, rows[:, at + i] * values, factor.size) for i in range(factor.width)]
            own: Matrix = np.column_stack(one)
            out.append(own if factor.between is None else factor.between.root.T @ own)
            at += factor.width
    return out


def _row_lengths(problem: Problem, crossed: CrossedStatistics, k: int) -> Places:
    """Length of each row of the statistics of peeled factor k: its columns and those above, the core's, X and y."""
    hierarchy = problem.statistics.hierarchy
    met = np.diff(crossed.offsets)
    for first in hierarchy.children[k:][::-1]:
        met = np.repeat(met, np.diff(first))
    widths = [factor.width for factor in problem.ordered[: hierarchy.peeled]]
    lengths: Places = np.repeat(sum(widths[k:]) + met + len(problem.coordinates.total), widths[k])
    return lengths
