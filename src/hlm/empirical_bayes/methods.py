"""What a fit offers of empirical Bayes: thin methods, each of which calls a function of its own file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from hlm.empirical_bayes import coefficients, new_groups, ranks, reliability
from hlm.empirical_bayes.coefficients import GroupCoefficients
from hlm.empirical_bayes.new_groups import NewGroups
from hlm.empirical_bayes.ols import GroupOLS, group_ols
from hlm.empirical_bayes.ranks import Ranks
from hlm.empirical_bayes.residual_tables import group_table, row_table

if TYPE_CHECKING:
    from hlm.fit import Fit


class EmpiricalBayesMethods:
    """Base of `Fit`: what is said of groups."""

    @property
    def _fit(self) -> Fit:
        return cast("Fit", self)

    def empirical_bayes(self, factor: str, *, theta_uncertainty: bool = False) -> GroupCoefficients:
        """Return β̂_j = 𝐙_j γ̂ + û_j of a factor's groups with covariances; see `coefficients.empirical_bayes`."""
        return coefficients.empirical_bayes(self._fit, factor, theta_uncertainty)

    def ols(self, factor: str) -> GroupOLS:
        """Return each group fitted by itself, and the level-2 regressions of that; see `ols.group_ols`."""
        return group_ols(self._fit, factor)

    def reliability(self, kind: str = "hlm") -> pd.DataFrame:
        """Return the average reliability of each random coefficient; see `reliability.reliabilities`."""
        return reliability.reliability(self._fit, kind)

    def reliabilities(self, factor: str, kind: str = "hlm") -> pd.DataFrame:
        """Return the reliability of each random coefficient of each group; see `reliability.reliabilities`."""
        return reliability.reliabilities(self._fit, factor, kind)

    def variance_tests(self) -> pd.DataFrame:
        """Return HLM's chi-square test of each variance; see `reliability.variance_tests`."""
        return reliability.variance_tests(self._fit)

    def residual_table(self, factor: str | None = None) -> pd.DataFrame:
        """Return HLM's residual file of a factor's groups, or of the rows; see `residual_tables`."""
        return row_table(self._fit) if factor is None else group_table(self._fit, factor)

    def score_groups(self, new: Any, *, weights: Any = None, seen: str = "error") -> dict[str, NewGroups]:
        """Return empirical Bayes estimates of unseen groups from their rows; see `new_groups.score_groups`."""
        return new_groups.score_groups(self._fit, new, weights, seen)

    def score_stream(self, chunks: Iterable[Any], *, seen: str = "error") -> Iterator[dict[str, NewGroups]]:
        """Yield the estimates of `score_groups` chunk by chunk; see `new_groups.score_stream`."""
        return new_groups.score_stream(self._fit, chunks, seen)

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
        """Return the probability of each rank of each group; see `ranks.ranks`."""
        return ranks.ranks(self._fit, factor, effect, of=of, groups=groups, draws=draws, seed=seed)

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
        """Return differences between groups with joint standard errors; see `ranks.comparisons`."""
        return ranks.comparisons(self._fit, factor, effect, of=of, groups=groups, reference=reference, alpha=alpha)

    def comparison_intervals(
        self,
        factor: str,
        effect: str = "Intercept",
        *,
        of: str = "effects",
        groups: Sequence[Any] | None = None,
        alpha: float = 0.05,
    ) -> pd.DataFrame:
        """Return intervals whose overlap tells groups apart; see `ranks.comparison_intervals`."""
        return ranks.comparison_intervals(self._fit, factor, effect, of=of, groups=groups, alpha=alpha)
