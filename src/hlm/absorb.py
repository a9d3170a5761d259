"""A fixed intercept α_j for each group, absorbed: columns less their means of groups instead of J dummies.

By the theorem of Frisch, Waugh and Lovell the other coefficients and the residuals are those of the regression with
dummies; |[X D]'W[X D]| = |D'WD| |X̃'WX̃|, where X̃ are the columns less their means.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import Absorbed, Column, Design
from hlm.errors import DataError, DesignError, show
from hlm.levels import varying_row
from hlm.structure import Codes

if TYPE_CHECKING:
    from hlm.fit import Fit


def absorb(design: Design, name: str, codes: Codes, labels: pd.Index) -> Design:
    """Return the design less the means of groups; the response's means become a part of the offset.

    Parameters
    ----------
    design : Design
        Without an intercept and without random effects.
    name : str
        Name of the grouping.
    codes : (n,) intp
    labels : (J,) Index

    Raises
    ------
    DesignError
        If a fixed column is constant in every group: it is a combination of the α's.
    """
    for column, values in zip(design.names, design.columns, strict=True):
        if varying_row(values, codes, len(labels)) is None:
            raise DesignError(
                f"'{column}' is constant in every {name}: it cannot be told from fixed[{name}]; leave it out, or let "
                "the intercept vary at random",
                column=column,
            )
    weights = np.ones(design.rows) if design.row_weights is None else design.row_weights
    sums = np.bincount(codes, weights, minlength=len(labels)).astype(np.float64)

    def centred(values: Column) -> tuple[Column, Column]:
        means = np.zeros(len(labels))
        for _ in range(2):  # the second time for what was rounded
            more = np.bincount(codes, weights * values, minlength=len(labels)) / sums
            values, means = values - more[codes], means + more
        return values, means

    y, y_means = centred(design.y)
    columns = [centred(values) for values in design.columns]
    offset = y_means[codes] if design.offset is None else design.offset + y_means[codes]
    means = np.column_stack([m for _, m in columns]) if columns else np.zeros((len(labels), 0))
    return replace(
        design,
        y=y,
        columns=tuple(values for values, _ in columns),
        offset=offset,
        absorbed=Absorbed(name, labels, sums, y_means, means),
    )


def less_means(
    absorbed: Absorbed, columns: list[Column], offsets: list[Column], labels: pd.Index
) -> tuple[list[Column], list[Column]]:
    """Return columns and offsets of new rows of known groups, as `absorb` made those of the fit.

    Raises
    ------
    DataError
        If the fit has no α for a group, naming it.
    """
    levels = absorbed.labels.get_indexer(labels)
    if (levels < 0).any():
        row = int(np.argmax(levels < 0))
        message = f"the fit has no intercept for {absorbed.name} {show(labels[row])} (row {row})"
        raise DataError(message, column=absorbed.name, group=labels[row], row=row)
    less = [column - means[levels] for column, means in zip(columns, absorbed.x_means.T, strict=True)]
    return less, [*offsets, absorbed.y_means[levels]]


def group_intercepts(fit: Fit) -> pd.DataFrame:
    """Return α̂_j = ȳ_j - x̄_j'γ̂ and its standard error, (J, 2); Var(α̂_j) = σ²/Σw + x̄_j' Cov(γ̂) x̄_j.

    Raises
    ------
    DesignError
        If the model absorbs no intercepts.
    """
    absorbed = fit.model.design.absorbed
    if absorbed is None:
        raise DesignError("the model absorbs no intercepts: write b0 = fixed[school] in its equations")
    estimated = ~np.isnan(fit.params.to_numpy())
    means: npt.NDArray[np.float64] = absorbed.x_means[:, estimated]
    variance = fit.sigma**2 / absorbed.weights + ((means @ fit.cov_params().to_numpy()) * means).sum(axis=1)
    values = absorbed.y_means - means @ fit.params.to_numpy()[estimated]
    return pd.DataFrame({"estimate": values, "std. error": np.sqrt(variance)}, index=absorbed.labels)
