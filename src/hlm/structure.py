"""What the groups are: codes of labels, nesting, and the order in which a hierarchy is walked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm_ext.structure import appearance, compact_codes, first_rows, parents, sort_rows

if TYPE_CHECKING:
    from hlm.design import Factor

Codes = npt.NDArray[np.intp]


def code_labels(values: Any) -> tuple[Codes, pd.Index]:
    """Code labels by hashing, never through text or float.

    Parameters
    ----------
    values : (n,) pandas Series or array, without missing values

    Returns
    -------
    codes : (n,) intp
    labels : (J,) Index
        Distinct labels in ascending order (in order of appearance where they cannot be compared); a categorical keeps
        the order of its categories, unused ones left out.
    """
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        categorical: Any = values.array if isinstance(values, pd.Series) else values
        codes, used = compact_codes(
            np.ascontiguousarray(categorical.codes, dtype=np.intp), 0, max(len(dtype.categories) - 1, 0)
        )
        return codes, dtype.categories[used]
    if isinstance(dtype, np.dtype) and dtype.kind in "iu" and len(values):
        array = np.asarray(values)
        low, high = int(array.min()), int(array.max())
        if high - low <= 4 * len(array) + 1000 and high < 2**62:
            codes, distinct = compact_codes(np.ascontiguousarray(array, dtype=np.intp), low, high)
            return codes, pd.Index(distinct.astype(dtype, copy=False))
    objects = isinstance(dtype, np.dtype) and dtype.kind == "O"
    codes, labels = pd.factorize(values, sort=not objects)
    codes = np.ascontiguousarray(codes, dtype=np.intp)
    if objects:
        labels = np.asarray(labels, dtype=object)
        try:
            order = sorted(range(len(labels)), key=labels.__getitem__)
        except Exception:  # labels that have no common order; what their comparison raises is theirs
            order = list(range(len(labels)))
        # one slot more, so that the code -1 of a missing label finds -1
        rank = np.full(len(labels) + 1, -1, dtype=np.intp)
        rank[order] = np.arange(len(labels))
        codes, labels = rank[codes], labels[order]
    return codes, pd.Index(labels, tupleize_cols=False)


def cross_codes(parts: list[tuple[Codes, pd.Index]], names: list[str]) -> tuple[Codes, pd.Index]:
    """Code the interaction ``a:b:…`` of factors; labels are tuples of the factors' own labels, in their order."""
    codes, count = parts[0][0], len(parts[0][1])
    picks: list[Codes] = [np.arange(count, dtype=np.intp)]
    for part, labels in parts[1:]:
        size = len(labels)
        # `count` is at most n, so the product stays far below 2**63
        pairs = codes * size + part
        codes, used = code_labels(pairs)
        distinct = used.to_numpy()
        picks = [pick[distinct // size] for pick in picks] + [distinct % size]
        count = len(distinct)
    # from codes: pandas would sort labels that cannot be compared
    return codes, pd.MultiIndex(levels=[labels for _, labels in parts], codes=picks, names=names)


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Factors in the order in which they are eliminated: a nested chain, leaves first, then the core of crossed ones.

    Attributes
    ----------
    factors : tuple of int
        Positions of the design's factors: the chain, most levels first, then the core.
    peeled : int
        Factors in the chain; the rest form the core.
    levels : tuple of (J,) intp arrays
        For each of `factors`: which of its levels stands at each position of the forest.
    children : tuple of (J + 1,) intp arrays
        For each factor of the chain but the first: offsets of the children of each position.
    rows : (n,) intp array or None
        Rows sorted by leaf; None when they stand so.
    first : (J + 1,) intp array
        Offsets of each leaf's rows.
    """

    factors: tuple[int, ...]
    peeled: int
    levels: tuple[Codes, ...]
    children: tuple[Codes, ...]
    rows: Codes | None
    first: Codes

    @property
    def is_nested(self) -> bool:
        """Whether the chain holds all factors."""
        return self.peeled == len(self.factors)


def find_hierarchy(
    codes: list[Codes], sizes: list[int], widths: list[int], n: int, related: Sequence[int] = ()
) -> Hierarchy:
    """Split factors into a nested chain and a core, and lay out the forest of the chain.

    The chain begins with the factor that has most effects and takes in turn each next one that it is nested in; where
    others are left, as much of it is kept as makes the factorisation cheapest. Positions follow the first appearance in
    the data, parents before children, so that rows that come sorted by group need not be moved.

    Parameters
    ----------
    codes : list of (n,) intp
        Of each factor.
    sizes, widths : lists of int
        J and q of each factor.
    n : int
        Rows.
    related : sequence of int
        Factors whose levels are not independent: they belong to the core.
    """
    order = sorted(range(len(codes)), key=lambda k: -sizes[k])
    core = [k for k in order if k in related]
    order = [k for k in order if k not in related]
    if not order:
        every = tuple(np.arange(sizes[k], dtype=np.intp) for k in core)
        return Hierarchy(tuple(core), 0, every, (), None, np.array([0, n], dtype=np.intp))
    chain, links = [order[0]], []
    for k in order[1:]:
        of, row = parents(codes[chain[-1]], first_rows(codes[chain[-1]], sizes[chain[-1]]), codes[k])
        if row < 0:
            chain.append(k)
            links.append(of)
        else:
            core.append(k)
    if core and links:
        depth = _best_depth(codes, sizes, widths, chain, core)
        core = sorted(core + chain[depth:], key=lambda k: -sizes[k])
        chain, links = chain[:depth], links[: depth - 1]
    leaves = appearance(codes[chain[0]], sizes[chain[0]])
    if links:
        keys = [np.arange(len(leaves))]
        of = leaves
        for link, k in zip(links, chain[1:], strict=True):
            of = link[of]
            rank = np.full(sizes[k], len(leaves))
            np.minimum.at(rank, of, np.arange(len(leaves)))
            keys.append(rank[of])
        leaves = leaves[np.lexsort(keys)]
    levels, children = [leaves], []
    for link in links:
        parent_of = link[levels[-1]]
        starts = np.flatnonzero(np.r_[True, parent_of[1:] != parent_of[:-1]])
        children.append(np.r_[starts, len(parent_of)].astype(np.intp))
        levels.append(parent_of[starts])
    position = np.empty(len(leaves), dtype=np.intp)
    position[leaves] = np.arange(len(leaves))
    rows, first = sort_rows(codes[chain[0]], position)
    levels += [np.arange(sizes[k], dtype=np.intp) for k in core]
    return Hierarchy((*chain, *core), len(chain), tuple(levels), tuple(children), rows, first)


def _best_depth(codes: list[Codes], sizes: list[int], widths: list[int], chain: list[int], core: list[int]) -> int:
    """How many factors of the chain to peel: flops of their fronts, and of a dense factor of what is left."""
    costs = []
    for depth in range(1, len(chain) + 1):
        top = codes[chain[depth - 1]]
        left = [*core, *chain[depth:]]
        met = np.zeros(sizes[chain[depth - 1]])
        for k in left:
            pairs = np.unique(top * sizes[k] + codes[k])
            met += widths[k] * np.bincount(pairs // sizes[k], minlength=len(met))
        fronts = 0.0
        for k in chain[:depth]:
            inside = np.unique(top * sizes[k] + codes[k]) // sizes[k]  # each level of k lies in one top unit
            fronts += widths[k] * float((np.bincount(inside, minlength=len(met)) * met**2).sum())
        costs.append(fronts + sum(sizes[k] * widths[k] for k in left) ** 3 / 3)
    return int(np.argmin(costs)) + 1


def reused_ids(factors: Sequence[Factor]) -> list[tuple[str, str]]:
    """Return pairs (inner, outer) of crossed factors where `inner` looks numbered anew in each level of `outer`.

    That is: whole numbers, and in nine of ten levels of `outer` exactly the first few of them, as when class 1 of one
    school is not class 1 of another.
    """
    out = []
    for inner, outer in permutations(factors, 2):
        if not pd.api.types.is_integer_dtype(inner.labels):
            continue
        pairs = np.unique(outer.codes * inner.size + inner.codes)
        counts = np.bincount(pairs // inner.size, minlength=outer.size)
        last = np.zeros(outer.size, dtype=np.intp)
        np.maximum.at(last, pairs // inner.size, pairs % inner.size)
        if counts.sum() > inner.size and np.mean(last + 1 == counts) >= 0.9:
            out.append((inner.name, outer.name))
    return out
