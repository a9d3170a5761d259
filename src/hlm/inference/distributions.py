"""Tails and quantiles of t and F, with infinite degrees of freedom for the normal and chi-square distributions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, fdtrc, ndtr, ndtri, stdtr, stdtrit

from hlm.errors import DataError, DataTypeError

Array = npt.NDArray[np.float64]


def t_pvalue(t: npt.ArrayLike, df: npt.ArrayLike) -> Array:
    """Two-sided p-values of t statistics."""
    t, df = np.broadcast_arrays(np.asarray(t, dtype=float), np.asarray(df, dtype=float))
    finite = np.isfinite(df)
    tail = np.where(finite, stdtr(np.where(finite, df, 1.0), -np.abs(t)), ndtr(-np.abs(t)))
    return np.asarray(2 * tail, dtype=np.float64)


def t_quantile(df: npt.ArrayLike, alpha: float) -> Array:
    """Upper α/2 quantiles of t."""
    df = np.asarray(df, dtype=float)
    finite = np.isfinite(df)
    out = np.where(finite, -stdtrit(np.where(finite, df, 1.0), alpha / 2), -ndtri(alpha / 2))
    return np.asarray(out, dtype=np.float64)


def normal_quantile(alpha: float) -> float:
    """Return the normal quantile of a two-sided interval."""
    return float(-ndtri(checked_alpha(alpha) / 2))


def f_pvalue(F: float, df_num: float, df_den: float) -> float:
    """Upper tail of F."""
    if np.isnan(F) or np.isnan(df_den):
        return float("nan")
    return float(fdtrc(df_num, df_den, F) if np.isfinite(df_den) else chdtrc(df_num, df_num * F))


def checked_alpha(alpha: float) -> float:
    """Return α if it is a number between 0 and 1.

    Raises
    ------
    DataTypeError, DataError
    """
    if not isinstance(alpha, (int, float, np.number)):
        raise DataTypeError(f"alpha must be a number between 0 and 1, got {alpha!r}")
    if not 0 < alpha < 1:
        raise DataError(f"alpha must be between 0 and 1, got {alpha}")
    return float(alpha)


@dataclass(frozen=True)
class Joint:
    """F test of several linear hypotheses.

    Attributes
    ----------
    statistic : float
        F.
    df_num, df_den : float
        Independent hypotheses; denominator degrees of freedom, infinite for a chi-square test of df_num · F.
    scale : float
        What F was multiplied with to be distributed as F.
    """

    statistic: float
    df_num: float
    df_den: float
    scale: float = 1.0

    @property
    def pvalue(self) -> float:
        """Upper tail."""
        return f_pvalue(self.statistic, self.df_num, self.df_den)
