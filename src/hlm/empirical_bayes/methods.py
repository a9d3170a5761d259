"""What a fit offers of empirical Bayes: thin methods, each of which calls a function of its own file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from hlm.documentation import documented_by
from hlm.empirical_bayes.coefficients import GroupCoefficients, empirical_bayes
from hlm.empirical_bayes.new_groups import NewGroups, score_groups, score_stream
from hlm.empirical_bayes.ols import GroupOLS, group_ols
from hlm.empirical_bayes.ranks import Ranks, comparison_intervals, comparisons, ranks
from hlm.empirical_bayes.reliability import reliabilities, reliability, variance_tests
from hlm.empirical_bayes.residual_tables import group_table, row_table

if TYPE_CHECKING:
    from hlm.fit import Fit


class EmpiricalBayesMethods:
    """Base of `Fit`: what is said of groups."""

    @property
    def _fit(self) -> Fit:
        return cast("Fit", self)

    @documented_by(empirical_bayes, name="factor")
    def empirical_bayes(self, factor: str, *, theta_uncertainty: bool = False) -> GroupCoefficients:
        """Return β̂_j = 𝐙_j γ̂ + û_j of a factor's groups with covariances."""
        return empirical_bayes(self._fit, factor, theta_uncertainty)

    @documented_by(group_ols, name="factor")
    def ols(self, factor: str) -> GroupOLS:
        """Return each group fitted by itself, and the level-2 regressions of that."""
        return group_ols(self._fit, factor)

    @documented_by(reliability)
    def reliability(self, kind: str = "hlm") -> pd.DataFrame:
        """Return the average reliability of each random coefficient."""
        return reliability(self._fit, kind)

    @documented_by(reliabilities, name="factor")
    def reliabilities(self, factor: str, kind: str = "hlm") -> pd.DataFrame:
        """Return the reliability of each random coefficient of each group."""
        return reliabilities(self._fit, factor, kind)

    @documented_by(variance_tests)
    def variance_tests(self) -> pd.DataFrame:
        """Return HLM's chi-square test of each variance."""
        return variance_tests(self._fit)

    def residual_table(self, factor: str | None = None) -> pd.DataFrame:
        """Return HLM's residual file of a factor's groups, or of the rows; see `residual_tables`."""
        return row_table(self._fit) if factor is None else group_table(self._fit, factor)

    @documented_by(score_groups)
    def score_groups(self, new: Any, *, weights: Any = None, seen: str = "error") -> dict[str, NewGroups]:
        """Return empirical Bayes estimates of unseen groups from their rows."""
        return score_groups(self._fit, new, weights, seen)

    @documented_by(score_stream)
    def score_stream(self, chunks: Iterable[Any], *, seen: str = "error") -> Iterator[dict[str, NewGroups]]:
        """Yield the estimates of `score_groups` chunk by chunk."""
        return score_stream(self._fit, chunks, seen)

    @documented_by(ranks, name="factor")
    def ranks(
        self,
        factor: str,
        effect: str = "Intercept",
        *,
        of: str = "effects",
        groups: Sequence[Any] | None = None,
        draws: int | None = None,
        seed: int | None = None,
    ) -> Ranks:
        """Return the probability of each rank of each group."""
        return ranks(self._fit, factor, effect, of=of, groups=groups, draws=draws, seed=seed)

    @documented_by(comparisons, name="factor")
    def comparisons(
        self,
        factor: str,
        effect: str = "Intercept",
        *,
        of: str = "effects",
        groups: Sequence[Any] | None = None,
        reference: Any = None,
        alpha: float = 0.05,
    ) -> pd.DataFrame:
        """Return differences between groups with joint standard errors."""
        return comparisons(self._fit, factor, effect, of=of, groups=groups, reference=reference, alpha=alpha)

    @documented_by(comparison_intervals, name="factor")
    def comparison_intervals(
        self,
        factor: str,
        effect: str = "Intercept",
        *,
        of: str = "effects",
        groups: Sequence[Any] | None = None,
        alpha: float = 0.05,
    ) -> pd.DataFrame:
        """Return intervals whose overlap tells groups apart."""
        return comparison_intervals(self._fit, factor, effect, of=of, groups=groups, alpha=alpha)
