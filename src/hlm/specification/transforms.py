"""What the allowed functions compute; those that learn from data keep it in a State, for new rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.errors import DataError, show
from hlm.specification.tree import Binary, Call, Name, Node, Number, Unary

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

# what each call learnt, under its spelling: {"center(x)": {"center": 3.2}}
State: TypeAlias = dict[str, dict[str, Any]]
Options: TypeAlias = Mapping[str, Any]

_ELEMENTWISE: dict[str, Callable[[Array], Array]] = {
    "I": lambda x: x,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "exp": np.exp,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
}
# beyond these a basis is noise, and takes for ever
_MOST = {"degree": 100, "df": 1000}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "^": np.float_power,
    "**": np.float_power,
}


class Source(Protocol):
    """Where the values of names come from."""

    def numbers(self, name: Name) -> Array | float:
        """Return the (n,) float64 values of a column, or the constant that a name stands for."""

    def groups(self, name: Name) -> tuple[Codes, pd.Index]:
        """Return the codes of a grouping column, -1 where it is missing, and its labels."""


def calculate(node: Node, source: Source, state: State) -> Array | np.float64:
    """Evaluate arithmetic and one-column functions.

    Parameters
    ----------
    node : Node
    source : Source
    state : State
        Filled where a function learns from the data, used where it has learnt already.

    Returns
    -------
    (n,) float64 array, or a scalar if no column is involved
        Not finite where the arithmetic is not; the caller judges.
    """
    if isinstance(node, Name):
        return np.float64(value) if isinstance(value := source.numbers(node), float) else value
    if isinstance(node, Number):
        return np.float64(node.value)
    if isinstance(node, Unary):
        operand = calculate(node.operand, source, state)
        return -operand if node.operator == "-" else operand
    if isinstance(node, Binary):
        left, right = calculate(node.left, source, state), calculate(node.right, source, state)
        return _ARITHMETIC[node.operator](left, right)  # type: ignore[no-any-return]
    assert isinstance(node, Call)
    x = np.asarray(calculate(node.argument, source, state))
    options: Options = dict(node.options)
    if node.function == "log":
        return np.log(x) / np.log(options["base"]) if "base" in options else np.log(x)
    if isinstance(by := options.get("by"), Name):
        means = _group_means(x, node, *source.groups(by), options, state.setdefault(node.text, {}))
        return means if node.function == "mean" else x - means  # type: ignore[no-any-return]
    if node.function in ("center", "scale"):
        return _standardise(x, node, options, state.setdefault(node.text, {}))
    return _ELEMENTWISE[node.function](x)


def learns(node: Node) -> bool:
    """Whether an expression takes something from the data as a whole: a mean, a spread, knots."""
    if isinstance(node, Call):
        return node.function in ("center", "mean", "scale") or node.function in _BASES or learns(node.argument)
    if isinstance(node, Binary):
        return learns(node.left) or learns(node.right)
    return isinstance(node, Unary) and learns(node.operand)


def _standardise(x: Array, call: Call, options: Options, learnt: dict[str, Any]) -> Array:
    """Subtract the mean and divide by the standard deviation (n - 1), or by what the options say, as R's `scale`."""
    if not learnt:
        center, scale = options.get("center", True), options.get("scale", call.function == "scale")
        n = x.size
        learnt["center"] = (float(x.mean()) if n else 0.0) if center is True else float(center)
        centred = x - learnt["center"]
        spread = math.sqrt(float(centred @ centred) / max(n - 1, 1)) if scale is True and n else 1.0
        if spread == 0.0:
            raise DataError(f"{call.text} divides by zero: {call.argument.text} is constant")
        learnt["scale"] = spread if scale is True else 1.0 if scale is False else float(scale)
    result: Array = x - learnt["center"]
    return result if learnt["scale"] == 1.0 else result / learnt["scale"]


def _group_means(
    x: Array, call: Call, codes: Codes, labels: pd.Index, options: Options, learnt: dict[str, Any]
) -> Array:
    """Return the mean (n,) of the group of each row: that of the fit, and for a group it has not seen by `new`.

    "own": the mean of its rows here, of all rows of the fit where it has none with a value; "grand": that one at once.
    """
    rows = (codes >= 0) & ~np.isnan(x)
    counts = np.bincount(codes[rows], minlength=len(labels))
    with np.errstate(invalid="ignore"):
        own: Array = np.bincount(codes[rows], x[rows], minlength=len(labels)) / counts
    if not learnt:
        learnt.update(labels=labels, means=own, center=float(x[rows].mean()) if rows.any() else 0.0)
    known = learnt["labels"].get_indexer(labels)
    means: Array = np.append(learnt["means"], np.nan)[known]
    policy = options.get("new", "own")
    if policy == "error" and (known < 0).any():
        label = labels[int(np.argmax(known < 0))]
        raise DataError(f"{call.text} has no mean for {show(label)}, which was not in the fit", group=label)
    means = np.where((known < 0) & (policy == "own"), own, means)
    return np.append(np.where(np.isnan(means), learnt["center"], means), np.nan)[codes]


def basis(call: Call, x: Array, state: State) -> Array:
    """Evaluate a function that makes several columns: poly, bs, ns, cr.

    Parameters
    ----------
    call : Call
    x : (n,) array
        NaN gives NaN in every column of the row.
    state : State

    Returns
    -------
    (n, k) float64 array

    Raises
    ------
    DataError
        If the options ask for more than the data allow.
    """
    options: Options = dict(call.options)
    for name, most in _MOST.items():
        if name in options and options[name] not in range(1, most + 1):
            raise DataError(f"{name} in {call.text} must be an integer from 1 to {most}, got {options[name]:g}")
    known = ~np.isnan(x)
    learnt = state.get(call.text) or {}
    if not learnt and not known.any():
        raise DataError(f"{call.text} has no data to place its knots or polynomials by")
    try:
        columns = _BASES[call.function](x[known], options, learnt)
    except ValueError as error:
        raise DataError(f"{call.text}: {error}") from error
    state[call.text] = learnt
    if known.all():
        return columns
    result = np.full((len(x), columns.shape[1]), np.nan)
    result[known] = columns
    return result


def _poly(x: Array, options: Options, learnt: dict[str, Any]) -> Array:
    """Orthonormal polynomials on the training data without the constant (R's `poly`), or plain powers (``raw``)."""
    degree = int(options.get("degree", 1))
    if options.get("raw", False):
        learnt["raw"] = True
        powers: Array = np.power.outer(x, np.arange(1.0, degree + 1))
        return powers
    from formulaic.transforms import poly

    if not learnt:
        distinct = len(np.unique(x))
        if degree >= distinct:
            raise ValueError(f"the degree must be less than the number of distinct values ({distinct})")
        # the recurrence loses digits far from zero and overflows at high powers; its result knows no units
        center = float(x.mean())
        learnt.update(center=center, unit=float(np.abs(x - center).max()), recurrence={})
    return _stack(poly((x - learnt["center"]) / learnt["unit"], degree, _state=learnt["recurrence"]))


def _bs(x: Array, options: Options, learnt: dict[str, Any]) -> Array:
    """B-splines (R's `bs`), polynomials continued beyond the boundary knots."""
    from formulaic.transforms import basis_spline

    lower, upper = _bounds(x, options)
    columns = basis_spline(
        x,
        df=_integer(options.get("df")),
        knots=_vector(options.get("knots")),
        degree=_integer(options.get("degree", 3)),
        include_intercept=options.get("intercept", False),
        lower_bound=lower,
        upper_bound=upper,
        extrapolation="extend",
        _state=learnt,
    )
    return _stack(columns)


def _cr(x: Array, options: Options, learnt: dict[str, Any]) -> Array:
    """Natural cubic regression splines, coefficients being values at the knots (mgcv's and formulaic's `cr`)."""
    from formulaic.transforms import natural_cubic_spline

    lower, upper = _bounds(x, options)
    columns = natural_cubic_spline(
        x,
        df=_integer(options.get("df")),
        knots=_vector(options.get("knots")),
        lower_bound=lower,
        upper_bound=upper,
        constraints=options.get("constraints"),
        _state=learnt,
    )
    return _stack(columns)


def _ns(x: Array, options: Options, learnt: dict[str, Any]) -> Array:
    """Natural cubic splines as B-splines without curvature at the boundary knots (R's `ns`), linear beyond them.

    The basis is N = B Q, where B are the cubic B-splines and the columns of Q span the null space of C, the second
    derivatives of B at the two boundary knots, taken from the Householder QR of C′: that choice makes coefficients and
    log|X′V⁻¹X| those of R.
    """
    from scipy.interpolate import BSpline

    intercept = bool(options.get("intercept", False))
    if not learnt:
        learnt.update(_ns_knots(x, options, intercept))
    lower, upper = learnt["bounds"]
    knots = np.array([*[lower] * 4, *learnt["knots"], *[upper] * 4])
    splines = BSpline(knots, np.eye(len(knots) - 4)[:, 0 if intercept else 1 :], 3)
    curvature = splines(np.array([lower, upper]), nu=2)
    constraint_free = np.linalg.qr(curvature.T, mode="complete")[0][:, 2:]
    natural = BSpline(knots, splines.c @ constraint_free, 3)
    inside = np.clip(x, lower, upper)
    columns: Array = natural(inside)
    outside = x != inside
    if outside.any():
        slope = natural(inside[outside], nu=1)
        columns[outside] += slope * (x - inside)[outside, None]
    return columns


def _ns_knots(x: Array, options: Options, intercept: bool) -> dict[str, Any]:
    lower, upper = _bounds(x, options)
    lower = float(x.min()) if lower is None else lower
    upper = float(x.max()) if upper is None else upper
    if not lower < upper:
        raise ValueError("the boundary knots must differ: the column is constant")
    inner = _vector(options.get("knots"))
    if inner is None:
        count = (_integer(options.get("df")) or 1) - 1 - intercept
        if count < 0:
            raise ValueError("df must be at least 2 with an intercept")
        within = x[(x >= lower) & (x <= upper)]
        inner = np.quantile(within, np.linspace(0, 1, count + 2)[1:-1]).tolist() if count else []
    elif not all(lower < knot < upper for knot in inner):
        raise ValueError("the knots must lie between the boundary knots")
    return {"bounds": (lower, upper), "knots": sorted(inner)}


_BASES: dict[str, Callable[[Array, Options, dict[str, Any]], Array]] = {"poly": _poly, "bs": _bs, "cr": _cr, "ns": _ns}


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)


def _vector(value: Any) -> list[float] | None:
    return None if value is None else [value] if isinstance(value, float) else list(value)


def _bounds(x: Array, options: Options) -> tuple[float | None, float | None]:
    """Boundary knots given by R's or formulaic's options, None where they are left to the data."""
    both = _vector(options.get("Boundary.knots"))
    if both is None:
        return options.get("lower_bound"), options.get("upper_bound")
    if len(both) != 2:
        raise ValueError(f"Boundary.knots must be two numbers, got {len(both)}")
    return min(both), max(both)


def _stack(columns: Any) -> Array:
    """Return formulaic's columns, a dict or an array, as (n, k)."""
    columns = getattr(columns, "__wrapped__", columns)
    if isinstance(columns, dict):
        columns = np.column_stack(list(columns.values()))
    return np.asarray(columns, dtype=np.float64)
