"""Fit: what came out of an estimation. Numbers are computed when asked for; capabilities live in their own files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm import effects as _effects
from hlm import rounding, saved
from hlm.absorb import group_intercepts
from hlm.criterion import Problem
from hlm.diagnostics.methods import DiagnosticMethods
from hlm.empirical_bayes.methods import EmpiricalBayesMethods
from hlm.error_structure.methods import ErrorStructureMethods
from hlm.errors import DataTypeError
from hlm.inference.fit_methods import InferenceMethods
from hlm.notation import show_equations
from hlm.prediction import linear_predictor, predict, predict_interval
from hlm.residuals.estimation import estimate_model
from hlm.residuals.results import ResidualEstimate, residual_of
from hlm.simulation import simulate, simulator_of

if TYPE_CHECKING:
    from hlm.certificate import Certificate
    from hlm.estimation import Estimate
    from hlm.model import Model


class Fit(InferenceMethods, EmpiricalBayesMethods, ErrorStructureMethods, DiagnosticMethods):
    """Result of `Model.fit`.

    A Fit refers to its model and copies no data. Names follow statsmodels where it has one. Tables are pandas objects
    with named rows and columns; everything is in the units of the response.
    """

    model: Model
    reml: bool
    method: str

    def __init__(self, model: Model, problem: Problem, estimate: Estimate, reml: bool, method: str) -> None:
        self.model = model
        self.reml = reml
        self.method = method
        self._problem = problem
        self._criterion = estimate.criterion
        self._value = estimate.value
        self._certificate = estimate.certificate
        self._trace = estimate.trace
        self._point = np.array(estimate.criterion.theta)
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return saved.state_of(self)

    def __setstate__(self, state: Any) -> None:
        saved.restore(self, state)

    # ---- numbers of the whole model -------------------------------------------------------------------------------

    @property
    def criterion(self) -> float:
        """-2 × the (restricted) log-likelihood, β and σ² profiled out, all constants in (lme4's convention)."""
        return self._value

    @property
    def llf(self) -> float:
        """The (restricted) log-likelihood."""
        return -0.5 * self.criterion

    @property
    def nobs(self) -> int:
        """Observations: rows used, or the sum of their frequencies."""
        return self.model.design.nobs

    @property
    def df_model(self) -> int:
        """Parameters counted by AIC and BIC, those that are free: fixed effects, variance parameters, σ²."""
        return self.nobs - self.df_resid + self._problem.variance_parameters

    @property
    def df_resid(self) -> int:
        """Observations less independent and free fixed effects, n - p."""
        return self.nobs - self._problem.rank - self.model.design.absorbed_count

    @property
    def aic(self) -> float:
        """Akaike's criterion, -2 llf + 2 df_model."""
        return self.criterion + 2 * self.df_model

    @property
    def bic(self) -> float:
        """Schwarz's criterion, -2 llf + log(n) df_model, with n the number of observations (lme4's choice)."""
        return self.criterion + float(np.log(self.nobs)) * self.df_model

    @property
    def certificate(self) -> Certificate:
        """Conditions of optimality at the estimate."""
        return self._certificate

    @property
    def converged(self) -> bool:
        """Whether the certificate holds."""
        return self._certificate.holds

    @cached_property
    def trace(self) -> pd.DataFrame:
        """Steps of the optimiser: criterion, length of the step and Newton decrement (engine's coordinates), and θ."""
        frame = self._trace.table()
        values = [self._problem.user_theta(theta) for theta in self._trace.theta]
        names = self._problem.theta_names
        if self._problem.residual is not None:
            values = [np.concatenate(pair) for pair in zip(values, self._trace.residual, strict=True)]
            names = [*names, *self._problem.residual.pattern.names]
        return frame.join(pd.DataFrame(np.array(values).reshape(len(values), len(names)), columns=names))

    @property
    def restrictions(self) -> list[str]:
        """Known values and constraints that the fit was asked to keep, as texts."""
        asked = self._problem.restrictions
        return list(asked.texts) if asked is not None else []

    # ---- fixed effects --------------------------------------------------------------------------------------------

    @cached_property
    def params(self) -> pd.Series:
        """Fixed effects γ̂ (p,); NaN for columns that are aliased with earlier ones."""
        coordinates = self._problem.coordinates
        values = np.full(len(coordinates.kept), np.nan)
        with self._lock:
            engine = self._criterion.beta
        values[coordinates.kept] = coordinates.beta_map @ engine + coordinates.beta_shift
        return pd.Series(values, index=list(self.model.design.names), name="params")

    @property
    def aliased(self) -> list[str]:
        """Names of fixed columns that are linear combinations of earlier ones, and have no estimate."""
        return [
            name for name, keep in zip(self.model.design.names, self._problem.coordinates.kept, strict=True) if not keep
        ]

    @cached_property
    def _engine_covariance(self) -> npt.NDArray[np.float64]:
        """Model-based covariance of the engine's β̂."""
        with self._lock:
            return self._criterion.sigma2 * self._criterion.cross_inverse

    # ---- variances ------------------------------------------------------------------------------------------------

    @cached_property
    def sigma(self) -> float:
        """Residual standard deviation σ̂."""
        with self._lock:
            return float(np.sqrt(self._criterion.sigma2) * self._problem.coordinates.scale)

    @cached_property
    def theta(self) -> pd.Series:
        """Stacked lower triangles of Λ, column by column, random terms in the order of the formula; T = σ²ΛΛ'.

        For a term with a structure: the structure's θ.
        """
        names = self._problem.theta_names
        return pd.Series(self._problem.user_theta(self._point), index=names, name="theta", dtype=float)

    @cached_property
    def covariances(self) -> dict[str, pd.DataFrame]:
        """T of each grouping factor: covariance matrix of its random effects, in units of the response."""
        matrices = rounding.covariances(self._problem, self._point, self.sigma)
        return {
            factor.name: pd.DataFrame(T, index=list(factor.effects), columns=list(factor.effects))
            for factor, T in zip(self.model.design.factors, matrices, strict=True)
        }

    @property
    def is_singular(self) -> bool:
        """Whether some direction of the random effects has no variance though it might; `flat_directions` names it."""
        return self._problem.space.is_singular(self._point)

    @cached_property
    def flat_directions(self) -> dict[str, list[str]]:
        """For each factor with a singular covariance: the combinations of its effects that have no variance."""
        space = self._problem.space
        engine = [L @ L.T for L in space.factors_of(self._point)]
        return _effects.flat_directions(self._problem, engine, space.deficiencies(self._point))

    @property
    def residual(self) -> ResidualEstimate:
        """The structure of the level-1 errors that the model was given; see `hlm.residuals`."""
        return residual_of(self)

    # ---- random effects -------------------------------------------------------------------------------------------

    @cached_property
    def _modes(self) -> list[npt.NDArray[np.float64]]:
        with self._lock:
            return _effects.random_effects(self._problem, self._criterion)[0]

    @cached_property
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """û of each factor: levels × effects, the conditional (posterior) means E(u | y) at the estimates."""
        factors = self.model.design.factors
        return {f.name: _effects.effects_table(f, values) for f, values in zip(factors, self._modes, strict=True)}

    @cached_property
    def random_effects_cov(self) -> dict[str, npt.NDArray[np.float64]]:
        """Cov(u - û) of each factor, (J, q, q), given θ̂ and σ̂², with the uncertainty of γ̂ (empirical Bayes)."""
        return self.conditional_covariances()

    def conditional_covariances(self, *, beta_known: bool = False) -> dict[str, npt.NDArray[np.float64]]:
        """Return the conditional covariances (J, q, q) of the random effects of each factor.

        Parameters
        ----------
        beta_known : bool
            Leave out the uncertainty of γ̂: Var(u | y) as if γ were known, which is what lme4's ``condVar`` gives.
        """
        with self._lock:
            covariances = _effects.random_effects(self._problem, self._criterion, True, beta_known)[1]
        assert covariances is not None
        return {f.name: values for f, values in zip(self.model.design.factors, covariances, strict=True)}

    @cached_property
    def coefficients(self) -> dict[str, pd.DataFrame]:
        """Coefficients of each group of each factor: γ̂ + û, the empirical Bayes estimates.

        One row a level; one column for each fixed effect, and for a random effect without a fixed one.
        """
        out = {}
        for name, table in self.random_effects.items():
            fixed = self.params.dropna()
            both = pd.DataFrame(
                {column: np.full(len(table), value) for column, value in fixed.items()}, index=table.index
            )
            for effect in table.columns:
                both[effect] = table[effect] + (fixed[effect] if effect in fixed.index else 0.0)
            out[name] = both
        return out

    # ---- rows -----------------------------------------------------------------------------------------------------

    @property
    def fittedvalues(self) -> pd.Series:
        """Xγ̂ + Zû + offset (N,), over the rows of the input; NaN where a row was dropped."""
        return predict(self, None, "all", "error").rename("fittedvalues")

    @property
    def resid(self) -> pd.Series:
        """Response less `fittedvalues` (N,), over the rows of the input; NaN where a row was dropped."""
        design = self.model.design
        return design.full_length(design.y - linear_predictor(self, design.factors)).rename("resid")

    @overload
    def predict(
        self, new: Any = ..., *, effects: str | Sequence[str] = ..., new_levels: str = ..., interval: None = ...
    ) -> pd.Series: ...

    @overload
    def predict(
        self,
        new: Any = ...,
        *,
        effects: str | Sequence[str] = ...,
        new_levels: str = ...,
        interval: str,
        method: str = ...,
        alpha: float = ...,
        theta_uncertainty: bool | None = ...,
        mean_of: int = ...,
        **options: Any,
    ) -> pd.DataFrame: ...

    def predict(
        self,
        new: Any = None,
        *,
        effects: str | Sequence[str] = "all",
        new_levels: str = "error",
        interval: str | None = None,
        method: str = "z",
        alpha: float = 0.05,
        theta_uncertainty: bool | None = None,
        mean_of: int = 1,
        **options: Any,
    ) -> pd.Series | pd.DataFrame:
        """Predict the response.

        Parameters
        ----------
        new : DataFrame or mapping, optional
            Rows to predict; the rows of the fit when left out. For a model of arrays: a pair (X, list of Random).
        effects : "all", "population" or sequence of str
            Which grouping factors' effects to add; "population" adds none.
        new_levels : {"error", "population", "nan"}
            What a level that the fit has not seen (or a missing label) gives: an error, no effect, or NaN.
        interval : {"confidence", "prediction"}, optional
            "confidence": for the expected response, x'γ and the chosen effects of levels that are known. "prediction":
            for the response of a new row; effects that are not chosen, or of levels not seen, count with their
            variance z'Tz, and σ² is added: with a residual structure that of the row's stratum, covariates or occasion.
            Where errors are correlated within groups, only for rows of new groups.
        method : str
            How an interval is judged, a method of `inference` (with its `options`): ``inference(method).predict(...)``
            is the same. "z": normal quantiles. "satterthwaite": degrees of freedom of the row's whole variance.
            "kenward-roger": besides, the variance adjusted for the estimation of the variances, of predicted effects
            too. "between-within", "hlm" and "CR0" … "CR3": standard errors and degrees of freedom of x'γ, to which a
            prediction interval adds the model's variances; of predicted effects they say nothing.
        alpha : float
            The intervals cover 1 - alpha.
        theta_uncertainty : bool, optional
            Add what the estimation of the variances contributes (Kackar and Harville). Left out, as the method has it:
            "z" adds it, "satterthwaite" to rows with predicted effects, "kenward-roger" always, the others never.
        mean_of : int
            A prediction interval is for the mean of so many new rows of the same groups and regressors.

        Returns
        -------
        (N,) Series or DataFrame
            NaN where a used column is missing. Rows in which columns that are aliased in the data of the fit do not go
            with each other are predicted as if what has no estimate were zero, without standard error and with a
            `RankDeficientWarning`. With an interval: "predicted", "se", "df" (infinite with "z"), "lower", "upper", and
            the parts of the variance: "var_fixed" (γ̂), "var_groups" (û), "var_theta" and, of predictions,
            "var_new_groups", "var_residual".

        Raises
        ------
        DataError
            For an unknown level or category, naming it, or a missing column; where random effects are predicted, for a
            method that says nothing of them.
        DataTypeError
            For what belongs to an interval when none is asked for.
        DesignError
            For prediction intervals of rows of a known group whose errors are correlated.
        """
        if interval is not None:
            view = self.inference(method, **options)
            return predict_interval(view, new, effects, new_levels, interval, alpha, theta_uncertainty, mean_of)
        if method != "z" or theta_uncertainty is not None or options:
            raise DataTypeError("method, theta_uncertainty and options belong to an interval: give interval=")
        return predict(self, new, effects, new_levels)

    # ---- other responses ------------------------------------------------------------------------------------------

    def refit(self, y: npt.ArrayLike) -> Fit:
        """Fit the model to another response: same criterion, method and known values.

        Parameters
        ----------
        y : (N,) array or Series
            See `Model.with_response`, also for what it raises.

        Returns
        -------
        Fit
        """
        model, asked = self.model.with_response(y), self._problem.restrictions
        problem = model.problem if asked is None else model.problem.restrict(asked)
        return Fit(model, *estimate_model(problem, self.reml, self.method), self.reml, self.method)

    def simulate(self, count: int = 1, seed: Any = None) -> pd.DataFrame:
        """Draw responses from the model at its estimates: new random effects, new errors.

        Parameters
        ----------
        count : int
            How many.
        seed : int or numpy.random.Generator, optional
            One seed, one answer, whatever the number of threads.

        Returns
        -------
        (N, count) DataFrame
            Rows as in the input, NaN where a row was dropped; a column can be given to `refit`.

        Raises
        ------
        DataError
            If rows stand for several by their frequency.
        """
        return simulate(simulator_of(self), count, seed)

    def equations(self, format: str = "text", *, estimates: bool = False) -> str:
        """Return the equations of all levels and the combined one; see `Model.equations`.

        Parameters
        ----------
        format : {"text", "unicode", "latex"}
        estimates : bool
            Show γ̂ in the place of γ.
        """
        equations = self.model.level_equations
        return show_equations(equations, format, equations.values(self.params) if estimates else None)

    def group_intercepts(self) -> pd.DataFrame:
        """Return the absorbed intercepts α̂_j of the groups with standard errors; see `hlm.absorb`."""
        return group_intercepts(self)

    # ---- for people -----------------------------------------------------------------------------------------------

    def summary(self, method: str = "z", **options: Any) -> str:
        """Return the summary as text.

        Parameters
        ----------
        method : str
            How the fixed effects are judged, see `inference`.
        **options
            Of the method.
        """
        return self.inference(method, **options).summary()

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        kind = "REML" if self.reml else "ML"
        return f"<hlm.Fit {self.model.formula or 'of arrays'} ({kind} criterion {self.criterion:.6g})>"

    def _repr_html_(self) -> str:
        from hlm.summary import html

        return html(self, self.inference("z"))
