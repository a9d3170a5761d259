"""Forms of all variance parameters, those of the level-1 errors too, from dense matrices of the independent units.

With a residual structure V₀ = C(φ) + Σ Z D Z' is block-diagonal in the units: levels of the top factor, or groups of
correlated errors where there is no factor. In rows made white, W C W' = I, a direction of φ is

    W (∂C/∂φ_b) W' = -(B + B') ,   B = (∂W/∂φ_b) W⁻¹ ,

and everything that information and Kenward and Roger's method need is a sum over units of products of their matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.covariance import Matrix
from hlm.criterion import Objective, Problem
from hlm.crossed import unit_rows
from hlm.errors import NumericalError

if TYPE_CHECKING:
    from hlm.residuals.pattern import Estimated

Places = npt.NDArray[np.intp]

# Rows of a unit above which its matrices are not formed.
LARGEST = 3000
# Rows that are put together where each is a unit.
TOGETHER = 64


@dataclass(frozen=True, eq=False)
class UnitForms:
    """Forms in k directions: the entries of all D as `hlm.covariance.Template` packs them, then φ; V₀ in units of σ².

    Attributes
    ----------
    tangent : (k, p + 1, p + 1) float64
        S_a = -[X y]'V⁻¹V_aV⁻¹[X y].
    products : (k, k, p + 1, p + 1) float64
        Q_ab = [X y]'V⁻¹V_aV⁻¹V_bV⁻¹[X y].
    trace : (k,) float64
        tr(V⁻¹V_a).
    traces : (k, k) float64
        tr(V⁻¹V_aV⁻¹V_b).
    """

    tangent: Matrix
    products: Matrix
    trace: Matrix
    traces: Matrix

    def information(self, criterion: Objective, kind: str) -> tuple[Matrix, Matrix]:
        """Return "expected" or "average" second derivatives (k, k), and those in the directions and σ² (k,).

        See `hlm.inference.information`.
        """
        M, s, p = criterion.cross_inverse, criterion.sigma2, len(criterion.beta)
        S, Q = self.tangent, self.products
        if kind == "average":
            e = np.append(-criterion.beta, 1.0)
            Se = S @ e
            second = np.einsum("x,abxy,y->ab", e, Q, e) - Se[:, :p] @ M @ Se[:, :p].T
            return second / s, -Se @ e / s**2
        second, first = self.traces, self.trace
        if criterion.reml:
            MS = M @ S[:, :p, :p]
            second = second - 2 * np.einsum("xy,abyx->ab", M, Q[:, :, :p, :p]) + np.einsum("axy,byx->ab", MS, MS)
            first = first + np.einsum("axx->a", MS)
        return 0.5 * (second + second.T), first / s


def unit_forms(problem: Problem, criterion: Objective) -> UnitForms:
    """Return the forms of a problem with a residual structure, where the criterion stands.

    Raises
    ------
    NumericalError
        If a unit has more than `LARGEST` rows.
    """
    assert problem.residual is not None
    template = problem.template
    white = problem.rows()[0]
    units = _units(problem, len(white))
    largest = max(len(unit) for unit in units)
    if largest > LARGEST:
        raise NumericalError(
            f"{largest} rows depend on each other: expected and average information beside a residual structure form "
            f"matrices of that size, and are offered up to {LARGEST} rows"
        )
    matrices = problem.space.factors_of(np.array(criterion.theta))
    D = [matrices[k] @ matrices[k].T for k in template.order]
    width = sum(len(matrix) for matrix in D)
    k = len(template.places) + problem.residual.pattern.size
    t = white.shape[1] - width
    out = UnitForms(np.zeros((k, t, t)), np.zeros((k, k, t, t)), np.zeros(k), np.zeros((k, k)))
    for unit, of_errors in zip(units, _error_slopes(problem.residual, units, len(white)), strict=True):
        V, slopes = _between(problem, white[unit], unit, D)
        inverse = np.linalg.inv(V)
        slopes = np.concatenate([slopes, of_errors])
        XY = white[unit, width:]
        solved = inverse @ XY
        moved = slopes @ solved
        own = inverse @ slopes
        out.tangent[...] -= solved.T @ moved
        out.products[...] += np.einsum("aix,biy->abxy", moved, inverse @ moved, optimize=True)
        out.trace[...] += np.einsum("aii->a", own)
        flat = own.reshape(k, -1)
        out.traces[...] += flat @ own.transpose(0, 2, 1).reshape(k, -1).T
    return out


def _units(problem: Problem, n: int) -> list[Places]:
    """Rows of each unit."""
    assert problem.residual is not None
    hierarchy, codes = problem.statistics.hierarchy, problem.residual.pattern.codes
    if problem.crossed is not None:
        return [np.arange(n)]
    if problem.design.factors:
        order = np.arange(n) if hierarchy.rows is None else hierarchy.rows
        return np.split(order, unit_rows(hierarchy)[1:-1])
    if codes is None:
        return np.split(np.arange(n), np.arange(TOGETHER, n, TOGETHER))
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def _between(problem: Problem, white: Matrix, unit: Places, D: list[Matrix]) -> tuple[Matrix, Matrix]:
    """V₀ of a unit, and its derivatives in the entries of all D."""
    V = np.eye(len(unit))
    slopes, at = [], 0
    for factor, own in zip(problem.ordered, D, strict=True):
        Z = white[:, at : at + len(own)]
        at += len(own)
        levels = factor.codes[unit]
        same = levels[:, None] == levels
        V += (Z @ own @ Z.T) * same
        for j in range(len(own)):
            for i in range(j, len(own)):
                half = np.outer(Z[:, i], Z[:, j]) * same
                slopes.append(half if i == j else half + half.T)
    return V, np.array(slopes).reshape(-1, len(unit), len(unit))


def _error_slopes(residual: Estimated, units: list[Places], n: int) -> Iterator[Matrix]:
    """Return W (∂C/∂φ) W' of each unit (r, n_i, n_i)."""
    place = np.empty(n, dtype=np.intp)
    for unit in units:
        place[unit] = np.arange(len(unit))
    # column j has the j-th row of every unit: nothing of a structure reaches from one unit into another
    each = np.zeros((n, int(place.max()) + 1))
    each[np.arange(n), place] = 1.0
    W, slopes = residual.pattern.whiten(each, residual.phi), residual.pattern.whiten_slopes(each, residual.phi)
    for unit in units:
        own = W[unit][:, : len(unit)]
        B = np.linalg.solve(own.T, slopes[:, unit, : len(unit)].transpose(0, 2, 1))
        yield -(B + B.transpose(0, 2, 1))
