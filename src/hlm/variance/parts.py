"""From free parameters x to the covariances of all factors: parts, constraints between them, and the way to the engine.

In units where the engine's σ is of size 1, a part gives the covariance T = B B' of one term with B = A F(x), in the
user's coordinates of the effects. The covariances are *relative* (T/σ², σ² profiled out) when every value asked for is
a ratio, else *absolute* and σ is known or one of x. The engine's D of the term is W F F' W' (over σ²), W = map⁻¹ A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hlm.covariance import ZERO, Matrix, Template
from hlm.design import Factor
from hlm.variance.conditions import Constraint, HeldCorrelation, Roots
from hlm.variance.rows import Known
from hlm.variance.structures import Structure
from hlm_ext.criterion import KernelError
from hlm_ext.linear import eigh, lower_factor, lower_root

# Constraints hold to this, relative to the size of what they constrain.
EXACT = 1e-13
# A singular value of the constraints' derivatives below this, relative to the largest, is dependence.
DEPENDENT = 1e-9


@dataclass(frozen=True, eq=False)
class Part:
    """One random term.

    Attributes
    ----------
    factor : int
        In the order of the formula.
    block : tuple of q int
        Its effects' places in the factor.
    structure : Structure
    index : (m,) intp
        Which of x are its θ.
    A, W : (q, q)
        See the module.
    plain : bool
        Unstructured in the coordinates of the engine, where W = I: every D is open to it.
    """

    factor: int
    block: tuple[int, ...]
    structure: Structure
    index: npt.NDArray[np.intp]
    A: Matrix
    W: Matrix
    plain: bool

    def root(self, x: Matrix) -> Matrix:
        """Return F (q, q)."""
        return np.asarray(self.structure.root(x[self.index], len(self.block)), dtype=np.float64)

    def derivatives(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return the first (m, q, q) and second (m, m, q, q) derivatives of F."""
        q, theta = len(self.block), x[self.index]
        first = np.asarray(self.structure.derivatives(theta, q), dtype=np.float64)
        return first, np.asarray(self.structure.second_derivatives(theta, q), dtype=np.float64)

    @cached_property
    def rank(self) -> int:
        """Rank of D at an ordinary θ."""
        q = len(self.block)
        theta = np.asarray(self.structure.start(np.eye(q)), dtype=np.float64)
        theta = theta + 0.1 * np.cos(np.arange(len(theta)))
        return int(np.linalg.matrix_rank(np.asarray(self.structure.root(theta, q))))


@dataclass(eq=False)
class Variances:
    """All variance parameters: x and what they mean.

    Attributes
    ----------
    template : Template
        The plain template of the same factors: its θ is what the engine gets.
    maps : list of (q, q)
        For each factor in the order of the formula: u = map @ (engine's u).
    parts : list of Part
    size : int
        Length of x.
    absolute : bool
    sigma : int
        Place of σ in x, -1 if it is known or profiled out.
    sigma_known : float
        The engine's σ where it is known, else 0.
    constraints : list of Constraint or HeldCorrelation
    unit_rows : list of intp arrays
        Sets of x whose squares add up to 1.
    shared : list of int
        Places of standard deviations that may be put at zero.
    """

    template: Template
    maps: list[Matrix]
    parts: list[Part] = field(default_factory=list)
    size: int = 0
    absolute: bool = False
    sigma: int = -1
    sigma_known: float = 0.0
    constraints: list[Constraint | HeldCorrelation] = field(default_factory=list)
    unit_rows: list[npt.NDArray[np.intp]] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)

    # ---- counts ---------------------------------------------------------------------------------------------------

    @property
    def conditions(self) -> int:
        """Number of conditions between the x."""
        return len(self.constraints) + len(self.unit_rows)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """In the order of the formula."""
        return self.template.factors

    @property
    def order(self) -> tuple[int, ...]:
        """The hierarchy's order of the factors, leaves first."""
        return self.template.order

    @property
    def triangles(self) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
        """See `Template.triangles`."""
        return self.template.triangles

    @property
    def m(self) -> int:
        """Free dimensions of x."""
        return self.size - self.conditions

    @property
    def profiled(self) -> bool:
        """Whether σ² is maximised over at each x."""
        return not self.absolute

    @property
    def parameters(self) -> int:
        """Free variance parameters, σ² among them if it is free."""
        return self.m + (1 if self.profiled else 0)

    @property
    def curved(self) -> bool:
        """Whether there may be several minima for another reason than a boundary: shapes, or elements of T held."""
        return bool(self.conditions) or self.shaped

    @property
    def shaped(self) -> bool:
        """Whether a term has a structure of several shapes."""
        return any(part.structure.shapes(len(part.block)) for part in self.parts)

    def without_em(self, method: str) -> str:
        """Return why EM cannot be used, or nothing."""
        for part in self.parts:
            if not part.structure.closed_form:
                name = self.template.factors[part.factor].name
                return f"has no closed M-step for the covariance of '{name}' ({part.structure.name})"
        if self.sigma >= 0:
            return "has no closed M-step where elements of T are known and sigma is not"
        known = any(isinstance(part.structure, Known) and part.root(np.zeros(0)).any() for part in self.parts)
        if self.profiled and known and method == "em":
            return "has no closed M-step for T known relative to sigma2"
        return ""

    # ---- from x to the engine -------------------------------------------------------------------------------------

    def sigma_of(self, x: Matrix) -> float:
        """Return the engine's σ at x, 1 where it is profiled out: what D is relative to."""
        if self.profiled:
            return 1.0
        return abs(float(x[self.sigma])) if self.sigma >= 0 else self.sigma_known

    def factors_of(self, x: Matrix) -> list[Matrix]:
        """Return the engine's Λ (q, q) of each factor in the order of the formula."""
        sigma = self.sigma_of(x)
        if not sigma > 0:
            raise KernelError("sigma is zero", -1, -1, -1)
        out = [np.zeros((factor.width, factor.width)) for factor in self.template.factors]
        for part in self.parts:
            F = part.root(x)
            if not np.isfinite(F).all():
                raise KernelError("not finite", -1, -1, -1)
            out[part.factor][np.ix_(part.block, part.block)] = lower_factor(part.W @ F / sigma)
        return out

    def user_roots(self, x: Matrix) -> list[Matrix]:
        """Return square roots (q, q) of T/σ² of each factor in the user's units, known elements as they are."""
        sigma = self.sigma_of(x)
        out = [np.zeros((factor.width, factor.width)) for factor in self.template.factors]
        for part in self.parts:
            out[part.factor][np.ix_(part.block, part.block)] = part.A @ part.root(x) / sigma
        return out

    def engine_theta(self, x: Matrix) -> Matrix:
        """Return the plain template's θ."""
        return self.template.theta_of(self.factors_of(x))

    # ---- from covariances to x ------------------------------------------------------------------------------------

    def point(self, covariances: Sequence[Matrix], sigma2: float, least: float = 0.0, relative: float = 0.0) -> Matrix:
        """Return the x whose covariances are near the engine's D's (relative to the engine's `sigma2`).

        Raises
        ------
        KernelError
            If no x near there satisfies the constraints.
        """
        return self.project(self.near(covariances, sigma2, least, relative))

    def near(self, covariances: Sequence[Matrix], sigma2: float, least: float = 0.0, relative: float = 0.0) -> Matrix:
        """Return an x whose covariances are near some D's, whether it keeps the conditions or not; see `point`."""
        x = np.zeros(self.size)
        if self.sigma >= 0:
            x[self.sigma] = np.sqrt(sigma2)
        unit = 1.0 if self.profiled else np.sqrt(sigma2)
        hits = np.zeros(self.size)
        for part in self.parts:
            if not len(part.index):
                continue
            place = np.ix_(part.block, part.block)
            root = lower_root(covariances[part.factor][place], least, relative) * unit
            if part.plain:
                theta = root.T[np.triu_indices(len(root))]
            else:
                root = np.asarray(np.linalg.solve(part.A, self.maps[part.factor][place] @ root), dtype=np.float64)
                theta = np.asarray(part.structure.start(root @ root.T), dtype=np.float64)
            np.add.at(x, part.index, theta)
            np.add.at(hits, part.index, 1.0)
        return np.asarray(x / np.maximum(hits, 1.0))

    def theta_of_covariances(self, covariances: Sequence[Matrix], least: float = 0.0, relative: float = 0.0) -> Matrix:
        """Return x from D of each factor, σ known or profiled out."""
        return self.point(covariances, self.sigma_known**2 if self.absolute else 1.0, least, relative)

    def lifted(self, x: Matrix, sigma2: float) -> Matrix:
        """Return x with D = I, or near, for each term that has a direction without variance though it might."""
        covariances = [L @ L.T for L in self.factors_of(x)]
        for part, L in self._engine_blocks(x):
            if self._missing(part, L):
                covariances[part.factor][np.ix_(part.block, part.block)] = np.eye(len(part.block))
        try:
            return self.point(covariances, sigma2)
        except KernelError:
            return x

    # ---- constraints ----------------------------------------------------------------------------------------------

    def conditions_at(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return the conditions c(x) (K,), zero where they hold, and their derivatives (K, size)."""
        values, slopes = np.zeros(self.conditions), np.zeros((self.conditions, self.size))
        roots = self._bound_roots(x)
        for k, constraint in enumerate(self.constraints):
            values[k], slopes[k] = constraint.at(roots, self, x)
        for k, places in enumerate(self.unit_rows, start=len(self.constraints)):
            values[k] = x[places] @ x[places] - 1
            slopes[k, places] = 2 * x[places]
        return values, slopes

    def _bound_roots(self, x: Matrix) -> Roots:
        """Return B of the parts that constraints are about, with first and second derivatives."""
        out = {}
        for p in {term[0] for constraint in self.constraints for term in constraint.terms}:
            part = self.parts[p]
            first, second = part.derivatives(x)
            out[p] = part.A @ part.root(x), part.A @ first, part.A @ second
        return out

    def bending(self, x: Matrix, multipliers: Matrix) -> Matrix:
        """Return Σ multiplier · ∂²c, (size, size)."""
        out = np.zeros((self.size, self.size))
        roots = self._bound_roots(x)
        for constraint, multiplier in zip(self.constraints, multipliers, strict=False):
            out += multiplier * constraint.bending(roots, self)
        for places, multiplier in zip(self.unit_rows, multipliers[len(self.constraints) :], strict=True):
            out[places, places] += 2 * multiplier
        return out

    def tangent(self, slopes: Matrix) -> Matrix:
        """Return an orthonormal basis (size, m) of the directions that keep the conditions."""
        if not self.conditions:
            return np.eye(self.size)
        _, s, vt = np.linalg.svd(slopes)
        rank = int((s > DEPENDENT * max(1.0, s[0])).sum())
        return np.ascontiguousarray(vt[rank:].T)

    def project(self, x: Matrix) -> Matrix:
        """Return the point near x that satisfies the conditions, by Gauss-Newton steps.

        Raises
        ------
        KernelError
            If there is none near x.
        """
        if not self.conditions:
            return x
        step: Matrix
        for _ in range(100):
            c, slopes = self.conditions_at(x)
            if not np.isfinite(c).all():
                break
            size = float(np.abs(c).max())
            if size < EXACT:
                return x
            step = -np.asarray(np.linalg.lstsq(slopes, c, rcond=1e-12)[0], dtype=np.float64)
            for _ in range(30):
                moved = np.abs(self.conditions_at(x + step)[0]).max()
                if moved < size:
                    break
                step = np.asarray(0.5 * step)
            else:
                if size < 100 * EXACT:  # rounding
                    return x
                break
            x = x + step
        raise KernelError("no covariance satisfies the constraints", -1, -1, -1)

    def ambient(self, x: Matrix, gradient: Matrix) -> Matrix:
        """Return a gradient (m,) in the tangent space as one in x (size,)."""
        return self.tangent(self.conditions_at(x)[1]) @ gradient

    def move(self, x: Matrix, step: Matrix) -> Matrix:
        """Return the feasible point reached from x by a step (m,) in the tangent space."""
        if not self.conditions:
            return x + step
        return self.project(x + self.tangent(self.conditions_at(x)[1]) @ step)

    # ---- the boundary ---------------------------------------------------------------------------------------------

    def deficiencies(self, x: Matrix) -> list[int]:
        """For each factor: how many directions have no variance although they might."""
        out = [0] * len(self.template.factors)
        for part, L in self._engine_blocks(x):
            out[part.factor] += self._missing(part, L)
        return out

    @staticmethod
    def _missing(part: Part, L: Matrix) -> int:
        return max(0, part.rank - int((eigh(L @ L.T)[0] > ZERO).sum()))

    def is_singular(self, x: Matrix) -> bool:
        """Whether some direction that may have variance has none."""
        return any(self.deficiencies(x))

    def _engine_blocks(self, x: Matrix) -> list[tuple[Part, Matrix]]:
        """Return the parts with parameters and their Λ's."""
        factors = self.factors_of(x)
        return [
            (part, factors[part.factor][np.ix_(part.block, part.block)])
            for part in self.parts
            if not isinstance(part.structure, Known)
        ]

    def cones(self) -> list[tuple[int, tuple[int, ...]]]:
        """Factor and effects of the terms that every covariance matrix is open to."""
        return [(part.factor, part.block) for part in self.parts if part.plain and not self._bound(part)]

    def rays(self, x: Matrix) -> list[tuple[int, Matrix]]:
        """For terms without any variance: factor, and the D's (q, q) of their structure's shapes."""
        out = []
        for part, L in self._engine_blocks(x):
            if part.plain or self._bound(part) or np.abs(L).max() ** 2 > ZERO:
                continue
            q = len(part.block)
            for theta in part.structure.shapes(q):
                D = np.zeros((self.template.factors[part.factor].width,) * 2)
                F = part.W @ np.asarray(part.structure.root(theta, q))
                D[np.ix_(part.block, part.block)] = F @ F.T
                out.append((part.factor, D))
        return out

    def _bound(self, part: Part) -> bool:
        return any(self.parts[term[0]] is part for c in self.constraints for term in c.terms)

    def settled(self, x: Matrix, nearly: float) -> Matrix | None:
        """Return x with variances below `nearly` put at zero where one parameter does that; None if there are none."""
        moved = x.copy()
        for part, L in self._engine_blocks(x):
            if self._bound(part):
                continue
            D = L @ L.T
            if part.plain:
                values, vectors = eigh(D)
                if 0 < values[0] < nearly:
                    root = lower_factor(vectors * np.sqrt(np.where(values < nearly, 0.0, values)))
                    moved[part.index] = root.T[np.triu_indices(len(D))] * self.sigma_of(x)
                continue
            for place in part.index:
                if x[place] == 0 or (part.structure.name == "rows" and place not in self.shared):
                    continue
                trial = x.copy()
                trial[place] = 0.0
                F = part.W @ part.root(trial) / self.sigma_of(x)
                change = D - F @ F.T
                if 0 < np.abs(change).max() < nearly and eigh(change)[0][0] > -1e-3 * np.abs(change).max():
                    moved[place] = 0.0
        return None if np.array_equal(moved, x) else moved
