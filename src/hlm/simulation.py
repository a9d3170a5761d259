"""Responses drawn from a model, of any structure: one seed, one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.design import Factor, as_float
from hlm.effects import contributions
from hlm.errors import DataError, DataTypeError
from hlm_ext.linear import eigh

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.model import Model

Array = npt.NDArray[np.float64]
Seed = int | np.random.Generator | np.random.SeedSequence | None

# A covariance may miss being positive semidefinite by so much of its largest eigenvalue: rounding.
NEGATIVE = 1e-10


def generator(seed: Any) -> np.random.Generator:
    """Return a generator of random numbers from a seed, or the one given."""
    if seed is None or isinstance(seed, (int, np.integer, np.random.Generator, np.random.SeedSequence)):
        return np.random.default_rng(seed)
    raise DataTypeError(f"seed must be a whole number or a numpy Generator, got {seed!r}")


class Simulator:
    """Draws responses of a model at given parameters.

    Parameters
    ----------
    model : Model
    params : (p,) array or Series
        γ in the order of the fixed columns; NaN (aliased) counts as 0.
    covariances : dict of str to (q, q) arrays
        T of each grouping factor, in units of the response.
    sigma : float
        Residual standard deviation.
    phi : (r,) array, optional
        Parameters of the structure of the level-1 errors; needed if the model has one.

    Raises
    ------
    DataError
        If shapes do not fit, a covariance is none, or rows stand for several by their frequency (what their responses
        are is not known then).
    """

    def __init__(
        self, model: Model, params: Any, covariances: Mapping[str, Any], sigma: float, phi: Array | None = None
    ) -> None:
        design = model.design
        if (phi is None) != (design.residual is None):
            raise DataError("phi are the parameters of the level-1 errors of a model with residual=")
        self.phi = phi
        if design.frequencies is not None and (design.frequencies > 1).any():
            raise DataError("rows with frequencies stand for rows of different responses: repeat them to simulate")
        beta = np.nan_to_num(as_float(params, "params"))
        if beta.shape != (len(design.columns),):
            raise DataError(f"params must have {len(design.columns)} entries, got shape {beta.shape}")
        if not 0 <= sigma < np.inf:
            raise DataError(f"sigma must be a number of at least 0, got {sigma!r}")
        self.design = design
        self.mean = np.zeros(design.rows)
        for column, coefficient in zip(design.columns, beta, strict=True):
            self.mean += column * coefficient
        if design.offset is not None:
            self.mean += design.offset
        self.noise: Array | float = sigma if design.weights is None else sigma / np.sqrt(design.weights)
        names = [factor.name for factor in design.factors]
        if set(covariances) != set(names):
            raise DataError(f"covariances must have the grouping factors {names} as keys, got {list(covariances)}")
        self.roots = [_root(factor, covariances[factor.name]) for factor in design.factors]

    def effects(self, rng: np.random.Generator) -> list[Array]:
        """Return u (J, q) of each factor, drawn."""
        out = []
        for factor, root in zip(self.design.factors, self.roots, strict=True):
            u = rng.standard_normal((factor.size, factor.width)) @ root.T
            out.append(u if factor.between is None else factor.between.loadings[: factor.size] @ u)
        return out

    def draw(self, rng: np.random.Generator) -> Array:
        """Return a response (n,) of the rows that are used, offset included."""
        errors = rng.standard_normal(self.design.rows)
        if self.design.residual is not None and self.phi is not None:
            errors = self.design.residual.color(errors, self.phi)
        y = self.mean + self.noise * errors
        for factor, values in zip(self.design.factors, self.effects(rng), strict=True):
            y += contributions(factor, values, factor.codes, list(factor.columns))
        return y


def simulator_of(fit: Fit) -> Simulator:
    """Return a simulator at the estimates of a fit."""
    residual = fit._problem.residual
    return Simulator(fit.model, fit.params, fit.covariances, fit.sigma, None if residual is None else residual.phi)


def simulate(simulator: Simulator, count: int, seed: Any) -> pd.DataFrame:
    """Return `count` responses as columns, over all rows of the input; see `Fit.simulate`."""
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise DataError(f"the number of responses must be a whole number of at least 1, got {count!r}")
    rng = generator(seed)
    return pd.DataFrame({j: simulator.design.full_length(simulator.draw(rng)) for j in range(count)})


def _root(factor: Factor, covariance: Any) -> Array:
    """A square root of T."""
    T = as_float(covariance, f"covariance of '{factor.name}'")
    if T.shape != (factor.width, factor.width) or not np.allclose(T, T.T, rtol=1e-10, atol=0):
        raise DataError(
            f"covariance of '{factor.name}' must be a symmetric ({factor.width}, {factor.width}) matrix",
            column=factor.name,
        )
    values, vectors = eigh(np.ascontiguousarray(T))
    if not np.isfinite(values).all() or values[0] < -NEGATIVE * max(values[-1], 0.0):
        raise DataError(f"covariance of '{factor.name}' is not positive semidefinite", column=factor.name)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
