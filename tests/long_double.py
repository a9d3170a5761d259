"""The criterion in long double, by orthogonal transformations only: judges fits that cross-products cannot judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Long = np.longdouble
# Pivots of a correlation matrix below this are rounding of the float64 entries that were reported.
NO_VARIANCE = Long(1e-17)


@dataclass(frozen=True)
class Term:
    """Columns W (n, q) whose coefficients vary with `codes` (n,), and their covariance matrix (q, q)."""

    codes: np.ndarray
    W: np.ndarray
    covariance: np.ndarray


def criterion(y: np.ndarray, X: np.ndarray, terms: Sequence[Term], sigma2: float, reml: bool) -> float:
    """-2 × the (restricted) log-likelihood at given covariances and σ², β profiled out.

    With F F' = T / σ² the triangle of the QR decomposition of

        I    0  0
        Z F  X  y

    has the square roots of |V| / σ²ⁿ and |X'V⁻¹X| σ²ᵖ on its diagonal, and that of the residual sum of squares.
    """
    n, p = X.shape
    columns = [term.W.astype(Long) @ factor(term.covariance / Long(sigma2)) for term in terms]
    # the factor with most levels is eliminated level by level, which costs little; the rest is dense
    first, *rest = sorted(range(len(terms)), key=lambda k: len(np.unique(terms[k].codes)), reverse=True)
    dense = np.column_stack([*(_spread(terms[k].codes, columns[k]) for k in rest), X, y]).astype(Long)
    wide = dense.shape[1] - p - 1
    log_det = Long(0)
    left = [np.eye(wide, dense.shape[1], dtype=Long)]
    for level in np.unique(terms[first].codes):
        own = terms[first].codes == level
        q = columns[first].shape[1]
        block = np.zeros((q + own.sum(), q + dense.shape[1]), dtype=Long)
        block[:q, :q] = np.eye(q)
        block[q:, :q], block[q:, q:] = columns[first][own], dense[own]
        diagonal = triangularize(block, q)
        log_det += 2 * np.log(np.abs(diagonal)).sum()
        left.append(block[q:, q:])
    diagonal = triangularize(np.vstack(left), dense.shape[1])
    log_det += 2 * np.log(np.abs(diagonal[:wide])).sum()
    freedom = n - p if reml else n
    if reml:
        log_det += 2 * np.log(np.abs(diagonal[wide:-1])).sum()
    return float(log_det + freedom * np.log(2 * np.pi * Long(sigma2)) + diagonal[-1] ** 2 / Long(sigma2))


def factor(matrix: np.ndarray) -> np.ndarray:
    """Return F (q, q) with F F' = `matrix`, which is positive semidefinite up to rounding: pivoted Cholesky."""
    matrix = np.asarray(matrix, dtype=Long)
    q = len(matrix)
    scale = np.sqrt(np.maximum(np.diag(matrix), 0))
    divisor = np.where(scale > 0, scale, 1)
    rest = matrix / divisor[:, None] / divisor
    F = np.zeros((q, q), dtype=Long)
    done: list[int] = []
    for k in range(q):
        pivot = max((i for i in range(q) if i not in done), key=lambda i: rest[i, i])
        if rest[pivot, pivot] <= NO_VARIANCE:
            break
        column = rest[:, pivot] / np.sqrt(rest[pivot, pivot])
        column[done] = 0
        F[:, k] = column
        rest = rest - np.outer(column, column)
        done.append(pivot)
    return F * scale[:, None]


def triangularize(A: np.ndarray, count: int) -> np.ndarray:
    """Reduce the first `count` columns of A in place by Householder reflections; return the diagonal of the triangle.

    Rows of large entries come first, without which reflections are not accurate row by row.
    """
    A[:] = A[np.argsort(-np.abs(A).max(axis=1), kind="stable")]
    for k in range(min(count, len(A))):
        v = A[k:, k].copy()
        norm = np.sqrt(v @ v)
        if norm > 0:
            v[0] += np.copysign(norm, v[0])
            A[k:, k:] -= np.outer(v, (2 / (v @ v)) * (v @ A[k:, k:]))
    return np.diag(A)[:count].copy()


def _spread(codes: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Z F (n, J q) of a factor from its q columns."""
    levels, places = np.unique(codes, return_inverse=True)
    wide = np.zeros((len(codes), len(levels), columns.shape[1]), dtype=Long)
    wide[np.arange(len(codes)), places] = columns
    return wide.reshape(len(codes), -1)
