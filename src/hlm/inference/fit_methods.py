"""What a fit offers of inference: thin methods, each of which calls a function of its own file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy.typing as npt
import pandas as pd

from hlm.bootstrap import Bootstrap, bootstrap
from hlm.documentation import documented_by
from hlm.inference.anova import Anova, anova
from hlm.inference.distributions import checked_alpha
from hlm.inference.fixed import Inference
from hlm.inference.hypotheses import LinearTest, linear_test
from hlm.inference.information import VarianceInformation, information
from hlm.inference.johnson_neyman import JohnsonNeyman, johnson_neyman
from hlm.inference.means import Means, marginal_means, slopes
from hlm.inference.methods import inference
from hlm.profiles.intervals import fixed_intervals, profile_table
from hlm.profiles.table import variance_table

if TYPE_CHECKING:
    from hlm.fit import Fit

_METHOD = "method : str\n    How the fixed effects are judged, see `inference`."
_OPTIONS = "\n**options\n    Of the method."


class InferenceMethods:
    """Base of `Fit`: what is said of fixed effects and variances, and how sure it is."""

    def inference(self, method: str = "satterthwaite", **options: Any) -> Inference:
        """Return one way to judge the fixed effects; summary, tests, intervals, means and predictions follow it.

        Parameters
        ----------
        method : {"z", "satterthwaite", "kenward-roger", "between-within", "hlm", "CR0", "CR1", "CR2", "CR3"}
            Model-based standard errors with the normal distribution, or with degrees of freedom by Satterthwaite, by
            level ("between-within", as nlme), or by equation (J - k - 1, as HLM); Kenward and Roger's adjusted
            covariance; cluster-robust covariances.
        **options
            Of the method: ``cluster`` for CR0 … CR3 (a grouping factor); ``boundary`` for "kenward-roger".

        Returns
        -------
        Inference

        Raises
        ------
        DataError
            For an unknown method, or one that the model does not have.
        """
        return inference(cast("Fit", self), method, options)

    def cov_params(self, kind: str = "z", **options: Any) -> pd.DataFrame:
        """Return the covariance of γ̂ for columns that are not aliased.

        Parameters
        ----------
        kind : str
            "z": model-based, σ̂² (X'V⁻¹X)⁻¹; "kenward-roger"; "CR0" … "CR3": see `inference`.
        **options
            Of the method.
        """
        return self.inference(kind, **options).cov_params()

    @cached_property
    def bse(self) -> pd.Series:
        """Standard errors of γ̂ (p,), model-based; 0 for those that are known."""
        return self.inference("z").bse

    @property
    def tvalues(self) -> pd.Series:
        """γ̂ / standard error; NaN for those that are known."""
        return self.inference("z").tvalues

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values of γ = 0 from the normal distribution (Wald); `inference` has those of small samples."""
        return self.inference("z").pvalues

    def conf_int(self, alpha: float = 0.05, method: str = "wald", **options: Any) -> pd.DataFrame:
        """Return intervals of γ: columns "lower" and "upper", coverage 1 - alpha.

        Parameters
        ----------
        alpha : float
        method : str
            "wald": normal quantiles and model-based standard errors; "profile": profile likelihood, of fits by ML;
            "bootstrap": percentiles of `bootstrap`, whose options may follow; or a method of `inference`. For intervals
            of the variances see `variance_table`.
        **options
            Of the method.

        Raises
        ------
        DataTypeError, DataError
            If alpha is not a number, or not between 0 and 1; for another method, or a profile of a fit by REML.
        """
        if method == "profile":
            return fixed_intervals(cast("Fit", self), checked_alpha(alpha))
        if method == "bootstrap":
            drawn = bootstrap(cast("Fit", self), **options)
            return drawn.conf_int(alpha).loc[drawn.fixed, ["lower", "upper"]].reindex(cast("Fit", self).params.index)
        return self.inference("z" if method == "wald" else method, **options).conf_int(alpha)

    @documented_by(linear_test, more=_METHOD + _OPTIONS)
    def test(
        self,
        hypothesis: Any,
        values: npt.ArrayLike | None = None,
        method: str = "satterthwaite",
        **options: Any,
    ) -> LinearTest:
        """Test linear hypotheses, ``"cses:meanses = 0, sector = 2"``."""
        return self.inference(method, **options).test(hypothesis, values)

    @documented_by(anova, more=_METHOD + _OPTIONS)
    def anova(self, kind: str | int = "III", method: str = "satterthwaite", **options: Any) -> Anova:
        """Test each term of the fixed part, type I, II or III."""
        return self.inference(method, **options).anova(kind)

    @documented_by(marginal_means, more=_METHOD)
    def marginal_means(self, variables: str | Sequence[str], method: str = "satterthwaite", **options: Any) -> Means:
        """Return mean responses by some variables."""
        return self.inference(method).marginal_means(variables, **options)

    @documented_by(slopes, more=_METHOD)
    def slopes(
        self, variable: str, by: str | Sequence[str] = (), method: str = "satterthwaite", **options: Any
    ) -> Means:
        """Return slopes in a variable by others, simple slopes."""
        return self.inference(method).slopes(variable, by, **options)

    @documented_by(johnson_neyman, more=_METHOD)
    def johnson_neyman(
        self, variable: str, moderator: str, method: str = "satterthwaite", **options: Any
    ) -> JohnsonNeyman:
        """Find where along a moderator a slope differs from zero."""
        return self.inference(method).johnson_neyman(variable, moderator, **options)

    @documented_by(information)
    def information(self, kind: str = "observed", boundary: str = "free") -> VarianceInformation:
        """Return the information of the entries of T and σ²."""
        return information(cast("Fit", self), kind, boundary)

    @documented_by(variance_table)
    def variance_table(
        self, alpha: float = 0.05, method: str = "wald", scale: str = "sd", **options: Any
    ) -> pd.DataFrame:
        """Return standard deviations (or variances), correlations and σ with standard errors and intervals."""
        return variance_table(cast("Fit", self), alpha, method, scale, **options)

    @documented_by(bootstrap)
    def bootstrap(
        self,
        count: int = 1000,
        *,
        kind: str = "parametric",
        statistic: Callable[[Fit], Any] | None = None,
        seed: Any = 0,
        workers: int = 1,
    ) -> Bootstrap:
        """Return replicates of all parameters from drawn responses, with intervals."""
        return bootstrap(cast("Fit", self), count, kind=kind, statistic=statistic, seed=seed, workers=workers)

    def profile(self, name: str, points: int = 15, alpha: float = 0.05) -> pd.DataFrame:
        """Return the profile likelihood of one parameter: value, ζ (signed root of the rise), deviance.

        Parameters
        ----------
        name : str
            A fixed effect (fits by ML), what `variance_table` lists ("sd(x | g)", "cor(x, z | g)", "sigma", of a
            structure "sd(g)", "cor(g)" or "rho(g)", of the level-1 errors "residual.rho" and the like), or "icc(g)".
        points : int
            Values between the limits at least.
        alpha : float
            The limits are those of the interval that covers 1 - alpha.

        Raises
        ------
        DataError
            For a name without a profile.
        NumericalError
            If a limit is not found, saying where the search stopped.
        """
        return profile_table(cast("Fit", self), name, points, alpha)
