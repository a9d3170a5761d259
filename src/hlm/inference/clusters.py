"""What a cluster contributes to a robust covariance (`hlm.inference.robust`): A_i'H_i, its products with X, e and Z.

Clusters whose rows have one level of each factor (groups of a two-level model, or of any lower level) are done many at
a time, from the cross-products of their rows alone: on a basis of what [Z X] span, everything is of the size of their
columns. Others are done one by one, from their rows, or on such a basis where that is smaller; and where both are
large, without any matrix of that size: A_iH_i = V (KV)^(-½) H by Lanczos' method, KV being symmetric in the inner
product x'Vy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from scipy import sparse

from hlm.covariance import Matrix
from hlm.design import Factor
from hlm.inference.distributions import Array
from hlm.structure import Codes
from hlm_ext.forms import forms
from hlm_ext.structure import first_rows

if TYPE_CHECKING:
    from hlm.fit import Fit

# Eigenvalues of L'KL below this, relative to the largest, are directions that X explains within the cluster.
EXPLAINED = 1e-12
# A direction of [Z X] in a cluster that is shorter than this, relative to the longest, is rounding; the second one is
# for squares, where cross-products tell.
SPANNED, SPANNED_SQUARE = 1e-12, 1e-13
# Clusters done at a time.
BATCH = 512
# Rows, and columns of [Z X], above which a cluster is large. Lanczos' method goes on until its result changes by no
# more than this, relatively, over so many steps.
LARGE = 600
CONVERGED, CHECK = 1e-12, 10


@dataclass(frozen=True, eq=False)
class Contributions:
    """Of J clusters, with a_i = A_i'H_i (n_i, p).

    Attributes
    ----------
    u : (J, p)
        a_i'e_i.
    own, h, inside : (J, p, p)
        a_i'a_i, X_i'a_i and H_i'V_iiH_i.
    cluster, place : (N,) intp
        Cluster, and place among the random columns of all levels of all factors, of the rows of `Y`.
    Y : (N, p)
        Λ'Z_i'a_i.
    columns : int
        Random columns of all levels of all factors.
    """

    u: Matrix
    own: Matrix
    h: Matrix
    inside: Matrix
    cluster: Codes
    place: Codes
    Y: Matrix
    columns: int


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in the engine's coordinates times the roots of their weights, clusters one after the other.

    Attributes
    ----------
    first : (J + 1,) intp
        Offsets of the clusters.
    columns : (n, Σ q + p + 1)
        Z of each factor in the order of `roots`, X, y.
    levels : list of (n,) intp
    roots : list of (q, q)
        Λ.
    modes : list of (J_k, q, p + 1)
        Effects of the columns of X and y.
    minus : (p + 1,)
        (-β̂; 1).
    """

    first: Codes
    columns: Matrix
    levels: list[Codes]
    roots: list[Matrix]
    modes: list[Matrix]
    minus: Array

    @property
    def slices(self) -> list[slice]:
        """Columns of each factor's Z."""
        ends = np.cumsum([0, *(len(root) for root in self.roots)])
        return [slice(int(a), int(b)) for a, b in pairwise(ends)]

    @property
    def offsets(self) -> Codes:
        """First place of each factor among the random columns of all levels, and their number."""
        return np.cumsum([0, *(mode.shape[0] * mode.shape[1] for mode in self.modes)]).astype(np.intp)


def contributions(fit: Fit, factor: Factor, kind: str) -> Contributions:
    """Return what the levels of a factor contribute; `kind` is "CR0" (for CR1 too), "CR2" or "CR3"."""
    rows = _rows(fit, factor)
    M = fit._criterion.cross_inverse
    alone = all(not _several(levels, rows.first) for levels in rows.levels)
    found = [*(_batches(rows, M, kind) if alone else _one_by_one(rows, M, kind))]
    p = len(M)
    if not found:
        found = [(np.zeros((0, p)), *(np.zeros((0, p, p)),) * 3, *(np.zeros(0, dtype=np.intp),) * 2, np.zeros((0, p)))]
    u, own, h, inside, cluster, place, Y = (np.concatenate(part) for part in zip(*found, strict=True))
    return Contributions(u, own, h, inside, cluster, place, Y, int(rows.offsets[-1]))


_Part = tuple[Matrix, Matrix, Matrix, Matrix, Codes, Codes, Matrix]


def crosses(factor: Factor, cluster: Factor) -> bool:
    """Whether some level of the factor has rows in several clusters."""
    return not np.array_equal(cluster.codes[first_rows(factor.codes, factor.size)][factor.codes], cluster.codes)


def _several(levels: Codes, first: Codes) -> bool:
    """Whether some cluster has several levels."""
    return bool((levels != np.repeat(levels[first[:-1]], np.diff(first))).any())


def _rows(fit: Fit, factor: Factor) -> Rows:
    problem, criterion = fit._problem, fit._criterion
    statistics, template = problem.statistics, problem.template
    columns, weights = problem.rows()
    if weights is not None:
        columns *= np.sqrt(weights)[:, None]
    matrices = problem.space.factors_of(np.array(criterion.theta))
    modes = []
    for position, mode in enumerate(forms(criterion.forest, True)[2]):
        modes.append(np.empty_like(mode))
        modes[position][statistics.hierarchy.levels[position]] = mode
    order: Codes | slice = slice(None)
    if (np.diff(factor.codes) < 0).any():
        order = np.argsort(factor.codes, kind="stable")
    first = np.r_[0, np.cumsum(np.bincount(factor.codes, minlength=factor.size))].astype(np.intp)
    return Rows(
        first,
        columns[order],
        [problem.design.factors[k].codes[order] for k in template.order],
        [matrices[k] for k in template.order],
        modes,
        np.r_[-criterion.beta, 1.0],
    )


def geometric(V: Matrix, X: Matrix, M: Matrix, H: Matrix) -> Matrix:
    """L (L'KL)^(-½) L'H with V = LL', K = V - XMX'; matrices may be stacked."""
    lower = np.linalg.cholesky(V)
    turned = np.swapaxes(lower, -1, -2)
    values, vectors = np.linalg.eigh(turned @ (V - X @ M @ np.swapaxes(X, -1, -2)) @ lower)
    kept = values > EXPLAINED * values[..., -1:]
    power = np.where(kept, np.where(kept, values, 1.0) ** -0.5, 0.0)
    half = lower @ vectors
    out: Matrix = half @ ((np.swapaxes(half, -1, -2) @ H) * power[..., None])
    return out


def jackknifed(X: Matrix, M: Matrix, H: Matrix) -> Matrix:
    """H (1 - H'XM)⁻ᵀ; matrices may be stacked."""
    left = np.eye(len(M)) - np.swapaxes(H, -1, -2) @ X @ M
    out: Matrix = H @ np.swapaxes(np.linalg.pinv(left, rcond=EXPLAINED), -1, -2)
    return out


# ---- many at a time -------------------------------------------------------------------------------------------------


def _batches(rows: Rows, M: Matrix, kind: str) -> Iterator[_Part]:
    """Clusters with one level of each factor, from the cross-products of their rows."""
    J, width = len(rows.first) - 1, rows.columns.shape[1]
    for lo in range(0, J, BATCH):
        hi = min(lo + BATCH, J)
        N = np.empty((hi - lo, width, width))
        for i in range(lo, hi):
            part = rows.columns[rows.first[i] : rows.first[i + 1]]
            N[i - lo] = part.T @ part
        yield _batch(rows, lo, N, M, kind)


def _batch(rows: Rows, lo: int, N: Matrix, M: Matrix, kind: str) -> _Part:
    """Clusters lo, lo + 1, … with cross-products N (c, w, w) of [Z X y]."""
    count, p = len(N), len(M)
    d = N.shape[1] - 1
    size, vectors = np.linalg.eigh(N[:, :d, :d])
    kept = size > SPANNED_SQUARE * size[:, -1:]
    length = np.sqrt(np.where(kept, size, 1.0))
    turned = np.swapaxes(vectors, 1, 2)
    # coordinates of [Z X] and y in an orthonormal basis of what [Z X] span
    R = np.where(kept[:, :, None], turned * length[:, :, None], 0.0)
    y = np.where(kept, (turned @ N[:, :d, d:])[:, :, 0] / length, 0.0)
    X = R[:, :, d - p :]
    H, V = X.copy(), np.broadcast_to(np.eye(d), R.shape).copy()
    spread = []
    for part, levels, root, modes in zip(rows.slices, rows.levels, rows.roots, rows.modes, strict=True):
        met = levels[rows.first[lo : lo + count]]
        H -= R[:, :, part] @ modes[met][:, :, :p]
        B = R[:, :, part] @ root
        V += B @ np.swapaxes(B, 1, 2)
        spread.append((met, B))
    e = y + X @ rows.minus[:p]
    a = H if kind == "CR0" else geometric(V, X, M, H) if kind == "CR2" else jackknifed(X, M, H)
    across = np.swapaxes(a, 1, 2)
    clusters, places, Y = [], [], []
    for k, (met, B) in enumerate(spread):
        q = B.shape[2]
        clusters.append(np.repeat(np.arange(lo, lo + count), q))
        places.append((rows.offsets[k] + met[:, None] * q + np.arange(q)).reshape(-1))
        Y.append((np.swapaxes(B, 1, 2) @ a).reshape(count * q, p))
    return (
        (across @ e[:, :, None])[:, :, 0],
        across @ a,
        np.swapaxes(X, 1, 2) @ a,
        np.swapaxes(H, 1, 2) @ V @ H,
        np.concatenate(clusters),
        np.concatenate(places),
        np.concatenate(Y),
    )


# ---- one by one -----------------------------------------------------------------------------------------------------


def _one_by_one(rows: Rows, M: Matrix, kind: str) -> Iterator[_Part]:
    """Clusters with several levels of some factor, from their rows."""
    p = len(M)
    for i in range(len(rows.first) - 1):
        part = slice(int(rows.first[i]), int(rows.first[i + 1]))
        columns, levels = rows.columns[part], [own[part] for own in rows.levels]
        right = columns[:, -(p + 1) :]
        X, solved = right[:, :p], right.copy()
        Z = []
        for own, met, root, modes in zip(rows.slices, levels, rows.roots, rows.modes, strict=True):
            solved -= np.einsum("nq,nqr->nr", columns[:, own], modes[met])
            Z.append(columns[:, own] @ root)
        H, e = solved[:, :p], right @ rows.minus
        a = H
        if kind == "CR2":
            a = _adjusted(Z, levels, X, M, H)
        elif kind == "CR3":
            a = jackknifed(X, M, H)
        inside = H.T @ H
        places, Y = [], []
        for k, (own_Z, met) in enumerate(zip(Z, levels, strict=True)):
            q = own_Z.shape[1]
            present, sums = _by_level(met, own_Z, np.hstack([a, H]))
            places.append((rows.offsets[k] + present[:, None] * q + np.arange(q)).reshape(-1))
            Y.append(sums[:, :, :p].reshape(len(present) * q, p))
            both = sums[:, :, p:].reshape(len(present) * q, p)
            inside += both.T @ both
        place = np.concatenate(places)
        yield (
            (a.T @ e)[None],
            (a.T @ a)[None],
            (X.T @ a)[None],
            inside[None],
            np.full(len(place), i),
            place,
            np.concatenate(Y),
        )


def _by_level(levels: Codes, Z: Matrix, a: Matrix) -> tuple[Codes, Matrix]:
    """Levels met by the rows of a cluster, and Z'a (levels, q, r) of each."""
    if (levels == levels[0]).all():
        return levels[:1], (Z.T @ a)[None]
    met, inverse = np.unique(levels, return_inverse=True)
    out = np.zeros((len(met), Z.shape[1], a.shape[1]))
    np.add.at(out, inverse, Z[:, :, None] * a[:, None, :])
    return met, out


def _adjusted(Z: list[Matrix], levels: list[Codes], X: Matrix, M: Matrix, H: Matrix) -> Matrix:
    """CR2's A_i'H_i (n_i, p)."""
    n, width = len(H), len(M) + sum(own.shape[1] * len(np.unique(met)) for own, met in zip(Z, levels, strict=True))
    if min(n, width) > LARGE:
        return _lanczos(Z, levels, X, M, H)
    B = _spread(Z, levels)
    if B.shape[1] + len(M) >= n:
        return geometric(np.eye(n) + B @ B.T, X, M, H)
    # an orthonormal basis of what V_ii - 1 and X span, in which H lies
    U, size, _ = scipy.linalg.svd(np.hstack([B, X]), full_matrices=False, check_finite=False)
    U = U[:, size > SPANNED * size[0]]
    inside = U.T @ B
    out: Matrix = U @ geometric(np.eye(U.shape[1]) + inside @ inside.T, U.T @ X, M, U.T @ H)
    return out


def _lanczos(Z: list[Matrix], levels: list[Codes], X: Matrix, M: Matrix, H: Matrix) -> Matrix:
    """`geometric` by Lanczos' method, one column of H after the other; products with V only."""
    n = len(H)
    parts = []
    for own, met in zip(Z, levels, strict=True):
        present, inverse = np.unique(met, return_inverse=True)
        q = own.shape[1]
        places = (np.repeat(np.arange(n), q), (inverse[:, None] * q + np.arange(q)).reshape(-1))
        parts.append(sparse.csr_array((own.reshape(-1), places), shape=(n, len(present) * q)))
    B = sparse.hstack(parts, format="csr")
    BT = B.T.tocsr()
    out = np.empty_like(H)
    for column in range(H.shape[1]):
        out[:, column] = _root_of_product(lambda v: v + B @ (BT @ v), X, M, H[:, column])
    return out


def _root_of_product(V: Callable[[Array], Array], X: Matrix, M: Matrix, h: Array) -> Array:
    """V (KV)^(-½) h, K = V - XMX', from products with V."""
    n = len(h)
    Vh = V(h)
    size = math.sqrt(float(h @ Vh))
    if size == 0:
        return np.zeros(n)
    basis, moved = [h / size], [Vh / size]  # v_j, orthonormal in x'Vy, and V v_j
    diagonal: list[float] = []
    beside: list[float] = []
    last = np.zeros(0)
    while True:
        w = moved[-1]
        w = V(w) - X @ (M @ (X.T @ w))  # K V v
        diagonal.append(float(moved[-1] @ w))
        for _ in range(2):  # once more for what rounding left
            w = w - np.array(basis).T @ (np.array(moved) @ w)
        Vw = V(w)
        left = math.sqrt(max(float(w @ Vw), 0.0))
        k = len(diagonal)
        done = k == n or left <= EXPLAINED * max(diagonal)
        if done or k % CHECK == 0:
            values, vectors = scipy.linalg.eigh_tridiagonal(np.array(diagonal), np.array(beside))
            kept = values > EXPLAINED * values[-1]
            found: Array = vectors[:, kept] @ (vectors[0, kept] / np.sqrt(values[kept]))
            change = np.linalg.norm(found - np.r_[last, np.zeros(k - len(last))])
            if done or change <= CONVERGED * np.linalg.norm(found):
                return np.asarray(size * (np.array(moved).T @ found), dtype=np.float64)
            last = found
        beside.append(left)
        basis.append(w / left)
        moved.append(Vw / left)


def _spread(Z: list[Matrix], levels: list[Codes]) -> Matrix:
    """B (n_i, r) with V_ii = 1 + BB'."""
    blocks = []
    for own, met in zip(Z, levels, strict=True):
        if own.any():
            present, inverse = np.unique(met, return_inverse=True)
            block = np.zeros((len(own), len(present), own.shape[1]))
            block[np.arange(len(own)), inverse] = own
            blocks.append(block.reshape(len(own), -1))
    return np.hstack(blocks) if blocks else np.zeros((len(levels[0]), 0))
