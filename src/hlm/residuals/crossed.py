"""Level-1 variances that differ beside crossed factors: the squares of the errors given the data, from the rows.

In rows made white the errors have variance σ². With B⁻¹ = I + Z D Z' over the factors eliminated first, block
by block in their top units, Z now the columns of the crossed rest, F = Z'BZ, N = Λ(I + Λ'FΛ)⁻¹Λ' and U = NZ'B[X y],

    V⁻¹ = B - BZ N Z'B ,   P = V⁻¹ - V⁻¹X (X'V⁻¹X)⁻¹ X'V⁻¹ ,   V⁻¹[X y] = B[X y] - BZ U ,

and the error of row i has the mean ê_i = (Py)_i and the variance σ²(1 - P_ii) given the data; for ML V⁻¹ in the place
of P. All of it is a sum over top units, with the columns that each of them meets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hlm.covariance import Matrix
from hlm.criterion import Objective, Problem
from hlm.crossed import gather_again, unit_rows
from hlm.design import Factor
from hlm.residuals.pattern import Estimated, Pattern
from hlm.residuals.pieces import ExpectedSquares, Sums
from hlm.residuals.variances import LogVariance

Places = npt.NDArray[np.intp]


class GatheredRows:
    """`hlm.residuals.criterion.Statistics` of a crossed design: its statistics are gathered from the rows at each φ.

    Parameters
    ----------
    problem : Problem
        With independent errors of one variance.
    pattern : LogVariance
    """

    terms = 1

    def __init__(self, problem: Problem, pattern: Pattern) -> None:
        assert isinstance(pattern, LogVariance)
        self.problem = problem
        self.pattern: Pattern = pattern
        self.variances = pattern
        rows, weights = problem.rows()
        self.rows = rows if weights is None else rows * np.sqrt(weights)[:, None]

    def at(self, phi: Matrix, estimated: Estimated | None = None) -> Problem:
        """See `hlm.residuals.criterion.Statistics`."""
        problem, statistics = self.problem, self.problem.statistics
        assert problem.crossed is not None
        white = self.pattern.whiten(self.rows, phi)
        crossed = gather_again(problem.crossed, white, problem.ordered, statistics.hierarchy)
        return replace(
            problem,
            coordinates=replace(problem.coordinates, total=crossed.corner),
            statistics=replace(statistics, log_weights=statistics.log_weights - self.pattern.log_determinant(phi)[0]),
            crossed=crossed,
            residual=estimated or Estimated(self.pattern, phi),
        )

    def expected(self, problem: Problem, inner: Objective, sigma2: float, spread: bool) -> ExpectedSquares:
        """See `hlm.residuals.criterion.Statistics`."""
        assert problem.residual is not None
        variances, phi = self.variances, problem.residual.phi
        matrices = problem.space.factors_of(np.array(inner.theta))
        roots = [matrices[k] for k in problem.template.order]
        diagonal, mean = _projection(problem, self.pattern.whiten(self.rows, phi), roots, inner)
        squares = mean * mean / sigma2
        if spread:
            squares += 1 - diagonal
        # of white rows: those of the rows themselves have the coefficients of their kinds taken out
        c = variances.coefficients(phi)[0]
        return Sums(variances.coefficients, np.bincount(variances.kind, squares, len(c)) / c)


@dataclass(frozen=True, eq=False)
class _Unit:
    """A top unit: its rows, the columns of the crossed factors that it meets, and B[Z X y] (n, c + p + 1)."""

    rows: Places
    columns: Places
    solved: Matrix


def _projection(problem: Problem, white: Matrix, roots: list[Matrix], inner: Objective) -> tuple[Matrix, Matrix]:
    """Return the diagonal of P (n,), or V⁻¹ for ML, and ê = Py of white rows in their order."""
    hierarchy, factors = problem.statistics.hierarchy, problem.ordered
    peeled, core = factors[: hierarchy.peeled], factors[hierarchy.peeled :]
    p = inner.forest.p
    order = np.arange(len(white)) if hierarchy.rows is None else hierarchy.rows
    size = sum(factor.size * factor.width for factor in core)
    units, diagonal = [], np.empty(len(white))
    products = np.zeros((size, size + p + 1))
    for lo, hi in pairwise(unit_rows(hierarchy)):
        unit, own, Z = _eliminate(white, order[lo:hi], peeled, core, roots)
        diagonal[unit.rows] = own
        c = unit.columns
        forms = Z.T @ unit.solved
        products[np.ix_(c, c)] += forms[:, : len(c)]
        products[c, size:] += forms[:, len(c) :]
        units.append(unit)
    N = _core_covariance(products[:, :size], core, roots[len(peeled) :])
    U = N @ products[:, size:]
    e = np.append(-inner.beta, 1.0)
    inverse = inner.cross_inverse if inner.reml else np.zeros((p, p))
    mean = np.empty(len(white))
    for unit in units:
        c = unit.columns
        solved = unit.solved[:, : len(c)]
        rest = unit.solved[:, len(c) :] - solved @ U[c]  # V⁻¹[X y]
        diagonal[unit.rows] -= ((solved @ N[np.ix_(c, c)]) * solved).sum(axis=1)
        diagonal[unit.rows] -= ((rest[:, :p] @ inverse) * rest[:, :p]).sum(axis=1)
        mean[unit.rows] = rest @ e
    return diagonal, mean


def _eliminate(
    white: Matrix, rows: Places, peeled: list[Factor], core: list[Factor], roots: list[Matrix]
) -> tuple[_Unit, Matrix, Matrix]:
    """Return a unit, the diagonal of its B and its Z."""
    half, _, at = _columns(white, rows, peeled, 0, roots)
    Z, columns, at = _columns(white, rows, core, at, None)
    # B = I - A(I + A'A)⁻¹A' with A = ZΛ of the factors eliminated
    inside = np.linalg.solve(np.eye(half.shape[1]) + half.T @ half, half.T)
    right = np.concatenate([Z, white[rows, at:]], axis=1)
    solved = right - half @ (inside @ right)
    return _Unit(rows, columns, solved), 1 - (half * inside.T).sum(axis=1), Z


def _columns(
    white: Matrix, rows: Places, factors: list[Factor], at: int, roots: list[Matrix] | None
) -> tuple[Matrix, Places, int]:
    """Columns of factors that rows meet (n, c), times Λ if given; their places; where those factors end in the rows."""
    out, places, start = [], [], 0
    for k, factor in enumerate(factors):
        q = factor.width
        levels, local = np.unique(factor.codes[rows], return_inverse=True)
        own = white[rows, at : at + q]
        matrix = np.zeros((len(rows), len(levels), q))
        matrix[np.arange(len(rows)), local] = own if roots is None else own @ roots[k]
        out.append(matrix.reshape(len(rows), -1))
        places.append((start + levels[:, None] * q + np.arange(q)).ravel())
        start += factor.size * q
        at += q
    return np.concatenate(out, axis=1), np.concatenate(places), at


def _core_covariance(F: Matrix, core: list[Factor], roots: list[Matrix]) -> Matrix:
    """N = Λ(I + Λ'FΛ)⁻¹Λ' over the columns of all levels of the crossed factors."""

    def times(matrix: Matrix, transpose: bool) -> Matrix:
        out, at = np.empty_like(matrix), 0
        for factor, root in zip(core, roots, strict=True):
            end = at + factor.size * factor.width
            own = matrix[at:end].reshape(factor.size, factor.width, -1)
            out[at:end] = np.einsum("ij,ljc->lic", root.T if transpose else root, own).reshape(end - at, -1)
            at = end
        return out

    M = np.eye(len(F)) + times(times(F, True).T, True)  # F is symmetric
    inverse: Matrix = np.linalg.inv(M).astype(np.float64, copy=False)
    return times(times(inverse, False).T, False)
