"""Statistics: what the likelihood needs of the rows (MATH: kernel 1). Nothing after `gather` sees the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hlm.design import Column, Design
from hlm.errors import DataError, DegenerateError
from hlm.frames import bad_values
from hlm.structure import Hierarchy, find_hierarchy
from hlm_ext.columns import Columns, location
from hlm_ext.gather import gather as gather_products
from hlm_ext.gather import scan
from hlm_ext.project import project

Matrix = npt.NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
# Squares of a spread below or of values above these are no normal numbers.
SMALL, LARGE = 1.5e-154, 1e150


@dataclass(frozen=True, eq=False)
class Statistics:
    """Cross-products of shifted and scaled columns, for all rows and for each leaf of the hierarchy.

    The *pool* is the set of distinct columns of X, of all Z and of y (last); its columns are
    ``(x - mean) * factor``, where a constant column, if there is one, stays as it is (scaled to 1).

    Attributes
    ----------
    n : int
        Observations: the sum of the frequencies.
    log_weights : float
        Σ f log w.
    mean, factor : (C,) float64
        Shift and scale of the pool; the shift is 0 when no constant column can undo it.
    constant : int
        Position of a constant column in the pool, -1 without one.
    fixed : (p,) intp
        Pool position of each column of X.
    multiple : (C,) float64
        For a pool column that is constant: its value; else 0.
    random : tuple of (q,) intp
        Pool positions of each factor's columns, in the order of the hierarchy.
    total : (C, C) float64
    products : (J, Q, W) float64
        Products of the `selected` pool columns with all, per leaf; W ≥ C.
    selected : (Q,) intp
    hierarchy : Hierarchy
    noise : (C,) float64
        Length of the rounding errors that the values of each column came with, half a unit in the last digit or more.
    columns : tuple of (n,) float64
        The columns of the pool before shift and scale, y last.
    weights : (n,) float64 or None
        Precision weight times frequency.
    """

    n: int
    log_weights: float
    mean: Matrix
    factor: Matrix
    constant: int
    multiple: Matrix
    fixed: npt.NDArray[np.intp]
    random: tuple[npt.NDArray[np.intp], ...]
    total: Matrix
    products: Matrix
    selected: npt.NDArray[np.intp]
    hierarchy: Hierarchy
    noise: Matrix
    columns: tuple[Column, ...]
    weights: Column | None

    def rows(self, basis: Matrix) -> Matrix:
        """Return the (n, E) combinations pool @ basis of the rows, each correct to the last digit."""
        return project(Columns(self.columns), self.mean, self.factor, basis)

    def regather(self, basis: Matrix, widths: list[int]) -> Statistics:
        """Gather the combinations pool @ basis of the rows: a new pool, in which less is lost to rounding.

        Parameters
        ----------
        basis : (C, E) float64
            Columns of each factor, leaves first, then those of X, then y.
        widths : list of int
            Number of columns of each factor.
        """
        rows = self.rows(basis)
        edges = np.cumsum([0, *widths])
        places = np.arange(rows.shape[1])
        shift, factor = np.zeros(len(places)), np.ones(len(places))
        selected = places[: edges[-1] if len(self.selected) else 0]
        columns = tuple(rows.T)
        total, products = gather_products(
            Columns(columns), self.hierarchy.rows, self.hierarchy.first, shift, factor, selected, self.weights
        )
        return replace(
            self,
            mean=shift,
            factor=factor,
            constant=-1,
            multiple=shift,
            fixed=places[edges[-1] : -1],
            random=tuple(places[lo:hi] for lo, hi in pairwise(edges)),
            total=total,
            products=products,
            selected=selected,
            noise=self.noise @ np.abs(basis),
            columns=columns,
        )


class _Pool:
    """Distinct columns with their names; a column is known by its address and stride."""

    def __init__(self) -> None:
        self.columns: list[Column] = []
        self.names: list[str] = []
        self._places: dict[tuple[int, int], int] = {}

    def place(self, column: Column, name: str) -> int:
        """Return the position of a column, a new one if it was not there."""
        key = location(column)
        place = self._places.setdefault(key, len(self.columns))
        if place == len(self.columns):
            self.columns.append(column)
            self.names.append(name)
        return place


def _merge_equal(columns: list[Column], mean: Matrix, spread: Matrix) -> npt.NDArray[np.intp] | None:
    """Return for each column the first one with the same values, or None if all differ: no copy is multiplied twice.

    Only columns with the same mean and spread are compared, so this costs next to nothing where there are no copies.
    """
    keys = list(zip(mean.tolist(), spread.tolist(), strict=True))
    if len(set(keys)) == len(keys):
        return None
    first: dict[tuple[float, float], int] = {}
    same = np.arange(len(columns))
    for j, key in enumerate(keys):
        i = first.setdefault(key, j)
        if i != j and (spread[j] == 0 or np.array_equal(columns[i], columns[j])):
            same[j] = i
    return same


def _check_finite(column: Column, name: str) -> None:
    for bad, what in ((np.isnan(column), "missing"), (np.isinf(column), "infinite")):
        if bad.any():
            raise bad_values(f"column '{name}'", name, bad, what)
    size = float(np.abs(column).max())
    if size > LARGE:
        raise DataError(
            f"column '{name}' holds values too large to be squared (up to {size:.1g}); rescale it", column=name
        )


def _check_constant(column: Column, name: str) -> None:
    """Refuse a column that only passes for a constant because its squares underflow, or a constant as small as that."""
    low, high = (float(column.min()), float(column.max())) if column.strides[0] else (1.0, 1.0)
    if low < high or 0 < abs(low) < SMALL:
        what = f"varies by {high - low:.1g} only" if low < high else f"is {low:.1g} in every row"
        raise DataError(f"column '{name}' {what}: values too small to be squared; rescale it", column=name)


def _shift_and_scale(mean: list[float], spread: list[float]) -> tuple[Matrix, Matrix, Matrix, int]:
    """Return shift, factor and constant value of each pool column (the last is y), and the place of a constant one.

    Factors are powers of two, which round nothing, but for a constant, which becomes 1. Plain Python: the pool has few
    columns, and a model of two of them should be fitted in microseconds.
    """
    multiple = [m if s == 0 else 0.0 for m, s in zip(mean, spread, strict=True)]
    multiple[-1] = 0.0  # a constant response is no constant column of the model
    constant = next((j for j, value in enumerate(multiple) if value != 0), -1)
    factor = [
        1 / value if value else math.ldexp(1.0, -math.frexp(s or 1.0)[1])
        for value, s in zip(multiple, spread, strict=True)
    ]
    shift = [m if value == 0 and constant >= 0 else 0.0 for m, value in zip(mean, multiple, strict=True)]
    return np.array(shift), np.array(factor), np.array(multiple), constant


def _check_columns(
    design: Design, columns: list[Column], names: list[str], mean: Matrix, spread: Matrix, fixed: npt.NDArray[np.intp]
) -> None:
    """Check what the first look shows: values that cannot be squared, and a response that a fixed column reproduces."""
    if not (np.isfinite(spread).all() and np.isfinite(mean).all()):
        for column, name in zip(columns, names, strict=True):
            _check_finite(column, name)
    for column, name, size in zip(columns, names, spread.tolist(), strict=True):
        if size < SMALL:
            _check_constant(column, name)
    if spread[-1] == 0 and any(spread[j] == 0 and mean[j] != 0 for j in fixed):
        what = f"response '{design.response}'" + (" less its offset" if design.offset is not None else "")
        raise DegenerateError(f"{what} is constant", column=design.response)


def gather(design: Design) -> Statistics:
    """Gather the statistics of a design: a first look, then one pass over the rows.

    Raises
    ------
    DataError
        If a column holds values that are not finite, naming it and the first row, or too large or small to be squared.
    DegenerateError
        If the response is constant, as a fixed column is.
    """
    hierarchy = find_hierarchy(
        [factor.codes for factor in design.factors],
        [factor.size for factor in design.factors],
        [factor.width for factor in design.factors],
        design.rows,
        [k for k, factor in enumerate(design.factors) if factor.between is not None],
    )
    weights = design.row_weights
    pool = _Pool()
    fixed = np.array([pool.place(*pair) for pair in zip(design.columns, design.names, strict=True)], dtype=np.intp)
    random = [
        np.array([pool.place(*pair) for pair in zip(factor.columns, factor.effects, strict=True)], dtype=np.intp)
        for factor in (design.factors[k] for k in hierarchy.factors)
    ]
    columns = [*pool.columns, design.y]
    mean, spread = scan(Columns(columns))
    _check_columns(design, columns, [*pool.names, design.response], mean, spread, fixed)
    same = _merge_equal(pool.columns, mean[:-1], spread[:-1])
    if same is not None:
        distinct, compact = np.unique(same, return_inverse=True)
        fixed, random = compact[fixed], [compact[places] for places in random]
        columns = [*(pool.columns[j] for j in distinct), design.y]
        chosen = np.append(distinct, len(pool.columns))
        mean, spread = mean[chosen], spread[chosen]
    shift, factor, multiple, constant = _shift_and_scale(mean.tolist(), spread.tolist())
    # products per leaf are of use in a nested hierarchy only; a crossed design is gathered in the engine's coordinates
    chosen_columns = {j for places in random for j in places.tolist()} if hierarchy.is_nested else set()
    if chosen_columns and constant >= 0:
        chosen_columns.add(constant)
    selected = np.array(sorted(chosen_columns), dtype=np.intp)
    total, products = gather_products(
        Columns(columns),
        hierarchy.rows,
        hierarchy.first,
        shift,
        factor,
        selected,
        weights,
    )
    rows_weight = design.rows if weights is None else float(weights.sum())
    noise = math.sqrt(rows_weight) * EPSILON * np.hypot(mean, spread) * np.abs(factor)
    return Statistics(
        n=design.nobs,
        log_weights=design.log_weights,
        mean=shift,
        factor=factor,
        constant=constant,
        multiple=multiple,
        fixed=fixed,
        random=tuple(random),
        total=total,
        products=products,
        selected=selected,
        hierarchy=hierarchy,
        noise=noise,
        columns=tuple(columns),
        weights=weights,
    )
