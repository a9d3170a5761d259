"""Each group by itself: least squares within groups, and the regression of these coefficients on level-2 regressors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.empirical_bayes.level_one import LevelOne, group_qr, level_one, triangular_solve
from hlm.errors import DataError, DesignError
from hlm.residuals.refusals import independent_errors
from hlm.structure import Codes

if TYPE_CHECKING:
    from hlm.design import Factor
    from hlm.fit import Fit

Array = npt.NDArray[np.float64]

WEIGHTS = ("none", "sampling", "total")


@dataclass(frozen=True, eq=False)
class GroupOLS:
    """Ordinary (weighted, where rows have weights) least squares of y within each group: no pooling.

    Attributes
    ----------
    estimates : (J, k) DataFrame
        β̂_j; NaN in groups that are flagged.
    cov : (J, k, k) float64
        Sampling covariance σ̂²(L'L)⁻¹ with the model's σ̂²; NaN likewise.
    n : (J,) Series
        Rows of each group.
    sigma : (J,) Series
        The group's own residual standard deviation; NaN where no row is left for it.
    flag : (J,) Series of str
        "" where the group has its own estimate, else what it lacks: "3 rows for 4 coefficients",
        "collinear: cses".
    """

    estimates: pd.DataFrame
    cov: Array = field(repr=False)
    n: pd.Series
    sigma: pd.Series
    flag: pd.Series
    _equation: LevelOne = field(repr=False)
    _T: Array = field(repr=False)

    @property
    def bse(self) -> pd.DataFrame:
        """Standard errors of the coefficients, (J, k), from the model's σ̂²."""
        size = np.sqrt(np.diagonal(self.cov, axis1=1, axis2=2))
        return pd.DataFrame(size, index=self.estimates.index, columns=self.estimates.columns)

    def regression(self, weights: str = "none") -> LevelTwoRegression:
        """Regress the coefficients on the level-2 regressors, β̂_j = 𝐙_j γ + error, over the groups that have them.

        Parameters
        ----------
        weights : {"none", "sampling", "total"}
            "none": ordinary least squares. "sampling": generalised least squares with V_j, the covariance of β̂_j given
            β_j. "total": with T + V_j, its covariance under the model; where every group has its own estimate this γ̂
            is that of the fit (Raudenbush and Bryk 2002, chapter 3).

        Returns
        -------
        LevelTwoRegression

        Raises
        ------
        DataError
            For unknown weights, for a model without fixed effects, or when the groups left are too few for the
            regressors.
        """
        if weights not in WEIGHTS:
            raise DataError(f"weights must be one of {', '.join(map(repr, WEIGHTS))}, got {weights!r}")
        use = (self.flag == "").to_numpy()
        Z, b = self._equation.Z[use], self.estimates.to_numpy()[use]
        if Z.shape[2] == 0:
            raise DataError("the model has no fixed effects: there is nothing to regress the coefficients on")
        if not np.linalg.matrix_rank(Z.reshape(-1, Z.shape[2])) == Z.shape[2]:
            raise DataError(f"{use.sum()} groups with estimates of their own are too few for {Z.shape[2]} coefficients")
        if weights == "none":
            return _plain(Z, b, self._equation)
        spread = self.cov[use] + (self._T if weights == "total" else 0.0)
        WZ = np.linalg.solve(spread, Z)
        information = np.einsum("jkr,jks->rs", Z, WZ)
        gamma = np.linalg.solve(information, np.einsum("jkr,jk->r", WZ, b))
        return _regression(gamma, np.linalg.inv(information), len(b), self._equation)


@dataclass(frozen=True, eq=False)
class LevelTwoRegression:
    """Coefficients γ of a regression of group coefficients on level-2 regressors.

    Attributes
    ----------
    params, bse : (r,) Series
    cov : (r, r) DataFrame
    groups : int
        Groups that were used.
    """

    params: pd.Series
    bse: pd.Series
    cov: pd.DataFrame
    groups: int


def _plain(Z: Array, b: Array, equation: LevelOne) -> LevelTwoRegression:
    """Ordinary least squares, each coefficient's equation with a residual variance of its own."""
    bread = np.linalg.inv(np.einsum("jkr,jks->rs", Z, Z))
    gamma = bread @ np.einsum("jkr,jk->r", Z, b)
    error = b - Z @ gamma
    left = len(b) - (Z != 0).any(axis=0).sum(axis=1)
    variance = np.divide((error**2).sum(axis=0), left, out=np.full(len(left), np.nan), where=left > 0)
    cov = bread @ np.einsum("jkr,k,jks->rs", Z, variance, Z) @ bread
    return _regression(gamma, cov, len(b), equation)


def _regression(gamma: Array, cov: Array, groups: int, equation: LevelOne) -> LevelTwoRegression:
    names = equation.fixed
    return LevelTwoRegression(
        pd.Series(gamma, index=names, name="params"),
        pd.Series(np.sqrt(np.diag(cov)), index=names, name="bse"),
        pd.DataFrame(cov, index=names, columns=names),
        groups,
    )


def group_ols(fit: Fit, name: str) -> GroupOLS:
    """Fit each group of a factor by itself.

    The coefficients are those of the group's own equation: the random effects and whatever else of X varies inside
    groups without being a multiple of a coefficient already there. Done on the rows (QR), not on cross-products.

    Parameters
    ----------
    fit : Fit
    name : str
        Grouping factor.

    Returns
    -------
    GroupOLS
        With NaN, and why in `flag`, for groups whose rows do not determine their coefficients.

    Raises
    ------
    DesignError
        For an unknown factor; where rows of a group share effects that are not the group's: a higher level of a nested
        hierarchy (see `Fit.residual_table` for its generalised least squares), or crossed factors.
    """
    independent_errors(fit, "least squares of each group by itself")
    design = fit.model.design
    factor = design.factor(name)
    _check_lowest(fit, factor)
    equation = level_one(fit, factor)
    k, J = len(equation.names), factor.size
    R, dependent = group_qr([*equation.columns, design.y], factor.codes, J, design.row_weights)
    n = np.bincount(factor.codes, design.frequencies, J).astype(np.intp)
    flag = _flags(n, dependent[:, :k], equation.names)
    bad = flag != ""
    estimates = triangular_solve(R[:, :k, :k], R[:, :k, k:])[:, :, 0]
    inverse = triangular_solve(R[:, :k, :k], np.broadcast_to(np.eye(k), (J, k, k)))
    cov = fit.sigma**2 * inverse @ inverse.transpose(0, 2, 1)
    estimates[bad], cov[bad] = np.nan, np.nan
    left = np.where(bad, 0, n - k)
    sigma = np.divide(R[:, k, k], np.sqrt(left), out=np.full(J, np.nan), where=left > 0)
    T = np.zeros((k, k))
    T[: factor.width, : factor.width] = fit.covariances[name]
    return GroupOLS(
        pd.DataFrame(estimates, index=factor.labels, columns=equation.names),
        cov,
        pd.Series(n, index=factor.labels, name="n"),
        pd.Series(sigma, index=factor.labels, name="sigma"),
        pd.Series(flag, index=factor.labels, name="flag"),
        equation,
        T,
    )


def _check_lowest(fit: Fit, factor: Factor) -> None:
    hierarchy = fit._problem.statistics.hierarchy
    names = [fit.model.design.factors[k].name for k in hierarchy.factors]
    fit.model.design.must_be_independent("least squares within groups")
    if not hierarchy.is_nested:
        raise DesignError(
            f"the rows of a level of '{factor.name}' share effects of {[n for n in names if n != factor.name]}: least "
            "squares within crossed factors has no meaning of its own",
            column=factor.name,
        )
    if names[0] != factor.name:
        raise DesignError(
            f"rows of a '{factor.name}' share the effects of '{names[0]}' inside it: least squares within it is not "
            f"the estimate of its coefficients; residual_table('{factor.name}') has the generalised least squares",
            column=factor.name,
        )


def _flags(n: Codes, dependent: npt.NDArray[np.bool_], names: list[str]) -> npt.NDArray[np.object_]:
    flag = np.full(len(n), "", dtype=object)
    for j in np.flatnonzero(dependent.any(axis=1) | (n < len(names))):
        if n[j] < len(names):
            flag[j] = f"{n[j]} row{'s' if n[j] > 1 else ''} for {len(names)} coefficients"
        else:
            flag[j] = "collinear: " + ", ".join(name for name, d in zip(names, dependent[j], strict=True) if d)
    return flag
