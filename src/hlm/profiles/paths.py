"""The likelihood along one parameter, all others at their best: what is minimised at each of its values.

Variances: the free parameters are entries of roots K of T = KK', absolute and without bounds, and log σ; nothing is
profiled out. A standard deviation is the length of the first row of a root whose effects are put in an order that
begins with it; a correlation is the direction of the second row. So each value of the parameter is a linear condition
on K, the rest is free, and a singular T is an ordinary point. With D = T/σ² and v = σ² (MATH: §3, §5)

    deviance(D, v) = criterion(D) + ν (log(v/v̂) + v̂/v - 1) ,   v̂ = r²/ν

Fixed effects: γ_j = c is y less c X_j without that column; β is a combination of the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hlm.criterion import Problem
from hlm.sides import transformed
from hlm_ext.criterion import Criterion
from hlm_ext.linear import lower_factor, lower_root

Matrix = npt.NDArray[np.float64]
# σ² of a larger logarithm than twice this, either way, overflows with what it is multiplied with.
LARGEST_LOG = 150.0
# (factor, root of a unit change of one free parameter)
Direction = tuple[int, Matrix]


@dataclass(frozen=True)
class Path:
    """Roots K of all T as affine functions of the free parameters x; σ is free too, or known.

    Attributes
    ----------
    base : list of (q, q) float64
        K at x = 0, in the user's units, order of the formula.
    directions : list of (factor, (q, q) float64)
        K = base + Σ x · direction.
    sigma : float or None
        Known σ; None: log σ is the last of x.
    """

    base: list[Matrix]
    directions: list[Direction]
    sigma: float | None


class PathCriterion:
    """-2 log-likelihood along a path as a function of its free parameters, for `hlm.optimize.newton`."""

    def __init__(self, problem: Problem, criterion: Criterion, path: Path) -> None:
        self.problem, self.criterion, self.path = problem, criterion, path
        self.freedom = criterion.freedom
        self.inverse_maps = [np.linalg.inv(matrix) for matrix in problem.maps]
        self.theta = np.zeros(0)

    def value(self, theta: Matrix) -> float:
        """Return the deviance at x; infinity where σ is no number."""
        self.theta = np.array(theta)
        free = self.path.sigma is None
        if free and not abs(theta[-1]) < LARGEST_LOG:
            return np.inf
        sigma = float(np.exp(theta[-1])) if free else float(self.path.sigma or 0.0)
        self.roots = [K / sigma for K in roots_at(self.path, theta)]
        self.engine = [inverse @ root for inverse, root in zip(self.inverse_maps, self.roots, strict=True)]
        template = self.problem.template
        lower = []
        for factor, root in zip(template.factors, self.engine, strict=True):
            L = np.zeros_like(root)
            for block in factor.blocks:
                index = np.ix_(block, block)
                L[index] = lower_factor(np.ascontiguousarray(root[index]))
            lower.append(L)
        profiled = self.criterion.value(template.theta_of(lower))
        self.sigma = sigma
        self.v = (sigma / self.problem.coordinates.scale) ** 2
        ratio = self.criterion.sigma2 / self.v
        return profiled + self.freedom * (ratio - 1 - float(np.log(ratio)))

    def derivatives(self, information: str = "observed") -> tuple[Matrix, Matrix]:
        """Return gradient and Hessian in x; "average" ones leave out what needs traces."""
        template, v, nu = self.problem.template, self.v, self.freedom
        criterion, s = self.criterion, self.criterion.sigma2
        if criterion.m == 0:
            D, outer, G, second = np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 0))
        else:
            criterion.derivatives(information)
            moments = criterion.moments()
            outer = template.packed([own for _, own in moments])
            G = template.packed([post - own / v for post, own in moments])
            second = criterion.second_derivatives + np.outer(outer, outer) / (nu * s * s)
            if information == "observed":  # 2 f'Pf/s - tr(PVPV), of which the first is in units of v here
                second = (second + criterion.trace_products) * (s / v) - criterion.trace_products
            else:
                second = second * (s / v)
            D = template.entries_of([L @ L.T for L in self.engine])
        count = len(self.theta)
        free = self.path.sigma is None
        changes = [(k, self.inverse_maps[k] @ direction / self.sigma) for k, direction in self.path.directions]
        J = np.zeros((len(D), count))
        bend = np.zeros((count, count))
        for a, (k, N) in enumerate(changes):
            J[:, a] = self._entry(k, N @ self.engine[k].T)
            for b in range(a + 1):
                if changes[b][0] == k:
                    bend[a, b] = bend[b, a] = G @ self._entry(k, N @ changes[b][1].T)
        slope, lean = np.zeros(count), np.zeros(count)
        if free:
            J[:, -1] = -2 * D
            bend[-1, :-1] = bend[:-1, -1] = -2 * (G @ J[:, :-1])
            bend[-1, -1] = 4 * (G @ D)
            residual = criterion.residual
            rate = nu / v - residual / (v * v)
            slope[-1], lean[-1] = 2 * v * rate, 2 * v
            bend[-1, -1] += 4 * v * rate + 4 * v * v * (2 * residual / v**3 - nu / (v * v))
        mixed = np.outer(J.T @ outer / (v * v), lean)
        return J.T @ G + slope, J.T @ second @ J + bend + mixed + mixed.T

    def _entry(self, k: int, half: Matrix) -> Matrix:
        """Entries of all D of half + half' in factor k."""
        matrices = [np.zeros((factor.width, factor.width)) for factor in self.problem.template.factors]
        matrices[k] = half + half.T
        return self.problem.template.entries_of(matrices)


def roots_at(path: Path, theta: Matrix) -> list[Matrix]:
    """Return K of each factor at x."""
    roots = [K.copy() for K in path.base]
    for value, (k, direction) in zip(theta, path.directions, strict=False):
        roots[k] += value * direction
    return roots


def standard_deviation(
    problem: Problem, covariances: list[Matrix], sigma: float, k: int, i: int, value: float
) -> tuple[Path, Matrix]:
    """Return the path on which effect i of factor k has a given standard deviation, and a start on it."""
    orders = _orders(problem, k, [i])
    base, directions, start = _free_roots(problem, covariances, orders, {(k, i, 0)})
    base[k][i, orders[k][0][0]] = value
    return Path(base, directions, None), np.append(start, np.log(sigma))


def correlation(
    problem: Problem, covariances: list[Matrix], sigma: float, k: int, i: int, j: int, value: float
) -> tuple[Path, Matrix]:
    """Return the path on which effects i and j of factor k have a given correlation, and a start on it."""
    orders = _orders(problem, k, [i, j])
    left_out = {(k, j, 0), (k, j, 1)}
    if abs(value) == 1:  # the second column is empty so far: what other effects have in it could as well be in the next
        left_out |= {(k, other, 1) for order in orders[k] for other in order[2:]}
    base, directions, start = _free_roots(problem, covariances, orders, left_out)
    first, second = next(order for order in orders[k] if i in order)[:2]
    unit = _units(problem, k)[j]
    length = np.zeros_like(base[k])
    length[j, first], length[j, second] = unit * value, unit * np.sqrt(max(1 - value * value, 0.0))
    sd = float(np.sqrt(max(covariances[k][j, j], 0.0))) / unit
    return Path(base, [*directions, (k, length)], None), np.r_[start, sd, np.log(sigma)]


def residual_deviation(problem: Problem, covariances: list[Matrix], value: float) -> tuple[Path, Matrix]:
    """Return the path on which σ has a given value, and a start on it."""
    base, directions, start = _free_roots(problem, covariances, _orders(problem, -1, []), set())
    return Path(base, directions, value), start


def _orders(problem: Problem, k: int, first: list[int]) -> list[list[list[int]]]:
    """Effects of each block of each factor, those of `first` in front; the columns of the root go with them."""
    out = []
    for place, factor in enumerate(problem.template.factors):
        blocks = []
        for block in factor.blocks:
            front = first if place == k and first and first[0] in block else []
            blocks.append([*front, *(j for j in block if j not in front)])
        out.append(sorted(blocks, key=lambda order: not (first and place == k and first[0] in order)))
    return out


def _free_roots(
    problem: Problem, covariances: list[Matrix], orders: list[list[list[int]]], left_out: set[tuple[int, int, int]]
) -> tuple[list[Matrix], list[Direction], Matrix]:
    """Return zero roots with a direction for each entry that is free, and the entries of roots of the covariances.

    `left_out` has triples (factor, effect, rank of the column in its block) that the path sets itself.
    """
    base, directions, start = [], [], []
    for k, (factor, blocks) in enumerate(zip(problem.template.factors, orders, strict=True)):
        base.append(np.zeros((factor.width, factor.width)))
        units = _units(problem, k)
        for order in blocks:
            root = lower_root(np.ascontiguousarray(covariances[k][np.ix_(order, order)]))
            for row, i in enumerate(order):
                for rank in range(row + 1):
                    if (k, i, rank) in left_out:
                        continue
                    direction = np.zeros((factor.width, factor.width))
                    direction[i, order[rank]] = units[i]
                    directions.append((k, direction))
                    start.append(root[row, rank] / units[i])
    return base, directions, np.array(start)


def _units(problem: Problem, k: int) -> Matrix:
    """Standard deviation of each effect of factor k at which a group tells half of it: x is free of units."""
    units: Matrix = problem.coordinates.scale * np.sqrt((problem.maps[k] ** 2).sum(axis=1))
    return units


def fixed_effect(problem: Problem, criterion: Criterion, j: int, value: float) -> Criterion:
    """Return the criterion (ML) of the model in which γ_j, column j of those kept, has a given value.

    The engine's β = b + N (free ones) with (row j of the map) b = value less shift, N its null space.
    """
    coordinates = problem.coordinates
    row = coordinates.beta_map[j]
    size = float(np.linalg.norm(row))
    known = row * (value - coordinates.beta_shift[j]) / size**2
    rank = len(row)
    null = np.linalg.qr(np.column_stack([row / size, np.eye(rank)]))[0][:, 1:rank]
    basis = np.zeros((rank + 1, rank))
    basis[:rank, :-1], basis[:rank, -1], basis[rank, -1] = null, -known, 1.0
    return transformed(problem, basis, criterion.freedom, False, criterion.constant)
