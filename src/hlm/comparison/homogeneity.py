"""Test of equal level-1 variances over groups: HLM's chi-square (Raudenbush and Bryk 2002, p. 264)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from hlm.design import Design, Factor
from hlm.errors import DesignError
from hlm.residuals.refusals import independent_errors
from hlm_ext.columns import Columns
from hlm_ext.gather import gather
from hlm_ext.structure import sort_rows

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# Of a centred column's sum of squares in a group: less than this is no variation, or a combination of other columns.
DEPENDENT = 1e-9
# Of a sum of squares that is reproduced, what rounding leaves, for each unit of what it was divided by.
ROUNDING = 1e-14


@dataclass(frozen=True)
class Homogeneity:
    """Test of homogeneity of the level-1 variance.

    Attributes
    ----------
    statistic, pvalue : float
    df : int
        Groups that were used, less one.
    groups : DataFrame
        For each group: its rows, the df of its own regression, its residual variance S², the standardised log-variance
        d, and whether it was used: those that their regression reproduces exactly have no ln S² and are not.
    least_df : int
        Groups with fewer df were left out.
    """

    statistic: float
    pvalue: float
    df: int
    groups: pd.DataFrame
    least_df: int

    def __str__(self) -> str:
        return (
            f"Homogeneity of level-1 variance: χ²({self.df}) = {self.statistic:.2f}, p = {self.pvalue:.3g} "
            f"({self.df + 1} of {len(self.groups)} groups, those with at least {self.least_df} df of their own)"
        )


def homogeneity(fit: Fit, group: str | None = None, least_df: int = 10) -> Homogeneity:
    """Test whether the level-1 variance is the same in all groups.

    Each group has a regression of its own, by (weighted) least squares, on all columns of the model that vary within
    groups. With S_j² its residual variance on v_j degrees of freedom,

        d_j = √(v_j/2) (ln S_j² - Σ v ln S² / Σ v) ,   Σ d_j² ~ χ²(J - 1) approximately

    Parameters
    ----------
    fit : Fit
    group : str, optional
        Grouping factor; that with most levels when left out.
    least_df : int
        Groups with fewer degrees of freedom are left out: ln S² is near to normal from about 10 on.

    Raises
    ------
    DesignError
        If fewer than two groups are left, or the errors have a structure.
    """
    independent_errors(fit, "HLM's test of equal level-1 variances")
    design = fit.model.design
    if not design.factors:
        raise DesignError("a model without groups has no variances to compare")
    factor = design.factor(group) if group is not None else max(design.factors, key=lambda f: f.size)
    squares, df = _within(design, factor)
    count = np.bincount(factor.codes, design.frequencies, factor.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(df > 0, squares / df, np.nan)
    used = (df >= max(least_df, 1)) & (variance > 0)
    if used.sum() < 2:
        raise DesignError(
            f"{int(used.sum())} levels of '{factor.name}' have a regression of their own with at least {least_df} df; "
            "two are needed",
            column=factor.name,
        )
    logs = np.log(np.where(used, variance, 1.0))
    mean = float((df * logs)[used].sum() / df[used].sum())
    d = np.where(used, np.sqrt(df / 2) * (logs - mean), np.nan)
    value = float(np.nansum(d * d))
    freedom = int(used.sum()) - 1
    table = pd.DataFrame(
        {"rows": count.astype(np.intp), "df": df.astype(np.intp), "variance": variance, "d": d, "used": used},
        index=factor.labels,
    )
    return Homogeneity(value, float(chdtrc(freedom, value)), freedom, table, least_df)


def _within(design: Design, factor: Factor) -> tuple[Matrix, Matrix]:
    """Residual sum of squares (J,) of each group's own regression, and its degrees of freedom (J,)."""
    order, first = sort_rows(factor.codes, np.arange(factor.size, dtype=np.intp))
    weights = design.row_weights
    total = np.bincount(factor.codes, weights, factor.size)
    columns: list[Matrix] = []
    has_intercept = False
    seen: list[Matrix] = []
    for column in [*design.columns, *(z for f in design.factors for z in f.columns)]:
        if any(column is other or np.array_equal(column, other) for other in seen):
            continue
        seen.append(column)
        mean = np.bincount(factor.codes, column if weights is None else weights * column, factor.size) / total
        centred = column - mean[factor.codes]
        if float(centred @ centred) > DEPENDENT**2 * float(column @ column):
            columns.append(centred / np.sqrt(np.mean(centred**2)))
        else:
            has_intercept = has_intercept or bool(column.any())
    if not has_intercept:
        columns = [column for column in seen if column.any()]
        y = design.y
    else:
        y = design.y - (np.bincount(factor.codes, _times(weights, design.y), factor.size) / total)[factor.codes]
    pool = [*columns, y]
    places = np.arange(len(pool))
    zero, one = np.zeros(len(pool)), np.ones(len(pool))
    products = gather(Columns(pool), order, first, zero, one, places, weights)[1][:, :, : len(pool)]
    cross, right, squares = products[:, :-1, :-1], products[:, :-1, -1], products[:, -1, -1]
    rank = np.zeros(factor.size)
    explained = np.zeros(factor.size)
    divided = np.ones(factor.size)
    if columns:
        size = np.sqrt(np.einsum("jii->ji", cross))
        size[size == 0] = 1.0
        values, vectors = np.linalg.eigh(cross / (size[:, :, None] * size[:, None, :]))
        alive = values > DEPENDENT
        rank = alive.sum(axis=1).astype(np.float64)
        divided += np.where(alive, 1 / np.where(alive, values, 1.0), 0.0).max(axis=1)
        parts = np.einsum("jik,ji->jk", vectors, right / size)
        explained = np.where(alive, parts**2 / np.where(alive, values, 1.0), 0.0).sum(axis=1)
    count = np.bincount(factor.codes, design.frequencies, factor.size)
    left = np.maximum(squares - explained, 0.0)
    left[left <= ROUNDING * divided * squares] = 0.0
    return left, np.maximum(count - rank - has_intercept, 0.0)


def _times(weights: Matrix | None, values: Matrix) -> Matrix:
    return values if weights is None else weights * values
