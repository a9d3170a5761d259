"""What a fit offers of its error structure: thin methods, each of which calls a function of its own file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from hlm.documentation import documented_by
from hlm.error_structure.pooling import Poolings, ml_bias, poolings
from hlm.error_structure.standard_errors import standard_errors
from hlm.error_structure.variance_function import least_variance, variance_function, within_covariance

if TYPE_CHECKING:
    from hlm.fit import Fit


class ErrorStructureMethods:
    """Base of `Fit`: variances as functions of x, and what the structure of errors does to estimates."""

    @documented_by(variance_function)
    def variance_function(self, at: Any = None) -> pd.DataFrame:
        """Return Var(Y | x) level by level, and intraclass correlations."""
        return variance_function(cast("Fit", self), at)

    @documented_by(within_covariance, name="factor")
    def within_covariance(self, factor: str, at: Any, other: Any) -> pd.DataFrame:
        """Return Cov(Y, Y' | x, x') of two rows of one group."""
        return within_covariance(cast("Fit", self), factor, at, other)

    @documented_by(least_variance)
    def least_variance(self, effect: str, at: Any = None) -> pd.Series:
        """Return the x at which Var(Y | x) is least."""
        return least_variance(cast("Fit", self), effect, at)

    @documented_by(standard_errors)
    def standard_errors(self, cluster: str | None = None) -> pd.DataFrame:
        """Return naive, robust and model-based standard errors, design effects."""
        return standard_errors(cast("Fit", self), cluster)

    @documented_by(poolings)
    def poolings(self, effects: Sequence[str] | None = None) -> Poolings:
        """Return pooled, between, within, no-pooling and HLM estimates of γ."""
        return poolings(cast("Fit", self), effects)

    @documented_by(ml_bias)
    def ml_bias(self) -> pd.DataFrame:
        """Return variance components by ML beside those by REML."""
        return ml_bias(cast("Fit", self))
