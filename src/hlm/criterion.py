"""From a design to its criterion: statistics, coordinates, template and kernel put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hlm.covariance import Matrix, Template, make_template
from hlm.crossed import CrossedStatistics, crossed_statistics, curvature
from hlm.design import Design, Factor, check_residual
from hlm.errors import DegenerateError, DesignError, NumericalError, show
from hlm.scaling import NO_RESIDUAL, Coordinates, to_coordinates
from hlm.statistics import Statistics, gather
from hlm.variance.build import build_variances
from hlm.variance.coordinates import constrain
from hlm.variance.criterion import VarianceCriterion
from hlm.variance.mixing import relate
from hlm.variance.parts import Variances
from hlm.variance.restrictions import Restrictions
from hlm.variance.rows import Known
from hlm.variance.structures import Unstructured
from hlm_ext.criterion import Criterion, KernelError
from hlm_ext.forest import Forest
from hlm_ext.linear import lower_factor
from hlm_ext.roots import RootForest, leaf_roots
from hlm_ext.structure import first_rows

if TYPE_CHECKING:
    from hlm.design import Column
    from hlm.residuals.pattern import Estimated

Objective = Criterion | VarianceCriterion
Space = Template | Variances


@dataclass(frozen=True, eq=False)
class Problem:
    """A design with its statistics, ready to be fitted any number of times.

    Attributes
    ----------
    design : Design
    statistics : Statistics
        Those that `coordinates` start from: in the user's units, or gathered again from the rows.
    coordinates : Coordinates
    template : Template
    crossed : CrossedStatistics or None
        Statistics of a design with a core.
    variances : Variances or None
        Where there are structures, known values or constraints: what θ stands for then.
    restrictions : Restrictions or None
        What was asked of γ, T and σ.
    residual : Estimated or None
        A structure of the level-1 errors, at known parameters: blocks and total of the coordinates are those under it.
    """

    design: Design
    statistics: Statistics
    coordinates: Coordinates
    template: Template
    crossed: CrossedStatistics | None = None
    variances: Variances | None = None
    restrictions: Restrictions | None = None
    residual: Estimated | None = None

    @property
    def ordered(self) -> list[Factor]:
        """Factors in the order of the hierarchy, leaves first."""
        return [self.design.factors[k] for k in self.template.order]

    @property
    def rank(self) -> int:
        """Number of free fixed effects: independent columns of X less constraints."""
        return int(self.coordinates.beta_map.shape[1])

    @property
    def space(self) -> Space:
        """What the optimisers search."""
        return self.template if self.variances is None else self.variances

    @property
    def variance_parameters(self) -> int:
        """Number of free variance parameters, σ² among them."""
        own = self.template.m + 1 if self.variances is None else self.variances.parameters
        return own if self.residual is None else own + self.residual.pattern.size

    @property
    def theta_names(self) -> list[str]:
        """Names of θ as a fit reports it: lower triangles, or what a structure calls its own."""
        out = []
        for factor in self.design.factors:
            for block, structure in zip(factor.blocks, factor.all_structures, strict=True):
                effects = [factor.effects[j] for j in block]
                out += [f"{factor.name}.{name}" for name in (structure or Unstructured()).names(effects)]
        return out

    def restrict(self, restrictions: Restrictions, core: str = "auto") -> Problem:
        """Return the problem with known values and constraints; `core` as in `make_problem`.

        Raises
        ------
        DataError, DesignError
            If they cannot be satisfied, or a variance cannot be told from that of the residual.
        """
        structured = any(factor.structures for factor in self.design.factors)
        if not restrictions and not structured:
            check_residual(self.design, self.template.cones())
            return self
        coordinates = constrain(self.coordinates, self.design.names, restrictions.beta)
        variances = None
        if restrictions.variance or structured:
            variances = build_variances(
                self.design, self.template, self.maps, coordinates.scale, restrictions.variance, restrictions.texts
            )
        free = self.template.cones()
        if variances is not None:
            free = [(p.factor, p.block) for p in variances.parts if not isinstance(p.structure, Known)]
        if variances is None or not variances.sigma_known:
            check_residual(self.design, free)
        crossed = self.crossed
        if crossed is not None and restrictions.beta:
            crossed = _crossed(self.statistics, coordinates, self.ordered, core)
        return replace(self, coordinates=coordinates, crossed=crossed, variances=variances, restrictions=restrictions)

    @cached_property
    def maps(self) -> list[Matrix]:
        """For each factor in the order of the formula: u = map @ (engine's u), T = map D map'.

        Where levels are related the engine's u are v times the root of K itself, D belongs to K with mean diagonal 1.
        """
        out: list[Matrix] = [np.zeros((0, 0))] * len(self.template.order)
        for k, effect_map in zip(self.template.order, self.coordinates.effect_maps, strict=True):
            between = self.design.factors[k].between
            out[k] = effect_map if between is None else effect_map / np.sqrt(between.scale)
        return out

    def user_roots(self, point: Matrix) -> list[Matrix]:
        """Return square roots (q, q) of T/σ² of each factor in the user's units, at a point of `space`."""
        if self.variances is not None:
            return self.variances.user_roots(point)
        return [back @ L for back, L in zip(self.maps, self.template.factors_of(point), strict=True)]

    def user_theta(self, point: Matrix) -> Matrix:
        """Return θ as a fit reports it, at a point of `space`."""
        out = [np.zeros(0)]
        for factor, root in zip(self.design.factors, self.user_roots(point), strict=True):
            for block, structure in zip(factor.blocks, factor.all_structures, strict=True):
                L = lower_factor(root[np.ix_(block, block)])
                out.append(L.T[np.triu_indices(len(block))] if structure is None else structure.start(L @ L.T))
        return np.concatenate(out)

    @property
    def curvature(self) -> tuple[str, str]:
        """Second derivatives that Newton's method and the certificate use: "observed" unless they cost too much."""
        return ("observed", "observed") if self.crossed is None else curvature(self.crossed)

    def criterion(self, reml: bool) -> Objective:
        """Return a new criterion; its values are -2 log-likelihoods in the user's units."""
        n = self.design.nobs
        freedom = n - self.rank - self.design.absorbed_count if reml else n
        constant = 2 * freedom * np.log(self.coordinates.scale) - self.statistics.log_weights
        if reml:
            constant += self.coordinates.log_units
            if self.design.absorbed is not None:
                constant += float(np.log(self.design.absorbed.weights).sum())
        precise = self.precise_forest if self.template.m and self.crossed is None else None
        inner = self.criterion_with(freedom, reml, constant, precise)
        return inner if self.variances is None else VarianceCriterion(inner, self.variances)

    def criterion_with(
        self, freedom: float, reml: bool, constant: float = 0.0, precise: Callable[[], Forest] | None = None
    ) -> Criterion:
        """Return a new criterion in θ with ν and constant as given; see `hlm_ext.criterion.Criterion`."""
        hierarchy, template = self.statistics.hierarchy, self.template
        forest: Forest
        if self.crossed is None:
            forest = Forest(self.coordinates.blocks, list(hierarchy.children), self.coordinates.total)
        else:
            forest = self.crossed.forest(self.ordered, hierarchy)
        return Criterion(
            forest,
            freedom,
            reml,
            np.zeros(template.size),
            template.entries,
            np.ones(template.m),
            constant,
            self.coordinates.rounding,
            precise,
        )

    def rows(self) -> tuple[Matrix, Column | None]:
        """Return the rows (n, E) in the engine's columns and their weights; with a residual structure, made white."""
        rows, weights = self.statistics.rows(self.coordinates.basis), self.statistics.weights
        if self.residual is None:
            return rows, weights
        if weights is not None:
            rows = rows * np.sqrt(weights)[:, None]
        return self.residual.pattern.whiten(rows, self.residual.phi), None

    def precise_forest(self) -> RootForest:
        """Return a forest made from the rows, for values in which cross-products cancel.

        Raises
        ------
        DegenerateError
            If random and fixed effects together reproduce the response.
        """
        coordinates, hierarchy = self.coordinates, self.statistics.hierarchy
        above = hierarchy.children[0] if len(hierarchy.levels) > 1 else np.array([0, len(hierarchy.levels[0])])
        rows, weights = self.rows()
        roots, rests = leaf_roots(
            rows,
            hierarchy.rows,
            hierarchy.first,
            np.repeat(np.arange(len(above) - 1), np.diff(above)),
            len(above) - 1,
            self.ordered[0].width,
            weights,
        )
        noise = NO_RESIDUAL * float(np.abs(coordinates.basis[:, -1]) @ self.statistics.noise)
        return RootForest(coordinates.blocks, list(hierarchy.children), coordinates.total, roots, rests, noise * noise)

    def explain(self, error: KernelError) -> NumericalError:
        """Turn a kernel's failure into an error that names the group, or says why the likelihood has no maximum."""
        design = self.design
        y = design.response
        for factor in design.factors:
            first = design.y[first_rows(factor.codes, factor.size)]
            if factor.between is None and np.array_equal(first[factor.codes], design.y):
                return DegenerateError(
                    f"'{y}' is constant within every level of '{factor.name}'; the likelihood has no maximum", column=y
                )
        if error.factor >= 0:
            factor = self.ordered[error.factor]
            label = factor.labels[self.statistics.hierarchy.levels[error.factor][error.level]]
            return NumericalError(
                f"{error.reason}: the block of {factor.name} = {show(label)}", column=factor.name, group=label
            )
        if error.reason != "not finite" and any(factor.between is not None for factor in design.factors):
            return self.without_residual()
        return DegenerateError(
            f"'{y}' is reproduced by the model to the last digits: the likelihood has no maximum ({error.reason})",
            column=y,
        )

    def without_residual(self) -> DegenerateError:
        """Return the error for related levels that explain every row: the likelihood rises as σ goes to zero."""
        names = ", ".join(f"'{factor.name}'" for factor in self.design.factors if factor.between is not None)
        return DegenerateError(
            f"the likelihood rises as the residual variance goes to zero: related levels of {names} explain "
            f"'{self.design.response}' altogether; hold sigma at a value, or the variances' ratio by a constraint",
            column=self.design.response,
        )


def make_problem(design: Design, core: str = "auto") -> Problem:
    """Gather the statistics of a design and change them to the coordinates of the engine.

    `core` is the factorisation of the core of a crossed design: "auto", "dense" or "sparse".
    """
    statistics = gather(design)
    order = statistics.hierarchy.factors
    factors = [design.factors[k] for k in order]
    statistics, coordinates = to_coordinates(statistics, factors, design.response)
    crossed = None
    if not statistics.hierarchy.is_nested:
        crossed = _crossed(statistics, coordinates, factors, core)
    return Problem(design, statistics, coordinates, make_template(design.factors, order), crossed)


def _crossed(statistics: Statistics, coordinates: Coordinates, factors: list[Factor], core: str) -> CrossedStatistics:
    rows = statistics.rows(coordinates.basis)
    if statistics.weights is not None:
        rows *= np.sqrt(statistics.weights)[:, None]
    related = [factor for factor in factors if factor.between is not None]
    if not related:
        return crossed_statistics(rows, factors, statistics.hierarchy, core)
    if core == "sparse":
        raise DesignError(
            f"core='sparse' is not possible with a known covariance between the levels of '{related[0].name}'",
            column=related[0].name,
        )
    found = crossed_statistics(rows, factors, statistics.hierarchy, "dense")
    return relate(found, factors, statistics.hierarchy)
