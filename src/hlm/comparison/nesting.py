"""Whether two fits can be compared by their likelihoods, and how the smaller model lies in the larger one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.comparison.errors import contained
from hlm.design import Design, Factor
from hlm.errors import DataError, DataTypeError, DesignError, NumericalError
from hlm_ext.criterion import Criterion
from hlm_ext.structure import first_rows

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# Of a column's length, what may be left beside the columns of the other model when it is a combination of them.
CONTAINED = 1e-8
# Criteria of two fits that differ by no more are the same: rounding, in units of the criterion.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Nesting:
    """A smaller model within a larger one.

    Attributes
    ----------
    small, large : Fit
    statistic : float
        Difference of the criteria, at least 0; for REML with the same units of X in both.
    fixed : int
        Fixed effects that the larger model has beside those of the smaller one.
    places : tuple of int
        For each factor of the smaller model the place of the same factor in the larger one, orders of the formulas.
    maps : tuple of (q_large, q_small) float64
        Z of the smaller model = Z of the larger one @ map, for each factor of the smaller model.
    errors : int
        Parameters of the level-1 errors that the larger model has beside those of the smaller one.
    """

    small: Fit
    large: Fit
    statistic: float
    fixed: int
    places: tuple[int, ...]
    maps: tuple[Matrix, ...]
    errors: int = 0

    def criterion(self) -> Criterion:
        """Return a criterion of the larger model."""
        found = self.large._problem.criterion(self.large.reml)
        assert isinstance(found, Criterion)  # `nest` refuses others
        return found

    @property
    def df(self) -> int:
        """Parameters more."""
        return self.large.df_model - self.small.df_model


def nest(one: Fit, other: Fit) -> Nesting:
    """Find which of two fits is that of the smaller model, and refuse what cannot be compared.

    Raises
    ------
    DataTypeError
        If these are no fits.
    DataError
        Different rows, responses or weights; REML beside ML; REML with different fixed parts.
    DesignError
        Models that are not nested, or the same.
    NumericalError
        A fit that is not at its optimum.
    """
    from hlm.fit import Fit

    for fit in (one, other):
        if not isinstance(fit, Fit):
            raise DataTypeError(f"compare two fits, got {type(fit).__name__}")
    small, large = (one, other) if one.df_model <= other.df_model else (other, one)
    if small.reml != large.reml:
        raise DataError("one fit maximises the restricted likelihood, the other the likelihood: fit both alike")
    _check_rows(small.model.design, large.model.design)
    asked = large._problem.restrictions
    if large._problem.variances is not None or (asked is not None and asked.beta):
        raise DesignError(
            "whether models are nested cannot be told when the larger one has covariance structures, known values or "
            "constraints"
        )
    fixed = _fixed_effects(small, large)
    places, maps = _random_effects(small.model.design, large.model.design)
    errors = _errors(small, large, fixed)
    if small.df_model == large.df_model:
        raise DesignError("the two models are the same: they have the same columns and the same parameters")
    for fit, which in ((small, "smaller"), (large, "larger")):
        if not fit.converged:
            raise NumericalError(
                f"the fit of the {which} model is not at an optimum, so its criterion is not the least: "
                f"{fit.certificate}"
            )
    return Nesting(small, large, statistic(small, large), fixed, places, maps, errors)


def statistic(small: Fit, large: Fit) -> float:
    """Return the difference of the criteria, smaller model less larger one; 0 where it is nothing but rounding.

    The restricted likelihood depends on the units of X (log|X'V⁻¹X|); those are made the same.

    Raises
    ------
    NumericalError
        If the larger model fits worse.
    """
    difference = small.criterion - large.criterion
    if small.reml:
        # log|X'WX| of each
        difference -= small._problem.coordinates.log_units - large._problem.coordinates.log_units
    if difference < -ROUNDING:
        raise NumericalError(
            f"the larger model fits worse (its criterion is higher by {-difference:.3g}): one of the fits stands at "
            "another optimum than the lowest"
        )
    return difference if difference > ROUNDING else 0.0


def _check_rows(one: Design, other: Design) -> None:
    if one.rows != other.rows:
        dropped = [
            ", ".join(f"{column} ({count})" for column, count in design.dropped.items() if count) or "none"
            for design in (one, other)
        ]
        raise DataError(
            f"the fits use different rows: {one.rows} and {other.rows} (dropped: {dropped[0]}; {dropped[1]}). Fit both "
            "to the rows that are complete for the larger model"
        )
    if not np.array_equal(one.y, other.y):
        raise DataError(
            f"the fits have different responses or offsets ('{one.response}', '{other.response}'), or the rows in "
            "another order"
        )
    for name in ("weights", "frequencies"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if (mine is None) != (theirs is None) or (mine is not None and not np.array_equal(mine, theirs)):
            raise DataError(f"the fits have different {name}")


def _errors(small: Fit, large: Fit, fixed: int) -> int:
    """Return how many parameters of the level-1 errors the larger model has more.

    Refused are structures that do not lie in each other, and tests of variances of random effects beside one.
    """
    one, other = (fit.model.design.residual for fit in (small, large))
    if one is None and other is None:
        return 0
    if not contained(one, other):
        words = [
            "independent errors of one variance" if pattern is None else pattern.describe() for pattern in (one, other)
        ]
        raise DesignError(
            f"the structures of the level-1 errors are not nested: {words[0]} is not a case of {words[1]}; AIC and BIC "
            "compare the models"
        )
    extra = sum(0 if p is None else sign * p.size for p, sign in ((other, 1), (one, -1)))
    if large.df_model - small.df_model != fixed + extra:
        raise DesignError(
            "tests of variances of random effects are not offered beside a structure of the level-1 errors; AIC and "
            "BIC compare the models"
        )
    return extra


def _fixed_effects(small: Fit, large: Fit) -> int:
    """Return how many fixed effects the larger model has more; its columns of X must span those of the smaller one."""
    prepared, weights = large.model._prepared, large._problem.statistics.weights
    X = prepared.fixed
    design, kept = small.model.design, small._problem.coordinates.kept
    for name, column, keep in zip(design.names, design.columns, kept, strict=True):
        weighted = column if weights is None else weights * column
        left = column - X @ (X.T @ weighted)
        if keep and float(left @ left) > CONTAINED**2 * float(column @ column):
            raise DesignError(
                f"the models are not nested: '{name}' is a fixed column of the model with fewer parameters only",
                column=name,
            )
    extra = large._problem.rank - small._problem.rank
    if extra and large.reml:
        raise DataError(
            "restricted likelihoods of different fixed parts cannot be compared: they are likelihoods of different "
            "contrasts of the response. Fit both models with reml=False"
        )
    return extra


def _random_effects(small: Design, large: Design) -> tuple[tuple[int, ...], tuple[Matrix, ...]]:
    places, maps = [], []
    for factor in small.factors:
        place = next((k for k, other in enumerate(large.factors) if _groups_alike(factor, other)), -1)
        if place < 0:
            raise DesignError(
                f"the models are not nested: the larger one has no random effects over '{factor.name}'",
                column=factor.name,
            )
        other = large.factors[place]
        matrix = _column_map(factor, other)
        _check_pattern(factor, other, matrix)
        places.append(place)
        maps.append(matrix)
    return tuple(places), tuple(maps)


def _groups_alike(one: Factor, other: Factor) -> bool:
    """Whether two factors have the same groups, and these the same known covariance, if any."""
    if not _related_alike(one, other):
        return False
    if one.codes is other.codes or one.size != other.size:
        return one.codes is other.codes
    return bool(np.array_equal(other.codes[first_rows(one.codes, one.size)][one.codes], other.codes))


def _related_alike(one: Factor, other: Factor) -> bool:
    mine, theirs = one.between, other.between
    if mine is None or theirs is None or mine is theirs:
        return mine is theirs
    return mine.scale == theirs.scale and np.array_equal(mine.root, theirs.root)


def _column_map(factor: Factor, other: Factor) -> Matrix:
    """Return C with Z = Z_other C."""
    Z = np.column_stack(other.columns)
    matrix = np.zeros((other.width, factor.width))
    for j, column in enumerate(factor.columns):
        same = [i for i, theirs in enumerate(other.columns) if np.array_equal(column, theirs)]
        if same:
            matrix[same[0], j] = 1.0
            continue
        scale = np.abs(Z).max(axis=0)
        matrix[:, j] = np.linalg.lstsq(Z / scale, column, rcond=None)[0] / scale
        left = column - Z @ matrix[:, j]
        if float(left @ left) > CONTAINED**2 * float(column @ column):
            raise DesignError(
                f"the models are not nested: '{factor.effects[j]}' varies over '{factor.name}' in the model with fewer "
                "parameters only",
                column=factor.effects[j],
            )
    return matrix


def _check_pattern(factor: Factor, other: Factor, matrix: Matrix) -> None:
    """Refuse covariances that the larger model does not allow: correlations between its separate terms."""
    allowed = np.zeros((other.width, other.width), dtype=bool)
    for block in other.blocks:
        allowed[np.ix_(block, block)] = True
    for block in factor.blocks:
        for a, i in enumerate(block):
            for j in block[: a + 1]:
                change = np.outer(matrix[:, i], matrix[:, j])
                change += change.T
                if np.abs(change[~allowed]).max(initial=0.0) > CONTAINED * np.abs(change).max():
                    raise DesignError(
                        f"the models are not nested: the one with fewer parameters lets '{factor.effects[i]}' and "
                        f"'{factor.effects[j]}' of '{factor.name}' vary in a way that the other one does not allow",
                        column=factor.name,
                    )
