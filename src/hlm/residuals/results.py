"""What a fit says of its level-1 errors: estimates, standard errors, and the test of homogeneity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import gammaincc, ndtri

from hlm.covariance import Matrix
from hlm.errors import DataError, DesignError
from hlm.residuals.pattern import Estimated, Pattern

if TYPE_CHECKING:
    from hlm.fit import Fit

# Step of the differences by which standard errors change their scale (φ is of order one).
STEP = 1e-5


@dataclass(frozen=True)
class HomogeneityTest:
    """Likelihood-ratio test of a residual structure against independent errors of one variance.

    Attributes
    ----------
    statistic : float
        Difference of the criteria (both ML, or both REML with the same fixed effects).
    df : int
        Parameters of the structure.
    pvalue : float
        Of χ² with so many degrees of freedom; half and half with one less where independent errors are at the end of a
        correlation's range (AR(1) in continuous time).
    """

    statistic: float
    df: int
    pvalue: float

    def __str__(self) -> str:
        p = "<0.001" if self.pvalue < 0.001 else f"{self.pvalue:.3f}"
        return f"chi-square {self.statistic:.2f}, df {self.df}, p {p}"


class ResidualEstimate:
    """The structure of the level-1 errors of a fit, at its estimate.

    Parameters
    ----------
    fit : Fit
    estimated : Estimated
    """

    def __init__(self, fit: Fit, estimated: Estimated) -> None:
        self._fit = fit
        self._estimated = estimated

    @property
    def _pattern(self) -> Pattern:
        return self._estimated.pattern

    def __str__(self) -> str:
        return self._pattern.describe()

    @property
    def params(self) -> pd.Series:
        """The estimates: ratios of standard deviations, correlations, coefficients of the log variance."""
        return self._pattern.natural(self._estimated.phi).rename("params")

    @property
    def cov_params(self) -> pd.DataFrame:
        """Asymptotic covariance of `params` on scales without bounds: log for ratios, atanh for correlations.

        From the Hessian of the criterion in all variance parameters, σ² profiled out: it has the uncertainty of the
        others. `table` names the scales.
        """
        pattern, phi = self._pattern, self._estimated.phi
        steps = STEP * np.eye(len(phi))
        moved = [pattern.scaled(phi + s)[0] - pattern.scaled(phi - s)[0] for s in steps]
        jacobian = np.array(moved).T / (2 * STEP)
        names = self.params.index
        return pd.DataFrame(jacobian @ self._estimated.covariance @ jacobian.T, index=names, columns=names)

    @property
    def bse(self) -> pd.Series:
        """Standard errors of `params` on the scales of `cov_params`."""
        return pd.Series(np.sqrt(np.diag(self.cov_params)), index=self.params.index, name="bse")

    def table(self, alpha: float = 0.05) -> pd.DataFrame:
        """Return the estimates with intervals.

        Columns "estimate", "scale", "std. error" (on that scale), "lower" and "upper": limits of coverage 1 - alpha of
        the scale, put back.

        Raises
        ------
        DataError
            If alpha is not between 0 and 1.
        """
        if not 0 < alpha < 1:
            raise DataError(f"alpha must be between 0 and 1, got {alpha!r}")
        scaled, scales = self._pattern.scaled(self._estimated.phi)
        se = self.bse.to_numpy()
        half = -ndtri(alpha / 2) * se
        return pd.DataFrame(
            {
                "estimate": self.params.to_numpy(),
                "scale": scales,
                "std. error": se,
                "lower": self._pattern.unscaled(scaled - half),
                "upper": self._pattern.unscaled(scaled + half),
            },
            index=self.params.index,
        )

    @property
    def sd(self) -> pd.Series:
        """Residual standard deviations of the strata or occasions; of all rows alike where there are none."""
        found = self._pattern.sd(self._estimated.phi, self._fit.sigma)
        return pd.Series({"all": self._fit.sigma}, name="sd") if found is None else found

    @property
    def homogeneity(self) -> HomogeneityTest:
        """Likelihood-ratio test of independent errors of one variance."""
        statistic = max(self._estimated.independent - self._fit.criterion, 0.0)
        df = self._pattern.size
        tail = float(gammaincc(0.5 * df, 0.5 * statistic))
        if self._pattern.boundary:
            less = float(gammaincc(0.5 * (df - 1), 0.5 * statistic)) if df > 1 else float(statistic <= 0)
            tail = 0.5 * (tail + less)
        return HomogeneityTest(statistic, df, tail)

    def white(self) -> pd.Series:
        """Return the residuals made white (N,): independent and of standard deviation 1 if the model is right.

        Conditional residuals y - Xγ̂ - Zû times a square root of their precision (nlme's normalized residuals).
        """
        design = self._fit.model.design
        resid = self._fit.resid.to_numpy()
        rows = resid if design.kept is None else resid[design.kept]
        if design.weights is not None:
            rows = rows * np.sqrt(design.weights)
        values: Matrix = self._pattern.whiten(rows[:, None], self._estimated.phi)[:, 0] / self._fit.sigma
        return design.full_length(values).rename("white")

    def __repr__(self) -> str:
        return f"<level-1 errors: {self._pattern.describe()}>\n{self.table()}"


def residual_of(fit: Fit) -> ResidualEstimate:
    """Return the structure of the level-1 errors of a fit.

    Raises
    ------
    DesignError
        If the model has none.
    """
    estimated = fit._problem.residual
    if estimated is None:
        raise DesignError("the level-1 errors of this model are independent and of one variance: give Model residual=")
    return ResidualEstimate(fit, estimated)
