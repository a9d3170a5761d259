"""What a user holds fixed or constrains: `Model.fit(fixed=..., constraints=...)` read into equations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from hlm.design import Design, Factor
from hlm.errors import DataError, DataTypeError
from hlm.variance.linear import Equation, EquationReader, Key, eliminate

SIGMA2: Key = ("sigma2",)
# A correlation of 1 in floats may be more than that by rounding.
ROUNDING = 1 + Fraction(1, 10**12)
# ("T", factor, row, column): an element of a covariance; ("beta", column): a fixed effect


@dataclass(frozen=True)
class Restrictions:
    """Equations in reduced form: see `eliminate`.

    Attributes
    ----------
    beta : list of Equation
        In the keys ("beta", column).
    variance : list of Equation
        In the keys ("T", factor, row, column) with row ≥ column, and ("sigma2",).
    texts : list of str
        What was asked for.
    """

    beta: list[Equation]
    variance: list[Equation]
    texts: list[str]

    def __bool__(self) -> bool:
        return bool(self.beta or self.variance)


def read_restrictions(design: Design, fixed: Any, constraints: Any) -> Restrictions:
    """Read known values and constraints.

    Parameters
    ----------
    design : Design
    fixed : mapping or None
        Names of fixed effects to numbers; "sigma" to the residual standard deviation; names of grouping factors to
        T: a (q, q) array or DataFrame in which NaN is free, a number if q = 1, or a mapping from an effect (its
        variance) or a pair of effects (their covariance) to numbers. The sections "params" and "covariances" hold
        mappings of the same, for names that would be ambiguous.
    constraints : None, str, pair (R, r) or sequence of those
        Texts such as ``"x1 = x2"``, ``"2*x1 + x3 = 1"``, ``"var(school) = var(class)"``, ``"cov(a, b | school) = 0"``,
        ``"var(school) = 0.5*sigma2"``; matrices R (k, p), r (k,) of the fixed effects, R γ = r.

    Raises
    ------
    DataError, DataTypeError, FormulaError
        For unknown or ambiguous names, values of the wrong kind, contradictions and redundancies.
    """
    if fixed is None and constraints is None and design.sigma is None:
        return Restrictions([], [], [])
    equations = _read_fixed(design, fixed) if fixed is not None else []
    if design.sigma is not None:
        own = _equation({SIGMA2: 1}, design.sigma**2, "sampling_variance")
        if any(SIGMA2 in equation.coefficients for equation in equations):
            raise DataError("sigma is 1 where sampling variances are known; leave it out of fixed", column="sigma")
        equations.insert(0, own)
    if constraints is not None:
        equations += _read_constraints(design, constraints)
    sorted_equations: dict[bool, list[Equation]] = {True: [], False: []}
    for equation in equations:
        kinds = {key[0] == "beta" for key in equation.coefficients}
        if len(kinds) > 1:
            raise DataError(f"constraint {equation.label} mixes fixed effects and variances")
        sorted_equations[kinds.pop()].append(equation)
    beta = eliminate(sorted_equations[True], [("beta", j) for j in range(len(design.names))])
    variance = _eliminate_variances(design, sorted_equations[False])
    return Restrictions(beta, variance, list(dict.fromkeys(e.label for e in equations)))


def _equation(coefficients: Mapping[Key, float], right: float, label: str) -> Equation:
    return Equation({k: Fraction(v) for k, v in coefficients.items() if v}, Fraction(right), label)


def _number(value: Any, what: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating, Fraction)):
        raise DataTypeError(f"{what} must be a number, got {type(value).__name__}", column=what)
    if not math.isfinite(value):
        raise DataError(f"{what} must be finite, got {value}", column=what)
    return float(value)


def with_equation(
    design: Design, equations: Sequence[Equation], coefficients: Mapping[Key, float], right: float
) -> list[Equation]:
    """Return reduced equations of the variances with one more: Σ coefficient · quantity = right.

    Raises
    ------
    DataError
        If it contradicts the others, or follows from them.
    """
    return _eliminate_variances(design, [*equations, _equation(coefficients, right, "the value held")])


# ---- fixed ----------------------------------------------------------------------------------------------------------


def _read_fixed(design: Design, fixed: Any) -> list[Equation]:
    if not isinstance(fixed, Mapping):
        raise DataTypeError(f"fixed must be a mapping from names to values, got {type(fixed).__name__}")
    out: list[Equation] = []
    factors = {factor.name: k for k, factor in enumerate(design.factors)}
    for name, value in fixed.items():
        meanings = [
            kind
            for kind, there in (
                ("params", name in design.names),
                ("covariances", name in factors),
                ("sigma", name == "sigma"),
                ("section", name in ("params", "covariances")),
            )
            if there
        ]
        if not meanings:
            raise DataError(
                f"fixed: no parameter {name!r}; there are the fixed effects {list(design.names)}, the grouping factors "
                f"{list(factors)} and 'sigma'",
                column=str(name),
            )
        if len(meanings) > 1:
            raise DataError(
                f"fixed: {name!r} may mean several parameters; name fixed effects under 'params' and covariances under "
                f"'covariances', as in fixed={{'params': {{{name!r}: ...}}}}",
                column=str(name),
            )
        out += _read_one(design, factors, meanings[0], name, value)
    return out


def _read_one(design: Design, factors: dict[str, int], kind: str, name: Any, value: Any) -> list[Equation]:
    if kind == "params":
        number = _number(value, f"fixed '{name}'")
        return [_equation({("beta", design.names.index(name)): 1}, number, f"{name} = {number:g}")]
    if kind == "covariances":
        return _read_covariance(design.factors[factors[name]], factors[name], value)
    if kind == "sigma":
        sigma = _number(value, "fixed 'sigma'")
        if sigma <= 0:
            raise DataError(f"fixed 'sigma' must be > 0, got {sigma:g}", column="sigma")
        return [Equation({SIGMA2: Fraction(1)}, Fraction(sigma) ** 2, f"sigma = {sigma:g}")]
    if not isinstance(value, Mapping):
        raise DataTypeError(f"fixed '{name}' must be a mapping, got {type(value).__name__}")
    known = design.names if name == "params" else factors
    out = []
    for inner, given in value.items():
        if inner not in known:
            raise DataError(f"fixed {name}: no {inner!r}; there are {list(known)}", column=str(inner))
        out += _read_one(design, factors, name, inner, given)
    return out


def _read_covariance(factor: Factor, k: int, value: Any) -> list[Equation]:
    what = f"fixed '{factor.name}'"
    if isinstance(value, Mapping):
        return _read_elements(factor, k, value)
    if np.isscalar(value) or value is None:
        if factor.width > 1:
            raise DataError(
                f"{what}: {factor.width} random effects {list(factor.effects)} need a matrix or a mapping",
                column=factor.name,
            )
        value = [[_number(value, what)]]
    if isinstance(value, pd.DataFrame):
        for axis in (value.index, value.columns):
            if sorted(map(str, axis)) != sorted(factor.effects):
                raise DataError(
                    f"{what}: rows and columns must be {list(factor.effects)}, got {list(axis)}", column=factor.name
                )
        value = value.loc[list(factor.effects), list(factor.effects)]
    try:
        T = np.asarray(value)
        if T.dtype.kind == "c":
            raise TypeError
        T = T.astype(np.float64)
    except (TypeError, ValueError):
        raise DataTypeError(f"{what} must be numbers, (q, q)", column=factor.name) from None
    if T.shape != (factor.width,) * 2:
        raise DataError(f"{what} must be {(factor.width,) * 2}, got shape {T.shape}", column=factor.name)
    if np.isinf(T).any():
        raise DataError(f"{what} has an infinite element", column=factor.name)
    if not ((T == T.T) | (np.isnan(T) & np.isnan(T.T))).all():
        i, j = np.argwhere(~((T == T.T) | (np.isnan(T) & np.isnan(T.T))))[0]
        raise DataError(
            f"{what} is not symmetric: {T[i, j]:g} and {T[j, i]:g} for {factor.effects[i]} and {factor.effects[j]}",
            column=factor.name,
        )
    if not np.isnan(T).any():
        _must_be_semidefinite(T, what, factor.name)
    return [
        equation
        for i in range(factor.width)
        for j in range(i + 1)
        if not np.isnan(T[i, j])
        for equation in _element(factor, k, i, j, float(T[i, j]))
    ]


def _must_be_semidefinite(T: Any, what: str, name: str) -> None:
    size = np.sqrt(np.abs(np.diag(T)))
    size[size == 0] = 1.0
    lowest = float(np.linalg.eigvalsh(T / np.outer(size, size))[0])
    if (np.diag(T) < 0).any() or lowest < -1e-12 * len(T):
        raise DataError(
            f"{what} is not positive semidefinite (eigenvalue {lowest:.3g} of its correlations)", column=name
        )


def _read_elements(factor: Factor, k: int, value: Mapping[Any, Any]) -> list[Equation]:
    out: list[Equation] = []
    seen: set[tuple[int, int]] = set()
    for key, number in value.items():
        pair = key if isinstance(key, tuple) else (key, key)
        if len(pair) != 2:
            raise DataError(f"fixed '{factor.name}': {key!r} is neither an effect nor a pair", column=factor.name)
        for effect in pair:
            if effect not in factor.effects:
                raise DataError(
                    f"fixed '{factor.name}': no random effect {effect!r}; there are {list(factor.effects)}",
                    column=factor.name,
                )
        i, j = sorted((factor.effects.index(effect) for effect in pair), reverse=True)
        if (i, j) in seen:
            raise DataError(f"fixed '{factor.name}': {key!r} is given twice", column=factor.name)
        seen.add((i, j))
        out += _element(factor, k, i, j, _number(number, f"fixed '{factor.name}' {key!r}"))
    return out


def element_name(factor: Factor, i: int, j: int) -> str:
    """Return what an element of T is called in constraints and messages."""
    if i == j:
        return f"var({factor.effects[i]} | {factor.name})"
    return f"cov({factor.effects[i]}, {factor.effects[j]} | {factor.name})"


def _element(factor: Factor, k: int, i: int, j: int, value: float) -> list[Equation]:
    name = element_name(factor, i, j)
    if i == j and value < 0:
        raise DataError(f"{name} cannot be {value:g}", column=factor.name)
    if _apart(factor, i, j):
        if value:
            raise DataError(f"{name} is zero: its effects belong to different terms", column=factor.name)
        return []
    return [_equation({("T", k, i, j): 1}, value, f"{name} = {value:g}")]


def _apart(factor: Factor, i: int, j: int) -> bool:
    return not any(i in block and j in block for block in factor.blocks)


# ---- constraints ----------------------------------------------------------------------------------------------------


def _read_constraints(design: Design, constraints: Any) -> list[Equation]:
    single = isinstance(constraints, str) or (
        isinstance(constraints, tuple) and len(constraints) == 2 and not isinstance(constraints[0], str)
    )
    given = [constraints] if single else constraints
    if not isinstance(given, Sequence):
        raise DataTypeError(f"constraints must be texts or pairs (R, r), got {type(constraints).__name__}")
    reader = None
    out: list[Equation] = []
    for item in given:
        if isinstance(item, str):
            reader = reader or EquationReader(_names(design))
            out += reader.read(item)
        elif isinstance(item, tuple) and len(item) == 2:
            out += _read_matrix(design, *item)
        else:
            raise DataTypeError(f"a constraint is a text or a pair (R, r), got {type(item).__name__}")
    for equation in out:
        for key in equation.coefficients:
            if key[0] == "T" and _apart(design.factors[key[1]], key[2], key[3]):
                name = element_name(design.factors[key[1]], key[2], key[3])
                raise DataError(f"constraint {equation.label}: {name} is zero, its effects belong to different terms")
    return out


def _names(design: Design) -> dict[str, Key]:
    """Return what constraints may name."""
    out: dict[str, Key] = {name: ("beta", j) for j, name in enumerate(design.names)}
    extra: dict[str, Key] = {SIGMA2[0]: SIGMA2}
    for k, factor in enumerate(design.factors):
        for i, effect in enumerate(factor.effects):
            if factor.width == 1:
                extra[f"var({factor.name})"] = ("T", k, 0, 0)
            extra[element_name(factor, i, i)] = ("T", k, i, i)
            for j in range(i):
                extra[element_name(factor, i, j)] = ("T", k, i, j)
                extra[f"cov({factor.effects[j]}, {effect} | {factor.name})"] = ("T", k, i, j)
    both = sorted(set(out) & set(extra))
    if both:
        raise DataError(
            f"constraints: the fixed effect '{both[0]}' has the name of a variance; rename it", column=both[0]
        )
    return out | extra


def _read_matrix(design: Design, R: Any, r: Any) -> list[Equation]:
    p = len(design.names)
    if isinstance(R, pd.DataFrame):
        unknown = [name for name in R.columns if name not in design.names]
        if unknown:
            raise DataError(f"constraints: no fixed effect {unknown[0]!r}; there are {list(design.names)}")
        R = R.reindex(columns=list(design.names), fill_value=0.0)
    try:
        matrix = np.atleast_2d(np.asarray(R, dtype=np.float64))
        right = np.atleast_1d(np.asarray(r, dtype=np.float64))
    except (TypeError, ValueError):
        raise DataTypeError("constraints: R and r must be numbers") from None
    if matrix.ndim != 2 or matrix.shape[1] != p:
        raise DataError(f"constraints: R must have {p} columns, one for each fixed effect, got shape {matrix.shape}")
    if right.shape == (1,):
        right = np.repeat(right, len(matrix))
    if right.shape != (len(matrix),):
        raise DataError(f"constraints: R has {len(matrix)} rows, r has shape {right.shape}")
    if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
        raise DataError("constraints: R and r must be finite")
    out = []
    for i, (row, value) in enumerate(zip(matrix, right, strict=True)):
        if not row.any():
            raise DataError(f"constraints: row {i} of R is zero")
        out.append(_equation({("beta", j): c for j, c in enumerate(row)}, value, f"row {i} of R"))
    return out


def _eliminate_variances(design: Design, equations: list[Equation]) -> list[Equation]:
    """Reduce; an effect without variance has no covariances, which is added where it was not asked for."""
    order: list[Key] = []
    sizes = [(k, i, j) for k, f in enumerate(design.factors) for i in range(f.width) for j in range(i + 1)]
    order += [("T", k, i, j) for k, i, j in sizes if i != j]
    order += [("T", k, i, i) for k, i, j in sizes if i == j]
    order.append(SIGMA2)
    reduced = eliminate(equations, order)
    known = {next(iter(e.coefficients)): e.right for e in reduced if len(e.coefficients) == 1}
    for key, value in known.items():
        if key == SIGMA2 and value <= 0:
            raise DataError("the constraints make sigma2 zero or negative", column="sigma")
        if key != SIGMA2 and key[2] == key[3] and value < 0:
            name = element_name(design.factors[key[1]], key[2], key[3])
            raise DataError(f"the constraints make {name} negative ({float(value):g})")
    added = []
    for k, i, j in sizes:
        zero = known.get(("T", k, i, i)) == 0 or known.get(("T", k, j, j)) == 0
        if i != j and zero and not _apart(design.factors[k], i, j) and ("T", k, i, j) not in known:
            name = element_name(design.factors[k], i, j)
            added.append(_equation({("T", k, i, j): 1}, 0, f"{name} = 0 (an effect without variance)"))
    for key, value in known.items():
        if key == SIGMA2 or key[2] == key[3]:
            continue
        k, i, j = key[1:]
        ends = [known[end] for end in (("T", k, i, i), ("T", k, j, j)) if end in known]
        if value and (0 in ends or (len(ends) == 2 and value**2 > ends[0] * ends[1] * ROUNDING)):
            name = element_name(design.factors[k], i, j)
            raise DataError(
                f"{name} = {float(value):g} is more than its variances allow: T of '{design.factors[k].name}' is not "
                "positive semidefinite"
            )
    return eliminate([*reduced, *added], order) if added else reduced
