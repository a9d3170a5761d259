"""What a user asks for: structures of the level-1 errors, by the names of the field."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.design import Design
from hlm.errors import DataError, DataTypeError, DesignError, show
from hlm.residuals.columns import Source, check_inside, check_told_apart, no_frequencies
from hlm.residuals.exchangeable import Exchangeable
from hlm.residuals.pattern import Correlation, Pattern
from hlm.residuals.scaled import Scaled
from hlm.residuals.serial import serial
from hlm.residuals.unrestricted import Unrestricted
from hlm.residuals.variances import LogVariance, Strata
from hlm.specification.columns import Encoder, encode
from hlm.specification.formula import Terms, parse_terms

Places = npt.NDArray[np.intp]

# A covariate whose column is a combination of others to so many digits has no coefficient of its own.
DEPENDENT = 1e-9


class Residual(ABC):
    """A structure of the level-1 errors, for ``Model(..., residual=...)``."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it names."""

    @abstractmethod
    def bind(self, source: Source) -> Pattern:
        """Return the structure on the rows of a design."""


def columns_of(residual: Residual | None) -> tuple[str, ...]:
    """Return the columns of the data that a structure names; see `bind`."""
    if residual is not None and not isinstance(residual, Residual):
        raise DataTypeError(f"residual must be a structure such as hlm.residuals.ByStratum, got {residual!r}")
    return () if residual is None else residual.columns


def bind(residual: Residual | None, design: Design, frame: pd.DataFrame | None = None) -> Design:
    """Return the design with a structure of its errors.

    Parameters
    ----------
    residual : Residual or None
    design : Design
    frame : DataFrame, optional
        The rows that are used; none for a model of arrays.

    Raises
    ------
    DataTypeError
        If `residual` is no structure.
    """
    columns_of(residual)
    if residual is None:
        return design
    return replace(design, residual=residual.bind(Source(design, frame)))


def _names(*given: Any) -> tuple[str, ...]:
    return tuple(value for value in given if isinstance(value, str))


@dataclass(frozen=True, eq=False)
class ByStratum(Residual):
    """A residual variance for each stratum: Var(ε_i) = σ²_s(i) / w_i (nlme's ``varIdent``, HLM's heterogeneous σ²).

    `Fit.sigma` is the standard deviation of the first stratum; `Fit.residual` has all of them.

    Parameters
    ----------
    stratum : str or (N,) array
        Column of the strata.
    """

    stratum: str | npt.ArrayLike

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it names."""
        return _names(self.stratum)

    def bind(self, source: Source) -> Strata:
        """Return the structure on the rows of a design.

        Raises
        ------
        DesignError
            If there is one stratum only, or one of a single row.
        """
        codes, labels, name = source.labels(self.stratum, "stratum")
        if len(labels) < 2:
            raise DesignError(f"'{name}' has one stratum: a variance for each needs at least 2", column=name)
        counts = np.bincount(codes, source.counts, len(labels)).astype(np.float64)
        if counts.min() < 2:
            label = labels[int(np.argmin(counts))]
            raise DesignError(f"stratum {label!r} of '{name}' has one row: no variance of its own", column=name)
        return Strata(codes, labels, counts, name, isinstance(self.stratum, str))


@dataclass(frozen=True, eq=False)
class LogLinear(Residual):
    """Log-linear residual variances: log Var(ε_i) = α₀ + x_i'α - log w_i (HLM's log-linear model of σ²).

    nlme's ``varExp(form = ~x)`` is ``LogLinear("~ x")`` and its ``varPower(form = ~x)`` is ``LogLinear("~ log(x)")``,
    with α twice its parameter; several terms are ``varComb``.

    `Fit.sigma` is exp(½(α₀ + x̄'α)), the standard deviation at the mean of the covariates. Statistics are gathered once
    for each distinct (group, x); where most rows have an x of their own, products are formed from the rows anew at each
    step.

    Parameters
    ----------
    covariates : str or (N, r) array
        A one-sided formula such as ``"~ age + sex"``, or columns without an intercept.
    names : sequence of r str, optional
        Names of the columns of an array.
    """

    covariates: str | npt.ArrayLike
    names: Sequence[str] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it names."""
        return self._terms().columns if isinstance(self.covariates, str) else ()

    def _terms(self) -> Terms:
        return parse_terms(str(self.covariates))

    def bind(self, source: Source) -> LogVariance:
        """Return the structure on the rows of a design.

        Raises
        ------
        DesignError
            If there is no covariate, or one is constant or a combination of others.
        """
        X, names, encoder = self._read(source)
        n = len(X)
        weights = np.ones(n) if source.counts is None else source.counts
        origin = np.average(X, axis=0, weights=weights)
        X = X - origin
        size = np.sqrt((X * X).sum(axis=0))
        left = np.abs(np.diag(np.linalg.qr(X, mode="r"))) if n else np.zeros(len(names))
        for j, name in enumerate(names):
            if not left[j] > DEPENDENT * size[j]:
                raise DesignError(
                    f"the variance cannot be log-linear in '{name}': it is constant or a combination of the other "
                    "covariates; leave it out",
                    column=name,
                )
        scale = size / np.sqrt(n)
        distinct, kind = np.unique(X / scale, axis=0, return_inverse=True)
        kind = kind.reshape(-1).astype(np.intp)
        counts = np.bincount(kind, weights).astype(np.float64)
        return LogVariance(distinct, kind, counts, names, scale, origin, encoder)

    def _read(self, source: Source) -> tuple[Matrix, list[str], Encoder | None]:
        if isinstance(self.covariates, str):
            if source.frame is None:
                raise DataTypeError("covariates of a model of arrays must be an array, got a formula")
            terms = self._terms()
            columns, encoder = encode(Terms(True, terms.terms), source.frame, source.counts)
            if len(columns.names) < 2:
                raise DesignError("LogLinear needs a covariate; for one variance leave residual= out")
            return np.column_stack(columns.values[1:]), list(columns.names[1:]), encoder
        X = source.matrix(self.covariates, "covariates")
        names = [f"x{j}" for j in range(X.shape[1])] if self.names is None else [str(name) for name in self.names]
        if len(names) != X.shape[1] or len(set(names)) < len(names):
            raise DataError(f"covariates have {X.shape[1]} columns; their names must be as many and differ: {names}")
        return X, names, None


@dataclass(frozen=True, eq=False)
class AR1(Residual):
    """Correlation ρ^d between errors of a group whose occasions are d apart (nlme's ``corAR1`` and ``corCAR1``).

    Distances that are whole numbers allow any -1 < ρ < 1 (steps missing or not); with others ρ > 0, continuous time.
    With `variance` it is the correlation of errors whose variances differ (nlme's ``weights`` beside ``correlation``);
    ``AR1("week", variance=ByStratum("week"))`` is HLM's AR(1) with a variance for each occasion. The products of the
    rows are then formed anew at each step.

    Parameters
    ----------
    occasion : str or (N,) array, optional
        When each row was observed: numbers, each at most once in a group. Left out, the rows of a group follow each
        other in the order of the data, at distance 1.
    group : str or (N,) array, optional
        Groups within which errors are correlated; left out, the innermost grouping factor of the model.
    variance : ByStratum or LogLinear, optional
        Variances of the errors; left out, they have one.
    """

    occasion: str | npt.ArrayLike | None = None
    group: str | npt.ArrayLike | None = None
    variance: ByStratum | LogLinear | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it names."""
        return _names(self.occasion, self.group) + _variance_columns(self.variance)

    def bind(self, source: Source) -> Pattern:
        """Return the structure on the rows of a design.

        Raises
        ------
        DesignError
            If no group has two rows.
        DataError
            If two rows of a group stand at one occasion, or a group has rows in several levels of a grouping factor.
        """
        codes, labels, name = _groups(source, self.group, "AR1")
        time = None if self.occasion is None else source.numbers(self.occasion, "occasion")[0]
        found = serial(codes, time)
        if isinstance(found, tuple):
            raise _twice(found, codes, labels, name, f"{time[found[0][0]]:g}" if time is not None else "")
        return _scaled(found, self.variance, source)


@dataclass(frozen=True, eq=False)
class CompoundSymmetry(Residual):
    """The same correlation between any two errors of a group (nlme's ``corCompSymm``); it may be negative.

    Parameters
    ----------
    group : str or (N,) array, optional
        Groups within which errors are correlated; left out, the innermost grouping factor of the model.
    variance : ByStratum or LogLinear, optional
        Variances of the errors; left out, they have one. See `AR1`.
    """

    group: str | npt.ArrayLike | None = None
    variance: ByStratum | LogLinear | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it names."""
        return _names(self.group) + _variance_columns(self.variance)

    def bind(self, source: Source) -> Pattern:
        """Return the structure on the rows of a design.

        Raises
        ------
        DesignError
            If no group has two rows, or an intercept varies over the same groups: it is the same covariance.
        DataError
            If a group has rows in several levels of a grouping factor.
        """
        codes, _, name = _groups(source, self.group, "CompoundSymmetry")
        check_told_apart(source.design, codes, codes, name)
        return _scaled(Exchangeable(codes), self.variance, source)


@dataclass(frozen=True, eq=False)
class Unstructured(Residual):
    """Any covariance of the errors over occasions: the multivariate outcome of HLM's HMLM, incomplete or not.

    Each group has at most one row at each occasion; those it lacks are simply not there (missing at random). nlme's
    ``corSymm`` with ``varIdent(~1 | occasion)``. `Fit.sigma` is the standard deviation at the first occasion.

    Parameters
    ----------
    occasion : str or (N,) array
        Labels of the occasions, or of the variables of a multivariate outcome.
    group : str or (N,) array, optional
        The units observed on those occasions; left out, the innermost grouping factor of the model.
    """

    occasion: str | npt.ArrayLike
    group: str | npt.ArrayLike | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it names."""
        return _names(self.occasion, self.group)

    def bind(self, source: Source) -> Pattern:
        """Return the structure on the rows of a design.

        Raises
        ------
        DesignError
            If there are two occasions that no group has both of, or what varies over the same groups is a function of
            the occasion: it is the same covariance.
        DataError
            If two rows of a group stand at one occasion, or a group has rows in several levels of a grouping factor.
        """
        codes, labels, name = _groups(source, self.group, "Unstructured")
        occasion, occasions, column = source.labels(self.occasion, "occasion")
        key = codes * len(occasions) + occasion
        first = np.full(len(labels) * len(occasions), -1, dtype=np.intp)
        first[key[::-1]] = np.arange(len(key))[::-1]
        twice = np.flatnonzero(first[key] != np.arange(len(key)))
        if len(twice):
            raise _twice((first[key[twice[:1]]], twice[:1]), codes, labels, name, str(occasions[occasion[twice[0]]]))
        check_told_apart(source.design, codes, occasion, name)
        found = Unrestricted(codes, occasion, occasions, self.occasion if isinstance(self.occasion, str) else None)
        seen = (found.place >= 0).astype(np.float64)
        i, j = np.unravel_index(int(np.argmin(seen.T @ seen)), (len(occasions),) * 2)
        if not seen[:, i] @ seen[:, j] > 0:
            raise DesignError(
                f"no '{name}' was observed at both {show(occasions[i])} and {show(occasions[j])} of '{column}': "
                "nothing tells their covariance",
                column=column,
            )
        return found


def _variance_columns(variance: Any) -> tuple[str, ...]:
    """Columns of the variances of correlated errors.

    Raises
    ------
    DataTypeError
        If they are no structure of variances.
    """
    if variance is None:
        return ()
    if not isinstance(variance, ByStratum | LogLinear):
        raise DataTypeError(f"variance must be hlm.residuals.ByStratum or LogLinear, got {variance!r}")
    return variance.columns


def _scaled(correlation: Correlation, variance: ByStratum | LogLinear | None, source: Source) -> Pattern:
    return correlation if variance is None else Scaled(correlation, variance.bind(source))


def _groups(source: Source, given: Any, role: str) -> tuple[Places, pd.Index, str]:
    """Groups within which errors are correlated, checked."""
    no_frequencies(source.design, role)
    codes, labels, name = source.groups(given, role)
    if len(labels) == len(codes):
        raise DesignError(f"each '{name}' has one row: {role} has nothing to correlate", column=name)
    check_inside(source.design, codes, labels, name)
    return codes, labels, name


def _twice(pair: tuple[Places, Places], codes: Places, labels: pd.Index, name: str, occasion: str) -> DataError:
    one, other = sorted(int(row[0]) for row in pair)
    label = labels[codes[other]]
    return DataError(
        f"{name} = {show(label)} has two rows at occasion {occasion} (rows {one} and {other}): give each row of a "
        "group an occasion of its own",
        column=name,
        group=label,
        row=other,
    )
