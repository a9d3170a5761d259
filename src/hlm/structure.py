"""What the groups are: codes of labels, nesting, and the order in which a hierarchy is walked."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DesignError, show
from hlm_ext.structure import appearance, compact_codes, first_rows, parents, sort_rows

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
    """A nested chain of factors in the order in which it is eliminated: leaves first.

    Attributes
    ----------
    factors : tuple of int
        Positions of the design's factors, most levels first.
    levels : tuple of (J,) intp arrays
        For each of `factors`: which of its levels stands at each position of the forest.
    children : tuple of (J + 1,) intp arrays
        For each factor but the first: offsets of the children of each position.
    rows : (n,) intp array or None
        Rows sorted by leaf; None when they stand so.
    first : (J + 1,) intp array
        Offsets of each leaf's rows.
    """

    factors: tuple[int, ...]
    levels: tuple[Codes, ...]
    children: tuple[Codes, ...]
    rows: Codes | None
    first: Codes


def find_hierarchy(codes: list[Codes], labels: list[pd.Index], names: list[str], n: int) -> Hierarchy:
    """Order nested factors, check that they are nested, and lay out the forest.

    Positions follow the first appearance in the data, parents before children, so that rows that come sorted by group
    need not be moved.

    Raises
    ------
    DesignError
        If two factors are crossed, naming them and a level that shows it.
    """
    if not codes:
        return Hierarchy((), (), (), None, np.array([0, n], dtype=np.intp))
    order = sorted(range(len(codes)), key=lambda k: -len(labels[k]))
    links = _links(codes, labels, names, order)
    leaves = appearance(codes[order[0]], len(labels[order[0]]))
    if links:
        keys = [np.arange(len(leaves))]
        of = leaves
        for link in links:
            of = link[of]
            rank = np.full(len(labels[order[len(keys)]]), len(leaves))
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
    rows, first = sort_rows(codes[order[0]], position)
    return Hierarchy(tuple(order), tuple(levels), tuple(children), rows, first)


def _links(codes: list[Codes], labels: list[pd.Index], names: list[str], order: list[int]) -> list[Codes]:
    """Return for each factor of `order` but the last the parent of each level, or raise when two are crossed."""
    links = []
    for child, parent in pairwise(order):
        of, row = parents(codes[child], first_rows(codes[child], len(labels[child])), codes[parent])
        if row >= 0:
            raise _crossed(codes, labels, names, child, parent, of, row)
        links.append(of)
    return links


def _crossed(
    codes: list[Codes], labels: list[pd.Index], names: list[str], child: int, parent: int, of: Codes, row: int
) -> DesignError:
    level = codes[child][row]
    one, other = labels[parent][of[level]], labels[parent][codes[parent][row]]
    return DesignError(
        f"'{names[child]}' is not nested in '{names[parent]}': its level {show(labels[child][level])} occurs in "
        f"{show(one)} and in {show(other)} (row {row}). If ids are reused in each '{names[parent]}', write "
        f"({names[parent]}/{names[child]}); truly crossed factors need a core, which this version of the engine does "
        "not have",
        column=names[child],
        group=labels[child][level],
        row=int(row),
    )
