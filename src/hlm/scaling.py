"""Coordinates of the engine: X orthonormal, each random term of unit size, y the scaled OLS residual, and the way back.

The optimiser only ever sees these coordinates, so results depend neither on units nor on offsets; every reported number
is mapped back exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hlm.design import Factor
from hlm.errors import NumericalError
from hlm.statistics import Statistics
from hlm_ext.gather import transform
from hlm_ext.linear import orthonormal_basis

Matrix = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

# A column is aliased when less than this part of its (centred) sum of squares is left after the columns before it;
# cross-products carry about 1e-15 of it as noise.
ALIASED = 1e-12
# A constant is spanned when its part in a column is more than this of the column's size.
SPANNED = 1e-6
# The OLS residual sum of squares, relative to that of y, below which cross-products cannot tell it from zero.
NO_RESIDUAL = 1e-14


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
        β of the kept columns = beta_map @ (engine's β) + beta_shift.
    effect_maps : list of (q_k, q_k) float64
        u in relative units = effect_map @ (engine's u); T = σ² effect_map D effect_map'.
    scale : float
        The user's σ = scale · engine's σ; also of residuals and u.
    log_units : float
        log|X'V⁻¹X| of the user less that of the engine.
    """

    blocks: list[Matrix]
    total: Matrix
    basis: Matrix
    kept: npt.NDArray[np.bool_]
    beta_map: Matrix
    beta_shift: Matrix
    effect_maps: list[Matrix]
    scale: float
    log_units: float


def _basis(s: Statistics, places: Places, drop: bool) -> tuple[npt.NDArray[np.bool_], Matrix, Matrix, int, float]:
    return orthonormal_basis(s.total, s.mean, s.factor, s.multiple, s.constant, places, ALIASED, drop)


def _random_basis(s: Statistics, k: int, factor: Factor) -> tuple[Matrix, Matrix]:
    """Return B (C, q) and the map u = map @ (engine's u) of a factor; Z'Z averages to the identity over its levels.

    A block whose columns are dependent is only scaled: its covariance is not unique, but the likelihood is.
    """
    unit = math.sqrt(factor.size)
    if len(factor.blocks) == 1:
        _, B, back, _, _ = _basis(s, s.random[k], drop=False)
        return unit * B, unit * back
    B, back = np.zeros((len(s.factor), factor.width)), np.zeros((factor.width, factor.width))
    for block in factor.blocks:
        index = np.array(block)
        _, basis, inverse, _, _ = _basis(s, s.random[k][index], drop=False)
        B[:, index] = unit * basis
        back[np.ix_(index, index)] = unit * inverse
    return B, back


def _fixed_basis(s: Statistics) -> tuple[npt.NDArray[np.bool_], Matrix, Matrix, float, Matrix | None]:
    """Return kept (p,), X (C, r), back (r, r), -log|back| and the coefficients (r,) of 1, or None.

    pool · X is orthonormal and has the space of the kept columns; their coefficients are back @ those of the basis.
    Where the columns span the constant, by a column of it or by all dummies of a factor, X has its shifted columns.
    """
    kept, X, back, at, logdet = _basis(s, s.fixed, drop=True)
    if at >= 0:
        return kept, X, back, logdet, (np.arange(len(back)) == at) / s.multiple[s.fixed[kept][at]]
    spanned = _spanned_constant(s) if s.constant >= 0 and len(s.fixed) else None
    return (kept, X, back, logdet, None) if spanned is None else spanned


def _spanned_constant(s: Statistics) -> tuple[npt.NDArray[np.bool_], Matrix, Matrix, float, Matrix] | None:
    """`_fixed_basis` for columns that add up to a constant without having one, or None if they do not.

    The constant is put before them; the first column x = c₀ + Σ c_i x_i that this makes dependent though c₀ ≠ 0 can
    stand for it: 1 = (x - Σ c_i x_i) / c₀.
    """
    kept, X, back, _, logdet = _basis(s, np.append(s.constant, s.fixed), drop=True)
    for j in np.flatnonzero(~kept[1:]):
        place = s.fixed[j]
        c = back @ (X.T @ s.total[:, place]) / s.factor[place]
        c[0] += s.mean[place] / s.multiple[s.constant]
        if abs(c[0] * s.multiple[s.constant]) <= SPANNED * (abs(s.mean[place]) + 1 / s.factor[place]):
            continue
        own = kept[1:].copy()
        own[j] = True
        row = int(own[:j].sum())
        P = np.insert(np.eye(len(c))[1:], row, 0.0, axis=0)
        P[:, 0] = np.insert(-c[1:], row, 1.0) / c[0]
        return own, X, P @ back, logdet + float(np.log(abs(c[0]))), P[:, 0] / s.multiple[s.constant]
    return None


def to_coordinates(statistics: Statistics, factors: list[Factor], response: str) -> Coordinates:
    """Change statistics to the coordinates of the engine.

    Parameters
    ----------
    statistics : Statistics
    factors : list of Factor
        In the order of the hierarchy.
    response : str

    Raises
    ------
    NumericalError
        If the fixed part reproduces the response.
    """
    s = statistics
    kept, X, beta_map, logdet, one = _fixed_basis(s)
    y = np.zeros(len(s.factor))
    y[-1] = 1.0
    if one is None and s.constant >= 0:
        y[s.constant] += s.mean[-1] * s.factor[-1]
    cross = X.T @ (s.total @ y)
    size = float(y @ s.total @ y)
    residual = y - X @ cross
    rss = float(residual @ s.total @ residual)
    if not rss > NO_RESIDUAL * size:
        raise NumericalError(
            f"'{response}' is reproduced exactly by the fixed effects: nothing is left to model", column=response
        )
    scale = math.sqrt(rss / s.n)
    right = [X, (residual / scale)[:, None]]
    maps: list[Matrix] = []
    bases: list[Matrix] = []
    for k, factor in enumerate(factors):
        basis, back = _random_basis(s, k, factor)
        bases.append(basis)
        maps.append(back)
    total = np.eye(X.shape[1] + 1)
    total[-1, -1] = s.n
    blocks = _level_blocks(s, bases, np.hstack(right)) if s.hierarchy.is_nested else []
    unit = 1 / s.factor[-1]
    beta_shift = beta_map @ cross * unit
    if one is not None:
        beta_shift += s.mean[-1] * one
    return Coordinates(
        blocks=blocks,
        total=total,
        basis=np.hstack([*bases, *right]),
        kept=kept,
        beta_map=beta_map * (scale * unit),
        beta_shift=beta_shift,
        effect_maps=maps,
        scale=float(scale * unit),
        log_units=2 * logdet,
    )


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
