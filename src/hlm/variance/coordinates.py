"""Linear constraints on the fixed effects: the same statistics with fewer columns and another response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlm.errors import DataError
from hlm.scaling import Coordinates
from hlm.variance.linear import Equation

# Times its size that held effects may make of the response: beyond, fewer than five of its digits are left.
LOST = 1e11


@dataclass(frozen=True, eq=False)
class ConstrainedCoordinates(Coordinates):
    """Coordinates of fewer columns than X has.

    Attributes
    ----------
    log_determinant : float
        log|N'X'V⁻¹XN| of the user less that of the engine.
    """

    log_determinant: float

    @property
    def log_units(self) -> float:
        """See `log_determinant`."""
        return self.log_determinant


def constrain(coordinates: Coordinates, names: Sequence[str], equations: Sequence[Equation]) -> Coordinates:
    """Put R γ = r into the coordinates: γ = γ₀ + Nδ, so X becomes XN and y becomes y - Xγ₀.

    The likelihood needs no other pass over the rows: both are combinations of the engine's columns. REML's
    log|N'X'V⁻¹XN| is that of the model in which each equation was solved for its first coefficient and put in: for a
    known γ that is the model without its column, the response less γ x.

    Parameters
    ----------
    coordinates : Coordinates
    names : sequence of str
        Columns of X.
    equations : sequence of Equation
        Reduced, in the keys ("beta", column).

    Raises
    ------
    DataError
        If columns are aliased: which of them an equation binds is then undetermined. If the response drowns in what is
        held.
    """
    if not equations:
        return coordinates
    if not coordinates.kept.all():
        aliased = [name for name, keep in zip(names, coordinates.kept, strict=True) if not keep]
        raise DataError(
            f"constraints on fixed effects need independent columns: '{aliased[0]}' is aliased with earlier ones; "
            "leave it out of the model",
            column=aliased[0],
        )
    r, k = len(names), len(equations)
    R, right = np.zeros((k, r)), np.zeros(k)
    for i, equation in enumerate(equations):
        right[i] = float(equation.right)
        for key, coefficient in equation.coefficients.items():
            R[i, key[1]] = float(coefficient)
    A = R @ coordinates.beta_map
    size = np.sqrt((A * A).sum(axis=1))
    A /= size[:, None]
    Q, T = np.linalg.qr(A.T, mode="complete")
    own, basis = Q[:, :k], Q[:, k:]
    beta0 = own @ np.linalg.solve(T[:k].T, (right - R @ coordinates.beta_shift) / size)
    W = np.zeros((r + 1, r - k + 1))
    W[:r, :-1], W[:r, -1], W[r, -1] = basis, -beta0, 1.0
    total = W.T @ coordinates.total @ W
    # the response is that of the restricted least squares now: of unit size again
    n = coordinates.total[-1, -1]
    unit = float(np.sqrt(total[-1, -1] / n))
    if not unit < LOST:
        raise DataError(
            f"the values held for fixed effects make the response {unit:.1g} times as large: nothing is left of it"
        )
    W[:, -1] /= unit
    total = W.T @ coordinates.total @ W
    beta_map = coordinates.beta_map @ basis
    solved = np.array([next(iter(e.coefficients))[1] for e in equations], dtype=np.intp)
    left = np.setdiff1d(np.arange(r), solved)
    logdet = np.linalg.slogdet(beta_map[left] / coordinates.scale)[1]
    shift = coordinates.beta_shift + coordinates.beta_map @ beta0
    for i, equation in enumerate(equations):
        if len(equation.coefficients) == 1:
            beta_map[solved[i]] = 0.0
            shift[solved[i]] = right[i]
    return ConstrainedCoordinates(
        blocks=[_right(block, W) for block in coordinates.blocks],
        total=total,
        basis=_right(coordinates.basis, W),
        kept=coordinates.kept,
        beta_map=beta_map * unit,
        beta_shift=shift,
        effect_maps=coordinates.effect_maps,
        scale=coordinates.scale * unit,
        rounding=coordinates.rounding,
        log_determinant=-2 * float(logdet),
    )


def _right(columns: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Change the last columns, those of X and y."""
    return np.ascontiguousarray(np.concatenate([columns[..., : -len(W)], columns[..., -len(W) :] @ W], axis=-1))
