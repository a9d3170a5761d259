"""The core of a crossed design: the factors whose levels cannot be eliminated one by one (MATH: §3, kernel 2 and 3).

What the peeled factors leave is a symmetric matrix over the columns of all core levels, bordered by X and y. It is one
"level" with many random columns: every formula of `hlm_ext.moments` holds with q = all core columns, A = F and
D = blockdiag(D_k ⊗ I). Work is done in the eigenvectors of each D_k, D_k = Q d Q', where Λ = Q √d may have zero columns:

    M = Λ'FΛ + I = LL',   Z = M⁻¹,   N = D (I + FD)⁻¹ = ΛZΛ'
    T = (I + FD)⁻¹F:   -Z_ij / √(d_i d_j) off the diagonal, (Z Λ'FΛ)_ii / d_i on it, where d_i, d_j > 0: no cancellation;
                       for directions without variance T = F - F N F from solves

so a variance of zero is an ordinary point, and nothing is divided by it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

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
        self._index, self._values, self._cross, self._corner = index, values, cross, corner
        self._row_of = (np.arange(tiles.b) + tiles.rows[:, None] * tiles.b)
        self._col_of = (np.arange(tiles.b) + tiles.cols[:, None] * tiles.b)
        self._off_diagonal = np.flatnonzero(tiles.rows != tiles.cols)
        self._diagonal = np.flatnonzero(tiles.rows == tiles.cols)
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
        self.F.reshape(-1)[self._index] = self._values
        self.U = self._cross.copy()
        self.S = self._corner.copy()
        self._untouched = untouched

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
        H = self._congruence(self.F, self.roots, True)
        side = np.arange(self.tiles.b)
        H[self._diagonal[:, None], side, side] += 1.0
        logdet, failed = self.tiles.factor(H)
        if failed >= 0:
            return logdet, self.S, failed
        half = self.tiles.half_solve(self._apply(self.roots, self.U, True))
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
        self._live = self.d > 0
        self._some_dead = any((root == 0).all(0).any() for root in self.roots)
        self._root_d = np.sqrt(self.d)
        self._inverse_root = np.divide(1.0, self._root_d, out=np.zeros(self.size), where=self._live)

    @property
    def _scalar(self) -> bool:
        return max(self.widths) == 1

    def _apply(self, matrices: list[Array], X: Array, transpose: bool) -> Array:
        """Blockdiag(matrices ⊗ I) X, or its transpose times X, for X (C, r); zero in columns that belong to no level."""
        out = np.zeros(X.shape)
        for matrix, places in zip(matrices, self.places, strict=True):
            m = matrix.T if transpose else matrix
            for i, to in enumerate(places):
                if len(places) == 1:
                    out[to] = m[0, 0] * X[to]
                else:
                    out[to] = sum(m[i, j] * X[of] for j, of in enumerate(places))
        return out

    def _congruence(self, S: Array, matrices: list[Array], transpose: bool) -> Array:
        """B'SB (transpose) or BSB' for tiles S and B = blockdiag(matrices ⊗ I)."""
        b = self.tiles.b
        if self._scalar:
            scale = np.zeros(self.size)
            for matrix, (place,) in zip(matrices, self.places, strict=True):
                scale[place] = matrix[0, 0]
            out = S * scale[self._row_of][:, :, None]
            out *= scale[self._col_of][:, None, :]
            return out
        blocks = np.zeros((self.tiles.side, b, b))
        for matrix, places in zip(matrices, self.places, strict=True):
            m = matrix.T if transpose else matrix
            for i, to in enumerate(places):
                for j, of in enumerate(places):
                    blocks[to // b, to % b, of % b] = m[i, j]
        return np.matmul(np.matmul(blocks[self.tiles.rows], S), blocks[self.tiles.cols].transpose(0, 2, 1))

    # ---- first moments --------------------------------------------------------------------------------------------

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
        if self.zero:
            solved = np.zeros_like(self.U)
        else:
            solved = self.tiles.solve(self._apply(self.roots, self.U, True))
        self.DK = self._apply(self.roots, solved, False)
        self.K = solved * self._inverse_root[:, None]
        if self._some_dead:
            left = self.U if self.zero else self.U - self.tiles.times(self.F, self.DK)
            dead = ~self._live
            self.K[dead] = self._apply(self.vectors, left, True)[dead]
        lower = np.linalg.cholesky(omega) if p and omega.any() else np.zeros((p, p))
        self.V = self.K[:, :p] @ lower
        self.spread = self.DK[:, :p] @ lower
        self.with_beta = -self.DK[:, :p] @ omega
        self.t = self.K @ e
        self.effects = self.DK @ e
        self.Z = np.zeros_like(self.F) if self.zero else self.tiles.inverse()
        self.N = self._congruence(self.Z, self.roots, False)
        diagonal = self._diagonal_T()
        return self._own_sums(diagonal)

    def _diagonal_T(self) -> Array:
        """Diagonal of T (C,), in the eigenvectors, for columns with a variance."""
        if self.zero:
            return np.zeros(self.size)
        S = self.Z * self.F if self._scalar else self.Z * self._congruence(self.F, self.vectors, True)
        root = self._root_d
        out = np.zeros(self.size)
        np.add.at(out, self._row_of, np.einsum("tab,tb->ta", S, root[self._col_of]))
        off = self._off_diagonal
        np.add.at(out, self._col_of[off], np.einsum("tab,ta->tb", S[off], root[self._row_of[off]]))
        return out * self._inverse_root

    def _own_sums(self, diagonal: Array) -> tuple[list[Array], list[Array]]:
        post, outer = [], []
        b = self.tiles.b
        self._dead = self._columns_without_variance()
        for k, places in enumerate(self.places):
            q = len(places)
            T, E = np.zeros((q, q)), np.zeros((q, q))
            live = [bool(self._live[place[0]]) for place in places]
            for i, to in enumerate(places):
                for j, of in enumerate(places[: i + 1]):
                    if live[i] and live[j]:
                        if i == j:
                            T[i, i] = diagonal[to].sum()
                        else:
                            tile = self._diagonal[to // b]
                            Z = self.Z[tile, to % b, of % b]
                            T[i, j] = -(Z * self._inverse_root[to] * self._inverse_root[of]).sum()
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
            np.array([place for place in places if not self._live[place[0]]], dtype=np.intp).reshape(-1, len(places[0]))
            for places in self.places
        ]

    def _dead_solution(self, columns: Codes) -> tuple[Array, Array]:
        """F q (C, r) in the eigenvectors and M⁻¹Λ'F q for the columns (r,) without variance."""
        unit = np.zeros((self.size, len(columns)))
        unit[columns, np.arange(len(columns))] = 1.0
        rotated = self._apply(self.vectors, self.tiles.times(self.F, self._apply(self.vectors, unit, False)), True)
        V = rotated * self._root_d[:, None]
        return rotated, V if self.zero else self.tiles.solve(V)

    def _dead_sums(self, k: int) -> Array:
        """Sums over the levels of the blocks of T with a direction without variance, in the eigenvectors."""
        dead, places = self._dead[k], self.places[k]
        q, (q0, J) = len(places), (len(self._dead[k]), len(places[0]))
        T = np.zeros((q, q))
        if q0 == 0:
            return T
        which = [i for i, place in enumerate(places) if not self._live[place[0]]]
        if self.zero:
            b = self.tiles.b
            for i, to in enumerate(places):
                for j, of in enumerate(places):
                    T[i, j] = self.F[self._diagonal[to // b], to % b, of % b].sum()
            return self.vectors[k].T @ T @ self.vectors[k]
        step = max(1, STRIP // q0)
        for lo in range(0, J, step):
            part = dead[:, lo : lo + step]
            r = part.shape[1]
            FQ, X = self._dead_solution(part.reshape(-1))
            V = FQ * self._root_d[:, None]
            for a, i in enumerate(which):
                mine = slice(a * r, (a + 1) * r)
                for j, place in enumerate(places):
                    rows = place[lo : lo + step]
                    if j not in which:
                        T[i, j] += float((X[rows, np.arange(r) + a * r] * self._inverse_root[rows]).sum())
                        T[j, i] = T[i, j]
                for c, j in enumerate(which):
                    other = slice(c * r, (c + 1) * r)
                    T[i, j] += float(FQ[part[c], np.arange(r) + a * r].sum() - (V[:, other] * X[:, mine]).sum())
        return T

    def covariances(self, k: int) -> Array:
        """Cov(u - û)/σ² (J, q, q) of a core factor, after `moments`."""
        places, b = self.places[k], self.tiles.b
        out = np.zeros((len(places[0]), len(places), len(places)))
        for i, to in enumerate(places):
            for j, of in enumerate(places):
                out[:, i, j] = self.N[self._diagonal[to // b], to % b, of % b] + (self.spread[to] * self.spread[of]).sum(1)
        return out

    # ---- second derivatives ---------------------------------------------------------------------------------------

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
        Y = np.array([W_cross[a] - self.tiles.times(W[a], self.DK) for a in range(m0)]).reshape(m0, self.size, side)
        own = [(k, i, j) for k, pairs in enumerate(self.directions) for i, j in pairs]
        m = m0 + len(own)
        turn = self._turn(m0)
        average = turn @ self._average(own, Y, e) @ turn.T
        tangent = np.empty((m, side, side))
        for a in range(m0):
            tangent[a] = W_corner[a] - W_cross[a].T @ self.DK - self.DK.T @ Y[a]
        moved = np.array([self._move(direction, self.K) for direction in own])
        for a, EK in enumerate(moved, start=m0):
            tangent[a] = -self.K.T @ EK
        tangent = np.tensordot(turn, tangent, axes=1)
        trace = np.zeros((m, m))
        if exact:
            trace = turn @ self._traces(own, W, Y, omega) @ turn.T
        return trace, average, tangent

    def _turn(self, m0: int) -> Array:
        """(m, m) from directions in the eigenvectors to entries of D."""
        m = m0 + sum(len(pairs) for pairs in self.directions)
        turn = np.eye(m)
        at = m0
        for Q, pairs in zip(self.vectors, self.directions, strict=True):
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
        out[self.places[k][i]] = X[self.places[k][j]]
        if i != j:
            out[self.places[k][j]] = X[self.places[k][i]]
        return out

    def _forward(self, X: Array) -> Array:
        """(I + FD)⁻¹ X (C, r), in the eigenvectors from X outside of them."""
        rotated = self._apply(self.vectors, X, True)
        if self.zero:
            return rotated
        solved = self.tiles.solve(rotated * self._root_d[:, None])
        out = solved * self._inverse_root[:, None]
        if self._some_dead:
            dead = ~self._live
            N_X = self._apply(self.roots, solved, False)
            out[dead] = (rotated - self._apply(self.vectors, self.tiles.times(self.F, N_X), True))[dead]
        return out

    def _times_T(self, X: Array) -> Array:
        """T X in the eigenvectors."""
        return self._forward(self.tiles.times(self.F, self._apply(self.vectors, X, False)))

    def _average(self, own: list[tuple[int, int, int]], Y: Array, e: Array) -> Array:
        m0, m = len(Y), len(Y) + len(own)
        out = np.zeros((m, m))
        Et = np.array([self._move(direction, self.t[:, None])[:, 0] for direction in own]).T
        out[m0:, m0:] = Et.T @ self._times_T(Et)
        if m0:
            g = (Y @ e).T
            t = self._forward(g)
            out[m0:, :m0] = -Et.T @ t
            out[:m0, m0:] = out[m0:, :m0].T
            # g'Ng with N = D (I + FD)⁻¹
            out[:m0, :m0] = -(self._apply(self.vectors, g, True) * self.d[:, None]).T @ t
        return out

    def _traces(self, own: list[tuple[int, int, int]], W: Array, Y: Array, omega: Array) -> Array:
        """tr(P V_a P V_b): terms of two core directions, of one with a peeled one, and of two peeled ones."""
        if self.zero and self._untouched:
            return self._traces_of_statistics(own, W, Y, omega)
        m0, m, p = len(W), len(W) + len(own), len(omega)
        B, T = self._explicit()
        out = np.zeros((m, m))
        TV = [product(T, self._move(direction, self.V)) for direction in own] if p else []
        for a, x in enumerate(own):
            for b, y in enumerate(own[: a + 1]):
                value = self._pair_trace(T, x, y)
                if p:
                    value -= 2 * float((self._move(x, self.V) * TV[b]).sum())
                out[m0 + a, m0 + b] = out[m0 + b, m0 + a] = value
        forward = [self._forward(np.ascontiguousarray(Y[a][:, :p])) for a in range(m0)]
        KO = self.K[:, :p] @ omega
        products = []
        for a in range(m0):
            A = self._congruence(W[a], self.vectors, True) if not self._scalar else W[a]
            full = self.tiles.full(A)
            BA = full if self.zero else product(B, full)
            products.append(BA)
            for b, direction in enumerate(own):
                value = -self._sandwich(BA, B, direction)
                if p:
                    value += 2 * float((self._move(direction, KO) * forward[a]).sum())
                out[m0 + b, a] = out[a, m0 + b] = value
        rotated = [self._apply(self.vectors, np.ascontiguousarray(Y[a][:, :p]), True) for a in range(m0)]
        for a in range(m0):
            left = products[a] * self.d[:, None]
            for b in range(a + 1):
                value = float(np.einsum("ij,ji->", left, products[b] * self.d[:, None]))
                if p:
                    value += 2 * float(((rotated[a] @ omega) * (forward[b] * self.d[:, None])).sum())
                out[a, b] = out[b, a] = value
        return out

    def _traces_of_statistics(self, own: list[tuple[int, int, int]], W: Array, Y: Array, omega: Array) -> Array:
        """`_traces` at D = 0, where T is the sparse F, B = I and N = 0."""
        m0, m, p = len(W), len(W) + len(own), len(omega)
        b = self.tiles.b
        tile, r, c = np.unravel_index(self._index, self.F.shape)
        row, col = r + self.tiles.rows[tile] * b, c + self.tiles.cols[tile] * b
        half = sparse.csr_array((self._values, (row, col)), shape=(self.size, self.size))
        off = self.tiles.rows[tile] != self.tiles.cols[tile]
        F = half + sparse.csr_array((self._values[off], (col[off], row[off])), shape=half.shape)
        out = np.zeros((m, m))
        FE = [F @ self._selector(direction) for direction in own]
        FV = [self.tiles.times(self.F, self._move(direction, self.V)) for direction in own]
        for x, direction in enumerate(own):
            for y in range(x + 1):
                value = float((FE[x] * FE[y].T).sum())
                value -= 2 * float((self._move(direction, self.V) * FV[y]).sum())
                out[m0 + x, m0 + y] = out[m0 + y, m0 + x] = value
        KO = self.K[:, :p] @ omega
        for x, direction in enumerate(own):
            for a in range(m0):
                value = 2 * float((self._move(direction, KO) * Y[a][:, :p]).sum())
                for to, of in self._ordered(direction):
                    value -= float(W[a][self._diagonal[to // b], to % b, of % b].sum())
                out[m0 + x, a] = out[a, m0 + x] = value
        return out

    def _selector(self, direction: tuple[int, int, int]) -> sparse.csr_array:
        """E_a as a sparse matrix."""
        pairs = self._ordered(direction)
        rows, cols = (np.concatenate(side) for side in zip(*pairs, strict=True))
        return sparse.csr_array((np.ones(len(rows)), (rows, cols)), shape=(self.size, self.size))

    def _explicit(self) -> tuple[Array, Array]:
        """B = (I + FD)⁻¹ and T = BF (C, C) in the eigenvectors."""
        if self.zero:
            F = self.F if self._scalar else self._congruence(self.F, self.vectors, True)
            return np.eye(self.size), self.tiles.full(F)
        Z = self.tiles.full(self.Z)
        inverse, root = self._inverse_root, self._root_d
        T = -Z * inverse[:, None] * inverse
        np.fill_diagonal(T, self._diagonal_T())
        B = Z * inverse[:, None] * root
        dead = np.flatnonzero(~self._live & (self._belongs()))
        if len(dead):
            FQ, X = self._dead_solution(dead)
            T[:, dead] = X * inverse[:, None]
            T[dead, :] = T[:, dead].T
            V = FQ * root[:, None]
            T[np.ix_(dead, dead)] = FQ[dead] - product(np.ascontiguousarray(V.T), X)
            B[dead] = -X.T * root
            B[dead, dead] = 1.0
        return B, T

    def _belongs(self) -> npt.NDArray[np.bool_]:
        """Whether each column belongs to a level (others fill up a tile)."""
        out = np.zeros(self.size, dtype=bool)
        for places in self.places:
            for place in places:
                out[place] = True
        return out

    def _pair_trace(self, T: Array, x: tuple[int, int, int], y: tuple[int, int, int]) -> float:
        """tr(T E_x T E_y)."""
        total = 0.0
        for a, b in self._ordered(x):
            for c, d in self._ordered(y):
                total += float((T[np.ix_(d, a)] * T[np.ix_(b, c)].T).sum())
        return total

    def _ordered(self, direction: tuple[int, int, int]) -> list[tuple[Codes, Codes]]:
        k, i, j = direction
        one, other = self.places[k][i], self.places[k][j]
        return [(one, other)] if i == j else [(one, other), (other, one)]

    def _sandwich(self, BA: Array, B: Array, direction: tuple[int, int, int]) -> float:
        """tr(E_a B A B')."""
        total = 0.0
        for rows, cols in self._ordered(direction):
            total += float(np.einsum("ij,ij->", BA[rows], B[cols]))
        return total
