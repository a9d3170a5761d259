"""The model in which one parameter has a given value, all others free: what a profile minimises.

A standard deviation, σ and an intraclass correlation are equations that are linear in T and σ², as those of
`Model.fit(fixed=..., constraints=...)`; a correlation is held by the parameters of its term, or by a condition; a fixed
effect γ_j = c makes the response y less c X_j, without that column; one of the level-1 errors leaves their structure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hlm.criterion import Objective, Problem, Space
from hlm.profiles.parameters import Parameter, known_equations, shares, units
from hlm.residuals.criterion import JointCriterion, JointSpace, Statistics, gathered
from hlm.residuals.held import HeldStatistics, with_problem
from hlm.residuals.held import hold as hold_error
from hlm.sides import sides, with_sides
from hlm.variance.build import Correlation, lay_out_variances
from hlm.variance.criterion import VarianceCriterion
from hlm.variance.linear import Key, is_determined
from hlm.variance.restrictions import SIGMA2, with_equation
from hlm.variance.start import shaped, starts
from hlm.variance.structures import Structure
from hlm_ext.criterion import Criterion, KernelError

if TYPE_CHECKING:
    from hlm.fit import Fit

Matrix = npt.NDArray[np.float64]

# Where a condition degenerates at the end of a parameter's range it is held so near to it: standard deviations in units
# at which a group tells half of the effect, correlations.
NEAR_ZERO, NEAR_ONE = 1e-6, 1e-9
# … and σ, relative to its estimate: where random effects can explain every row the likelihood has a limit at zero.
NEAR_SIGMA = 1e-4


class Held:
    """A fit's model with a parameter held at any value.

    Parameters
    ----------
    fit : Fit
    parameter : Parameter
    """

    def __init__(self, fit: Fit, parameter: Parameter) -> None:
        self.fit, self.parameter = fit, parameter
        self.problem = fit._problem
        self._gathered: Statistics | None = None
        if fit._problem.residual is not None:
            asked, plain = fit._problem.restrictions, fit.model.problem
            self.problem = plain if asked is None else plain.restrict(asked)
            self._gathered = gathered(self.problem, fit._problem.residual.pattern)
        self._inner = None if parameter.kind == "fixed" or self._gathered else _inner(self.problem, fit.reml)

    def at(self, value: float) -> tuple[Objective | JointCriterion, Space | JointSpace, list[Matrix]]:
        """Return criterion and space of the other parameters at a value, and points to start from.

        The first is that of the fit, or near; others where there may be several optima: of the level-1 errors, and of
        structures with several shapes.

        Raises
        ------
        DataError, KernelError
            If no covariances have that value.
        """
        problem = self._problem(value)
        residual = self.fit._problem.residual
        engine = [L @ L.T for L in self.fit._problem.space.factors_of(self.fit._point)]
        start = self._start(problem, engine)
        if self._gathered is None or residual is None:
            if self._inner is None:
                objective = problem.criterion(self.fit.reml)
            else:
                assert problem.variances is not None
                objective = VarianceCriterion(self._inner, problem.variances)
            others = shaped(objective, start) if isinstance(objective, VarianceCriterion) else []
            return objective, problem.space, [start, *others]
        pattern, phi, others = residual.pattern, residual.phi, residual.pattern.starts()
        if self.parameter.kind == "fixed":
            statistics = gathered(problem, pattern)
        else:
            statistics = with_problem(self._gathered, problem)
        if self.parameter.kind == "residual":
            path, phi, others = hold_error(pattern, self.parameter.place[0], value, phi)
            statistics = HeldStatistics(statistics, path)
        criterion = JointCriterion(statistics, self.fit.reml)
        starts = [np.concatenate([start, t]) for t in (phi, *others)]
        return criterion, JointSpace(problem.space, criterion), starts

    def _start(self, problem: Problem, engine: list[Matrix]) -> Matrix:
        """The point of the fit's D; where none is near that keeps the conditions, one that moments lead to."""
        space, sigma2 = problem.space, (self.fit.sigma / problem.coordinates.scale) ** 2
        try:
            return space.point(engine, sigma2)
        except KernelError:
            criterion = problem.criterion(self.fit.reml)
            assert isinstance(criterion, VarianceCriterion)
            try:
                return starts(criterion)[0]
            except KernelError:
                return criterion.variances.near(engine, sigma2)

    def _problem(self, value: float) -> Problem:
        problem, p = self.problem, self.parameter
        if p.kind == "residual":
            return problem
        if p.kind == "fixed":
            return fixed_effect(problem, p.place[0], value)
        correlation = None
        equations = known_equations(self.fit)
        if p.kind == "cor":
            if self._conditional():
                value = float(np.clip(value, NEAR_ONE - 1, 1 - NEAR_ONE))
            correlation = Correlation(p.place[0], p.place[1], p.place[2], value)
        else:
            for coefficients, right in self._equations(value):
                if not right and is_determined(equations, coefficients):
                    continue
                equations = with_equation(problem.design, equations, coefficients, right)
        scale = problem.coordinates.scale
        variances = lay_out_variances(problem.design, problem.template, problem.maps, scale, equations, correlation)
        return replace(problem, variances=variances)

    def _conditional(self) -> bool:
        """Whether a correlation is held by a condition, which degenerates at ±1."""
        structure = self._structure(*self.parameter.place[:2])
        return structure is not None and not structure.described_by

    def _equations(self, value: float) -> list[tuple[dict[Key, float], float]]:
        """Coefficients and right sides."""
        p = self.parameter
        if p.kind == "sigma":
            return [({SIGMA2: 1.0}, max(value, NEAR_SIGMA * p.estimate) ** 2)]
        if p.kind == "icc":
            value = min(value, 1 - NEAR_SIGMA**2)
            if value:
                return [(shares(self.fit, p.place, value), 0.0)]
            return [equation for k in p.place for equation in self._nothing(k)]
        k, i = p.place
        structure = self._structure(k, i)
        if structure is not None and value == 0:
            if structure.described_by:
                return self._nothing(k, self._block(k, i))
            value = NEAR_ZERO * float(units(self.fit, k)[i])
        return [({("T", k, i, i): 1.0}, value**2)]

    def _nothing(self, k: int, block: tuple[int, ...] | None = None) -> list[tuple[dict[Key, float], float]]:
        """No variance of a term, or of all terms of a factor."""
        blocks = self.problem.design.factors[k].blocks if block is None else (block,)
        pairs = [(max(i, j), min(i, j)) for block in blocks for a, i in enumerate(block) for j in block[: a + 1]]
        return [({("T", k, i, j): 1.0}, 0.0) for i, j in pairs]

    def _block(self, k: int, i: int) -> tuple[int, ...]:
        return next(block for block in self.problem.design.factors[k].blocks if i in block)

    def _structure(self, k: int, i: int) -> Structure | None:
        factor = self.problem.design.factors[k]
        return next(s for block, s in zip(factor.blocks, factor.all_structures, strict=True) if i in block)

    def relative(self, space: Space | JointSpace, x: Matrix) -> list[Matrix]:
        """Return T/σ² of each factor, in the user's units, at a point of the space."""
        if isinstance(space, JointSpace):
            x, space = space.criterion.split(x)[0], space.space
        engine = space.factors_of(x)
        return [M @ L @ (M @ L).T for M, L in zip(self.problem.maps, engine, strict=True)]


def _inner(problem: Problem, reml: bool) -> Criterion:
    criterion = problem.criterion(reml)
    return criterion.inner if isinstance(criterion, VarianceCriterion) else criterion


def fixed_effect(problem: Problem, j: int, value: float) -> Problem:
    """Return the problem in which γ_j, column j of those kept, has a given value; for criteria by ML.

    The engine's β = b + N (free ones) with (row j of the map) b = value less shift, N its null space.
    """
    coordinates = problem.coordinates
    row = coordinates.beta_map[j]
    rank, size = len(row), float(np.linalg.norm(row))
    known = row * (value - coordinates.beta_shift[j]) / size**2
    null = np.linalg.qr(np.column_stack([row / size, np.eye(rank)]))[0][:, 1:rank]
    basis = np.zeros((rank + 1, rank))
    basis[:rank, :-1], basis[:rank, -1], basis[rank, -1] = null, -known, 1.0
    changed = with_sides(problem, [side @ basis for side in sides(problem)], basis.T @ coordinates.total @ basis)
    columns = np.concatenate([coordinates.basis[:, : -rank - 1], coordinates.basis[:, -rank - 1 :] @ basis], axis=1)
    new = replace(changed.coordinates, basis=columns, beta_map=coordinates.beta_map @ null)
    return replace(changed, coordinates=new)
