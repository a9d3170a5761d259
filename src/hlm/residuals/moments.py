"""Second moments of the level-1 errors given the data, from per-group statistics: the E-step of a residual structure.

With a = (Z of the row's groups, leaves first; X; y) and h = (-û; -β̂; 1), a residual is e = a'h at the estimates of the
effects, and in units of σ²

    E(e e' | y) / σ² = a'Ha ,   H = h h'/σ² + Cov(u, β | y)/σ² ,

so a pattern P of the residual precision needs tr(P E(ee')) = ⟨Σ a P a', H⟩: cross-products of the rows and H, which is
the same for all rows of a leaf. It is also the derivative of -2 log-likelihood less that of log|R|: for R⁻¹ = Σ c_k P_k

    ∂/∂c_k ( -2 log-likelihood ) = ⟨A_k, H⟩ - tr(R P_k)

for ML (β counts as known in the covariance) and REML (it does not).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hlm.covariance import Matrix
from hlm.criterion import Objective

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """H of each leaf.

    Attributes
    ----------
    leaves : (J, Q, E) float64
        Rows of H that belong to random columns, Q of all factors, leaves first; what they have beside Z counts twice,
        so that the inner product with rows of a cross-product is that of the whole matrices but for [X y]'[X y].
    common : (p + 1, p + 1) float64
        The part of X and y, which all leaves share.
    """

    leaves: Matrix
    common: Matrix


def second_moments(
    criterion: Objective,
    blocks: Sequence[Matrix],
    children: Sequence[Places],
    roots: Sequence[Matrix],
    sigma2: float | None = None,
    spread: bool = True,
) -> SecondMoments:
    """Return the second moments where the criterion stands.

    Parameters
    ----------
    criterion : Criterion
        Of a nested hierarchy; ML counts β as known.
    blocks, children
        The statistics it was made of; see `hlm_ext.functions`.
    roots : list of (q_k, q_k) float64
        Λ of each factor, leaves first.
    sigma2 : float, optional
        σ²; left out, that of the criterion.
    spread : bool
        With the covariance of the effects; without it H is that of the squares of the estimated errors.
    """
    beta = criterion.beta
    sigma2 = criterion.sigma2 if sigma2 is None else sigma2
    p = len(beta)
    omega = criterion.cross_inverse if criterion.reml and spread else np.zeros((p, p))
    e = np.append(-beta, 1.0)
    common = np.outer(e, e) / sigma2
    common[:p, :p] += omega
    if not blocks:
        return SecondMoments(np.zeros((1, 0, p + 1)), common)
    means = criterion.effects()[0]
    u = means[-1]
    for k in range(len(blocks) - 2, -1, -1):
        u = np.concatenate([means[k], np.repeat(u, np.diff(children[k]), axis=0)], axis=1)
    J, Q = u.shape
    h = np.concatenate([-u, np.broadcast_to(e, (J, p + 1))], axis=1)
    H = -u[:, :, None] * h[:, None, :] / sigma2
    if spread:
        H[:, :, : Q + p] += _path_covariances(blocks, children, roots, omega)[:, :Q]
    H[:, :, Q:] *= 2
    return SecondMoments(H, common)


def _path_covariances(
    blocks: Sequence[Matrix], children: Sequence[Places], roots: Sequence[Matrix], omega: Matrix
) -> Matrix:
    """Cov(u of a leaf and of the levels above it, β)/σ² of each leaf, (J, Q + p, Q + p).

    Up the tree each level is eliminated: u = gain · (levels above, β) + noise of covariance N = Λ(I + Λ'AΛ)⁻¹Λ'. Down
    the tree the joint covariance grows by one level at a time.
    """
    noises, gains = [], []
    passed = None  # rows of the levels above: what the elimination of those below leaves of Z'Z, to be added
    for k, (block, root) in enumerate(zip(blocks, roots, strict=True)):
        q = block.shape[1]
        front = block[:, :, :-1]  # without y
        if passed is not None:
            front = front + passed[:, :q]
        above = sum(other.shape[1] for other in blocks[k + 1 :])
        M = root.T @ front[:, :, :q] @ root
        M[:, np.arange(q), np.arange(q)] += 1.0
        N = root @ np.linalg.solve(M, np.broadcast_to(root.T, M.shape))
        gain = -N @ front[:, :, q:]
        noises.append(N)
        gains.append(gain)
        if k + 1 < len(blocks):
            rest = np.swapaxes(front[:, :, q : q + above], 1, 2) @ gain
            if passed is not None:
                rest += passed[:, q:, q:]
            passed = np.add.reduceat(rest, children[k][:-1], axis=0)
    joint = np.broadcast_to(omega, (len(blocks[-1]), *omega.shape))
    for k in range(len(blocks) - 1, -1, -1):
        if k + 1 < len(blocks):
            joint = np.repeat(joint, np.diff(children[k]), axis=0)
        across = gains[k] @ joint
        own = noises[k] + across @ np.swapaxes(gains[k], 1, 2)
        joint = np.concatenate(
            [np.concatenate([own, across], axis=2), np.concatenate([np.swapaxes(across, 1, 2), joint], axis=2)], axis=1
        )
    return joint
