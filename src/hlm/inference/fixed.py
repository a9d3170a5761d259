"""Inference on the fixed effects: one object for each way to judge them, which tables, tests and intervals follow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.covariance import Matrix
from hlm.documentation import documented_by
from hlm.errors import DataError
from hlm.inference.anova import Anova, anova
from hlm.inference.distributions import Array, Joint, checked_alpha, t_pvalue, t_quantile
from hlm.inference.hypotheses import LinearTest, linear_test
from hlm.inference.johnson_neyman import JohnsonNeyman, johnson_neyman
from hlm.inference.means import Means, marginal_means, slopes

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.prediction_error import Errors

# Eigenvalues of the covariance of a hypothesis below this, relative to the largest, are dependent rows.
DEPENDENT = 1e-10


class Inference(ABC):
    """The fixed effects of a fit, judged in one way.

    Parameters
    ----------
    fit : Fit

    Attributes
    ----------
    fit : Fit
    name : str
        As `Fit.inference` knows it.
    title : str
        What it is, for people.
    note : str
        What was left out or approximated; empty if nothing was.
    """

    # What was computed stands in __dict__, which the fit keeps; the fit itself does not, or it would keep itself alive.
    __slots__ = ("__dict__", "fit")

    name: str
    title: str

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self.note = ""
        coordinates = fit._problem.coordinates
        self.map: Matrix = coordinates.beta_map  # γ of the kept columns = map @ engine's β + shift
        self.kept = [name for name in fit.model.design.names if name not in fit.aliased]

    # ---- what each way defines ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def engine_covariance(self) -> Matrix:
        """Covariance of the engine's β̂ (p, p)."""

    @abstractmethod
    def degrees(self, L: Matrix) -> Array:
        """Return degrees of freedom (r,) of the rows of L (r, p), combinations of the engine's β."""

    def joint(self, L: Matrix, difference: Array) -> Joint:
        """Test all rows of L (r, p), combinations of the engine's β, at once: `difference` is Lβ̂ less its hypothesis.

        By spectral decomposition of LCL': independent t tests, whose squares' mean is F; its degrees of freedom match
        the mean of F with theirs (Fai and Cornelius 1996).
        """
        values, vectors = np.linalg.eigh(L @ self.engine_covariance @ L.T)
        kept = values > DEPENDENT * values.max(initial=0.0)
        q = int(kept.sum())
        if q == 0:
            return Joint(float("nan"), 0.0, float("nan"))
        rows = vectors[:, kept].T
        F = float(((rows @ difference) ** 2 / values[kept]).mean())
        return Joint(F, float(q), combined_degrees(self.degrees(rows @ L)))

    def prediction(self, errors: Errors, theta_uncertainty: bool | None) -> tuple[dict[str, Array], Array]:
        """Return the parts (N,) of the variance of errors of prediction, and degrees of freedom (N,).

        Here: this covariance for x'γ̂, the model's variances for effects that are not predicted and the residual, and
        the degrees of freedom of x'γ for the sum. (Higgins, Thompson and Spiegelhalter 2009 predict a new group with
        those of the mean too: they are fewer than the rest has.)

        Parameters
        ----------
        errors : Errors
        theta_uncertainty : bool or None
            Whether to add what the estimation of θ contributes; None: as the method has it.

        Raises
        ------
        DataError
            Where random effects are predicted, for which this covariance or these degrees of freedom say nothing.
        """
        if errors.predicted.any():
            raise DataError(
                f"'{self.name}' judges combinations of fixed effects, not predicted random effects: ask for "
                "effects='population', or use 'kenward-roger', 'satterthwaite' or 'z'"
            )
        if theta_uncertainty:
            raise DataError(
                f"'{self.name}' has nothing that the estimation of the variances adds: leave theta_uncertainty out, or "
                "use 'kenward-roger', 'satterthwaite' or 'z'"
            )
        L, place = np.unique(errors.X, axis=0, return_inverse=True)
        place = place.reshape(-1)
        parts = errors.parts() | {"fixed": self.variances(L)[place], "theta": np.zeros(len(place))}
        return parts, self.degrees(L)[place]

    # ---- what follows ---------------------------------------------------------------------------------------------

    def variances(self, L: Matrix) -> Array:
        """Return the variances (r,) of the rows of L, combinations of the engine's β."""
        return np.asarray(np.einsum("ij,jk,ik->i", L, self.engine_covariance, L), dtype=np.float64)

    @property
    def params(self) -> pd.Series:
        """Fixed effects γ̂; NaN for aliased columns."""
        return self.fit.params

    def cov_params(self) -> pd.DataFrame:
        """Return the covariance of γ̂ for columns that are not aliased."""
        return pd.DataFrame(self.map @ self.engine_covariance @ self.map.T, index=self.kept, columns=self.kept)

    def _of_coefficients(self, values: Array, name: str) -> pd.Series:
        return pd.Series(values, index=self.kept).reindex(self.params.index).rename(name)

    @cached_property
    def bse(self) -> pd.Series:
        """Standard errors; 0 for coefficients that are known."""
        return self._of_coefficients(np.sqrt(self.variances(self.map)), "bse")

    @cached_property
    def df(self) -> pd.Series:
        """Degrees of freedom of each coefficient; infinite for a normal distribution."""
        return self._of_coefficients(self.degrees(self.map), "df")

    @property
    def tvalues(self) -> pd.Series:
        """γ̂ / standard error; NaN for coefficients that are known."""
        return (self.params / self.bse.where(self.bse > 0)).rename("tvalues")

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values of γ = 0."""
        return pd.Series(t_pvalue(self.tvalues, self.df), index=self.params.index, name="pvalues")

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Return intervals of γ: columns "lower" and "upper", coverage 1 - alpha."""
        half = t_quantile(self.df, checked_alpha(alpha)) * self.bse
        return pd.DataFrame({"lower": self.params - half, "upper": self.params + half})

    def table(self, alpha: float = 0.05) -> pd.DataFrame:
        """Return estimate, standard error, t, degrees of freedom, p and interval of each coefficient."""
        table = pd.DataFrame({"estimate": self.params, "se": self.bse, "t": self.tvalues, "df": self.df})
        return table.assign(p=self.pvalues).join(self.conf_int(alpha))

    @documented_by(linear_test)
    def test(self, hypothesis: Any, values: npt.ArrayLike | None = None) -> LinearTest:
        """Test linear hypotheses."""
        return linear_test(self, hypothesis, values)

    @documented_by(anova)
    def anova(self, kind: str | int = "III") -> Anova:
        """Test each term."""
        return anova(self, kind)

    @documented_by(marginal_means)
    def marginal_means(self, variables: str | Sequence[str], **options: Any) -> Means:
        """Return marginal means."""
        return marginal_means(self, variables, **options)

    @documented_by(slopes)
    def slopes(self, variable: str, by: str | Sequence[str] = (), **options: Any) -> Means:
        """Return (simple) slopes."""
        return slopes(self, variable, by, **options)

    @documented_by(johnson_neyman)
    def johnson_neyman(self, variable: str, moderator: str, **options: Any) -> JohnsonNeyman:
        """Find where a slope differs from zero."""
        return johnson_neyman(self, variable, moderator, **options)

    def predict(
        self,
        new: Any = None,
        *,
        effects: str | Sequence[str] = "all",
        new_levels: str = "error",
        interval: str = "confidence",
        alpha: float = 0.05,
        theta_uncertainty: bool | None = None,
        mean_of: int = 1,
    ) -> pd.DataFrame:
        """Predict with standard errors, degrees of freedom and intervals as this method has them; see `Fit.predict`."""
        from hlm.prediction import predict_interval

        return predict_interval(self, new, effects, new_levels, interval, alpha, theta_uncertainty, mean_of)

    def summary(self) -> str:
        """Return the summary of the fit with these standard errors, tests and p-values."""
        from hlm.summary import text

        return text(self.fit, self)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<hlm.Inference {self.name} of {self.fit!r}>"


class Wald(Inference):
    """Large-sample inference: model-based standard errors and the normal distribution."""

    name = "z"
    title = "model-based standard errors, normal distribution"

    @property
    def engine_covariance(self) -> Matrix:
        """σ̂²(X'V⁻¹X)⁻¹."""
        return self.fit._engine_covariance

    def degrees(self, L: Matrix) -> Array:
        """Infinite."""
        return np.full(len(L), np.inf)

    def prediction(self, errors: Errors, theta_uncertainty: bool | None) -> tuple[dict[str, Array], Array]:
        """Return the parts of the variance, with what the estimation of θ adds unless told otherwise; df infinite."""
        add = theta_uncertainty is None or theta_uncertainty
        theta = errors.theta() if add else np.zeros(len(errors.X))
        return errors.parts() | {"theta": theta}, np.full(len(theta), np.inf)


def combined_degrees(df: Array) -> float:
    """Denominator degrees of freedom of the mean of q squared independent t's, by its expectation.

    E F = 1/q Σ ν/(ν - 2) = d/(d - 2); equal ν are kept, and where some ν ≤ 2 has no expectation d = 2.
    """
    if not np.isfinite(df).any():
        return float("inf")
    if len(df) == 1 or np.ptp(df) < 1e-8 * df.min():
        return float(df.mean())
    if (df <= 2).any():
        return 2.0
    with np.errstate(invalid="ignore"):
        E = float(np.where(np.isfinite(df), df / (df - 2), 1.0).sum())
    return 2 * E / (E - len(df))
