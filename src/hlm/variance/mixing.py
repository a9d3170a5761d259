"""Statistics of the core in the columns of v where levels are related: u = R v with independent v, so Z u = (Z R) v.

The rows are not needed for it: Z'WZ becomes R'Z'WZR. R fills what it touches, so such a core is dense, and a peeled
unit meets every column that one of its levels is related to.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from hlm.crossed import CrossedStatistics
from hlm.design import Factor
from hlm.structure import Codes, Hierarchy
from hlm_ext.tiles import Tiles

Matrix = npt.NDArray[np.float64]


def relate(statistics: CrossedStatistics, factors: list[Factor], hierarchy: Hierarchy) -> CrossedStatistics:
    """Change the columns of the core from those of u to those of v.

    Parameters
    ----------
    statistics : CrossedStatistics
        With a dense core; each column belongs to one level.
    factors : list of Factor
        In the order of the hierarchy.
    hierarchy : Hierarchy
    """
    R = _mixing(statistics, factors[hierarchy.peeled :])
    tiles = Tiles(*statistics.tiles)
    b, side = tiles.b, tiles.side
    half = np.zeros(len(tiles.rows) * b * b)
    half[statistics.index] = statistics.values
    S = R.T @ (R.T @ tiles.full(half.reshape(-1, b, b))).T
    S = np.ascontiguousarray((0.5 * (S + S.T)).reshape(side, b, side, b).transpose(0, 2, 1, 3))
    values = S[statistics.tiles[0], statistics.tiles[1]].reshape(-1)
    stats, offsets, columns = _mix_units(statistics, factors[: hierarchy.peeled], hierarchy, R)
    return replace(
        statistics,
        stats=stats,
        offsets=offsets,
        columns=columns,
        index=np.arange(len(values)),
        values=values,
        cross=R.T @ statistics.cross,
    )


def _mixing(statistics: CrossedStatistics, core: list[Factor]) -> sparse.csr_array:
    """Return blockdiag(R ⊗ I), (C, C), over the columns of the core."""
    size = statistics.cross.shape[0]
    rows, cols, values = [], [], []
    for place, factor in zip(statistics.positions, core, strict=True):
        one, other = np.arange(len(place)), np.arange(len(place))
        value = np.ones(len(place))
        if factor.between is not None:
            one, other = np.nonzero(factor.between.root)
            value = factor.between.root[one, other]
        for i in range(factor.width):
            rows.append(place[one] + i)
            cols.append(place[other] + i)
            values.append(value)
    return sparse.csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=(size, size))


def _mix_units(
    statistics: CrossedStatistics, peeled: list[Factor], hierarchy: Hierarchy, R: sparse.csr_array
) -> tuple[list[Matrix], Codes, Codes]:
    """Statistics of the peeled factors over the columns that each unit meets now."""
    units = len(statistics.offsets) - 1
    begins = [np.arange(units + 1)]
    for children in reversed(hierarchy.children):
        begins.insert(0, children[begins[0]])
    tail = statistics.cross.shape[1]
    at = [0] * len(peeled)
    blocks: list[list[Matrix]] = [[] for _ in peeled]
    met: list[Codes] = []
    for unit in range(units):
        own = statistics.columns[statistics.offsets[unit] : statistics.offsets[unit + 1]]
        mix = R[own]
        now = np.unique(mix.indices).astype(np.intp)
        dense = mix[:, now].toarray()
        met.append(now)
        before = sum(factor.width for factor in peeled)
        for k, factor in enumerate(peeled):
            rows = int(begins[k][unit + 1] - begins[k][unit]) * factor.width
            width = before + len(own) + tail
            block = statistics.stats[k][at[k] : at[k] + rows * width].reshape(rows, width)
            at[k] += rows * width
            core = block[:, before : before + len(own)] @ dense
            blocks[k].append(np.hstack([block[:, :before], core, block[:, before + len(own) :]]).reshape(-1))
            before -= factor.width
    offsets = np.cumsum([0] + [len(columns) for columns in met]).astype(np.intp)
    columns = np.concatenate([*met, np.zeros(0, dtype=np.intp)]).astype(np.intp)
    return [np.concatenate(parts) for parts in blocks], offsets, columns
