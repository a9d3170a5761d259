"""Ranks of groups with the probability of each, and comparisons of pairs of groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from hlm.empirical_bayes.posterior import Posterior, positions, posterior
from hlm.errors import DataError, DesignError
from hlm_ext.indicators import leave_one_out

if TYPE_CHECKING:
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]

# Step of the trapezoidal rule in units of the narrowest of what is integrated, the densities and the probabilities of
# single ranks: its error for a bell of standard deviation 1 falls as exp(-2π²/step²), here to 1e-14.
STEP = 0.75
# Tails that are left out, in standard deviations; and what of a density counts for nothing.
TAIL = 8.5
NOTHING = 1e-20
# Directions of γ̂'s uncertainty that move groups against each other by less than this, in standard deviations of their
# differences: probabilities change by its square.
STILL = 1e-4
# Nodes for a direction that moves them by less than so much: an error of some 1e-5 in smooth functions.
SIZES = [(3, 0.2), (5, 0.5), (9, 0.9), (15, np.inf)]
# Evaluations given γ̂ that are worth it; where more were needed a rule of degree five takes a few for each pair.
MOST = 200
# Draws that are ranked together.
BATCH = 1024


@dataclass(frozen=True, eq=False)
class Ranks:
    """Posterior distribution of the ranks of groups.

    Attributes
    ----------
    probabilities : (J, J) DataFrame
        Probability of each rank (columns 1 … J, 1 the largest) of each group (rows).
    error : (J, J) DataFrame
        Standard error of the simulation; without one the largest change of the row's probabilities when the
        integration over γ is coarser (zero where γ̂ moves no group against another).
    estimate : (J,) Series
        Posterior means that are ranked.
    draws : int or None
        Draws of the simulation; None if there was none.
    """

    probabilities: pd.DataFrame
    error: pd.DataFrame
    estimate: pd.Series
    draws: int | None

    @property
    def expected(self) -> pd.Series:
        """Expected rank of each group, (J,)."""
        ranks = self.probabilities.columns.to_numpy(dtype=float)
        return (self.probabilities @ ranks).rename("expected")

    def table(self, alpha: float = 0.05) -> pd.DataFrame:
        """Return estimate, rank of the estimate, expected rank with its standard deviation, and an interval of ranks.

        Columns "estimate", "rank", "expected", "std. dev.", "lower" and "upper" (the ranks between which the group's
        lies with probability of at least 1 - alpha, at most alpha/2 beyond each), "P(first)", "P(last)".
        """
        if not 0 < alpha < 1:
            raise DataError(f"alpha must be between 0 and 1, got {alpha}")
        P = self.probabilities.to_numpy()
        ranks = self.probabilities.columns.to_numpy(dtype=float)
        mean = self.expected
        below = np.cumsum(P, axis=1)
        return pd.DataFrame(
            {
                "estimate": self.estimate,
                "rank": self.estimate.rank(ascending=False, method="min").astype(int),
                "expected": mean,
                "std. dev.": np.sqrt(np.maximum(P @ ranks**2 - mean.to_numpy() ** 2, 0.0)),
                "lower": 1 + (below <= alpha / 2).sum(axis=1),
                "upper": len(ranks) - (below[:, ::-1][:, 1:] >= 1 - alpha / 2).sum(axis=1),
                "P(first)": P[:, 0],
                "P(last)": P[:, -1],
            }
        )


def ranks(
    fit: Fit,
    name: str,
    effect: str = "Intercept",
    *,
    of: str = "effects",
    groups: Sequence[Any] | None = None,
    draws: int | None = None,
    seed: int | None = None,
) -> Ranks:
    """Return the probability of each rank of each group.

    Parameters
    ----------
    fit : Fit
    name, effect : str
        Grouping factor and random effect.
    of : {"effects", "coefficients"}
        Rank u_j, or β_j = (𝐙_j γ)_q + u_j.
    groups : sequence of labels, optional
        Rank these among themselves; all when left out.
    draws : int, optional
        Simulate this many draws from the joint posterior. Left out: no simulation. Given γ the groups of a top level
        are independent, so the rank of one that is worth x is 1 + a sum of independent indicators of the others being
        worth more (a Poisson binomial distribution), which is integrated over x by the trapezoidal rule to some 1e-12
        and over those directions of γ that move groups against each other by a Gauss-Hermite rule (by one of degree
        five where there are many).
    seed : int, optional
        Of the simulation: needed with `draws`, so that it can be repeated.

    Returns
    -------
    Ranks

    Raises
    ------
    DataError
        For an unknown effect or group, draws without a seed, or an effect without variance.
    DesignError
        Without draws, for a level below others or crossed factors, whose groups are dependent.
    """
    found = posterior(fit, name, effect, of, groups)
    if draws is not None:
        if seed is None or draws < 1:
            raise DataError("draws must be at least 1 and need a seed=, so that they can be repeated")
        P = _simulated(found, int(draws), np.random.default_rng(seed))
        error = np.sqrt(P * (1 - P) / draws)
    elif found.loadings or not found.variance.all():
        raise DesignError(
            f"groups of '{name}' are dependent given γ (a level above, or crossed factors), so that their ranks must "
            "be simulated: say how many draws= and a seed=",
            column=name,
        )
    else:
        P, error = _exact(found)
    columns = pd.RangeIndex(1, len(P) + 1, name="rank")
    return Ranks(
        pd.DataFrame(P, index=found.labels, columns=columns),
        pd.DataFrame(error, index=found.labels, columns=columns),
        pd.Series(found.mean, index=found.labels, name="estimate"),
        draws,
    )


def _simulated(found: Posterior, draws: int, random: np.random.Generator) -> Array:
    J = len(found.mean)
    counts = np.zeros((J, J))
    for first in range(0, draws, BATCH):
        order = np.argsort(-found.draws(min(BATCH, draws - first), random), axis=1)
        for place in range(J):
            counts[:, place] += np.bincount(order[:, place], minlength=J)
    return counts / draws


def _exact(found: Posterior) -> tuple[Array, Array]:
    """Probabilities (J, J), and their error from the integration over γ."""
    sd = np.sqrt(found.variance)
    # a shift of all groups alike changes no rank
    U, size, _ = np.linalg.svd(found.shared - found.shared.mean(axis=0), full_matrices=False)
    axes = U * size
    # standard deviations in which a difference of two groups moves, of those that it has given γ
    far = np.abs(axes).max(axis=0) / (np.sqrt(2) * sd.min())
    axes, far = axes[:, far > STILL], far[far > STILL]
    if not far.size:
        P = _given_gamma(found.mean, sd)
        return P, np.zeros_like(P)
    counts = [next((n for n, most in SIZES if most > x), SIZES[-1][0]) for x in far]
    if 2 * np.prod(counts) > MOST:
        P, rough = (_average(found.mean, sd, axes, rule) for rule in _cubature(len(far)))
    else:
        rough = _average(found.mean, sd, axes, _product_rule(counts))
        P = _average(found.mean, sd, axes, _product_rule([counts[0] + 2, *counts[1:]]))
    error = np.broadcast_to(np.abs(P - rough).max(axis=1, keepdims=True), P.shape)
    return np.clip(P, 0.0, 1.0), error


def _average(mean: Array, sd: Array, axes: Array, rule: tuple[Array, Array]) -> Array:
    total = np.zeros((len(mean), len(mean)))
    for point, weight in zip(*rule, strict=True):
        total += weight * _given_gamma(mean + axes @ point, sd)
    return total


def _product_rule(counts: list[int]) -> tuple[Array, Array]:
    """Points (N, d) and weights of Gauss-Hermite rules for a standard normal variable in each direction."""
    rules = [np.polynomial.hermite_e.hermegauss(count) for count in counts]
    points = np.array(list(product(*(x for x, _ in rules))))
    weights = np.array([np.prod(w) for w in product(*(w / w.sum() for _, w in rules))])
    return points, weights


def _cubature(d: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Rules of degree five and three for d standard normal variables (McNamee and Stenger 1967)."""
    unit = np.eye(d)
    star = np.vstack([unit, -unit])
    pairs = [s * unit[i] + t * unit[j] for i, j in combinations(range(d), 2) for s, t in product((1, -1), (1, -1))]
    points = np.vstack([np.zeros((1, d)), np.sqrt(d + 2) * star, np.sqrt(d / 2 + 1) * np.array(pairs)])
    weights = np.r_[2 / (d + 2), np.full(2 * d, (4 - d) / 2 / (d + 2) ** 2), np.full(len(pairs), 1 / (d + 2) ** 2)]
    return (points, weights), (np.sqrt(d) * star, np.full(2 * d, 0.5 / d))


def _given_gamma(mean: Array, sd: Array) -> Array:
    """Probabilities (J, J) of the ranks of independent normal variables, the largest first."""
    x = _nodes(mean, sd)
    z = (x[:, None] - mean) / sd
    density = np.exp(-0.5 * z * z) / (sd * np.sqrt(2 * np.pi)) * (x[1] - x[0])
    density[density < NOTHING * density.max()] = 0.0
    P = leave_one_out(ndtr(-z), density)
    return np.asarray(P / P.sum(axis=1, keepdims=True), dtype=np.float64)


def _nodes(mean: Array, sd: Array) -> Array:
    """Return equidistant values for the trapezoidal rule.

    With x the number of groups above it changes by Σ density_k, while its standard deviation is √Σ p_k (1 - p_k): the
    probability of one rank is a bell in x that is as wide as their quotient.
    """
    low, high = (mean - TAIL * sd).min(), (mean + TAIL * sd).max()
    z = (np.linspace(low, high, 200)[:, None] - mean) / sd
    density, p = np.exp(-0.5 * z * z) / (sd * np.sqrt(2 * np.pi)), ndtr(-z)
    bell = np.sqrt((p * (1 - p)).sum(axis=1)) / np.maximum(density.sum(axis=1), 1e-300)
    # far out both vanish
    width = min(sd.min(), bell[density.sum(axis=1) * sd.min() > 1e-3].min(initial=np.inf))
    return np.linspace(low, high, int(np.ceil((high - low) / (STEP * width))) + 1)


def comparisons(
    fit: Fit,
    name: str,
    effect: str = "Intercept",
    *,
    of: str = "effects",
    groups: Sequence[Any] | None = None,
    reference: Any = None,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Compare pairs of groups by their joint posterior.

    Parameters
    ----------
    fit, name, effect, of
        See `ranks`.
    groups : sequence of labels, optional
        Compare these with each other; all when left out (J (J - 1) / 2 rows).
    reference : label, optional
        Compare the groups with this one only.
    alpha : float
        1 - coverage of each interval; no allowance is made for their number.

    Returns
    -------
    DataFrame
        One row for each pair (index "first", "second"): "difference", "std. error" (from the joint covariance: what the
        two share of the uncertainty of γ̂ and of levels above cancels), "lower", "upper", "P(first > second)".

    Raises
    ------
    DataError
        For an unknown effect or group.
    """
    _check_alpha(alpha)
    found = posterior(fit, name, effect, of, None)
    chosen = np.arange(len(found.mean)) if groups is None else positions(found.labels, name, groups)
    if reference is None:
        at = np.triu_indices(len(chosen), 1)
        i, j = chosen[at[0]], chosen[at[1]]
    else:
        one = positions(found.labels, name, [reference])[0]
        i = chosen[chosen != one]
        j = np.full(len(i), one)
    difference, variance = found.difference(i, j)
    sd = np.sqrt(variance)
    half = -ndtri(alpha / 2) * sd
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(sd > 0, ndtr(difference / sd), 0.5 * (1 + np.sign(difference)))
    flat = found.labels.to_flat_index() if isinstance(found.labels, pd.MultiIndex) else found.labels
    index = pd.MultiIndex.from_arrays([flat[i], flat[j]], names=["first", "second"])
    columns = {
        "difference": difference,
        "std. error": sd,
        "lower": difference - half,
        "upper": difference + half,
        "P(first > second)": above,
    }
    return pd.DataFrame(columns, index=index)


def comparison_intervals(
    fit: Fit,
    name: str,
    effect: str = "Intercept",
    *,
    of: str = "effects",
    groups: Sequence[Any] | None = None,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Return intervals whose overlap tells pairs apart: two groups differ at level alpha, on average, if theirs do not.

    estimate ± c · standard error, c such that the average over all pairs of the probability that the intervals of two
    equal groups do not overlap is alpha (Goldstein and Healy 1995). The standard error of a difference is that of the
    joint posterior. The square of the work grows with the number of groups: name some where there are many.

    Parameters
    ----------
    fit, name, effect, of
        See `ranks`.
    groups : sequence of labels, optional
        The groups to be compared; all when left out.
    alpha : float

    Returns
    -------
    DataFrame
        "estimate", "lower" and "upper" of each group; ``attrs["multiplier"]`` is c.

    Raises
    ------
    DataError
        For fewer than two groups, or more than 5,000.
    """
    _check_alpha(alpha)
    found = posterior(fit, name, effect, of, groups)
    J = len(found.mean)
    if not 2 <= J <= 5000:
        raise DataError(f"{J} groups: comparison intervals are for 2 to 5000; name some with groups=")
    sd = np.sqrt(found.total)
    i, j = np.triu_indices(J, 1)
    ratio = (sd[i] + sd[j]) / np.sqrt(found.difference(i, j)[1])
    c = float(brentq(lambda c: 2 * ndtr(-c * ratio).mean() - alpha, 0.0, 40.0, xtol=1e-12))
    out = pd.DataFrame(
        {"estimate": found.mean, "lower": found.mean - c * sd, "upper": found.mean + c * sd}, index=found.labels
    )
    out.attrs["multiplier"] = c
    return out


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise DataError(f"alpha must be between 0 and 1, got {alpha}")
