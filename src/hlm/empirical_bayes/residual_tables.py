"""Residual tables as HLM 8 writes them: one of the groups of each factor, one of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import betaincinv, chdtri, gammaln

from hlm.empirical_bayes.chain import level
from hlm.empirical_bayes.level_one import group_qr, level_one
from hlm.residuals.refusals import independent_errors

if TYPE_CHECKING:
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]

# Order statistics at each end of a sample whose expectation is integrated.
NEAR_ENDS = 2000


def group_table(fit: Fit, name: str) -> pd.DataFrame:
    """Return the table of the groups of a factor, HLM 8's residual file of that level.

    Columns, q standing for each random coefficient (HLM's names in brackets):

    * "n" [NJ]: rows.
    * "mahalanobis" [MDIST]: squared distance of the group's own estimate from what the fixed part says, in units of its
      covariance T + V_j; about chi-square with as many degrees of freedom as the group's rows determine coefficients
      ("rank").
    * "expected_chi2" [CHIPCT]: the expected value of the order statistic of that rank in a sample of J from that
      distribution (degrees of freedom q), against which `mahalanobis` is plotted.
    * "ln_sd_total", "ln_sd_ols", "ln_sd_model" [LNTOTVAR, OLSRSVAR, MDRSVAR]: logarithms of standard deviations of
      rows in the group: of y about its mean; of what least squares of the random columns within the group leaves (NaN
      without enough rows); of y about the fixed part.
    * "eb.q" [EB…]: û, the empirical Bayes residual.
    * "ols.q" [OL…]: the group's own estimate less what the fixed part and the levels above say; least squares at the
      lowest level, generalised least squares above. NaN without enough rows.
    * "fitted.q" [FV…]: (𝐙_j γ̂)_q. NaN where the rows of a group leave it open.
    * "coefficient.q" [EC…]: fitted + eb.
    * "pv.q", "pv.q.q'" [PV…]: posterior variances and covariances Cov(u - û), γ̂ being estimated.
    * the columns of X that are constant within groups, by name.

    Parameters
    ----------
    fit : Fit
    name : str
        Grouping factor.

    Returns
    -------
    (J, …) DataFrame

    Raises
    ------
    DesignError
        For an unknown factor, or where factors are crossed.
    """
    independent_errors(fit, "the table of groups")
    design = fit.model.design
    factor = design.factor(name)
    own, equation = level(fit, name), level_one(fit, factor)
    columns: dict[str, npt.NDArray[Any]] = {
        "n": np.bincount(factor.codes, design.frequencies, factor.size).astype(np.intp)
    }
    columns["rank"] = own.rank
    columns["mahalanobis"] = own.distance
    columns["expected_chi2"] = _expected(own.distance, factor.width)
    columns |= _spreads(fit, name)
    modes, cov = fit.random_effects[name].to_numpy(), fit.random_effects_cov[name]
    fitted = equation.Z[:, : factor.width] @ fit.params.dropna().to_numpy()
    for q, effect in enumerate(factor.effects):
        columns[f"eb.{effect}"] = modes[:, q]
    for q, effect in enumerate(factor.effects):
        columns[f"ols.{effect}"] = own.own[:, q]
    for q, effect in enumerate(factor.effects):
        columns[f"fitted.{effect}"] = fitted[:, q]
    for q, effect in enumerate(factor.effects):
        columns[f"coefficient.{effect}"] = fitted[:, q] + modes[:, q]
    for q, effect in enumerate(factor.effects):
        for r in range(q + 1):
            other = factor.effects[r]
            columns[f"pv.{effect}" if r == q else f"pv.{effect}.{other}"] = cov[:, q, r]
    for c, predictor in enumerate(design.names):
        values = design.columns[c]
        constant = np.empty(factor.size)
        constant[factor.codes] = values
        if np.ptp(values) > 0 and (constant[factor.codes] == values).all():
            columns[predictor] = constant
    return pd.DataFrame(columns, index=factor.labels)


def row_table(fit: Fit) -> pd.DataFrame:
    """Return the table of the rows used, HLM 8's level-1 residual file.

    Columns: the label of each grouping factor; "l1resid" [L1RESID]: y less its fitted value; "fitval" [FITVAL]: the
    fixed part and the effects û of all levels; "sigma" [SIGMA]: σ̂ of the row (over the root of its weight);
    "population": the fixed part alone; the columns of X but for constant ones.
    """
    design = fit.model.design
    kept = slice(None) if design.kept is None else design.kept
    columns: dict[str, object] = {}
    for factor in design.factors:
        columns[factor.name] = factor.labels.take(factor.codes)
    columns["l1resid"] = fit.resid.to_numpy()[kept]
    columns["fitval"] = fit.fittedvalues.to_numpy()[kept]
    residual = fit._problem.residual
    sd = np.full(design.rows, fit.sigma) * (1.0 if residual is None else residual.pattern.row_sd(residual.phi))
    columns["sigma"] = sd if design.weights is None else sd / np.sqrt(design.weights)
    columns["population"] = fit.predict(effects="population").to_numpy()[kept]
    columns |= {name: x for name, x in zip(design.names, design.columns, strict=True) if np.ptp(x) > 0}
    index = pd.RangeIndex(design.rows) if design.index is None else design.index[kept]
    return pd.DataFrame(columns, index=index)


def _spreads(fit: Fit, name: str) -> dict[str, Array]:
    """Logarithms of the standard deviations of y within groups: in all, about their own line, about the fixed part."""
    design = fit.model.design
    factor, weights = design.factor(name), design.row_weights
    J, q = factor.size, factor.width
    n = np.bincount(factor.codes, design.frequencies, J)
    ones = np.ones(design.rows)
    fixed = np.zeros(design.rows)
    for column, value in zip(design.columns, fit.params.to_numpy(), strict=True):
        fixed += 0.0 if np.isnan(value) else value * column
    total = group_qr([ones, design.y], factor.codes, J, weights)[0][:, 1, 1]
    R, dependent = group_qr([*factor.columns, design.y], factor.codes, J, weights)
    error = np.square(design.y - fixed) * (1.0 if weights is None else weights)
    model = np.sqrt(np.bincount(factor.codes, error, J))
    enough = ~dependent[:, :q].any(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "ln_sd_total": np.where(n > 1, np.log(total / np.sqrt(n - 1)), np.nan),
            "ln_sd_ols": np.where(enough & (n > q), np.log(R[:, q, q] / np.sqrt(n - q)), np.nan),
            "ln_sd_model": np.log(model / np.sqrt(n)),
        }


def _expected(distance: Array, df: int) -> Array:
    """Expected order statistics of the ranks of `distance` in a sample from chi-square with df degrees of freedom."""
    order = np.argsort(distance, kind="stable")
    out = np.empty(len(distance))
    out[order] = expected_chi2(len(distance), df)
    return out


def expected_chi2(J: int, df: int) -> Array:
    """Return E X_(1) < … < E X_(J) of a sample from the chi-square distribution.

    X_(i) = Q(U_(i)) with U_(i) of the beta distribution (i, J + 1 - i): the quantile function Q is integrated by the
    double exponential rule, to ten digits; farther than `NEAR_ENDS` from both ends of a large sample by two terms of
    its expansion about i/(J + 1) (David and Johnson 1954), to six.

    Returns
    -------
    (J,) float64
    """
    i = np.arange(1, J + 1)
    end = np.minimum(i, J + 1 - i) <= NEAR_ENDS
    t = np.linspace(-2.8, 2.8, 21)
    inner = np.pi / 2 * np.sinh(t)
    upper = 1 / (1 + np.exp(2 * inner))  # 1 - v, exact where v is near 1
    weight = np.pi / 2 * np.cosh(t) / np.cosh(inner) ** 2 / 2 * (t[1] - t[0])
    out = np.empty(J)
    near = i[end][:, None]
    out[end] = chdtri(df, betaincinv(J + 1 - near, near, upper)) @ weight  # small tails 1 - U keep their digits
    p = i[~end] / (J + 1)
    x = chdtri(df, 1 - p)
    density = np.exp((df / 2 - 1) * np.log(x / 2) - x / 2 - gammaln(df / 2)) / 2
    bend = (0.5 - (df / 2 - 1) / x) / density**2  # Q''
    out[~end] = x + 0.5 * p * (1 - p) / (J + 2) * bend
    return out
