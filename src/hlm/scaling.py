"""Coordinates of the engine: X orthonormal, each random term of unit size, y the scaled OLS residual, and the way back.

The optimiser only ever sees these coordinates, so results depend neither on units nor on offsets; every reported number
is mapped back exactly.

Cross-products square the condition of the columns. Where the first ones leave too few digits, the rows are put in the
coordinates found and gathered again, until the digits are there (Cholesky QR, repeated; Yamamoto, Nakatsukasa,
Yanagisawa and Fukaya 2015). Problems in good condition are gathered once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hlm.design import Factor
from hlm.errors import DegenerateError, DesignError
from hlm.statistics import EPSILON, Statistics
from hlm_ext.criterion import LOST, LOST_PER_ROW
from hlm_ext.gather import transform
from hlm_ext.linear import orthonormal_basis

Matrix = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

# A column of X is aliased when what is left of it after the columns before it is no longer than this, in units of the
# rounding errors it came with: it was computed from them in a few hundred operations at most. 1e6 + N(0, 1) beside an
# intercept has a thousand times as much left, and so has 1e12 + N(0, 1) still a little more.
ALIASED = 1000.0
# The same for the OLS residual of y: less than this is reproduced exactly. A response that is far from zero may have
# little more, and every digit counts then.
NO_RESIDUAL = 8.0
# See `orthonormal`: less than this part of a sum of squares cannot be told from cross-products.
TELLING = 1e-8
# Passes over the rows. Each adds some four digits to what is left of a column, or clears up one column of a chain of
# nearly dependent ones; what is open then is aliased.
PASSES = 8


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The engine's statistics and the maps from its coordinates to the user's.

    Attributes
    ----------
    blocks : list of (J_k, q_k, w_k) float64
        Statistics of each factor, leaves first, as `hlm_ext.forest.Forest` wants them; none where factors are crossed.
    total : (p + 1, p + 1) float64
    basis : (C, E) float64
        The engine's columns are pool @ basis: those of each factor, leaves first, then X, then y.
    kept : (p,) bool
        Columns of X that are not aliased with earlier ones.
    beta_map : (r, r) float64, beta_shift : (r,) float64
        β of the kept columns = beta_map @ (engine's β) + beta_shift; beta_map is upper triangular.
    effect_maps : list of (q_k, q_k) float64
        u in relative units = effect_map @ (engine's u); T = σ² effect_map D effect_map'.
    scale : float
        The user's σ = scale · engine's σ; also of residuals and u.
    rounding : float
        Relative rounding error that cross-products of the engine's columns may carry.
    """

    blocks: list[Matrix]
    total: Matrix
    basis: Matrix
    kept: npt.NDArray[np.bool_]
    beta_map: Matrix
    beta_shift: Matrix
    effect_maps: list[Matrix]
    scale: float
    rounding: float

    @property
    def log_units(self) -> float:
        """log|X'V⁻¹X| of the user less that of the engine."""
        diagonal = np.abs(np.diag(self.beta_map))
        return 2 * len(diagonal) * math.log(self.scale) - 2 * float(np.log(diagonal).sum())

    def before(self, inner: Coordinates) -> Coordinates:
        """Return the coordinates `inner`, which start from the engine's columns here, as those of the user's."""
        kept = self.kept.copy()
        kept[self.kept] = inner.kept
        outer = self.beta_map[np.ix_(inner.kept, inner.kept)]
        return Coordinates(
            blocks=inner.blocks,
            total=inner.total,
            basis=inner.basis,
            kept=kept,
            beta_map=outer @ inner.beta_map,
            beta_shift=outer @ inner.beta_shift + self.beta_shift[inner.kept],
            effect_maps=[a @ b for a, b in zip(self.effect_maps, inner.effect_maps, strict=True)],
            scale=self.scale * inner.scale,
            rounding=inner.rounding,
        )


def _random_basis(s: Statistics, k: int, factor: Factor, last: bool) -> tuple[Matrix, Matrix, bool]:
    """Return B (C, q), the map u = map @ (engine's u) of a factor, and whether columns are open.

    Z'Z averages to the identity over the levels.
    """
    unit = math.sqrt(factor.size)
    B, back = np.zeros((len(s.factor), factor.width)), np.zeros((factor.width, factor.width))
    is_open = False
    for block in factor.blocks:
        part = np.array(block)
        state, basis, inverse, _ = orthonormal_basis(
            s.total, s.mean, s.factor, s.multiple, s.noise, s.constant, s.random[k][part], ALIASED
        )
        if not (state == 1 if last else state > 0).all():
            name = factor.effects[block[int(np.argmin(state == 1))]]
            raise DesignError(
                f"'{name}' and other columns that vary over '{factor.name}' cannot be told apart: leave one out",
                column=name,
            )
        is_open = is_open or bool((state == 2).any())
        B[:, part] = unit * basis
        back[np.ix_(part, part)] = unit * inverse
    return B, back, is_open


def _coordinates(s: Statistics, factors: list[Factor], response: str, last: bool) -> tuple[Coordinates, bool]:
    """Return coordinates from cross-products, and whether these have too few digits; the last time open ones go."""
    state, X, beta_map, at = orthonormal_basis(
        s.total, s.mean, s.factor, s.multiple, s.noise, s.constant, s.fixed, ALIASED
    )
    kept = state > 0
    sure = state[kept] == 1
    if last and not sure.all():
        kept, X, beta_map = state == 1, np.ascontiguousarray(X[:, sure]), beta_map[np.ix_(sure, sure)]
        sure = sure[sure]
    y = np.zeros(len(s.factor))
    y[-1] = 1.0
    if at < 0 and s.constant >= 0:
        y[s.constant] += s.mean[-1] * s.factor[-1]
    cross = X.T @ (s.total @ y) * sure
    size = float(y @ s.total @ y)
    residual = y - X @ cross
    rss = float(residual @ s.total @ residual)
    noise = NO_RESIDUAL * float(np.abs(residual) @ s.noise)
    few = not (sure.all() and rss > TELLING * size)
    if not size > noise**2 or (not rss > noise**2 and (last or not few)):
        raise DegenerateError(
            f"'{response}' is reproduced exactly by the fixed effects: nothing is left to model", column=response
        )
    scale = math.sqrt(max(rss, TELLING * size) / s.n)
    right = [X, (residual / scale)[:, None]]
    maps: list[Matrix] = []
    bases: list[Matrix] = []
    for k, factor in enumerate(factors):
        basis, back, is_open = _random_basis(s, k, factor, last)
        few = few or is_open
        bases.append(basis)
        maps.append(back)
    basis = np.hstack([*bases, *right])
    growth = (basis * basis).T @ np.diag(s.total) / _sizes(factors, X.shape[1], s.n)
    rounding = EPSILON * max(1.0, float(growth.max()))
    few = few or rounding * s.n > LOST + LOST_PER_ROW * s.n
    unit = 1 / s.factor[-1]
    beta_shift = beta_map @ cross * unit
    if at >= 0:
        beta_shift[at] += s.mean[-1] / s.multiple[s.fixed[kept][at]]
    total = np.eye(X.shape[1] + 1)
    total[-1, -1] = s.n
    coordinates = Coordinates(
        blocks=[] if (few and not last) or not s.hierarchy.is_nested else _level_blocks(s, bases, np.hstack(right)),
        total=total,
        basis=basis,
        kept=kept,
        beta_map=beta_map * (scale * unit),
        beta_shift=beta_shift,
        effect_maps=maps,
        scale=float(scale * unit),
        rounding=rounding,
    )
    return coordinates, few


def _sizes(factors: list[Factor], rank: int, n: int) -> Matrix:
    """Sum of squares of each of the engine's columns."""
    return np.array([float(f.size) for f in factors for _ in range(f.width)] + [1.0] * rank + [float(n)])


def to_coordinates(s: Statistics, factors: list[Factor], response: str) -> tuple[Statistics, Coordinates]:
    """Find the coordinates of the engine.

    Parameters
    ----------
    s : Statistics
        In the user's units.
    factors : list of Factor
        In the order of the hierarchy.
    response : str

    Returns
    -------
    statistics : Statistics
        The ones that were given, or those that were gathered last where these had too few digits.
    coordinates : Coordinates
        The engine's columns are combinations of the pool of the returned statistics; the maps lead to the user's units.

    Raises
    ------
    DegenerateError
        If the fixed part reproduces the response.
    DesignError
        If random columns are dependent.
    """
    coordinates, few = _coordinates(s, factors, response, last=False)
    for count in range(1, PASSES):
        if not few:
            break
        s = s.regather(coordinates.basis, [factor.width for factor in factors])
        inner, few = _coordinates(s, factors, response, last=count == PASSES - 1)
        coordinates = coordinates.before(inner)
    return s, coordinates


def _level_blocks(statistics: Statistics, bases: list[Matrix], fixed: Matrix) -> list[Matrix]:
    """Per-level products of each factor in the coordinates of the engine, from those of the leaves."""
    s = statistics
    products = s.products
    width = products.shape[2] if len(bases) else 0
    blocks = []
    for k, basis in enumerate(bases):
        if k > 0:
            products = np.add.reduceat(products, s.hierarchy.children[k - 1][:-1], axis=0)
        right = np.zeros((width, sum(b.shape[1] for b in bases[k:]) + fixed.shape[1]))
        right[: len(s.factor)] = np.hstack([*bases[k:], fixed])
        blocks.append(transform(products, np.ascontiguousarray(basis[s.selected]), right))
    return blocks
