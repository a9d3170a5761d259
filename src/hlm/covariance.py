"""Templates: how θ fills the factors Λ of the random effects' covariances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hlm.design import Factor

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Template:
    """Λ as a linear function of θ, for all factors: ``Λ[position] = θ[index]`` for each pair, zero elsewhere.

    θ lists the lower triangle of each block, column by column, random terms in the order of the formula; an
    unstructured block of b columns has b (b + 1) / 2 entries, and several blocks on one factor are uncorrelated.

    Attributes
    ----------
    factors : tuple of Factor
        In the order of the formula.
    order : tuple of int
        The hierarchy's order of the factors, leaves first: the order of the packed Λ's.
    entries : (m, 2) intp
        (position in the packed Λ's, index of θ).
    owners : tuple of (factor, row, column)
        For each θ: its factor (in the order of the formula) and its place in that factor's Λ.
    size : int
        Length of the packed Λ's.
    """

    factors: tuple[Factor, ...]
    order: tuple[int, ...]
    entries: npt.NDArray[np.intp]
    owners: tuple[tuple[int, int, int], ...]
    size: int

    @property
    def m(self) -> int:
        """Length of θ."""
        return len(self.owners)

    @property
    def names(self) -> list[str]:
        """Names of θ, as lme4 builds them: group.row.column, group.row on the diagonal."""
        out = []
        for k, i, j in self.owners:
            effects = self.factors[k].effects
            out.append(f"{self.factors[k].name}.{effects[i]}" + (f".{effects[j]}" if i != j else ""))
        return out

    def start(self) -> Matrix:
        """Return θ of Λ = I."""
        return np.array([1.0 if i == j else 0.0 for _, i, j in self.owners])

    def factors_of(self, theta: Matrix) -> list[Matrix]:
        """Return Λ (q, q) of each factor in the order of the formula."""
        out = [np.zeros((factor.width, factor.width)) for factor in self.factors]
        for value, (k, i, j) in zip(theta, self.owners, strict=True):
            out[k][i, j] = value
        return out

    def theta_of(self, matrices: Sequence[Matrix]) -> Matrix:
        """Return θ from Λ of each factor in the order of the formula."""
        return np.array([matrices[k][i, j] for k, i, j in self.owners])

    def theta_of_covariances(self, covariances: Sequence[Matrix]) -> Matrix:
        """Return θ from D of each factor, which may be singular; what D has between blocks is ignored."""
        matrices = []
        for factor, D in zip(self.factors, covariances, strict=True):
            root = np.zeros_like(D)
            for block in factor.blocks:
                index = np.ix_(block, block)
                root[index] = lower_root(D[index])
            matrices.append(root)
        return self.theta_of(matrices)


def make_template(factors: tuple[Factor, ...], order: tuple[int, ...]) -> Template:
    """Lay out θ for the factors of a design."""
    offsets, at = {}, 0
    for k in order:
        offsets[k] = at
        at += factors[k].width ** 2
    entries, owners = [], []
    for k, factor in enumerate(factors):
        for block in factor.blocks:
            for c, j in enumerate(block):
                for i in block[c:]:
                    entries.append((offsets[k] + i * factor.width + j, len(owners)))
                    owners.append((k, i, j))
    return Template(factors, order, np.array(entries, dtype=np.intp).reshape(-1, 2), tuple(owners), at)


def lower_factor(root: Matrix) -> Matrix:
    """Return lower triangular L with non-negative diagonal and LL' = root root', for any square root, singular or not."""
    if len(root) == 1:
        return np.abs(root)
    L: Matrix = np.linalg.qr(root.T)[1].T
    return L * np.where(np.diag(L) < 0, -1.0, 1.0)


def lower_root(D: Matrix) -> Matrix:
    """Return lower triangular L with LL' = D for a positive semidefinite D; negative eigenvalues count as zero."""
    if len(D) == 1:
        return np.sqrt(np.maximum(D, 0.0))
    values, vectors = np.linalg.eigh(0.5 * (D + D.T))
    return lower_factor(vectors * np.sqrt(np.maximum(values, 0.0)))
