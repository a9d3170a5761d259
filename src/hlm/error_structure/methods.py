"""What a fit offers of its error structure: thin methods, each of which calls a function of its own file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from hlm.error_structure import pooling, variance_function
from hlm.error_structure.pooling import Poolings
from hlm.error_structure.standard_errors import standard_errors

if TYPE_CHECKING:
    from hlm.fit import Fit


class ErrorStructureMethods:
    """Base of `Fit`: variances as functions of x, and what the structure of errors does to estimates."""

    def variance_function(self, at: Any = None) -> pd.DataFrame:
        """Return Var(Y | x) level by level, and intraclass correlations; see `variance_function`."""
        return variance_function.variance_function(cast("Fit", self), at)

    def within_covariance(self, factor: str, at: Any, other: Any) -> pd.DataFrame:
        """Return Cov(Y, Y' | x, x') of two rows of one group; see `variance_function.within_covariance`."""
        return variance_function.within_covariance(cast("Fit", self), factor, at, other)

    def least_variance(self, effect: str, at: Any = None) -> pd.Series:
        """Return the x at which Var(Y | x) is least; see `variance_function.least_variance`."""
        return variance_function.least_variance(cast("Fit", self), effect, at)

    def standard_errors(self, cluster: str | None = None) -> pd.DataFrame:
        """Return naive, robust and model-based standard errors, design effects; see `standard_errors`."""
        return standard_errors(cast("Fit", self), cluster)

    def poolings(self, effects: Sequence[str] | None = None) -> Poolings:
        """Return pooled, between, within, no-pooling and HLM estimates of γ; see `pooling.poolings`."""
        return pooling.poolings(cast("Fit", self), effects)

    def ml_bias(self) -> pd.DataFrame:
        """Return variance components by ML beside those by REML; see `pooling.ml_bias`."""
        return pooling.ml_bias(cast("Fit", self))
