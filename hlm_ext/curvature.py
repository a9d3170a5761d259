"""Second derivatives in the core of a crossed design (MATH: §5), read off the factor that `hlm_ext.core.Core` made.

The terms are those of `hlm_ext.moments`, for one level whose random columns are all columns of the core, and whose
directions are sums over the levels of a factor. Average information takes solves; traces take B = (I + FD)⁻¹ and one
product with it for each direction of the peeled factors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from hlm_ext.core import Array, Codes, Core
from hlm_ext.tiles import product


class Curvature:
    """Second derivatives at the covariances at which `core.moments` ran last."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def second(
        self, e: Array, omega: Array, W: Array, W_cross: Array, W_corner: Array, exact: bool
    ) -> tuple[Array, Array, Array]:
        """Terms of the second derivatives that arise in the core, after `moments`.

        Parameters
        ----------
        e, omega
            As for `moments`.
        W, W_cross, W_corner : (m_0, T, b, b), (m_0, C, p + 1), (m_0, p + 1, p + 1)
            Derivatives of F, U and S in the m_0 directions of the peeled factors.
        exact : bool
            Whether the traces are wanted; without them the first result is zero.

        Returns
        -------
        trace, average : (m, m)
            To be added to tr(P V_a P V_b) and to f_a'P f_b; peeled directions first.
        tangent : (m, p + 1, p + 1)
            Derivatives of the final S.
        """
        m0, side = len(W), len(e)
        Y = np.array([W_cross[a] - self.core.tiles.times(W[a], self.core.DK) for a in range(m0)]).reshape(
            m0, self.core.size, side
        )
        own = self._own()
        m = m0 + len(own)
        turn = self._turn(m0)
        average = turn @ self._products(own, (Y @ e)[:, :, None], self.core.t[:, None])[:, :, 0, 0] @ turn.T
        tangent = np.empty((m, side, side))
        for a in range(m0):
            tangent[a] = W_corner[a] - W_cross[a].T @ self.core.DK - self.core.DK.T @ Y[a]
        moved = np.array([self._move(direction, self.core.K) for direction in own])
        for a, EK in enumerate(moved, start=m0):
            tangent[a] = -self.core.K.T @ EK
        tangent = np.tensordot(turn, tangent, axes=1)
        trace = np.zeros((m, m))
        if exact:
            trace = turn @ self._traces(own, W, Y, omega) @ turn.T
        return trace, average, tangent

    def _turn(self, m0: int) -> Array:
        """(m, m) from directions in the eigenvectors to entries of D."""
        m = m0 + sum(len(pairs) for pairs in self.core.directions)
        turn = np.eye(m)
        at = m0
        for Q, pairs in zip(self.core.vectors, self.core.directions, strict=True):
            for a, (i, j) in enumerate(pairs):
                E = np.zeros_like(Q)
                E[i, j] = E[j, i] = 1.0
                E = Q.T @ E @ Q
                for c, (r, s) in enumerate(pairs):
                    turn[at + a, at + c] = E[r, s]
            at += len(pairs)
        return turn

    def _move(self, direction: tuple[int, int, int], X: Array) -> Array:
        """E_a X for the direction (factor, i, j), in the eigenvectors."""
        k, i, j = direction
        out = np.zeros_like(X)
        out[self.core.places[k][i]] = X[self.core.places[k][j]]
        if i != j:
            out[self.core.places[k][j]] = X[self.core.places[k][i]]
        return out

    def _forward(self, X: Array) -> Array:
        """(I + FD)⁻¹ X (C, r), in the eigenvectors from X outside of them."""
        rotated = self.core.apply(self.core.vectors, X, True)
        if self.core.zero:
            return rotated
        solved = self.core.tiles.solve(rotated * self.core.root_d[:, None])
        out = solved * self.core.inverse_root[:, None]
        if self.core.some_dead:
            dead = ~self.core.live
            N_X = self.core.apply(self.core.roots, solved, False)
            out[dead] = (rotated - self.core.apply(self.core.vectors, self.core.tiles.times(self.core.F, N_X), True))[
                dead
            ]
        return out

    def _times_T(self, X: Array) -> Array:
        """T X in the eigenvectors."""
        return self._forward(self.core.tiles.times(self.core.F, self.core.apply(self.core.vectors, X, False)))

    def forms(self, derivatives: Array) -> tuple[Array, Array]:
        """Quadratic forms of [X y], see `hlm_ext.forms`, from what arrives at the core; after `core.solve_columns`.

        Parameters
        ----------
        derivatives : (m_0, C + p + 1, p + 1)
            G of the peeled directions: rows of the core, then those of X and y.

        Returns
        -------
        tangent : (m, p + 1, p + 1)
            Derivatives of the final S.
        products : (m, m, p + 1, p + 1)
            What the core adds to the forms.
        """
        core, m0, side = self.core, len(derivatives), derivatives.shape[2]
        own = self._own()
        turn = self._turn(m0)
        g = derivatives[:, : core.size]
        tangent = np.empty((m0 + len(own), side, side))
        for a in range(m0):
            tangent[a] = derivatives[a, core.size :] - core.DK.T @ g[a]
        for a, direction in enumerate(own, start=m0):
            tangent[a] = -core.K.T @ self._move(direction, core.K)
        products = np.einsum("ac,cdij,bd->abij", turn, self._products(own, g, core.K), turn, optimize=True)
        return np.tensordot(turn, tangent, axes=1), products

    def _own(self) -> list[tuple[int, int, int]]:
        """Directions of the core: (factor, i, j)."""
        return [(k, i, j) for k, pairs in enumerate(self.core.directions) for i, j in pairs]

    def _products(self, own: list[tuple[int, int, int]], g: Array, t: Array) -> Array:
        """Forms f_a'P f_b of right-hand sides: (m, m, r, r) from g (m_0, C, r) and, in the eigenvectors, t (C, r)."""
        m0, r = len(g), t.shape[1]
        moved = [self._move(direction, t) for direction in own]
        forward = [self._forward(np.ascontiguousarray(x)) for x in g]
        left = [-self.core.apply(self.core.vectors, x, True) * self.core.d[:, None] for x in g]  # -DQ'g
        out = np.zeros((m0 + len(own), m0 + len(own), r, r))
        for a in range(m0):
            for b in range(m0):
                out[a, b] = left[a].T @ forward[b]
        for b, x in enumerate(moved, start=m0):
            Tx = self._times_T(x)
            for a, y in enumerate(moved, start=m0):
                out[a, b] = y.T @ Tx
            for a in range(m0):
                out[b, a] = -x.T @ forward[a]
                out[a, b] = out[b, a].T
        return out

    def _traces(self, own: list[tuple[int, int, int]], W: Array, Y: Array, omega: Array) -> Array:
        """tr(P V_a P V_b): terms of two core directions, of one with a peeled one, and of two peeled ones."""
        if self.core.zero and self.core.untouched:
            return self._traces_of_statistics(own, W, Y, omega)
        m0, m, p = len(W), len(W) + len(own), len(omega)
        B, T = self._explicit()
        out = np.zeros((m, m))
        TV = [product(T, self._move(direction, self.core.V)) for direction in own] if p else []
        for a, x in enumerate(own):
            for b, y in enumerate(own[: a + 1]):
                value = self._pair_trace(T, x, y)
                if p:
                    value -= 2 * float((self._move(x, self.core.V) * TV[b]).sum())
                out[m0 + a, m0 + b] = out[m0 + b, m0 + a] = value
        forward = [self._forward(np.ascontiguousarray(Y[a][:, :p])) for a in range(m0)]
        KO = self.core.K[:, :p] @ omega
        products = []
        for a in range(m0):
            A = self.core.congruence(W[a], self.core.vectors, True) if not self.core.scalar else W[a]
            full = self.core.tiles.full(A)
            BA = full if self.core.zero else product(B, full)
            products.append(BA)
            for b, direction in enumerate(own):
                value = -self._sandwich(BA, B, direction)
                if p:
                    value += 2 * float((self._move(direction, KO) * forward[a]).sum())
                out[m0 + b, a] = out[a, m0 + b] = value
        rotated = [self.core.apply(self.core.vectors, np.ascontiguousarray(Y[a][:, :p]), True) for a in range(m0)]
        for a in range(m0):
            left = products[a] * self.core.d[:, None]
            for b in range(a + 1):
                value = float(np.einsum("ij,ji->", left, products[b] * self.core.d[:, None]))
                if p:
                    value += 2 * float(((rotated[a] @ omega) * (forward[b] * self.core.d[:, None])).sum())
                out[a, b] = out[b, a] = value
        return out

    def _traces_of_statistics(self, own: list[tuple[int, int, int]], W: Array, Y: Array, omega: Array) -> Array:
        """`_traces` at D = 0, where T is the sparse F, B = I and N = 0."""
        m0, m, p = len(W), len(W) + len(own), len(omega)
        b = self.core.tiles.b
        tile, r, c = np.unravel_index(self.core.index, self.core.F.shape)
        row, col = r + self.core.tiles.rows[tile] * b, c + self.core.tiles.cols[tile] * b
        half = sparse.csr_array((self.core.values, (row, col)), shape=(self.core.size, self.core.size))
        off = self.core.tiles.rows[tile] != self.core.tiles.cols[tile]
        F = half + sparse.csr_array((self.core.values[off], (col[off], row[off])), shape=half.shape)
        out = np.zeros((m, m))
        FE = [F @ self._selector(direction) for direction in own]
        FV = [self.core.tiles.times(self.core.F, self._move(direction, self.core.V)) for direction in own]
        for x, direction in enumerate(own):
            for y in range(x + 1):
                value = float((FE[x] * FE[y].T).sum())
                value -= 2 * float((self._move(direction, self.core.V) * FV[y]).sum())
                out[m0 + x, m0 + y] = out[m0 + y, m0 + x] = value
        KO = self.core.K[:, :p] @ omega
        for x, direction in enumerate(own):
            for a in range(m0):
                value = 2 * float((self._move(direction, KO) * Y[a][:, :p]).sum())
                for to, of in self._ordered(direction):
                    value -= float(W[a][self.core.diagonal[to // b], to % b, of % b].sum())
                out[m0 + x, a] = out[a, m0 + x] = value
        return out

    def _selector(self, direction: tuple[int, int, int]) -> sparse.csr_array:
        """E_a as a sparse matrix."""
        pairs = self._ordered(direction)
        rows, cols = (np.concatenate(side) for side in zip(*pairs, strict=True))
        return sparse.csr_array((np.ones(len(rows)), (rows, cols)), shape=(self.core.size, self.core.size))

    def _explicit(self) -> tuple[Array, Array]:
        """B = (I + FD)⁻¹ and T = BF (C, C) in the eigenvectors."""
        if self.core.zero:
            F = self.core.F if self.core.scalar else self.core.congruence(self.core.F, self.core.vectors, True)
            return np.eye(self.core.size), self.core.tiles.full(F)
        tiles = self.core.tiles
        Z = tiles.full(self.core.Z) if tiles.dense() else tiles.solve(np.eye(self.core.size))
        inverse, root = self.core.inverse_root, self.core.root_d
        B = Z * inverse[:, None]
        T = B * -inverse
        np.fill_diagonal(T, self.core.diagonal_T())
        B *= root
        dead = np.flatnonzero(~self.core.live & (self._belongs()))
        if len(dead):
            FQ, X = self.core.dead_solution(dead)
            T[:, dead] = X * inverse[:, None]
            T[dead, :] = T[:, dead].T
            V = FQ * root[:, None]
            T[np.ix_(dead, dead)] = FQ[dead] - product(np.ascontiguousarray(V.T), X)
            B[dead] = -X.T * root
            B[dead, dead] = 1.0
        return B, T

    def _belongs(self) -> npt.NDArray[np.bool_]:
        """Whether each column belongs to a level (others fill up a tile)."""
        out = np.zeros(self.core.size, dtype=bool)
        for places in self.core.places:
            for place in places:
                out[place] = True
        return out

    def _pair_trace(self, T: Array, x: tuple[int, int, int], y: tuple[int, int, int]) -> float:
        """tr(T E_x T E_y)."""
        total = 0.0
        for a, b in self._ordered(x):
            for c, d in self._ordered(y):
                total += float(np.einsum("ij,ij->", _part(T, d, a), _part(T, c, b)))  # T is symmetric
        return total

    def _ordered(self, direction: tuple[int, int, int]) -> list[tuple[Codes, Codes]]:
        k, i, j = direction
        one, other = self.core.places[k][i], self.core.places[k][j]
        return [(one, other)] if i == j else [(one, other), (other, one)]

    def _sandwich(self, BA: Array, B: Array, direction: tuple[int, int, int]) -> float:
        """tr(E_a B A B')."""
        total = 0.0
        for rows, cols in self._ordered(direction):
            total += float(np.einsum("ij,ij->", BA[rows], B[cols]))
        return total


def _part(X: Array, rows: Codes, columns: Codes) -> Array:
    """X at rows and columns, without a copy where they follow each other."""
    if _consecutive(rows) and _consecutive(columns):
        return X[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return X[np.ix_(rows, columns)]


def _consecutive(places: Codes) -> bool:
    return bool((np.diff(places) == 1).all())
