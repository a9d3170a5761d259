"""Marginal means, slopes and their contrasts, over a grid of the variables of the fixed part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hlm.covariance import Matrix
from hlm.errors import DataError, DataTypeError
from hlm.inference.adjust import adjusted_pvalues, adjusted_quantiles, checked_adjustment
from hlm.inference.distributions import Array, checked_alpha
from hlm.inference.hypotheses import estimable, estimates
from hlm.inference.terms import variables_of
from hlm.specification.variables import Variable

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.inference.fixed import Inference

# Slopes are central differences over this part of the variable's range, extrapolated.
STEP = 1e-3
# What rounding leaves of a difference of equal numbers, relative to them.
ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class Means:
    """Marginal means or slopes.

    Attributes
    ----------
    table : DataFrame
        The variables asked for, then estimate, se, df, lower, upper; NaN where aliased columns (empty cells) leave no
        estimate. Contrasts of such rows may still have one.
    L : DataFrame
        (r, p) coefficients of each row.
    about : str
        What was averaged and held where.
    """

    table: pd.DataFrame
    L: pd.DataFrame
    about: str
    view: Inference
    alpha: float
    shift: Array

    def __str__(self) -> str:
        return f"{self.table.to_string(index=False)}\n{self.about}\n{self.view.title}"

    def _repr_html_(self) -> str:
        return f"{self.table.to_html(index=False)}<p>{self.about}</p><p>{self.view.title}</p>"

    @property
    def labels(self) -> list[str]:
        """Each row's values of the variables asked for."""
        variables = self.table.columns[: self.table.columns.get_loc("estimate")]
        return [" ".join(_text(value) for value in row) for row in self.table[variables].itertuples(index=False)]

    def contrasts(
        self, kind: str | Mapping[str, Sequence[float]] = "pairs", adjust: str | None = None, reference: int = 0
    ) -> pd.DataFrame:
        """Compare the rows.

        Parameters
        ----------
        kind : {"pairs", "reference", "consecutive", "effects"} or mapping
            All pairs; each with the one at position `reference`; each with the one before it; each with the mean of
            all; or names with coefficients (r,) of the rows.
        adjust : {"tukey", "bonferroni", "holm", "sidak", "none"}, optional
            For p-values and intervals; "tukey" for pairs and "holm" for others when left out.
        reference : int

        Returns
        -------
        DataFrame
            contrast, estimate, se, df, lower, upper, t, p.

        Raises
        ------
        DataError
            For another kind or adjustment, coefficients of another length, Tukey's adjustment of what are no pairs, or
            if aliased columns leave no contrast with an estimate; where some have one, the others are NaN.
        """
        names, C = _contrasts(self.labels, kind, reference)
        adjust = checked_adjustment(("tukey" if kind == "pairs" else "holm") if adjust is None else adjust)
        if adjust == "tukey" and kind != "pairs":
            raise DataError("Tukey's adjustment is for all pairs: use 'holm' or 'sidak'")
        L = C @ self.L.to_numpy()
        table = estimates(self.view, L, self.alpha, C @ self.shift)
        if table["estimate"].isna().all():
            estimable(self.view.fit, L, names)  # says which columns are in the way
        t = table["estimate"].to_numpy() / table["se"].to_numpy()
        df = table["df"].to_numpy()
        half = adjusted_quantiles(df, self.alpha, adjust, len(self.L)) * table["se"]
        table = table.assign(lower=table["estimate"] - half, upper=table["estimate"] + half, t=t)
        table["p"] = adjusted_pvalues(t, df, adjust, len(self.L))
        table.insert(0, "contrast", names)
        return table


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


def _contrasts(labels: list[str], kind: Any, reference: int) -> tuple[list[str], Matrix]:
    """Names and coefficients of comparisons of r rows."""
    r = len(labels)
    one = np.eye(r)
    if isinstance(kind, Mapping):
        C = np.array([np.asarray(row, dtype=np.float64) for row in kind.values()])
        if C.ndim != 2 or C.shape[1] != r:
            raise DataError(f"a contrast needs {r} coefficients, one for each of {', '.join(labels)}")
        return [str(name) for name in kind], C
    if kind == "pairs":
        pairs = list(combinations(range(r), 2))
    elif kind == "consecutive":
        pairs = [(i, i - 1) for i in range(1, r)]
    elif kind == "reference":
        if not -r <= reference < r:
            raise DataError(f"reference must be a position among {r} rows, got {reference}")
        pairs = [(i, reference % r) for i in range(r) if i != reference % r]
    elif kind == "effects":
        return [f"{label} effect" for label in labels], one - 1 / r
    else:
        raise DataError(f"contrasts are 'pairs', 'reference', 'consecutive', 'effects' or a mapping, got {kind!r}")
    if not pairs:
        raise DataError("there is only one row: nothing to compare")
    return [f"{labels[i]} - {labels[j]}" for i, j in pairs], np.array([one[i] - one[j] for i, j in pairs])


def marginal_means(
    view: Inference,
    variables: str | Sequence[str],
    at: Mapping[str, Any] | None = None,
    weights: str = "equal",
    alpha: float = 0.05,
) -> Means:
    """Return the mean response at each combination of some variables, averaged over the others.

    Parameters
    ----------
    view : Inference
    variables : str or sequence of str
        Columns of the data: categories at each level, numbers where `at` says.
    at : mapping, optional
        Name → value or values at which a variable is held; numbers else at their mean.
    weights : {"equal", "proportional"}
        How the categories of the other variables are weighted: each the same, or as often as they occur.
    alpha : float

    Returns
    -------
    Means

    Raises
    ------
    DataError
        For a variable that is not in the fixed part, an unknown category, or a model of arrays.

    Notes
    -----
    Means are of Xγ̂ + offset, on the scale of the response as modelled.
    """
    grid = _Grid(view.fit, _listed(variables), dict(at or {}), weights)
    frame, cells = grid.frame()
    X, offset = _encode(view.fit, frame)
    L, shift = cells @ X, cells @ offset
    return _means(view, grid, L, shift, alpha, grid.about)


def slopes(
    view: Inference,
    variable: str,
    by: str | Sequence[str] = (),
    at: Mapping[str, Any] | None = None,
    weights: str = "equal",
    alpha: float = 0.05,
) -> Means:
    """Return the slope in a number at each combination of other variables: simple slopes of an interaction.

    Parameters
    ----------
    view : Inference
    variable : str
        Column of numbers whose slope is wanted.
    by : str or sequence of str
        Variables at whose values slopes are taken: categories at each level, numbers where `at` says or, when it does
        not, at mean - sd, mean and mean + sd.
    at, weights, alpha
        See `marginal_means`.

    Returns
    -------
    Means
        Of slopes.

    Raises
    ------
    DataError
        As `marginal_means`, and for the slope in a category.

    Notes
    -----
    Slopes are central differences of the columns of X, exact for polynomials up to the fourth degree.
    """
    names = _listed(by)
    grid = _Grid(view.fit, names, dict(at or {}), weights, spread=True)
    kind = grid.variable(variable)
    if kind.categories is not None:
        raise DataError(f"'{variable}' is a category: it has no slope; compare its means", column=variable)
    frame, cells = grid.frame()
    centre = frame[variable].to_numpy(np.float64)
    L, shift = np.zeros((len(cells), len(view.params))), np.zeros(len(cells))
    h = STEP * (kind.most - kind.least)
    for step, factor in ((h, 8.0), (2 * h, -1.0)):
        for sign in (1.0, -1.0):
            X, offset = _encode(view.fit, frame.assign(**{variable: centre + sign * step}))
            L += factor * sign / (12 * h) * (cells @ X)
            shift += factor * sign / (12 * h) * (cells @ offset)
    # what differences leave of columns that do not depend on the variable
    L[np.abs(L) < ROUNDING / h * np.abs(cells) @ np.abs(X)] = 0.0
    return _means(view, grid, L, shift, alpha, f"slopes in {variable}; {grid.about}")


def _means(view: Inference, grid: _Grid, L: Matrix, shift: Array, alpha: float, about: str) -> Means:
    table = estimates(view, L, checked_alpha(alpha), shift)
    if table["estimate"].isna().any():
        about += f"; NaN has no estimate: it depends on aliased columns ({', '.join(view.fit.aliased)})"
    for position, name in enumerate(grid.names):
        table.insert(position, name, [cell[position] for cell in grid.cells])
    return Means(table, pd.DataFrame(L, columns=list(view.params.index)), about, view, alpha, shift)


def _listed(names: Any) -> list[str]:
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise DataTypeError(f"variables are names of columns, got {names!r}")
    return list(names)


def _encode(fit: Fit, frame: pd.DataFrame) -> tuple[Matrix, Array]:
    """X (m, p) and offset (m,) of made-up rows."""
    columns, offsets, _ = fit.model.new_rows(frame)
    X = np.column_stack(columns) if columns else np.zeros((len(frame), 0))
    return X, np.sum(offsets, axis=0) if offsets else np.zeros(len(frame))


class _Grid:
    """Values of all variables of the fixed part: those asked for, and those averaged over or held."""

    def __init__(self, fit: Fit, names: list[str], at: dict[str, Any], weights: str, spread: bool = False) -> None:
        if weights not in ("equal", "proportional"):
            raise DataError(f"weights must be 'equal' or 'proportional', got {weights!r}")
        self._variables = variables_of(fit.model)
        self.names = names
        for name in [*names, *at]:
            self.variable(name)
        others = [name for name in self._variables if name not in names]
        self._points = {name: self._values(name, at, name in names and spread) for name in [*names, *others]}
        self.cells = list(product(*(self._points[name] for name in names)))
        self._others = list(product(*(self._points[name] for name in others)))
        shares = [self._shares(name, weights) for name in others]
        self._weights = np.array([float(np.prod(own)) for own in product(*shares)])
        self._order = [*names, *others]
        averaged = [name for name in others if len(self._points[name]) > 1]
        held = [f"{name} = {_text(self._points[name][0])}" for name in others if len(self._points[name]) == 1]
        parts = [f"averaged over {', '.join(averaged)} ({weights} weights)"] if averaged else []
        self.about = "; ".join(parts + ([f"at {', '.join(held)}"] if held else []))

    def variable(self, name: str) -> Variable:
        """Return what is known of a variable."""
        if name not in self._variables:
            known = ", ".join(self._variables) or "none"
            raise DataError(f"'{name}' is no variable of the fixed part; there are {known}", column=name)
        return self._variables[name]

    def _values(self, name: str, at: dict[str, Any], spread: bool) -> list[Any]:
        variable = self._variables[name]
        if name in at:
            given = at[name]
            one = isinstance(given, str) or not isinstance(given, (Sequence, np.ndarray, pd.Series, pd.Index))
            values = [given] if one else list(given)
            if variable.categories is None:
                return [float(value) for value in values]
            unknown = [value for value in values if value not in variable.categories]
            if unknown:
                raise DataError(f"'{name}' has no category {unknown[0]!r}", column=name)
            return values
        if variable.categories is not None:
            return list(variable.categories.tolist())
        if spread:
            return [variable.mean - variable.sd, variable.mean, variable.mean + variable.sd]
        return [variable.mean]

    def _shares(self, name: str, weights: str) -> Array:
        variable, values = self._variables[name], self._points[name]
        if variable.categories is None or weights == "equal":
            return np.full(len(values), 1 / len(values))
        counts = variable.counts[variable.categories.get_indexer(pd.Index(values))]
        return np.asarray(counts / counts.sum(), dtype=np.float64)

    def frame(self) -> tuple[pd.DataFrame, Matrix]:
        """Rows of the grid, and (cells, rows) weights that average them into the cells."""
        rows = [(*cell, *other) for cell in self.cells for other in self._others]
        frame = pd.DataFrame(rows, columns=self._order)
        return frame, np.kron(np.eye(len(self.cells)), self._weights[None, :])
