"""The door of arrays: random terms given as codes and columns, the design of arrays, and the same for new rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import Column, Design, Factor, as_float, code_column, intercept, merge_factors
from hlm.errors import DataError, DataTypeError, DesignError
from hlm.frames import Mask, usable
from hlm.structure import Codes
from hlm.variance.assign import structured
from hlm.variance.between import with_between
from hlm.variance.structures import Structure, find_structure
from hlm.weights import read_weights


@dataclass(frozen=True, eq=False)
class Random:
    """A random term for `Model.from_arrays`.

    Parameters
    ----------
    codes : (n,) array
        Label of the group that each row belongs to: integers, strings or anything that pandas can factorize.
    Z : (n, q) or (n,) array, optional
        Random columns; a random intercept when left out.
    name : str
        Name of the grouping factor, the key of `fit.covariances` and `fit.random_effects`.
    effects : sequence of str, optional
        Names of the columns of Z; "Intercept" for a missing Z or a column of ones, else "z0", "z1", …
    correlated : bool
        Whether the columns' covariance is unstructured (`True`) or diagonal (lme4's ``||``).
    covariance : str or Structure, optional
        Structure of the columns' covariance: "unstructured", "diagonal", "identity", "cs", "ar1" or one's own.
    between : (J, J) DataFrame, array, sparse matrix or Between, optional
        Known covariance between the levels; see `hlm.Between`.

    Raises
    ------
    DataTypeError, DataError
        If the arrays have the wrong type or shape.
    """

    codes: npt.ArrayLike
    Z: npt.ArrayLike | None = None
    name: str = "g"
    effects: Sequence[str] | None = None
    correlated: bool = True
    covariance: str | Structure | None = None
    between: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise DataTypeError(f"name of a Random must be a string, got {self.name!r}")
        if not isinstance(self.correlated, (bool, np.bool_)):
            raise DataTypeError(f"correlated must be True or False, got {self.correlated!r}", column=self.name)

    def columns(self, n: int) -> list[Column]:
        """Return the q random columns, each (n,) float64."""
        if self.Z is None:
            return [intercept(n)]
        Z = as_float(self.Z, f"Z of '{self.name}'")
        if Z.ndim == 1:
            Z = Z[:, None]
        if Z.ndim != 2 or Z.shape[1] == 0:
            raise DataError(
                f"Z of '{self.name}' must be (n, q) with q at least 1, got shape {Z.shape}", column=self.name
            )
        if Z.shape[0] != n:
            raise DataError(f"Z of '{self.name}' has {Z.shape[0]} rows, y has {n}", column=self.name)
        return list(Z.T)

    def effect_names(self, columns: list[Column]) -> list[str]:
        """Return the names of the random columns."""
        if self.effects is not None:
            if len(self.effects) != len(columns):
                raise DataError(f"'{self.name}' has {len(columns)} random columns but {len(self.effects)} effect names")
            if len(set(self.effects)) < len(self.effects):
                raise DataError(
                    f"effect names of '{self.name}' must differ, got {list(self.effects)}", column=self.name
                )
            return [str(effect) for effect in self.effects]
        names = []
        for j, column in enumerate(columns):
            names.append("Intercept" if _all_ones(column) else f"z{j}")
        return names


def design(
    y: npt.ArrayLike,
    X: npt.ArrayLike,
    random: Sequence[Random],
    names: Sequence[str] | None,
    weights: dict[str, Any],
    response_name: str,
) -> Design:
    """Return the design of arrays; see `Model.from_arrays`.

    Parameters
    ----------
    y : (n,) array
    X : (n, p) array
    random : sequence of Random
    names : sequence of p str, or None
    weights : dict
        "weights", "frequencies" and "sampling_variance": an (n,) array or None.
    response_name : str

    Raises
    ------
    DataError, DataTypeError, DesignError
        If the arrays do not fit each other.
    """
    y, X = as_float(y, "y"), as_float(X, "X")
    if y.ndim != 1:
        raise DataError(f"y must be one-dimensional, got shape {y.shape}", column="y")
    if X.ndim != 2:
        raise DataError(f"X must be (n, p), got shape {X.shape}", column="X")
    n = len(y)
    if len(X) != n:
        raise DataError(f"X has {len(X)} rows, y has {n}", column="X")
    columns = list(X.T)
    given = read_weights(weights, n)
    zero = given.zero
    kept = None if zero is None else ~zero
    used = given.take(kept)
    parts = []
    between: dict[str, Any] = {}
    for term in _random_terms(random):
        parts.append((_factor_of(term, n, kept), f"Random(name='{term.name}')"))
        if term.between is not None and between.setdefault(term.name, term.between) is not term.between:
            raise DesignError(f"'{term.name}' has two different matrices between its levels", column=term.name)
    return Design(
        response=response_name,
        y=y if kept is None else y[kept],
        names=_fixed_names(columns, names),
        columns=tuple(columns if kept is None else [column[kept] for column in columns]),
        factors=with_between(merge_factors(parts), between),
        weights=used.get("weights"),
        frequencies=used.get("frequencies"),
        kept=kept,
        dropped=given.counts,
        sigma=given.sigma,
    )


def _all_ones(column: Column) -> bool:
    """Whether a column is an intercept; the ends are looked at first, which tells most of those that are not."""
    return len(column) > 0 and column[0] == 1.0 and column[-1] == 1.0 and bool((column == 1.0).all())


def _fixed_names(columns: list[Column], names: Sequence[str] | None) -> tuple[str, ...]:
    """The names given, or "Intercept" for a first column of ones and else "x0", "x1", …"""
    if names is None:
        names = [f"x{j}" for j in range(len(columns))]
        if columns and _all_ones(columns[0]):
            names[0] = "Intercept"
    elif len(names) != len(columns):
        raise DataError(f"X has {len(columns)} columns but {len(names)} names")
    if len(set(names)) < len(names):
        raise DataError(f"names of the columns of X must differ, got {list(names)}")
    return tuple(names)


def _factor_of(term: Random, n: int, kept: Mask | None) -> Factor:
    labels = usable(np.asarray(term.codes))
    if labels.shape != (n,):
        raise DataError(f"codes of '{term.name}' must be ({n},), got shape {labels.shape}", column=term.name)
    columns = term.columns(n)
    if kept is not None:
        labels, columns = labels[kept], [column[kept] for column in columns]
    codes, index = code_column(labels, term.name)
    if len(codes) and codes.min() < 0:
        row = int(np.argmin(codes) if kept is None else np.flatnonzero(kept)[np.argmin(codes)])
        raise DataError(f"codes of '{term.name}' are missing in row {row}", column=term.name, row=row)
    together = tuple(range(len(columns)))
    blocks = (together,) if term.correlated else tuple((j,) for j in together)
    factor = Factor(term.name, codes, index, tuple(columns), tuple(term.effect_names(columns)), blocks)
    if term.covariance is None:
        return factor
    if not term.correlated:
        raise DesignError(f"Random '{term.name}': correlated=False is a covariance of its own", column=term.name)
    return structured(factor, find_structure(term.covariance, f"'{term.name}'"), f"'{term.name}'")


def fixed(new: Any, width: int) -> tuple[list[Column], list[Column], pd.Index]:
    """Return the `width` fixed columns of new rows, their offsets (none) and index."""
    X = as_float(_pair(new)[0], "X")
    if X.ndim != 2 or X.shape[1] != width:
        raise DataError(f"X must have {width} columns, got shape {X.shape}")
    return list(X.T), [], pd.RangeIndex(len(X))


def response(new: Any) -> Column:
    """Return the response (n,) of new rows (y, X, list of Random)."""
    if not isinstance(new, tuple) or len(new) != 3:
        raise DataTypeError(
            f"new rows with a response are (y, X, [Random, …]) for a model of arrays, got {type(new).__name__}"
        )
    y = as_float(new[0], "y")
    if y.shape != (len(new[1]),):
        raise DataError(f"y must be ({len(new[1])},), got shape {y.shape}", column="y")
    return y


def groups(new: Any, factor: Factor) -> tuple[Codes, list[Column], Any]:
    """Return level (-1: unknown), random columns and labels of new rows for one factor."""
    X, terms = _pair(new)
    columns: list[Column] = []
    levels = None
    for term in terms:
        if term.name == factor.name:
            labels = usable(np.asarray(term.codes))
            if labels.shape != (len(X),):
                raise DataError(f"codes of '{term.name}' must be ({len(X)},), got shape {labels.shape}")
            columns += term.columns(len(labels))
            levels = factor.find(pd.Index(labels, tupleize_cols=False))
    if levels is not None and len(columns) != factor.width:
        raise DataError(
            f"'{factor.name}' has {factor.width} random columns in the fit, the new arrays have {len(columns)}",
            column=factor.name,
        )
    if levels is not None:
        return levels, columns, labels
    raise DataError(f"the new arrays lack a Random named '{factor.name}'", column=factor.name)


def _pair(new: Any) -> tuple[Any, Sequence[Random]]:
    """New rows of a model of arrays: X and the random terms."""
    if not isinstance(new, tuple) or len(new) != 2:
        raise DataTypeError(f"new rows of a model of arrays are a pair (X, [Random, …]), got {type(new).__name__}")
    return new[0], _random_terms(new[1])


def _random_terms(random: Any) -> list[Random]:
    """One random term or several, as a list."""
    if isinstance(random, Random):
        return [random]
    if not isinstance(random, (list, tuple)):
        raise DataTypeError(f"random must be a list of hlm.Random objects, got {type(random).__name__}")
    for term in random:
        if not isinstance(term, Random):
            raise DataTypeError(f"random must hold hlm.Random objects, got {type(term).__name__}")
    return list(random)
