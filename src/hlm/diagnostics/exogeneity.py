"""Whether random effects are independent of the regressors: Mundlak's form of Hausman's test, and the remedy.

A regressor that varies within groups has two slopes, within and between groups; the model with one slope is right only
if they are the same, that is if the effects of the groups are unrelated to the group means of the regressor. The means
are added, and their coefficients (between less within) are tested (Mundlak 1978; Hausman 1978; Raudenbush and Bryk
2002, p. 135). The remedy is the within-between model that the test has fitted: its slope within groups is not touched
by what the groups have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from hlm.criterion import make_problem
from hlm.design import Design, Factor
from hlm.diagnostics.deletion import widened
from hlm.errors import DesignError
from hlm.residuals.estimation import estimate_model

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# Of a column's sum of squares: less than this within groups, or between them, is none.
NONE = 1e-10


@dataclass(frozen=True)
class Exogeneity:
    """Test of exogeneity.

    Attributes
    ----------
    statistic : float
        Wald's, of all contextual coefficients.
    df : int
    pvalue : float
    table : DataFrame
        For each regressor: slope "within" groups with its standard error, "contextual" coefficient (between less
        within), its standard error, z and p.
    fit : Fit
        The within-between model: the remedy.
    group : str
    """

    statistic: float
    df: int
    pvalue: float
    table: pd.DataFrame
    fit: Fit
    group: str

    def __str__(self) -> str:
        test = f"χ²({self.df}) = {self.statistic:.2f}, p = {self.pvalue:.3g}"
        return f"Exogeneity of '{self.group}' (Mundlak's form of Hausman's test): {test}"


def exogeneity(fit: Fit, group: str | None = None) -> Exogeneity:
    """Test whether the effects of the groups are unrelated to the regressors that vary within them.

    Parameters
    ----------
    fit : Fit
    group : str, optional
        Grouping factor; that with most levels when left out.

    Raises
    ------
    DesignError
        If no regressor varies both within and between groups beside what the model has already.
    """
    design = fit.model.design
    if not design.factors:
        raise DesignError("a model without groups has no effects to be exogenous")
    factor = design.factor(group) if group is not None else max(design.factors, key=lambda f: f.size)
    means = _new_means(fit, design, factor)
    if not means:
        raise DesignError(
            f"no regressor has means over '{factor.name}' that the model does not have already: nothing to test"
        )
    model = type(fit.model).__new__(type(fit.model))
    model._reader = None
    model.design = widened(design, {f"mean({name} | {factor.name})": mean for name, mean in means.items()})
    model.problem = make_problem(model.design)
    problem = model._restricted
    found = type(fit)(model, *estimate_model(problem, fit.reml, fit.method), fit.reml, fit.method)
    names = [name for name in model.design.names[len(design.names) :] if name not in found.aliased]
    b, C = found.params[names].to_numpy(), found.cov_params().loc[names, names].to_numpy()
    statistic = float(b @ np.linalg.solve(C, b))
    plain = [name for name in means if f"mean({name} | {factor.name})" in names]
    z = b / np.sqrt(np.diag(C))
    table = pd.DataFrame(
        {
            "within": found.params[plain].to_numpy(),
            "within_se": found.bse[plain].to_numpy(),
            "contextual": b,
            "contextual_se": np.sqrt(np.diag(C)),
            "z": z,
            "p": chdtrc(1, z * z),
        },
        index=plain,
    )
    return Exogeneity(statistic, len(names), float(chdtrc(len(names), statistic)), table, found, factor.name)


def _new_means(fit: Fit, design: Design, factor: Factor) -> dict[str, Matrix]:
    """Group means of the columns that vary within groups, those that are no combination of columns of the model."""
    weights = fit._problem.statistics.weights
    X = fit.model._prepared.fixed
    count = np.bincount(factor.codes, design.frequencies, factor.size)
    out = {}
    for name, column, keep in zip(design.names, design.columns, fit._problem.coordinates.kept, strict=True):
        values = column if design.frequencies is None else column * design.frequencies
        mean = (np.bincount(factor.codes, values, factor.size) / count)[factor.codes]
        size = float(column @ column)
        if not keep or float(((column - mean) ** 2).sum()) <= NONE * size:
            continue
        left = mean - X @ (X.T @ (mean if weights is None else weights * mean))
        if float(left @ left) > NONE * size:
            out[name] = mean
    return out
