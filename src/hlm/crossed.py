"""Crossed designs: which factors are peeled and which form the core, how the core is laid out, and its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from hlm.design import Factor
from hlm.structure import Codes, Hierarchy
from hlm_ext.core import Core
from hlm_ext.crossed import CrossedForest
from hlm_ext.tiles import Tiles
from hlm_ext.units import touched_columns, unit_statistics

Matrix = npt.NDArray[np.float64]

SOLVERS = ("auto", "dense", "sparse")
# Columns of a core up to which Newton's method uses exact second derivatives, and above which the certificate does not.
EXACT_BELOW = 256
AVERAGE_ABOVE = 4096
# A core with fewer columns is dense: its factorisation takes less time than looking for a better order.
ALWAYS_DENSE = 512
# Pairs of levels that meet in a unit, relative to all pairs, above which a sparse order is not looked for.
CLIQUES = 0.2
# Sparse must save this part of the arithmetic of the dense factor: only that one gives exact second derivatives.
SPARSE_GAIN = 0.5


@dataclass(frozen=True, eq=False)
class CrossedStatistics:
    """Statistics of a crossed design in the coordinates of the engine.

    Attributes
    ----------
    stats : list of float64 arrays
        Of the peeled factors, see `hlm_ext.units.unit_statistics`.
    offsets, columns : intp arrays
        Core columns met by each top unit.
    tiles : (T,) intp, (T,) intp, int
        Rows and columns of the tiles and their side.
    positions : list of (J,) intp
        First column of each level of each core factor.
    index, values, cross, corner
        Statistics of the core, see `hlm_ext.core.Core`.
    """

    stats: list[Matrix]
    offsets: Codes
    columns: Codes
    tiles: tuple[Codes, Codes, int]
    positions: list[Codes]
    index: Codes
    values: Matrix
    cross: Matrix
    corner: Matrix

    def forest(self, factors: list[Factor], hierarchy: Hierarchy) -> CrossedForest:
        """Return a forest that can be factored; `factors` in the order of the hierarchy."""
        core = Core(
            Tiles(*self.tiles),
            self.positions,
            [factor.width for factor in factors[len(self.stats) :]],
            self.index,
            self.values,
            self.cross,
            self.corner,
        )
        return CrossedForest(
            self.stats,
            [factor.size for factor in factors],
            [factor.width for factor in factors],
            list(hierarchy.children),
            self.offsets,
            self.columns,
            core,
        )


def crossed_statistics(rows: Matrix, factors: list[Factor], hierarchy: Hierarchy, solver: str) -> CrossedStatistics:
    """Gather the statistics of a crossed design from rows of engine columns.

    Parameters
    ----------
    rows : (n, E) float64
        Columns of each factor in the order of the hierarchy, then X and y; times the roots of the weights.
    factors : list of Factor
        In the order of the hierarchy: `hierarchy.peeled` peeled ones, then those of the core.
    hierarchy : Hierarchy
    solver : {"auto", "dense", "sparse"}
        Factorisation of the core.
    """
    core = factors[hierarchy.peeled :]
    layout = _lay_out(core, hierarchy.rows, unit_rows(hierarchy), solver)
    starts, widths = _starts(core, layout)
    touched = touched_columns(starts, widths, layout.size, hierarchy.rows, unit_rows(hierarchy))
    return _gather(rows, factors, hierarchy, layout, touched)


def gather_again(
    known: CrossedStatistics, rows: Matrix, factors: list[Factor], hierarchy: Hierarchy
) -> CrossedStatistics:
    """Gather the statistics of other rows of the same design, laid out as they are; see `crossed_statistics`."""
    layout = Layout(known.positions, known.tiles[2], known.tiles[0], known.tiles[1])
    return _gather(rows, factors, hierarchy, layout, (known.offsets, known.columns))


def unit_rows(hierarchy: Hierarchy) -> Codes:
    """Bounds of the rows of each top unit of the peeled factors, in the order of the hierarchy."""
    bounds = hierarchy.first if hierarchy.peeled else np.zeros(1, dtype=np.intp)
    for children in hierarchy.children:
        bounds = bounds[children]
    return np.ascontiguousarray(bounds)


def _starts(core: list[Factor], layout: Layout) -> tuple[Codes, Codes]:
    """First column of the level of each core factor that each row belongs to (n, k), and the widths (k,)."""
    starts = np.column_stack([place[factor.codes] for factor, place in zip(core, layout.positions, strict=True)])
    return np.ascontiguousarray(starts, dtype=np.intp), np.array([factor.width for factor in core], dtype=np.intp)


def _gather(
    rows: Matrix, factors: list[Factor], hierarchy: Hierarchy, layout: Layout, touched: tuple[Codes, Codes]
) -> CrossedStatistics:
    peeled, core = factors[: hierarchy.peeled], factors[hierarchy.peeled :]
    starts, widths = _starts(core, layout)
    offsets, columns = touched
    stats = unit_statistics(
        rows,
        hierarchy.rows,
        hierarchy.first,
        list(hierarchy.children),
        np.array([factor.width for factor in peeled], dtype=np.intp),
        starts,
        widths,
        offsets,
        columns,
        layout.size,
    )
    first = sum(factor.width for factor in peeled)
    index, values = _core_products(rows, core, layout, first)
    tail = rows[:, first + int(widths.sum()) :]
    cross = np.zeros((layout.size, tail.shape[1]))
    at = first
    for factor, place in zip(core, layout.positions, strict=True):
        for i in range(factor.width):
            for x in range(tail.shape[1]):
                cross[place + i, x] = np.bincount(factor.codes, rows[:, at] * tail[:, x], factor.size)
            at += 1
    return CrossedStatistics(
        stats,
        offsets,
        columns,
        (layout.rows, layout.cols, layout.side),
        layout.positions,
        index,
        values,
        cross,
        tail.T @ tail,
    )


def traces_affordable(statistics: CrossedStatistics) -> bool:
    """Whether the traces of expected and observed information may be computed: they take the core's whole inverse."""
    _, cols, side = statistics.tiles
    return (int(cols[-1]) + 1) * side <= AVERAGE_ABOVE


def curvature(statistics: CrossedStatistics) -> tuple[str, str]:
    """Return which second derivatives Newton's method and the certificate use.

    Exact ones need the whole inverse of the core and products with it; average information needs neither.
    """
    rows, cols, side = statistics.tiles
    count = int(cols[-1]) + 1
    if len(rows) < count * (count + 1) // 2 or not traces_affordable(statistics):
        return "average", "average"
    return ("observed" if count * side <= EXACT_BELOW else "average"), "observed"


# ---- the layout of the core -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layout:
    """Places of the core's columns and the tiles of its factor.

    Attributes
    ----------
    positions : list of (J,) intp
        First column of each level; its q columns lie in one tile.
    side : int
        Columns of a tile.
    rows, cols : (T,) intp
        Tiles, sorted by column and then by row.
    """

    positions: list[Codes]
    side: int
    rows: Codes
    cols: Codes

    @property
    def size(self) -> int:
        """Columns in all, those that only fill up a tile included."""
        return self.side * (int(self.cols[-1]) + 1)

    def tile_index(self) -> Codes:
        """(tiles, tiles) index of each tile, -1 where there is none."""
        count = int(self.cols[-1]) + 1
        out = np.full((count, count), -1, dtype=np.intp)
        out[self.rows, self.cols] = np.arange(len(self.rows))
        return out


def _lay_out(core: list[Factor], order: Codes | None, unit_rows: Codes, solver: str) -> Layout:
    """Dense, or sparse with a band order, whichever costs less (or what is asked for)."""
    widths = np.repeat([factor.width for factor in core], [factor.size for factor in core])
    side = _tile_side(int(widths.sum()), int(widths.max()))
    dense = _place(core, widths, np.arange(len(widths)), side)
    count = int(dense[1].max()) + 1
    cols, rows = np.triu_indices(count)
    whole = Layout(dense[0], side, rows.astype(np.intp), cols.astype(np.intp))
    if solver == "dense" or (solver == "auto" and len(widths) <= ALWAYS_DENSE):
        return whole
    met = _met_levels(core, order, unit_rows)
    if solver == "auto" and float((np.diff(met[0]) ** 2).sum()) > CLIQUES * len(widths) ** 2:
        return whole
    graph = _graph(len(widths), met)
    positions, tile_of = _place(core, widths, _band_order(graph), side)
    rows, cols, work = _fill(graph, tile_of)
    if solver == "auto" and work > SPARSE_GAIN * count**3 / 6:
        return whole
    return Layout(positions, side, rows, cols)


def _tile_side(columns: int, widest: int) -> int:
    """Columns of a tile: at most 64 (see `hlm_ext.tiles`), and tiles of about equal filling."""
    tiles = -(-columns // 64)
    return max(-(-columns // tiles) + 3 & ~3, widest)


def _met_levels(core: list[Factor], order: Codes | None, unit_rows: Codes) -> tuple[Codes, Codes]:
    """Offsets and levels of the core, counted through, that each unit meets."""
    starts = np.cumsum([0] + [factor.size for factor in core])
    levels = np.column_stack([factor.codes + start for factor, start in zip(core, starts[:-1], strict=True)])
    ones = np.ones(len(core), dtype=np.intp)
    return touched_columns(np.ascontiguousarray(levels), ones, int(starts[-1]), order, unit_rows)


def _place(core: list[Factor], widths: Codes, order: Codes, side: int) -> tuple[list[Codes], Codes]:
    """First column of each level when levels follow each other in `order`, and the tile of each level."""
    places = np.empty(len(widths), dtype=np.intp)
    if len(set(widths.tolist())) == 1:
        per_tile = side // int(widths[0])
        rank = np.arange(len(order))
        places[order] = rank // per_tile * side + rank % per_tile * int(widths[0])
    else:
        at = 0
        for level in order.tolist():
            if at % side + widths[level] > side:
                at += side - at % side
            places[level] = at
            at += int(widths[level])
    cuts = np.cumsum([factor.size for factor in core])[:-1]
    return np.split(places, cuts), places // side


def _graph(count: int, met: tuple[Codes, Codes]) -> sparse.csr_array:
    """Which levels of the core meet in a unit."""
    offsets, columns = met
    units = sparse.csr_array((np.ones(len(columns)), columns, offsets), shape=(len(offsets) - 1, count))
    return (units.T @ units).tocsr()


def _band_order(graph: sparse.csr_array) -> Codes:
    """Levels in an order of small band; those that meet very many others come last."""
    degree = np.diff(graph.indptr)
    hub = degree > max(64.0, 10 * float(np.median(degree)))
    rest = np.flatnonzero(~hub)
    inner: Codes = reverse_cuthill_mckee(sparse.csr_matrix(graph[rest][:, rest]), symmetric_mode=True)
    return np.concatenate([rest[inner], np.flatnonzero(hub)]).astype(np.intp)


def _fill(graph: sparse.csr_array, tile_of: Codes) -> tuple[Codes, Codes, float]:
    """Tiles of the Cholesky factor, sorted by column and row, and the tile products that it takes."""
    coo = graph.tocoo()
    high, low = (np.maximum(tile_of[coo.row], tile_of[coo.col]), np.minimum(tile_of[coo.row], tile_of[coo.col]))
    count = int(tile_of.max()) + 1
    pairs = np.unique(low * count + high)
    below: list[set[int]] = [set() for _ in range(count)]
    for pair in pairs.tolist():
        if pair // count < pair % count:
            below[pair // count].add(pair % count)
    work = 0.0
    rows, cols = [], []
    for j, mine in enumerate(below):
        if mine:
            parent = min(mine)
            below[parent] |= mine - {parent}
        work += 0.5 * (len(mine) + 1) ** 2
        rows += [j, *sorted(mine)]
        cols += [j] * (len(mine) + 1)
    return np.array(rows, dtype=np.intp), np.array(cols, dtype=np.intp), work


# ---- its statistics -------------------------------------------------------------------------------------------------


def _core_products(rows: Matrix, core: list[Factor], layout: Layout, first: int) -> tuple[Codes, Matrix]:
    """Z'WZ of the core: places in the flattened tiles and values."""
    tile = layout.tile_index()
    b = layout.side
    offsets = first + np.cumsum([0] + [factor.width for factor in core])
    index, values = [], []
    for one, other in combinations_with_replacement(range(len(core)), 2):
        x, y = core[one], core[other]
        if one == other:
            key, left, right = x.codes, np.arange(x.size), np.arange(x.size)
        else:
            key, pairs = pd.factorize(x.codes * y.size + y.codes)
            left, right = pairs // y.size, pairs % y.size
        for i in range(x.width):
            for j in range(y.width):
                value = np.bincount(key, rows[:, offsets[one] + i] * rows[:, offsets[other] + j], len(left))
                r, c = layout.positions[one][left] + i, layout.positions[other][right] + j
                swap = r // b < c // b
                r, c = np.where(swap, c, r), np.where(swap, r, c)
                index.append((tile[r // b, c // b] * b + r % b) * b + c % b)
                values.append(value)
                if one != other:  # a diagonal tile has both triangles
                    same = r // b == c // b
                    index.append(((tile[r // b, c // b] * b + c % b) * b + r % b)[same])
                    values.append(value[same])
    return np.concatenate(index), np.concatenate(values)
