"""New responses for a prepared design: only the columns of y change in the statistics."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hlm.criterion import Problem
from hlm.errors import NumericalError
from hlm.scaling import NO_RESIDUAL
from hlm.sides import level_sums, sides, with_sides
from hlm.statistics import EPSILON

Matrix = npt.NDArray[np.float64]


# What a combination of the columns of X may miss a column of ones by: their rounding, for columns in any condition that
# is not called aliased.
CONSTANT = 1e-8


class Prepared:
    """A problem whose rows stand in the coordinates of the engine, for any number of responses.

    X and Z are read once. A response then costs two products with X and one with Z; its OLS residual is taken from the
    rows, so it loses nothing to cancellation, however far from zero it lies.

    Parameters
    ----------
    problem : Problem
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @cached_property
    def rows(self) -> Matrix:
        """(n, E) the engine's columns: of each factor in the order of the hierarchy, of X, and of the first y."""
        return self.problem.statistics.rows(self.problem.coordinates.basis)

    @property
    def fixed(self) -> Matrix:
        """(n, r) orthonormal columns of X (with weights: X'WX = I); X of the kept columns is `fixed` @ base⁻¹."""
        tail = len(self.problem.coordinates.total)
        return self.rows[:, -tail:-1]

    @property
    def base(self) -> Matrix:
        """(r, r) γ = base @ (coefficients of `fixed`)."""
        return self.problem.coordinates.beta_map / self.problem.coordinates.scale

    @cached_property
    def ones(self) -> Matrix | None:
        """(r,) coefficients of a column of ones in `fixed`, None where it is no combination of them."""
        X, weights = self.fixed, self.problem.statistics.weights
        cross = X.sum(axis=0) if weights is None else weights @ X
        return cross if np.abs(X @ cross - 1).max(initial=0.0) < CONSTANT else None

    def with_response(self, y: Matrix) -> Problem:
        """Return the problem with another response.

        Parameters
        ----------
        y : (n,) float64
            Response less offset of the rows that are used, finite.

        Raises
        ------
        NumericalError
            If the fixed part reproduces the response.
        """
        old = self.problem
        design, statistics, coordinates = old.design, old.statistics, old.coordinates
        weights = statistics.weights
        X = self.fixed
        weighted = y if weights is None else weights * y
        size, noise = float(y @ weighted), EPSILON * float(np.sqrt(y @ weighted))
        residual, cross = y, np.zeros(X.shape[1])
        if self.ones is not None:  # differences of numbers that are alike are exact
            mean = float(y.mean())
            residual, cross = y - mean, mean * self.ones
        for _ in range(2):  # the second projection takes what rounding left to the first
            again = X.T @ (residual if weights is None else weights * residual)
            residual = residual - X @ again
            cross = cross + again
        weighted = residual if weights is None else weights * residual
        rss = float(residual @ weighted)
        if not size > 0 or not rss > (NO_RESIDUAL * noise) ** 2:
            raise NumericalError(
                f"'{design.response}' is reproduced exactly by the fixed effects: nothing is left to model",
                column=design.response,
            )
        scale = float(np.sqrt(rss / statistics.n))
        own = residual / scale
        columns = sides(old)
        for side, sums in zip(columns, level_sums(old, self.rows, weighted / scale), strict=True):
            side[:, :, -1] = sums
        total = np.eye(X.shape[1] + 1)
        total[-1, -1] = statistics.n
        changed = with_sides(old, columns, total)
        wide = self.rows.shape[1]
        return replace(
            changed,
            design=replace(design, y=y),
            statistics=replace(
                statistics,
                mean=np.zeros(wide),
                factor=np.ones(wide),
                constant=-1,
                multiple=np.zeros(wide),
                noise=np.append((statistics.noise @ np.abs(coordinates.basis))[:-1], noise / scale),
                columns=(*self.rows.T[:-1], own),
            ),
            coordinates=replace(
                changed.coordinates,
                basis=np.eye(wide),
                beta_map=self.base * scale,
                beta_shift=self.base @ cross,
                scale=scale,
            ),
        )
