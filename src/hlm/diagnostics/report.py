"""All checks of a fit, with a report in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from hlm.certificate import Certificate
from hlm.comparison.homogeneity import Homogeneity, homogeneity
from hlm.diagnostics.exogeneity import Exogeneity, exogeneity
from hlm.diagnostics.residuals import residuals
from hlm.errors import DesignError

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# A variance of z'u that is below this part of σ² on average is one of zero: there is nothing to look at.
NOTHING = 1e-8


@dataclass(frozen=True)
class Checks:
    """Results of the checks of a fit.

    Attributes
    ----------
    normality : DataFrame
        For the rows ("rows") and each random effect ("x | g"): number, skewness, excess kurtosis, the statistic of
        Jarque and Bera (χ² with 2 df), p, and the label of the most extreme one with its value in standard deviations.
    homogeneity : Homogeneity or None
    exogeneity : Exogeneity or None
        None where there was nothing to test.
    alpha : float
        The level of what the report calls a sign.
    skipped : dict of str to str
        Checks that could not be made, and why.
    certificate : Certificate
        Of the fit; the report begins with it if the fit is not at an optimum.
    """

    normality: pd.DataFrame
    homogeneity: Homogeneity | None
    exogeneity: Exogeneity | None
    alpha: float
    skipped: dict[str, str]
    certificate: Certificate

    def __str__(self) -> str:
        lines = ["Checks", *(f"  {line}" for line in self._sentences())]
        lines += [f"  not checked, {what}: {why}" for what, why in self.skipped.items()]
        return "\n".join(lines)

    def _sentences(self) -> list[str]:
        out = []
        if not self.certificate.holds:
            out.append(f"the fit did not reach an optimum, and what follows is not about one: {self.certificate}")
        out += [self._on_normality(str(name), row) for name, row in self.normality.iterrows()]
        if self.homogeneity is not None:
            out.append(self._on_homogeneity(self.homogeneity))
        if self.exogeneity is not None:
            out.append(self._on_exogeneity(self.exogeneity))
        return out

    def _on_normality(self, name: str, row: pd.Series) -> str:
        what = "errors of the rows" if name == "rows" else f"effects {name}"
        if row["p"] >= self.alpha:
            return f"{what}: no sign against a normal distribution (p = {row['p']:.2g})"
        shape = "heavy-tailed" if row["kurtosis"] > 0 else "light-tailed"
        if abs(row["skewness"]) > 0.5 * abs(row["kurtosis"]):
            shape = "skewed"
        return (
            f"{what}: not normal, {shape} (p = {row['p']:.2g}); the most extreme is {row['extreme']} at "
            f"{row['extreme_value']:.1f} standard deviations. Estimates of γ are little affected; intervals of "
            "variances and predictions are: bootstrap them, or look at the extreme ones"
        )

    def _on_homogeneity(self, found: Homogeneity) -> str:
        if found.pvalue >= self.alpha:
            return f"level-1 variance: no sign of differences (p = {found.pvalue:.2g})"
        worst = found.groups["d"].abs().idxmax()
        return (
            f"the level-1 variance differs between groups (p = {found.pvalue:.2g}), most in {worst}: a regressor may "
            "be missing, or the variance depends on one"
        )

    def _on_exogeneity(self, found: Exogeneity) -> str:
        group, p = found.group, found.pvalue
        if p >= self.alpha:
            return f"exogeneity: no sign that effects of '{group}' go with regressors (p = {p:.2g})"
        worst = str(found.table["p"].idxmin())
        return (
            f"the effects of '{group}' are related to regressors, most to '{worst}' (p = {p:.2g}): slopes within and "
            f"between groups differ. Remedy: add the group mean, or centre it, center({worst}, {group}); the slope "
            f"within is {found.table.loc[worst, 'within']:.4g} (see .exogeneity.fit)"
        )


def check(fit: Fit, alpha: float = 0.01) -> Checks:
    """Check a fit: normality at each level, equal variances of the rows, exogeneity.

    Rows are judged by residuals that are uncorrelated under the model (scaled by the Cholesky factor; conditional ones
    where factors are crossed), effects by their estimates over their standard deviation, √(Var(u) - Cov(u - û)), which
    are normal if the effects and errors are; they are not independent, so p-values are a guide.

    Parameters
    ----------
    fit : Fit
    alpha : float
        Below this p-value the report speaks of a sign.
    """
    skipped: dict[str, str] = {}
    rows: dict[str, list[object]] = {}
    try:
        values = residuals(fit, "cholesky")
    except DesignError as error:
        skipped["scaled residuals (conditional ones instead)"] = str(error)
        values = residuals(fit, "pearson")
    values = values.dropna()
    rows["rows"] = _normality(values.to_numpy(), values.index)
    for factor in fit.model.design.factors:
        T = fit.covariances[factor.name].to_numpy()
        modes = fit.random_effects[factor.name].to_numpy()[: factor.size]
        left = np.einsum("jii->ji", fit.random_effects_cov[factor.name][: factor.size])
        spread = np.maximum(factor.level_scale[: factor.size, None] * np.diag(T) - left, 0.0)
        for i, effect in enumerate(factor.effects):
            size = float(np.mean(factor.columns[i] ** 2))
            if T[i, i] * size <= NOTHING * fit.sigma**2 or (spread[:, i] <= NOTHING * T[i, i]).any():
                skipped[f"effects {effect} | {factor.name}"] = "they have no variance, or groups have no data for them"
                continue
            rows[f"{effect} | {factor.name}"] = _normality(modes[:, i] / np.sqrt(spread[:, i]), factor.labels)
    columns = ["number", "skewness", "kurtosis", "statistic", "p", "extreme", "extreme_value"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    equal: Homogeneity | None = None
    try:
        equal = homogeneity(fit)
    except DesignError as error:
        skipped["equal variances"] = str(error)
    outside: Exogeneity | None = None
    try:
        outside = exogeneity(fit)
    except DesignError as error:
        skipped["exogeneity"] = str(error)
    return Checks(table, equal, outside, alpha, skipped, fit.certificate)


def _normality(values: Matrix, labels: pd.Index) -> list[object]:
    """Moments, Jarque and Bera's (1987) statistic, and the most extreme value."""
    centred = values - values.mean()
    sd = float(np.sqrt((centred**2).mean()))
    z = centred / sd
    skewness, kurtosis = float((z**3).mean()), float((z**4).mean() - 3)
    statistic = len(z) / 6 * (skewness**2 + kurtosis**2 / 4)
    at = int(np.abs(z).argmax())
    return [len(z), skewness, kurtosis, statistic, float(chdtrc(2, statistic)), labels[at], float(z[at])]
