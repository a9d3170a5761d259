"""A nested chain of factors, its lower levels integrated out: what each group says by itself, and what it borrows.

With blocks Z_k'W[Z_k, Z_k+1, …, X, y] of each level and D_k, the levels are eliminated leaves first (MATH: §3),

    N = (A + D⁻¹)⁻¹ = Λ(I + Λ'AΛ)⁻¹Λ' ,    blocks of each ancestor −= K_m' N [K_m, K_m+1, …, X, y]

so that the A of a level is Z'V⁻¹Z with V all that varies below it (the residual and the effects of lower levels), and
N/σ² the posterior covariance of its effects given those above. Backwards, from the top,

    R = (block of X and y) - Σ_m K_m E_m ,    E = N R

E_y are the conditional means of the effects at β = 0, E_X what they lose for each unit of β: û = E_y - E_X β.
Everything is an array over the groups of a level; nothing is n × n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.errors import DesignError
from hlm.structure import Codes

if TYPE_CHECKING:
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stage:
    """One level of a chain, in the engine's coordinates; groups in the order of the hierarchy.

    Attributes
    ----------
    A : (J, q, q) float64
        Z'V⁻¹Z, lower levels integrated out, in units of 1/σ².
    N : (J, q, q) float64
        (A + D⁻¹)⁻¹.
    K : list of (J, q, q_m) float64
        Z'V⁻¹Z_m with each ancestor, nearest first.
    parents : list of (J,) intp
        Position of each group's ancestor, nearest first.
    own : (J, q, r + 1) float64
        R: Z'V⁻¹[X y], the effects of the ancestors taken out of y and of the columns of X.
    effects : (J, q, r + 1) float64
        E: effects of the columns of X, and of y.
    """

    A: Array
    N: Array
    K: list[Array]
    parents: list[Codes]
    own: Array
    effects: Array


def walk(blocks: Sequence[Array], children: Sequence[Codes], roots: Sequence[Array]) -> list[Stage]:
    """Eliminate a chain and walk back.

    Parameters
    ----------
    blocks : list of (J_k, q_k, w_k) float64
        Z_k'W[Z_k, Z_k+1, …, X, y], leaves first.
    children : list of (J_k+1 + 1,) intp
        Offsets of the children of each level of factor k + 1.
    roots : list of (q_k, q_k) float64
        Λ of each factor, D = ΛΛ'.
    """
    left = [np.array(block) if k else block for k, block in enumerate(blocks)]
    widths = [block.shape[1] for block in blocks]
    solved: list[Array] = []
    for k, L in enumerate(roots):
        q = widths[k]
        A, tail = left[k][:, :, :q], left[k][:, :, q:]
        N = congruence(np.asarray(np.linalg.inv(np.eye(q) + congruence(A, L)), dtype=np.float64), L.T)
        solved.append(N)
        carried = N @ tail if k < len(roots) - 1 else tail
        at = 0
        for m in range(k + 1, len(widths)):
            K = tail[:, :, at : at + widths[m]]
            left[m] -= np.add.reduceat(K.transpose(0, 2, 1) @ carried[:, :, at:], _offsets(children, k, m), axis=0)
            at += widths[m]
    stages: list[Stage] = []
    for k in reversed(range(len(widths))):
        edges = np.cumsum(widths[k:])
        own = left[k][:, :, edges[-1] :]
        K_above = [left[k][:, :, lo:hi] for lo, hi in pairwise(edges.tolist())]
        parents = [_parents(children, k, m) for m in range(k + 1, len(widths))]
        for K, parent, stage in zip(K_above, parents, stages, strict=True):
            own = own - K @ stage.effects[parent]
        stages.insert(0, Stage(left[k][:, :, : widths[k]], solved[k], K_above, parents, own, solved[k] @ own))
    return stages


def congruence(matrices: Array, C: Array) -> Array:
    """Return C' A C for each A of (J, q, q), C (q, s): one product for all, which small matrices gain most by."""
    s = C.shape[1]
    flat = np.ascontiguousarray(matrices).reshape(len(matrices), C.shape[0] ** 2)
    return (flat @ np.kron(C, C)).reshape(len(matrices), s, s)


def _offsets(children: Sequence[Codes], k: int, m: int) -> Codes:
    """First group of factor k in each group of its ancestor m."""
    starts = children[m - 1]
    for step in reversed(range(k, m - 1)):
        starts = children[step][starts]
    return starts[:-1]


def _parents(children: Sequence[Codes], k: int, m: int) -> Codes:
    """Position of the ancestor of factor m of each group of factor k."""
    of = np.repeat(np.arange(len(children[k]) - 1), np.diff(children[k]))
    for step in range(k + 1, m):
        of = np.repeat(np.arange(len(children[step]) - 1), np.diff(children[step]))[of]
    return of


def innovations(stages: Sequence[Stage], k: int) -> list[Array]:
    """Return how the errors of factor k follow what is new at each level above it, nearest first.

    Given y and β, u - û of a group is ν + Σ_m P_m ν_m with independent ν ~ N(0, σ²N) of its own and of its ancestors:
    P_m = -N (K_m + Σ_l K_l P_lm), l between k and m.

    Returns
    -------
    list of (J, q, q_m) float64
    """
    stage = stages[k]
    out: list[Array] = []
    for m in range(len(stage.K)):
        coupled = stage.K[m].copy()
        for between in range(m):
            above = innovations(stages, k + 1 + between)[m - between - 1]
            coupled += stage.K[between] @ above[stage.parents[between]]
        out.append(-stage.N @ coupled)
    return out


def spread(stages: Sequence[Stage], k: int) -> Array:
    """Return Cov(u - û | y, β)/σ² (J, q, q) of factor k."""
    out = stages[k].N.copy()
    for P, parent, above in zip(innovations(stages, k), stages[k].parents, stages[k + 1 :], strict=True):
        out += P @ above.N[parent] @ P.transpose(0, 2, 1)
    return out


@dataclass(frozen=True, eq=False)
class Level:
    """One grouping factor of a fit, its groups in the order of the factor's labels, in the user's units.

    Attributes
    ----------
    T : (q, q) float64
        Covariance of the effects.
    own : (J, q) float64
        The group's own estimate of its effects: generalised least squares of what is left of y when the fixed part and
        the effects of the ancestors are taken out; NaN where the group has too few rows.
    own_cov : (J, q, q) float64
        Its sampling covariance σ²(Z'V⁻¹Z)⁻¹; NaN likewise.
    shrinkage : (J, q, q) float64
        T (T + own_cov)⁻¹ = I - Cov(u | y, γ) T⁻¹, which takes the own estimate to û; defined without one too.
    distance : (J,) float64
        Squared length of the own estimate in units of its covariance T + own_cov.
    rank : (J,) intp
        Effects that the group's rows determine.
    """

    T: Array
    own: Array
    own_cov: Array
    shrinkage: Array
    distance: Array
    rank: Codes


# What a random column leaves of its length beside the others, within a group, when they are dependent there: the
# products are those of columns that are orthonormal over all rows, and their rounding errors some 1e-15 of the sums.
DEPENDENT = 1e-11


def stages_of(fit: Fit) -> list[Stage]:
    """Return the chain of a fit, leaves first.

    Raises
    ------
    DesignError
        If factors are crossed: no group has its rows to itself.
    """
    problem = fit._problem
    problem.design.must_be_independent("what the groups say by themselves")
    hierarchy = problem.statistics.hierarchy
    if not hierarchy.is_nested:
        names = [problem.design.factors[k].name for k in hierarchy.factors[max(hierarchy.peeled - 1, 0) :]]
        raise DesignError(
            f"{' and '.join(repr(name) for name in names)} are crossed: a group's rows share the effects of other "
            "factors, so it has no estimate of its own; this is for nested hierarchies",
            column=names[0],
        )
    return walk(problem.coordinates.blocks, hierarchy.children, chain_roots(fit))


def chain_roots(fit: Fit) -> list[Array]:
    """Return a square root of D of each factor of the hierarchy, leaves first, in the engine's coordinates."""
    problem = fit._problem
    roots = fit._problem.user_roots(fit._point)
    return [np.asarray(np.linalg.solve(problem.maps[k], roots[k]), dtype=np.float64) for k in problem.template.order]


def level(fit: Fit, name: str) -> Level:
    """Return what the groups of one factor say by themselves.

    Raises
    ------
    DesignError
        For an unknown factor, or where factors are crossed.
    """
    problem = fit._problem
    k = fit.model.design.factors.index(fit.model.design.factor(name))
    stages = stages_of(fit)
    position = problem.template.order.index(k)
    stage, groups = stages[position], np.argsort(problem.statistics.hierarchy.levels[position])
    L = chain_roots(fit)[position]
    scale, M = problem.coordinates.scale, problem.maps[k]
    with fit._lock:
        beta, sigma2 = fit._criterion.beta, fit._criterion.sigma2
    right = stage.own[:, :, -1] - stage.own[:, :, :-1] @ beta
    own, covariance, W, kept = whitened(stage.A, right[:, :, None], L)
    distance = (own * np.linalg.solve(covariance, own)).sum(axis=(1, 2)) / sigma2
    full = np.asarray(kept.all(axis=1))
    MW = scale * (M @ W)
    return Level(
        T=fit.covariances[name].to_numpy(),
        own=np.where(full[:, None], (MW @ own)[:, :, 0], np.nan)[groups],
        own_cov=np.where(full[:, None, None], sigma2 * (MW @ MW.transpose(0, 2, 1)), np.nan)[groups],
        shrinkage=(M @ stage.N @ stage.A @ np.linalg.inv(M))[groups],
        distance=distance[groups],
        rank=kept.sum(axis=1)[groups],
    )


def whitened(A: Array, right: Array, root: Array) -> tuple[Array, Array, Array, npt.NDArray[np.bool_]]:
    """Return the groups' own estimates in coordinates in which their sampling covariance is σ²I.

    Parameters
    ----------
    A : (J, q, q) float64
        Z'V⁻¹Z.
    right : (J, q, s) float64
        Z'V⁻¹ of each of s columns.
    root : (q, q) float64
        Λ.

    Returns
    -------
    own : (J, q, s) float64
        W' right, WW' the generalised inverse of A: zero in directions that the group's rows do not determine.
    spread : (J, q, q) float64
        Covariance of `own` under the model in units of σ², I + H'DH with A = HH'.
    W : (J, q, q) float64
    kept : (J, q) bool
        Directions that are determined.
    """
    values, vectors = np.linalg.eigh(A)
    kept = np.asarray(values > DEPENDENT * values[:, -1:])
    size = np.sqrt(np.where(kept, values, 1.0))
    H, W = vectors * (size * kept)[:, None, :], vectors * (kept / size)[:, None, :]
    HL = H.transpose(0, 2, 1) @ root
    return W.transpose(0, 2, 1) @ right, np.eye(A.shape[1]) + HL @ HL.transpose(0, 2, 1), W, kept
