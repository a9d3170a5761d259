"""The core of a crossed design: the factors whose levels cannot be eliminated one by one (MATH: §3, kernel 2 and 3).

What the peeled factors leave is a symmetric matrix over the columns of all core levels, bordered by X and y. It is one
"level" with many random columns: every formula of `hlm_ext.moments` holds with q = all core columns, A = F and
D = blockdiag(D_k ⊗ I). Work is done in the eigenvectors of each D_k = Q d Q', where Λ = Q √d may have zero columns:

    M = Λ'FΛ + I = LL',   Z = M⁻¹,   N = D (I + FD)⁻¹ = ΛZΛ'
    T = (I + FD)⁻¹F:   where d_i, d_j > 0, without cancellation -Z_ij / √(d_i d_j) off the diagonal, (Z Λ'FΛ)_ii / d_i
                       on it; for directions without variance T = F - F N F from solves

so a variance of zero is an ordinary point, and nothing is divided by it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hlm_ext.tiles import Tiles, product

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

# A variance of D below this has no influence on the criterion (units where a group of average size has reliability 1/2
# at 1); it counts as zero, since T divides by it.
NO_VARIANCE = 1e-16
# Columns without variance that are solved for together.
STRIP = 256


class Core:
    """Statistics of the core factors, its factorisation at given covariances, and what is read off it.

    Parameters
    ----------
    tiles : Tiles
        Pattern of the Schur complement left by the peeled factors; side · b = C columns.
    positions : list of (J_k,) intp arrays
        First column of each level of each core factor; its q_k columns follow each other within one tile.
    widths : list of int
        q_k.
    index, values : (E,) intp, (E,) float64
        Z'WZ of the core: place in the flattened tiles and value. Diagonal tiles have both triangles.
    cross : (C, p + 1) float64
        Z'W[X y] of the core.
    corner : (p + 1, p + 1) float64
        [X y]'W[X y].
    """

    def __init__(
        self,
        tiles: Tiles,
        positions: list[Codes],
        widths: list[int],
        index: Codes,
        values: Array,
        cross: Array,
        corner: Array,
    ) -> None:
        self.tiles = tiles
        self.size = tiles.side * tiles.b
        self.widths = widths
        self.places = [[position + i for i in range(q)] for position, q in zip(positions, widths, strict=True)]
        self.directions = [[(i, j) for j in range(q) for i in range(j, q)] for q in widths]
        self.index, self.values, self._cross, self._corner = index, values, cross, corner
        self._row_of = np.arange(tiles.b) + tiles.rows[:, None] * tiles.b
        self._col_of = np.arange(tiles.b) + tiles.cols[:, None] * tiles.b
        self._off_diagonal = np.flatnonzero(tiles.rows != tiles.cols)
        self.diagonal = np.flatnonzero(tiles.rows == tiles.cols)
        self.F = np.zeros(0)
        self.U = cross
        self.S = corner

    # ---- factor ---------------------------------------------------------------------------------------------------

    def start(self, untouched: bool) -> None:
        """Take the statistics as they are before the peeled factors subtract from them (into F, U and S).

        Parameters
        ----------
        untouched : bool
            Whether they will not: their variances are zero.
        """
        tiles = self.tiles
        if self.F.size == 0:
            self.F = np.zeros((tiles.count, tiles.b, tiles.b))
        else:
            self.F[...] = 0
        self.F.reshape(-1)[self.index] = self.values
        self.U = self._cross.copy()
        self.S = self._corner.copy()
        self.untouched = untouched

    def factor(self, covariances: list[Array]) -> tuple[float, Array, int]:
        """Factor at the covariances D_k (q, q) of the core factors.

        Returns
        -------
        logdet : float
        schur : (p + 1, p + 1)
            What is left for X and y.
        failed : int
            Column whose pivot was not positive, or -1.
        """
        self._decompose(covariances)
        if self.zero:
            return 0.0, self.S, -1
        H = self.congruence(self.F, self.roots, True)
        side = np.arange(self.tiles.b)
        H[self.diagonal[:, None], side, side] += 1.0
        logdet, failed = self.tiles.factor(H)
        if failed >= 0:
            return logdet, self.S, failed
        half = self.tiles.half_solve(self.apply(self.roots, self.U, True))
        return logdet, self.S - product(np.ascontiguousarray(half.T), half), -1

    def _decompose(self, covariances: list[Array]) -> None:
        """Q, d and Λ = Q √d of each factor; d of each column."""
        self.vectors: list[Array] = []
        self.roots: list[Array] = []
        self.d = np.zeros(self.size)
        for D, places in zip(covariances, self.places, strict=True):
            if len(D) == 1:
                d, Q = D[0], np.ones((1, 1))
            else:
                d, Q = np.linalg.eigh(D)
            d = np.where(d > NO_VARIANCE, d, 0.0)
            self.vectors.append(Q)
            self.roots.append(Q * np.sqrt(d))
            for i, place in enumerate(places):
                self.d[place] = d[i]
        self.zero = not self.d.any()
        self.live = self.d > 0
        self.some_dead = any((root == 0).all(0).any() for root in self.roots)
        self.root_d = np.sqrt(self.d)
        self.inverse_root = np.divide(1.0, self.root_d, out=np.zeros(self.size), where=self.live)

    @property
    def scalar(self) -> bool:
        """Whether every core factor has one random column."""
        return max(self.widths) == 1

    def apply(self, matrices: list[Array], X: Array, transpose: bool) -> Array:
        """Blockdiag(matrices ⊗ I) X, or its transpose times X, for X (C, r); zero in columns of no level."""
        out = np.zeros(X.shape)
        for matrix, places in zip(matrices, self.places, strict=True):
            m = matrix.T if transpose else matrix
            for i, to in enumerate(places):
                if len(places) == 1:
                    out[to] = m[0, 0] * X[to]
                else:
                    for j, of in enumerate(places):
                        out[to] += m[i, j] * X[of]
        return out

    def congruence(self, S: Array, matrices: list[Array], transpose: bool) -> Array:
        """B'SB (transpose) or BSB' for tiles S and B = blockdiag(matrices ⊗ I)."""
        b = self.tiles.b
        if self.scalar:
            scale = np.zeros(self.size)
            for matrix, (place,) in zip(matrices, self.places, strict=True):
                scale[place] = matrix[0, 0]
            out: Array = S * scale[self._row_of][:, :, None]
            out *= scale[self._col_of][:, None, :]
            return out
        blocks = np.zeros((self.tiles.side, b, b))
        for matrix, places in zip(matrices, self.places, strict=True):
            m = matrix.T if transpose else matrix
            for i, to in enumerate(places):
                for j, of in enumerate(places):
                    blocks[to // b, to % b, of % b] = m[i, j]
        moved: Array = np.matmul(np.matmul(blocks[self.tiles.rows], S), blocks[self.tiles.cols].transpose(0, 2, 1))
        return moved

    # ---- first moments --------------------------------------------------------------------------------------------

    def solve_columns(self) -> None:
        """Put K, in the eigenvectors, and DK of X and y in `K` and `DK` (C, p + 1)."""
        solved = np.zeros_like(self.U) if self.zero else self.tiles.solve(self.apply(self.roots, self.U, True))
        self.DK = self.apply(self.roots, solved, False)
        self.K = solved * self.inverse_root[:, None]
        if self.some_dead:
            left = self.U if self.zero else self.U - self.tiles.times(self.F, self.DK)
            dead = ~self.live
            self.K[dead] = self.apply(self.vectors, left, True)[dead]

    def moments(self, e: Array, omega: Array) -> tuple[list[Array], list[Array]]:
        """Read the core's own sums off the factor, and prepare what the levels below need.

        Parameters
        ----------
        e : (p + 1,)
            (-β̂; 1).
        omega : (p, p)
            Covariance of β̂ in units of σ²; zero where β counts as known.

        Returns
        -------
        post, outer : lists of (q, q)
            Σ Z'PZ and Σ Z'ê ê'Z of each core factor.

        Notes
        -----
        Leaves û in `effects` (C,), N in `N` (tiles), DKΩ^½ in `spread` (C, p) and -DKΩ in `with_beta` (C, p): the
        covariance of (u, β) given the data is N + spread spread' and with_beta.
        """
        p = len(e) - 1
        self.solve_columns()
        lower = np.linalg.cholesky(omega) if p and omega.any() else np.zeros((p, p))
        self.V = self.K[:, :p] @ lower
        self.spread = self.DK[:, :p] @ lower
        self.with_beta = -self.DK[:, :p] @ omega
        self.t = self.K @ e
        self.effects = self.DK @ e
        self.Z = np.zeros_like(self.F) if self.zero else self.tiles.inverse()
        self.N = self.congruence(self.Z, self.roots, False)
        diagonal = self.diagonal_T()
        return self._own_sums(diagonal)

    def diagonal_T(self) -> Array:
        """Diagonal of T (C,), in the eigenvectors, for columns with a variance."""
        if self.zero:
            return np.zeros(self.size)
        S = self.Z * self.F if self.scalar else self.Z * self.congruence(self.F, self.vectors, True)
        root = self.root_d
        out = np.zeros(self.size)
        np.add.at(out, self._row_of, np.einsum("tab,tb->ta", S, root[self._col_of]))
        off = self._off_diagonal
        np.add.at(out, self._col_of[off], np.einsum("tab,ta->tb", S[off], root[self._row_of[off]]))
        return out * self.inverse_root

    def _own_sums(self, diagonal: Array) -> tuple[list[Array], list[Array]]:
        post, outer = [], []
        b = self.tiles.b
        self._dead = self._columns_without_variance()
        for k, places in enumerate(self.places):
            q = len(places)
            T, E = np.zeros((q, q)), np.zeros((q, q))
            live = [bool(self.live[place[0]]) for place in places]
            for i, to in enumerate(places):
                for j, of in enumerate(places[: i + 1]):
                    if live[i] and live[j]:
                        if i == j:
                            T[i, i] = diagonal[to].sum()
                        else:
                            tile = self.diagonal[to // b]
                            Z = self.Z[tile, to % b, of % b]
                            T[i, j] = -(Z * self.inverse_root[to] * self.inverse_root[of]).sum()
                    T[i, j] -= float((self.V[to] * self.V[of]).sum())
                    E[i, j] = float(self.t[to] @ self.t[of])
                    T[j, i], E[j, i] = T[i, j], E[i, j]
            T += self._dead_sums(k)
            Q = self.vectors[k]
            post.append(Q @ T @ Q.T)
            outer.append(Q @ E @ Q.T)
        return post, outer

    def _columns_without_variance(self) -> list[Codes]:
        """For each factor (q0, J): columns of its directions without variance, in the eigenvectors."""
        return [
            np.array([place for place in places if not self.live[place[0]]], dtype=np.intp).reshape(-1, len(places[0]))
            for places in self.places
        ]

    def dead_solution(self, columns: Codes) -> tuple[Array, Array]:
        """F q (C, r) in the eigenvectors and M⁻¹Λ'F q for the columns (r,) without variance."""
        unit = np.zeros((self.size, len(columns)))
        unit[columns, np.arange(len(columns))] = 1.0
        rotated = self.apply(self.vectors, self.tiles.times(self.F, self.apply(self.vectors, unit, False)), True)
        V = rotated * self.root_d[:, None]
        return rotated, V if self.zero else self.tiles.solve(V)

    def _dead_sums(self, k: int) -> Array:
        """Sums over the levels of the blocks of T with a direction without variance, in the eigenvectors."""
        dead, places = self._dead[k], self.places[k]
        q, (q0, J) = len(places), (len(self._dead[k]), len(places[0]))
        T = np.zeros((q, q))
        if q0 == 0:
            return T
        which = [i for i, place in enumerate(places) if not self.live[place[0]]]
        if self.zero:
            b = self.tiles.b
            for i, to in enumerate(places):
                for j, of in enumerate(places):
                    T[i, j] = self.F[self.diagonal[to // b], to % b, of % b].sum()
            return self.vectors[k].T @ T @ self.vectors[k]
        step = max(1, STRIP // q0)
        for lo in range(0, J, step):
            part = dead[:, lo : lo + step]
            r = part.shape[1]
            FQ, X = self.dead_solution(part.reshape(-1))
            V = FQ * self.root_d[:, None]
            for a, i in enumerate(which):
                mine = slice(a * r, (a + 1) * r)
                for j, place in enumerate(places):
                    rows = place[lo : lo + step]
                    if j not in which:
                        T[i, j] += float((X[rows, np.arange(r) + a * r] * self.inverse_root[rows]).sum())
                        T[j, i] = T[i, j]
                for c, j in enumerate(which):
                    other = slice(c * r, (c + 1) * r)
                    T[i, j] += float(FQ[part[c], np.arange(r) + a * r].sum() - (V[:, other] * X[:, mine]).sum())
        return T

    def covariances(self, k: int, loadings: Array | None = None) -> Array:
        """Cov(u - û)/σ² (J, q, q) of a core factor, after `moments`.

        With `loadings` (L, J): those of the combinations loadings @ u, (L, q, q).
        """
        places, b = self.places[k], self.tiles.b
        if loadings is not None:
            whole = self.tiles.full(self.N)
            out = np.zeros((len(loadings), len(places), len(places)))
            for i, to in enumerate(places):
                for j, of in enumerate(places):
                    joint = whole[np.ix_(to, of)] + self.spread[to] @ self.spread[of].T
                    out[:, i, j] = ((loadings @ joint) * loadings).sum(1)
            return out
        out = np.zeros((len(places[0]), len(places), len(places)))
        for i, to in enumerate(places):
            for j, of in enumerate(places):
                out[:, i, j] = self.N[self.diagonal[to // b], to % b, of % b] + (self.spread[to] * self.spread[of]).sum(
                    1
                )
        return out
