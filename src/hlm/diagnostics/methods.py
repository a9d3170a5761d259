"""What a fit offers to judge the model: thin methods, each of which calls a function of its own file."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, cast

import pandas as pd

from hlm.comparison.homogeneity import Homogeneity, homogeneity
from hlm.diagnostics.exogeneity import Exogeneity, exogeneity
from hlm.diagnostics.influence import Influence, influence, leverages
from hlm.diagnostics.report import Checks, check
from hlm.diagnostics.residuals import residuals
from hlm.measures.conditional import ConditionalAIC, conditional_aic
from hlm.measures.explained import r_squared
from hlm.measures.intraclass import icc

if TYPE_CHECKING:
    from hlm.fit import Fit


class DiagnosticMethods:
    """Base of `Fit`: measures of the model as a whole, and checks of what it assumes."""

    @cached_property
    def conditional_aic(self) -> ConditionalAIC:
        """Conditional AIC (Vaida and Blanchard; Greven and Kneib); see `hlm.measures.conditional`."""
        return conditional_aic(cast("Fit", self))

    def r_squared(self, method: str = "nakagawa", *, base: Fit | None = None, group: str | None = None) -> pd.Series:
        """Return proportions of explained variance; see `hlm.measures.explained.r_squared`."""
        return r_squared(cast("Fit", self), method, base=base, group=group)

    def icc(self, alpha: float = 0.05, method: str = "wald") -> pd.DataFrame:
        """Return intraclass correlations of each level with intervals, and design effects; see `hlm.measures`."""
        return icc(cast("Fit", self), alpha, method)

    def residuals(self, kind: str = "conditional") -> pd.Series:
        """Return residuals: "conditional", "marginal", "pearson" or "cholesky"; see `hlm.diagnostics.residuals`."""
        return residuals(cast("Fit", self), kind)

    def influence(self, group: str | None = None, refit: str = "none") -> Influence:
        """Delete each group in turn: Cook's distances, DFBETAS, estimates without it; see `hlm.diagnostics`."""
        return influence(cast("Fit", self), group, refit)

    @cached_property
    def leverages(self) -> pd.Series:
        """∂ŷ/∂y of each row (N,), θ known: the diagonal of the hat matrix."""
        return leverages(cast("Fit", self))

    def exogeneity(self, group: str | None = None) -> Exogeneity:
        """Test whether effects of groups go with regressors, with the remedy; see `hlm.diagnostics.exogeneity`."""
        return exogeneity(cast("Fit", self), group)

    def check(self, alpha: float = 0.01) -> Checks:
        """Check normality at each level, equal variances and exogeneity; print it for a report in plain words."""
        return check(cast("Fit", self), alpha)

    def homogeneity(self, group: str | None = None, least_df: int = 10) -> Homogeneity:
        """Test whether the level-1 variance is the same in all groups; see `hlm.comparison.homogeneity`."""
        return homogeneity(cast("Fit", self), group, least_df)
