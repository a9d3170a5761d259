"""Likelihood-ratio tests: `hlm.compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtrc

from hlm.comparison import cone, spectral
from hlm.comparison.errors import on_the_boundary
from hlm.comparison.nesting import Nesting, nest, statistic
from hlm.errors import DataError, DesignError
from hlm.replicates import replicate
from hlm.simulation import generator, simulator_of

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

METHODS = ("asymptotic", "exact", "bootstrap")
COUNTS = {"asymptotic": 20_000, "exact": 100_000, "bootstrap": 1000}


@dataclass(frozen=True)
class Comparison:
    """A likelihood-ratio test of a smaller model against a larger one that contains it.

    Attributes
    ----------
    statistic : float
        -2 × difference of the (restricted) log-likelihoods.
    df : int
        Parameters more in the larger model.
    pvalue : float
    error : float
        Monte Carlo standard error of `pvalue`; 0 where it is exact.
    method : str
    distribution : str
        The null distribution in words.
    weights : Series or None
        Weight of χ² with so many degrees of freedom, where the null distribution is such a mixture.
    weight_errors : Series or None
        Their Monte Carlo standard errors.
    draws : (N,) array
        Values of the statistic drawn under the null hypothesis, where they were.
    failures : dict of str to int
        Bootstrap samples that gave no value, by reason; they are left out of `pvalue`.
    table : DataFrame
        Both models: parameters, criterion, AIC, BIC.
    """

    statistic: float
    df: int
    pvalue: float
    error: float
    method: str
    distribution: str
    table: pd.DataFrame
    weights: pd.Series | None = None
    weight_errors: pd.Series | None = None
    draws: Matrix = field(default_factory=lambda: np.zeros(0), repr=False)
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def naive_pvalue(self) -> float:
        """The p-value that forgets that variances cannot be negative: χ² with `df` degrees of freedom."""
        return float(chdtrc(self.df, self.statistic))

    def __str__(self) -> str:
        lines = [
            "Likelihood-ratio test",
            *("  " + line for line in self.table.round(3).to_string().splitlines()),
            f"  statistic {self.statistic:.4f}, null distribution: {self.distribution}",
            f"  p = {self.pvalue:.4g}" + (f" (Monte Carlo error {self.error:.1g})" if self.error else ""),
        ]
        if self.failures:
            lines.append("  without a value: " + ", ".join(f"{why} {count}" for why, count in self.failures.items()))
        return "\n".join(lines)


def compare(
    one: Fit,
    other: Fit,
    method: str = "asymptotic",
    *,
    count: int | None = None,
    seed: Any = 0,
    workers: int = 1,
) -> Comparison:
    """Test a smaller model against a larger one by their likelihood ratio.

    Which of the two is the smaller one is found out; fits that cannot be compared are refused. Models may differ in
    their level-1 errors too (one variance in variances by stratum, these in finer strata, AR(1) in an unstructured
    covariance, …), if their random effects are the same.

    Parameters
    ----------
    one, other : Fit
        Both REML (same fixed part) or both ML, of the same rows.
    method : {"asymptotic", "exact", "bootstrap"}
        "asymptotic": the mixture of χ² distributions that belongs to the variances on the boundary, for any set of
        them. "exact": the finite-sample distribution for one variance (Crainiceanu and Ruppert 2004), simulated; where
        there are other variances, these count as known (Greven et al. 2008). "bootstrap": responses drawn from the
        smaller model, both models fitted to each.
    count : int, optional
        Draws: 20,000 projections where weights have no closed form, 100,000 exact draws, 1,000 bootstrap samples.
    seed : int or numpy.random.Generator
        One seed, one answer.
    workers : int
        Threads that share the bootstrap samples; the answer is the same for any number of them.

    Returns
    -------
    Comparison

    Raises
    ------
    DataError
        Different rows, responses or weights; REML beside ML; REML with different fixed parts; unknown method.
    DesignError
        Models that are not nested; more than one variance for the exact test.
    NumericalError
        A fit that is not at its optimum.

    Examples
    --------
    >>> import hlm
    >>> data = hlm.datasets.load("sleepstudy")
    >>> intercepts = hlm.Model("Reaction ~ Days + (1 | Subject)", data).fit()
    >>> slopes = hlm.Model("Reaction ~ Days + (Days | Subject)", data).fit()
    >>> hlm.compare(intercepts, slopes).distribution
    '0.5·χ²(1) + 0.5·χ²(2)'
    """
    if method not in METHODS:
        raise DataError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if count is None:
        count = COUNTS[method]
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 100:
        raise DataError(f"count must be a whole number of at least 100, got {count!r}")
    nesting, rng = nest(one, other), generator(seed)
    if method == "asymptotic":
        return _asymptotic(nesting, count, rng)
    if method == "exact":
        return _exact(nesting, count, rng)
    return _bootstrap(nesting, count, rng, workers)


def _table(nesting: Nesting) -> pd.DataFrame:
    fits = {"smaller": nesting.small, "larger": nesting.large}
    return pd.DataFrame(
        {
            name: {
                "parameters": float(fit.df_model),
                "criterion": fit.criterion,
                "AIC": fit.aic,
                "BIC": fit.bic,
            }
            for name, fit in fits.items()
        }
    ).T


# ---- the boundary ---------------------------------------------------------------------------------------------------


def _asymptotic(nesting: Nesting, count: int, rng: np.random.Generator) -> Comparison:
    if nesting.errors:
        return _of_errors(nesting)
    small, large, information = _cones(nesting)
    value = nesting.statistic
    whole = cone.reduce(large, information)
    known = nesting.small._problem.variances is not None
    if known and (small.sizes or large.sizes):
        raise DesignError(
            "on the boundary, the asymptotic test is not offered for a smaller model with covariance structures or "
            "known variances: use method='bootstrap'"
        )
    if known:
        tail = float(chdtrc(nesting.df, value))
        return Comparison(value, nesting.df, tail, 0.0, "asymptotic", f"χ²({nesting.df})", _table(nesting))
    if small.sizes:
        return _between_boundaries(nesting, small, large, information, count, rng)
    linear = large.free.shape[1] - small.free.shape[1] + nesting.fixed
    found, covariance = cone.weights(whole, count, rng)
    df = linear + np.arange(len(found))
    tails = np.array([_tail(value, k) for k in df])
    weights = pd.Series(found, index=pd.Index(df, name="df"), name="weight")
    errors = pd.Series(np.sqrt(np.maximum(np.diag(covariance), 0.0)), index=weights.index, name="error")
    return Comparison(
        value,
        nesting.df,
        float(found @ tails),
        float(np.sqrt(max(tails @ covariance @ tails, 0.0))),
        "asymptotic",
        " + ".join(f"{weight:.3g}·χ²({k})" for k, weight in weights.items() if weight > 0),
        _table(nesting),
        weights,
        errors,
    )


def _of_errors(nesting: Nesting) -> Comparison:
    """Parameters of the level-1 errors: χ², or half of it with one degree of freedom less where one is at its end."""
    if nesting.small.is_singular:
        raise DesignError(
            "the smaller model's random effects are on the boundary: the asymptotic test of the level-1 errors is not "
            "offered there; use method='bootstrap'"
        )
    df, value = nesting.df, nesting.statistic
    pattern = nesting.small.model.design.residual
    found = {df: 1.0}
    if on_the_boundary(pattern, nesting.large.model.design.residual):
        found = {df - 1: 0.5, df: 0.5}
    weights = pd.Series(found, name="weight").rename_axis("df")
    return Comparison(
        value,
        df,
        sum(weight * _tail(value, k) for k, weight in found.items()),
        0.0,
        "asymptotic",
        " + ".join(f"{weight:.3g}·χ²({k})" for k, weight in found.items()) if len(found) > 1 else f"χ²({df})",
        _table(nesting),
        weights,
        0 * weights.rename("error"),
    )


def _tail(value: float, df: int) -> float:
    """P(χ² ≥ value)."""
    return float(value <= 0) if df == 0 else float(chdtrc(df, value))


def _cones(nesting: Nesting) -> tuple[cone.TangentCone, cone.TangentCone, Matrix]:
    """Tangent cones of both models at the smaller one's estimate, and information, in the larger one's entries."""
    small, large = nesting.small._problem, nesting.large._problem
    template = large.template
    estimate = [L @ L.T for L in small.space.factors_of(nesting.small._point)]
    bridges = [
        np.linalg.solve(large.maps[place], matrix @ small.maps[k])
        for k, (place, matrix) in enumerate(zip(nesting.places, nesting.maps, strict=True))
    ]

    def carried(changes: list[Matrix]) -> list[Matrix]:
        full = [np.zeros((factor.width, factor.width)) for factor in template.factors]
        for change, place, bridge in zip(changes, nesting.places, bridges, strict=True):
            full[place] = bridge @ change @ bridge.T
        return full

    at = carried(estimate)
    inner = cone.tangent_cone(small.template, estimate)
    lengths = np.cumsum([len(small.template.triangles[k][0]) for k in small.template.order])[:-1]

    def unpacked(entries: Matrix) -> list[Matrix]:
        changes = [np.zeros((factor.width, factor.width)) for factor in small.template.factors]
        for k, part in zip(small.template.order, np.split(entries, lengths), strict=True):
            rows, cols = small.template.triangles[k]
            changes[k][rows, cols] = changes[k][cols, rows] = part
        return changes

    def image(directions: Matrix) -> Matrix:
        return cone.packed(template, [carried(unpacked(entries)) for entries in directions.T])

    small_cone = cone.TangentCone(image(inner.free), image(inner.pointed), inner.sizes)
    if not template.factors:  # least squares beside least squares
        return small_cone, small_cone, np.zeros((0, 0))
    criterion = nesting.criterion()
    criterion.value(template.theta_of_covariances(at))
    criterion.derivatives("average" if large.curvature[1] == "average" else "expected")
    return small_cone, cone.tangent_cone(template, at), 0.5 * criterion.second_derivatives


def _between_boundaries(
    nesting: Nesting,
    small: cone.TangentCone,
    large: cone.TangentCone,
    information: Matrix,
    count: int,
    rng: np.random.Generator,
) -> Comparison:
    """Also the smaller model's estimate lies on the boundary: the difference of two projections is drawn.

    It is at most what all directions of the larger cone gain over the free ones of the smaller, a χ², which says more
    than draws where none of them comes near the statistic.
    """
    values, vectors = np.linalg.eigh(information)
    scores = (rng.standard_normal((count, len(values))) * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    draws = np.zeros(count)
    for sign, one in ((1.0, large), (-1.0, small)):
        reduced = cone.reduce(one, information)
        draws += sign * np.einsum("ni,ij,nj->n", scores, reduced.linear, scores)
        if one.sizes:
            draws += sign * cone.gains(reduced, scores)[0]
    if nesting.fixed:
        draws += rng.chisquare(nesting.fixed, count)
    draws = np.maximum(draws, 0.0)
    pvalue, error = _share(draws, nesting.statistic)
    text = f"{count} projections; the smaller model's estimate is on the boundary too"
    most = large.free.shape[1] + large.pointed.shape[1] - small.free.shape[1] + nesting.fixed
    bound = _tail(nesting.statistic, most)
    if bound < pvalue:
        pvalue = error = bound
        text += f"; none is as large, p is that of χ²({most}) at most"
    return Comparison(nesting.statistic, nesting.df, pvalue, error, "asymptotic", text, _table(nesting), draws=draws)


def _share(draws: Matrix, value: float) -> tuple[float, float]:
    """Share of draws that reach the value, itself counted as one (Davison and Hinkley 1997), and its error."""
    if value <= 0:
        return 1.0, 0.0
    reached = int((draws >= value).sum())
    p = (reached + 1) / (len(draws) + 1)
    return p, float(np.sqrt(p * (1 - p) / len(draws)))


# ---- finite samples -------------------------------------------------------------------------------------------------


def _exact(nesting: Nesting, count: int, rng: np.random.Generator) -> Comparison:
    if nesting.errors:
        raise DesignError(
            "the exact test is for one variance of random effects, not for the level-1 errors; use method='asymptotic' "
            "or 'bootstrap'"
        )
    if nesting.small._problem.variances is not None:
        raise DesignError("the exact test is not offered with covariance structures or known variances")
    place, column = _single_variance(nesting)
    problem = nesting.large._problem
    k = problem.template.order.index(place)
    found = spectral.spectrum(problem, nesting.large.model._prepared, k, column)
    draws = spectral.draw(found, nesting.large.reml, nesting.fixed, count, rng)
    pvalue, error = _share(draws, nesting.statistic)
    others = sum(len(factor.blocks) for factor in nesting.small.model.design.factors)
    kind = "exact restricted" if nesting.large.reml else "exact"
    text = f"{kind} likelihood ratio of one variance, {count} draws"
    if others:
        text += "; an approximation: the other variances count as known"
    return Comparison(nesting.statistic, nesting.df, pvalue, error, "exact", text, _table(nesting), draws=draws)


def _single_variance(nesting: Nesting) -> tuple[int, int]:
    """Return factor (order of the formula) and column of the one variance that the larger model has more."""
    large = nesting.large.model.design
    large.must_be_independent("the exact test")
    extra = [
        (k, block)
        for k, factor in enumerate(large.factors)
        for block in factor.blocks
        if not any(
            np.abs(matrix[list(block)]).max() > 0
            for place, matrix in zip(nesting.places, nesting.maps, strict=True)
            if place == k
        )
    ]
    if nesting.df - nesting.fixed != 1 or len(extra) != 1 or len(extra[0][1]) != 1:
        raise DesignError(
            f"the exact test is for one variance; the larger model has {nesting.df - nesting.fixed} variance "
            "parameters more, and they must be one uncorrelated effect. Use method='asymptotic' or 'bootstrap'"
        )
    return extra[0][0], extra[0][1][0]


def _bootstrap(nesting: Nesting, count: int, rng: np.random.Generator, workers: int) -> Comparison:
    """Parametric bootstrap under the smaller model's estimates."""
    fits = [nesting.small, nesting.large]
    found, failures = replicate(
        fits, simulator_of(nesting.small), lambda new: statistic(new[0], new[1]), count, rng, workers
    )
    draws = [value for value in found if value is not None]
    if not draws:
        raise DesignError(f"no bootstrap sample could be fitted: {failures}")
    pvalue, error = _share(np.array(draws), nesting.statistic)
    text = f"parametric bootstrap, {len(draws)} samples of the smaller model"
    return Comparison(
        nesting.statistic,
        nesting.df,
        pvalue,
        error,
        "bootstrap",
        text,
        _table(nesting),
        draws=np.array(draws),
        failures=failures,
    )
