"""Templates: how θ fills the factors Λ of the random effects' covariances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hlm.design import Factor
from hlm_ext.linear import eigh, lower_root

Matrix = npt.NDArray[np.float64]

# An eigenvalue of D below this counts as zero, in units where a group of average size has reliability 1/2 at 1.
ZERO = 1e-10


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

    def lifted(self, theta: Matrix, sigma2: float) -> Matrix:
        """Return θ with D = I for each block that has a direction without variance at `theta`; the rest is kept."""
        matrices = self.factors_of(theta)
        for factor, L in zip(self.factors, matrices, strict=True):
            for block in factor.blocks:
                index = np.ix_(block, block)
                if eigh(L[index] @ L[index].T)[0].min() <= ZERO:
                    L[index] = np.eye(len(block))
        return self.theta_of(matrices)

    def factors_of(self, theta: Matrix) -> list[Matrix]:
        """Return Λ (q, q) of each factor in the order of the formula."""
        out = [np.zeros((factor.width, factor.width)) for factor in self.factors]
        for value, (k, i, j) in zip(theta, self.owners, strict=True):
            out[k][i, j] = value
        return out

    def ranks(self, theta: Matrix) -> list[int]:
        """Rank of D of each factor in the order of the formula; θ in the coordinates of the engine."""
        return [int((eigh(L @ L.T)[0] > ZERO).sum()) for L in self.factors_of(theta)]

    def deficiencies(self, theta: Matrix) -> list[int]:
        """For each factor in the order of the formula: how many directions have no variance."""
        return [factor.width - rank for rank, factor in zip(self.ranks(theta), self.factors, strict=True)]

    def is_singular(self, theta: Matrix) -> bool:
        """Whether some direction has no variance; θ in the coordinates of the engine."""
        return any(self.deficiencies(theta))

    def ambient(self, theta: Matrix, gradient: Matrix) -> Matrix:
        """Return a gradient in the coordinates of θ itself."""
        return gradient

    def point(self, covariances: Sequence[Matrix], sigma2: float) -> Matrix:
        """Return θ from D of each factor, σ² being profiled out."""
        return self.theta_of_covariances(covariances)

    def move(self, theta: Matrix, step: Matrix) -> Matrix:
        """Return the θ that a step leads to."""
        return theta + step

    def cones(self) -> list[tuple[int, tuple[int, ...]]]:
        """Factor and columns of each block: every covariance matrix is open to it."""
        return [(k, block) for k, factor in enumerate(self.factors) for block in factor.blocks]

    def rays(self, theta: Matrix) -> list[tuple[int, Matrix]]:
        """D's beside the cones whose variance the optimality of θ is tested with: none."""
        return []

    def settled(self, theta: Matrix, nearly: float) -> Matrix | None:
        """Return θ with eigenvalues of D below `nearly` put at zero, or None if there are none."""
        found = False
        covariances = [L @ L.T for L in self.factors_of(theta)]
        for k, block in self.cones():
            D = covariances[k]
            index = np.ix_(block, block) if len(block) < len(D) else slice(None)
            values, vectors = eigh(D[index])
            if 0 < values[0] < nearly:
                found = True
                D[index] = (vectors * np.where(values < nearly, 0.0, values)) @ vectors.T
        return self.theta_of_covariances(covariances) if found else None

    def theta_of(self, matrices: Sequence[Matrix]) -> Matrix:
        """Return θ from Λ of each factor in the order of the formula."""
        return np.array([matrices[k][i, j] for k, i, j in self.owners])

    def theta_of_covariances(self, covariances: Sequence[Matrix], least: float = 0.0, relative: float = 0.0) -> Matrix:
        """Return θ from D of each factor, which may be singular; what D has between blocks is ignored.

        Eigenvalues of a block below max(least, relative · its largest one) are raised to that.
        """
        matrices = []
        for factor, D in zip(self.factors, covariances, strict=True):
            if len(factor.blocks) == 1:
                matrices.append(lower_root(D, least, relative))
                continue
            root = np.zeros_like(D)
            for block in factor.blocks:
                index = np.ix_(block, block)
                root[index] = lower_root(D[index], least, relative)
            matrices.append(root)
        return self.theta_of(matrices)

    @cached_property
    def triangles(self) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
        """For each factor: rows and columns of the lower triangle, column by column: the engine's order of D."""
        out = []
        for factor in self.factors:
            pairs = [(i, j) for j in range(factor.width) for i in range(j, factor.width)]
            rows, cols = np.array(pairs, dtype=np.intp).T
            out.append((rows, cols))
        return out

    @cached_property
    def places(self) -> dict[tuple[int, int, int], int]:
        """Place of each (factor, i, j), i ≥ j, among the entries of all D: factors leaves first, see `triangles`."""
        entries = [(k, int(i), int(j)) for k in self.order for i, j in zip(*self.triangles[k], strict=True)]
        return {entry: place for place, entry in enumerate(entries)}

    def entries_of(self, matrices: Sequence[Matrix]) -> Matrix:
        """Return the entries (m_D,) of symmetric matrices, one per factor in the order of the formula."""
        return np.concatenate([np.zeros(0), *(matrices[k][self.triangles[k]] for k in self.order)])

    def packed(self, matrices: Sequence[Matrix]) -> Matrix:
        """Return ⟨matrix, E_a⟩ for the entries (m_D,), of symmetric matrices of the factors, leaves first."""
        parts = [np.zeros(0)]
        for k, matrix in zip(self.order, matrices, strict=True):
            rows, cols = self.triangles[k]
            parts.append(matrix[rows, cols] * np.where(rows == cols, 1.0, 2.0))
        return np.concatenate(parts)


def make_template(factors: tuple[Factor, ...], order: tuple[int, ...]) -> Template:
    """Lay out θ for the factors of a design."""
    offsets, at = {}, 0
    for k in order:
        offsets[k] = at
        at += factors[k].width ** 2
    entries: list[tuple[int, int]] = []
    owners: list[tuple[int, int, int]] = []
    for k, factor in enumerate(factors):
        for block in factor.blocks:
            for c, j in enumerate(block):
                for i in block[c:]:
                    entries.append((offsets[k] + i * factor.width + j, len(owners)))
                    owners.append((k, i, j))
    return Template(factors, order, np.array(entries, dtype=np.intp).reshape(-1, 2), tuple(owners), at)
