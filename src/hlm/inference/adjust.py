"""Adjustments of p-values and intervals for several comparisons."""

from __future__ import annotations

import numpy as np

from hlm.errors import DataError
from hlm.inference.distributions import Array, t_pvalue, t_quantile

ADJUSTMENTS = ("none", "tukey", "bonferroni", "holm", "sidak")


def checked_adjustment(adjust: str | None) -> str:
    """Return the name of an adjustment; None is "none"."""
    adjust = "none" if adjust is None else adjust
    if adjust not in ADJUSTMENTS:
        raise DataError(f"adjust must be one of {', '.join(map(repr, ADJUSTMENTS))}, got {adjust!r}")
    return adjust


def adjusted_pvalues(t: Array, df: Array, adjust: str, means: int) -> Array:
    """Return two-sided p-values of a family of t statistics.

    Parameters
    ----------
    t, df : (m,)
    adjust : str
        "tukey": all pairs of `means` means, by the studentized range (exact for equal variances and independent means,
        conservative else: Tukey-Kramer); "sidak": 1 - (1 - p)^m; "bonferroni": m p; "holm": Bonferroni step by step.
    means : int
        Means that are compared, for "tukey".
    """
    p = t_pvalue(t, df)
    m = int(np.isfinite(p).sum())  # a contrast without an estimate is no comparison
    if adjust == "bonferroni":
        return np.minimum(1.0, m * p)
    if adjust == "sidak":
        return np.asarray(-np.expm1(m * np.log1p(-np.minimum(p, 1 - 1e-16))), dtype=np.float64)
    if adjust == "holm":
        order = np.argsort(p)[:m]
        out = np.full(len(p), np.nan)
        out[order] = np.minimum(1.0, np.maximum.accumulate((m - np.arange(m)) * p[order]))
        return out
    if adjust == "tukey":
        from scipy.stats import studentized_range

        return np.asarray(studentized_range.sf(np.sqrt(2) * np.abs(t), means, df), dtype=np.float64)
    return p


def adjusted_quantiles(df: Array, alpha: float, adjust: str, means: int) -> Array:
    """Return the quantiles (m,) for intervals that hold together; Holm, who has none, gets Bonferroni's."""
    m = max(int((~np.isnan(df)).sum()), 1)
    if adjust in ("bonferroni", "holm"):
        return t_quantile(df, alpha / m)
    if adjust == "sidak":
        return t_quantile(df, -np.expm1(np.log1p(-alpha) / m))
    if adjust == "tukey":
        from scipy.stats import studentized_range

        return np.asarray(studentized_range.isf(alpha, means, df) / np.sqrt(2), dtype=np.float64)
    return t_quantile(df, alpha)
