"""Exact finite-sample distribution of the (restricted) likelihood ratio for one variance.

After Crainiceanu and Ruppert (2004).

With one variance τ² = λσ² the ratio depends on the data through independent χ² variables only. With μ_s the eigenvalues
of Z'P₀Z, P₀ = W - WX(X'WX)⁻¹X'W, ξ_s those of Z'WZ, w_s ~ N(0, 1), s = 1 … n - p,

    N(λ) = Σ λμ_s/(1 + λμ_s) w_s² ,   D(λ) = Σ w_s²/(1 + λμ_s)
    RLRT = sup_λ { (n - p) log(1 + N/D) - Σ log(1 + λμ_s) }
    LRT  = sup_λ { n log(1 + N/D) - Σ log(1 + λξ_s) } + n log(1 + χ²_f / Σ w_s²)      f: fixed effects tested with it

Eigenvalues that are equal share one χ² of their number, so a balanced design of any size costs next to nothing. Where
the model has other variances, they are treated as known (Greven, Crainiceanu, Küchenhoff and Peters 2008): the same
distribution is then an approximation, which is good but not exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hlm.criterion import Problem
from hlm.errors import DesignError
from hlm.responses import Prepared
from hlm.sides import level_sums, sides

Matrix = npt.NDArray[np.float64]

# Sizes of λμ at which the supremum is looked for, relative to 1 / the largest and smallest μ; each is then refined.
GRID = 120
# Groups with different Z'WZ beyond which the eigenvalues cost too much (they take J² memory and J³ time).
MOST = 6000
# Draws at a time.
CHUNK = 5000
# Eigenvalues that differ by less than this (of the largest) are one.
EQUAL = 1e-9


@dataclass(frozen=True)
class Spectrum:
    """Distinct eigenvalues with their multiplicities.

    Attributes
    ----------
    mu, mu_count : (G,) float64
        Of Z'P₀Z, positive ones.
    xi, xi_count : (H,) float64
        Of Z'WZ.
    n, freedom : int
        n and n - p, p the columns of X of the larger model.
    """

    mu: Matrix
    mu_count: Matrix
    xi: Matrix
    xi_count: Matrix
    n: int
    freedom: int


def spectrum(problem: Problem, prepared: Prepared, k: int, column: int) -> Spectrum:
    """Return the spectrum of one random column of factor k (in the order of the hierarchy).

    Raises
    ------
    DesignError
        If more than 6,000 groups differ in their sum of squares Z'WZ.
    """
    rows = prepared.rows
    at = sum(factor.width for factor in problem.ordered[:k]) + column
    weights = problem.statistics.weights
    z = rows[:, at] if weights is None else rows[:, at] * weights
    squares = level_sums(problem, rows, z)[k][:, column]
    cross = sides(problem)[k][:, column, :-1]
    order = np.argsort(squares)
    squares, cross = squares[order], cross[order]
    starts = np.flatnonzero(np.r_[True, np.diff(squares) > EQUAL * squares[-1]])
    diagonal, kept, count = [], [], []
    # within a run of equal squares, only the span of Z'WX is moved by X: the rest are eigenvectors already
    for lo, hi in zip(starts, np.r_[starts[1:], len(squares)], strict=True):
        size = float(squares[lo:hi].mean())
        part = cross[lo:hi]
        moved = min(hi - lo, part.shape[1])
        if hi - lo > moved:
            part = np.asarray(np.linalg.qr(part, mode="r"))
            diagonal.append((size, hi - lo - moved))
        kept.append(part)
        count.append(np.full(moved, size))
    left, sizes = np.vstack(kept), np.concatenate(count)
    if len(sizes) > MOST:
        raise DesignError(
            f"the exact test needs the eigenvalues of {len(sizes)} groups that differ in Z'WZ; at most {MOST} are "
            "taken. Use method='asymptotic' or 'bootstrap'"
        )
    found = np.linalg.eigvalsh(np.diag(sizes) - left @ left.T)
    mu = np.concatenate([found, [size for size, _ in diagonal]])
    number = np.concatenate([np.ones(len(found)), [float(times) for _, times in diagonal]])
    mu, number = _merge(mu, number)
    positive = mu > EQUAL * mu.max()
    xi = np.array([float(squares[lo]) for lo in starts])
    xi_count = np.diff(np.r_[starts, len(squares)]).astype(np.float64)
    n = problem.design.nobs
    return Spectrum(mu[positive], number[positive], xi, xi_count, n, n - problem.rank)


def _merge(values: Matrix, counts: Matrix) -> tuple[Matrix, Matrix]:
    order = np.argsort(values)
    values, counts = values[order], counts[order]
    starts = np.flatnonzero(np.r_[True, np.diff(values) > EQUAL * values[-1]])
    return values[starts], np.add.reduceat(counts, starts)


def draw(spectrum: Spectrum, reml: bool, fixed: int, count: int, rng: np.random.Generator) -> Matrix:
    """Draw `count` values of the ratio under the null hypothesis; `fixed` effects are tested with the variance (ML)."""
    s = spectrum
    power = s.freedom if reml else s.n
    roots, times = (s.mu, s.mu_count) if reml else (s.xi, s.xi_count)
    grid = np.geomspace(1e-3 / max(s.mu.max(), roots.max()), 1e5 / s.mu.min(), GRID)
    logs = times @ np.log1p(np.outer(roots, grid))
    shrink = 1 / (1 + np.outer(s.mu, grid))
    out = np.empty(count)
    for lo in range(0, count, CHUNK):
        number = min(CHUNK, count - lo)
        chi = rng.chisquare(s.mu_count, (number, len(s.mu)))
        rest = float(s.freedom - s.mu_count.sum())
        tail = rng.chisquare(rest, number) if rest > 0.5 else np.zeros(number)
        total = chi.sum(axis=1) + tail

        def height(lam: Matrix, chi: Matrix = chi, tail: Matrix = tail, total: Matrix = total) -> Matrix:
            left = (chi / (1 + lam[:, None] * s.mu)).sum(axis=1) + tail
            value: Matrix = power * np.log(total / left) - np.log1p(lam[:, None] * roots) @ times
            return value

        heights = power * np.log(total[:, None] / (chi @ shrink + tail[:, None])) - logs
        out[lo : lo + number] = np.maximum(_refine(heights, np.log(grid), height), 0.0)
        if fixed:
            out[lo : lo + number] += s.n * np.log1p(rng.chisquare(fixed, number) / total)
    return out


def _refine(heights: Matrix, logs: Matrix, height: Callable[[Matrix], Matrix]) -> Matrix:
    """The best of a grid, and of the vertex of the parabola through it and its neighbours, twice."""
    best = heights.argmax(axis=1)
    at = np.clip(best, 1, heights.shape[1] - 2)
    row = np.arange(len(heights))
    low, mid, high = (heights[row, at + i] for i in (-1, 0, 1))
    centre, step = logs[at], logs[1] - logs[0]
    top: Matrix = heights[row, best]
    for _ in range(2):
        bend = low - 2 * mid + high
        shift = np.where(bend < 0, 0.5 * (low - high) / np.where(bend < 0, bend, 1.0), 0.0)
        centre = centre + step * np.clip(shift, -1.0, 1.0)
        step = step / 10
        low, mid, high = (height(np.exp(centre + i * step)) for i in (-1, 0, 1))
        top = np.maximum(top, np.maximum(mid, np.maximum(low, high)))
    return top
