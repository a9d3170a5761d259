"""Structures of the level-1 errors with one parameter held: what a profile of it searches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hlm.covariance import Matrix
from hlm.criterion import Objective, Problem
from hlm.residuals.criterion import Statistics
from hlm.residuals.pattern import Estimated, Pattern
from hlm.residuals.pieces import ExpectedSquares
from hlm.residuals.unrestricted import Unrestricted

# φ (r,) and its derivatives (r, r - 1) as functions of the r - 1 parameters t that are free beside the one held.
Path = Callable[[Matrix], tuple[Matrix, Matrix]]


@dataclass(frozen=True, eq=False)
class HeldErrors:
    """What a search asks of a structure, in t."""

    pattern: Pattern
    path: Path

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.pattern.size - 1

    def bounded(self, t: Matrix) -> bool:
        """See `Pattern.bounded`."""
        return bool(np.abs(t).max(initial=0.0) < 150.0) and self.pattern.bounded(self.path(t)[0])

    def log_determinant(self, t: Matrix) -> tuple[float, Matrix]:
        """Return log|C| and its gradient (r - 1,)."""
        phi, slopes = self.path(t)
        value, gradient = self.pattern.log_determinant(phi)
        return value, gradient @ slopes


class HeldStatistics:
    """`hlm.residuals.criterion.Statistics` of a structure with one parameter held, in t.

    Parameters
    ----------
    statistics : Statistics
    path : callable
        t → (φ, ∂φ/∂t).
    """

    def __init__(self, statistics: Statistics, path: Path) -> None:
        self.statistics, self.path = statistics, path
        self.problem, self.terms = statistics.problem, statistics.terms
        assert isinstance(statistics.pattern, Pattern)
        self.pattern = HeldErrors(statistics.pattern, path)

    def at(self, phi: Matrix, estimated: Estimated | None = None) -> Problem:
        """See `Statistics`."""
        return self.statistics.at(self.path(phi)[0], estimated)

    def expected(self, problem: Problem, inner: Objective, sigma2: float, spread: bool) -> ExpectedSquares:
        """See `Statistics`."""
        return _Along(self.statistics.expected(problem, inner, sigma2, spread), self.path)


@dataclass(frozen=True, eq=False)
class _Along:
    """`ExpectedSquares` along a path."""

    squares: ExpectedSquares
    path: Path

    def value(self, phi: Matrix) -> float:
        return self.squares.value(self.path(phi)[0])

    def gradient(self, phi: Matrix) -> Matrix:
        whole, slopes = self.path(phi)
        return np.asarray(self.squares.gradient(whole) @ slopes)


def with_problem(statistics: Statistics, problem: Problem) -> Statistics:
    """Return the same statistics beside other variances of the random effects."""
    out = copy.copy(statistics)
    out.problem = problem
    return out


def hold(pattern: Pattern, place: int, value: float, phi: Matrix) -> tuple[Path, Matrix, list[Matrix]]:
    """Return the path on which a parameter has a value, the t that is near φ, and others to start from.

    Parameters
    ----------
    pattern : Pattern
    place : int
        Of the parameter in `Pattern.natural`.
    value : float
        On the scale of `Pattern.scaled`.
    phi : (r,) float64
        Of `pattern`.
    """
    if isinstance(pattern, Unrestricted):
        path = Occasions(pattern, place, value)
        return path, path.near(phi), []
    # each of φ is one parameter, on its scale but for a unit
    unit = np.zeros(len(phi))
    unit[place] = 1.0
    here, above = (float(pattern.scaled(x)[0][place]) for x in (phi, phi + unit))
    held, basis = phi[place] + (value - here) / (above - here), np.delete(np.eye(len(phi)), place, axis=1)
    starts = [np.delete(start, place) for start in pattern.starts()] if len(phi) > 1 else []
    return (lambda t: (np.insert(t, place, held), basis)), np.delete(phi, place), starts


class Occasions:
    """Any covariance of occasions with a ratio of standard deviations, or a correlation, held: a `Path`.

    C* = S U U' S, S = diag(1, e^s, …), and the rows of U are those of a unit lower triangular matrix over their length,
    the occasions in another order: the first two of it have the correlation l / √(1 + l²), l the first entry below the
    diagonal. So each parameter is one of (s, l), without bounds.

    Parameters
    ----------
    pattern : Unrestricted
    place : int
        Of the parameter in `Pattern.natural`.
    value : float
        On the scale of `Pattern.scaled`.
    """

    def __init__(self, pattern: Unrestricted, place: int, value: float) -> None:
        self.pattern = pattern
        T = len(pattern.labels)
        front = list(np.column_stack(np.triu_indices(T, 1))[place - (T - 1)]) if place >= T - 1 else []
        self.order = [*front, *(t for t in range(T) if t not in front)]
        self.entries = [(i, j) for i in range(1, T) for j in range(i)]
        self.place = min(place, T - 1)
        # l = r / √(1 - r²) = sinh(atanh r)
        self.value = value if place < T - 1 else float(np.sinh(np.clip(value, -300.0, 300.0)))

    def near(self, phi: Matrix) -> Matrix:
        """Return the t of the covariance at φ, but for what is held."""
        C = self.pattern.covariance(phi)
        sd = np.sqrt(np.diag(C))
        L = np.linalg.cholesky((C / np.outer(sd, sd))[np.ix_(self.order, self.order)])
        L = L / np.diag(L)[:, None]
        return np.delete(np.concatenate([np.log(sd[1:]), [L[i, j] for i, j in self.entries]]), self.place)

    def __call__(self, t: Matrix) -> tuple[Matrix, Matrix]:
        """Return φ and ∂φ/∂t, by the derivative of a Cholesky factor: dL = L Φ(L⁻¹ dC L⁻'), Φ half of the diagonal."""
        C, slopes = self._covariance(np.insert(t, self.place, self.value))
        L = np.linalg.cholesky(C)
        inner = np.linalg.solve(L, np.swapaxes(np.linalg.solve(L, np.delete(slopes, self.place, axis=0)), 1, 2))
        change = L @ (np.tril(inner) - 0.5 * inner * np.eye(len(L)))
        rows, cols = np.array(self.pattern.entries).T
        diagonal = rows == cols
        phi, jacobian = L[rows, cols], change[:, rows, cols].T
        jacobian[diagonal] /= phi[diagonal, None]
        phi[diagonal] = np.log(phi[diagonal])
        return phi, jacobian

    def _covariance(self, whole: Matrix) -> tuple[Matrix, Matrix]:
        """Return C* (T, T) and its derivatives (r, T, T) in (s, l)."""
        T = len(self.order)
        F = np.eye(T)
        for value, (i, j) in zip(whole[T - 1 :], self.entries, strict=True):
            F[i, j] = value
        length = np.sqrt((F * F).sum(axis=1))
        U = np.empty((T, T))
        U[self.order] = F / length[:, None]
        sd = np.exp(np.append(0.0, whole[: T - 1]))
        C = (U @ U.T) * np.outer(sd, sd)
        out = np.zeros((len(whole), T, T))
        for s in range(1, T):
            out[s - 1, s] = C[s]
        for a, (i, j) in enumerate(self.entries, start=T - 1):
            row = self.order[i]
            change = ((np.arange(T) == j) - U[row] * U[row, j]) / length[i]
            out[a, row] = sd[row] * (U @ change) * sd
        return C, out + np.swapaxes(out, 1, 2)
