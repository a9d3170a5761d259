"""Degrees of freedom counted from the design: by the level on which a column varies (nlme), by equation (HLM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hlm.covariance import Matrix
from hlm.design import Column, Factor
from hlm.errors import DataError
from hlm.inference.distributions import Array
from hlm.inference.fixed import Inference, Wald
from hlm.inference.terms import fixed_terms
from hlm_ext.structure import first_rows

if TYPE_CHECKING:
    from hlm.fit import Fit


class _Counted(Wald):
    """Model-based standard errors, degrees of freedom counted for each coefficient."""

    counts: Array
    prediction = Inference.prediction  # those of x'γ, not Wald's normal distribution

    def independent(self, names: list[str]) -> int:
        """How many coefficients are estimated: those that are known, or tied to others, do not count."""
        rows = self.map[[self.kept.index(name) for name in names]]
        size = np.abs(rows).max(axis=1, initial=0.0)
        return int(np.linalg.matrix_rank(rows[size > 0] / size[size > 0, None])) if size.any() else 0

    def degrees(self, L: Matrix) -> Array:
        """Degrees of freedom of combinations: the smallest one of the coefficients that take part."""
        errors = np.sqrt(self.variances(self.map))
        # combinations of the user's coefficients, each in units of its standard error
        scale = np.abs(L @ np.linalg.pinv(self.map / np.where(errors > 0, errors, np.inf)[:, None]))
        used = scale > 1e-9 * scale.max(axis=1, initial=0.0)[:, None]
        return np.array([self.counts[own].min(initial=np.inf) for own in used])


class BetweenWithin(_Counted):
    """Between-within degrees of freedom of nested designs, as in nlme (Pinheiro and Bates 2000, §2.4.2).

    A term belongs to the outermost level within whose groups its columns are constant, or to the rows. At a level with
    m groups, m' in the level above it and r columns that belong to it: m - m' - r, where the intercept counts as one
    group above all; the intercept itself has the most there are.

    Raises
    ------
    DataError
        If grouping factors are crossed.
    """

    name = "between-within"
    title = "model-based standard errors, between-within degrees of freedom"

    def __init__(self, fit: Fit) -> None:
        super().__init__(fit)
        hierarchy = fit._problem.statistics.hierarchy
        if not hierarchy.is_nested:
            raise DataError("between-within degrees of freedom need nested factors: use 'satterthwaite'")
        design = fit.model.design
        factors = [design.factors[k] for k in reversed(hierarchy.factors)]  # outermost first
        columns = dict(zip(design.names, design.columns, strict=True))
        level = {name: _level(columns[name], factors) for name in self.kept}
        constant = [name for name in self.kept if _is_constant(columns[name])]
        for term in fixed_terms(fit.model):
            own = [design.names[c] for c in term.columns if design.names[c] in level]
            for name in own:
                level[name] = max(level[other] for other in own)
        groups = [design.absorbed_count or (1 if constant else 0), *(factor.size for factor in factors), design.nobs]
        found = []
        for i in range(len(factors) + 1):
            own = [name for name in self.kept if level[name] == i and name not in constant]
            found.append(groups[i + 1] - groups[i] - self.independent(own))
        self.counts = np.array([max(found) if name in constant else found[level[name]] for name in self.kept], float)


class ByEquation(_Counted):
    """Degrees of freedom of HLM: J - k - 1 for a coefficient in a level's equation with an error term.

    A fixed column that is a random column of a factor times something constant within its levels belongs to that random
    column's equation. Its degrees of freedom are the number of levels less the coefficients of that equation; where it
    is in the equations of several factors, those of the one with fewest levels count. A column in no equation with an
    error has the rows less all coefficients (Raudenbush, Bryk, Cheong, Congdon and du Toit 2011).
    """

    name = "hlm"
    title = "model-based standard errors, degrees of freedom by equation (J - k - 1)"

    def __init__(self, fit: Fit) -> None:
        super().__init__(fit)
        design = fit.model.design
        columns = dict(zip(design.names, design.columns, strict=True))
        counts = {name: float(fit.df_resid) for name in self.kept}
        for factor in sorted(design.factors, key=lambda factor: -factor.size):
            for z in factor.columns:
                equation = [name for name in self.kept if _is_multiple(columns[name], z, factor)]
                for name in equation:
                    counts[name] = float(factor.size - self.independent(equation))
        self.counts = np.array([counts[name] for name in self.kept])


def _is_constant(column: Column) -> bool:
    return bool((column == column[0]).all())


def _is_multiple(column: Column, z: Column, factor: Factor) -> bool:
    """Whether column = z · w with w constant within the levels of the factor."""
    some = z != 0
    if column[~some].any():
        return False
    codes = factor.codes[some]
    ratio = column[some] / z[some]
    met, codes = np.unique(codes, return_inverse=True)
    first = ratio[first_rows(codes.astype(np.intp), len(met))][codes]
    # a product of columns and its parts differ by rounding
    return bool((np.abs(ratio - first) <= 1e-9 * np.abs(first)).all())


def _level(column: Column, factors: list[Factor]) -> int:
    """Return the first of the factors, outermost first, within whose levels a column is constant, or their number."""
    for i, factor in enumerate(factors):
        if np.array_equal(column[first_rows(factor.codes, factor.size)][factor.codes], column):
            return i
    return len(factors)
