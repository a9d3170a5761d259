"""The kernels as plain functions of arrays, for other libraries: statistics of a hierarchy in, arrays out.

All take the same first arguments:

blocks : list of (J_k, q_k, w_k) float64 arrays
    One per grouping factor, leaves first: Z_kl'W[Z_k, Z_k+1, …, X, y] of each level l; w_k = q_k + q_k+1 + … + p + 1.
    `hlm_ext.gather.gather` makes them from rows.
children : list of (J_k + 1,) intp arrays
    One per factor but the first: level l of factor k is the parent of levels children[l] … children[l + 1] - 1 of the
    factor before it.
total : (p + 1, p + 1) float64 array
    [X y]'W[X y].
lambdas : list of (q_k, q_k) float64 arrays
    Lower triangular Λ_k with Var(u_k) = σ² Λ_k Λ_k'.

Formulas: Bates and DebRoy (2004) for the profiled criterion; Johnson and Thompson (1995) for average information;
derivatives follow from the elimination itself (see `hlm_ext.moments`). Errors: `ValueError` for shapes that do not fit,
`KernelError` naming factor, level and column for numbers that cannot be factored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hlm_ext.criterion import Criterion
from hlm_ext.forest import Forest
from hlm_ext.linear import lower_root

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]


class Profile(NamedTuple):
    """The criterion with β and σ² profiled out, and what it is made of."""

    criterion: float
    beta: Array
    sigma2: float
    logdet: float
    schur: Array


class Moments(NamedTuple):
    """Posterior moments of the random effects, one entry per factor, leaves first."""

    effects: list[Array]
    covariances: list[Array]
    post: list[Array]
    outer: list[Array]


def _prepare(
    blocks: Sequence[Array], children: Sequence[Codes], total: Array, lambdas: Sequence[Array], n: int, reml: bool
) -> Criterion:
    forest = Forest(list(blocks), list(children), total)
    if [np.shape(L) for L in lambdas] != [(block.shape[1],) * 2 for block in blocks]:
        raise ValueError("lambdas must hold one (q, q) array for each block")
    entries = np.empty((0, 2), dtype=np.intp)
    at = theta = 0
    for L in lambdas:
        q = len(L)
        cols, rows = np.triu_indices(q)  # lower triangle, column by column
        entries = np.vstack([entries, np.column_stack([at + rows * q + cols, theta + np.arange(len(rows))])])
        at, theta = at + q * q, theta + len(rows)
    criterion = Criterion(forest, n - forest.p if reml else n, reml, np.zeros(at), entries, np.ones(theta))
    values = [np.asarray(L, dtype=np.float64)[np.triu_indices(len(L))[::-1]] for L in lambdas]
    criterion.value(np.concatenate([*values, np.zeros(0)]))
    return criterion


def profile(
    blocks: Sequence[Array],
    children: Sequence[Codes],
    total: Array,
    lambdas: Sequence[Array],
    n: int,
    reml: bool = True,
) -> Profile:
    """Factor the hierarchy at given covariances and profile β and σ² out.

    Parameters
    ----------
    blocks, children, total, lambdas
        See the module.
    n : int
        Number of rows.
    reml : bool

    Returns
    -------
    Profile
        criterion (-2 log-likelihood), beta (p,), sigma2, logdet = log|Λ'Z'ZΛ + I|, schur (p + 1, p + 1) =
        [X y]'V⁻¹[X y] in units of σ².

    Raises
    ------
    ValueError
        For shapes that do not fit each other.
    KernelError
        Naming factor, level and column of numbers that cannot be factored.
    """
    c = _prepare(blocks, children, total, lambdas, n, reml)
    return Profile(c.last, c.beta, c.sigma2, c.logdet, c.schur)


def moments(
    blocks: Sequence[Array],
    children: Sequence[Codes],
    total: Array,
    lambdas: Sequence[Array],
    n: int,
    reml: bool = True,
    beta_known: bool = False,
) -> Moments:
    """E-step: posterior means and covariances of the random effects, and their sums.

    Parameters
    ----------
    blocks, children, total, lambdas, n, reml
        See `profile`; so are the errors.
    beta_known : bool
        Take β̂ for β.

    Returns
    -------
    Moments
        effects: û (J, q); covariances: Cov(u - û)/σ² (J, q, q), without the uncertainty of β̂ if `beta_known`;
        post: Σ_l Z_l'PZ_l (q, q); outer: Σ_l Z_l'ê ê'Z_l (q, q).
    """
    c = _prepare(blocks, children, total, lambdas, n, reml)
    sums = c.moments()
    effects, covariances = c.effects(True, beta_known)
    assert covariances is not None
    return Moments(effects, covariances, [post for post, _ in sums], [outer for _, outer in sums])


def gradient(
    blocks: Sequence[Array],
    children: Sequence[Codes],
    total: Array,
    lambdas: Sequence[Array],
    n: int,
    reml: bool = True,
) -> tuple[list[Array], list[Array]]:
    """Gradient of the criterion.

    Parameters
    ----------
    blocks, children, total, lambdas, n, reml
        See `profile`; so are the errors.

    Returns
    -------
    in_lambda : list of (q, q)
        With respect to the lower triangular entries of each Λ.
    in_covariance : list of (q, q)
        G = Σ Z'PZ - Σ Z'ê ê'Z / σ̂², with respect to D = ΛΛ': defined for singular Λ too.
    """
    c = _prepare(blocks, children, total, lambdas, n, reml)
    cones = [post - outer / c.sigma2 for post, outer in c.moments()]
    return [np.tril(2 * G @ np.asarray(L)) for G, L in zip(cones, lambdas, strict=True)], cones


def information(
    blocks: Sequence[Array],
    children: Sequence[Codes],
    total: Array,
    lambdas: Sequence[Array],
    n: int,
    reml: bool = True,
    kind: str = "observed",
) -> Array:
    """Second derivatives of the criterion in the entries of D = ΛΛ' of all factors.

    Parameters
    ----------
    blocks, children, total, lambdas, n, reml
        See `profile`; so are the errors.
    kind : {"observed", "average", "expected"}
        Exact; average information; expected (Fisher).

    Returns
    -------
    (m, m) float64
        Entries: factors leaves first, the lower triangle of each D column by column.
    """
    c = _prepare(blocks, children, total, lambdas, n, reml)
    c.derivatives(kind)
    return c.second_derivatives


def em(
    blocks: Sequence[Array],
    children: Sequence[Codes],
    total: Array,
    lambdas: Sequence[Array],
    n: int,
    reml: bool = True,
    steps: int = 1,
) -> tuple[list[Array], Array]:
    """Take ECME steps (Liu and Rubin 1994): D_k ← mean posterior second moment of u, σ² at its best.

    Parameters
    ----------
    blocks, children, total, lambdas, n, reml
        See `profile`; so are the errors.
    steps : int
        How many.

    Returns
    -------
    lambdas : list of (q, q)
        After the last step.
    criterion : (steps + 1,) float64
        Before and after each step; it never rises.
    """
    current = [np.asarray(L, dtype=np.float64) for L in lambdas]
    c = _prepare(blocks, children, total, current, n, reml)
    values = [c.last]
    for _ in range(steps):
        moved = []
        for L, (post, outer), block in zip(current, c.moments(), blocks, strict=True):
            B = np.eye(len(L)) - L.T @ (post - outer / c.sigma2) @ L / block.shape[0]
            moved.append(lower_root(L @ B @ L.T))
        current = moved
        values.append(c.value(np.concatenate([L[np.triu_indices(len(L))[::-1]] for L in current])))
    return current, np.array(values)
