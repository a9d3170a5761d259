"""The criterion as a function of the variance parameters of the random effects and of the residual structure.

At given φ the model is one of known residual precision, with the statistics that `pieces` combine: the compiled
criterion has its value and its derivatives in θ. The derivatives in φ come from the second moments of the residuals
(`hlm.residuals.moments`; `hlm.residuals.crossed`), exact too; second derivatives that involve φ are differences of this
gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from hlm.covariance import Matrix
from hlm.criterion import Objective, Problem, Space
from hlm.optimize import newton
from hlm.residuals.crossed import GatheredRows
from hlm.residuals.moments import second_moments
from hlm.residuals.pattern import Estimated, Pattern
from hlm.residuals.pieces import ErrorStatistics, ExpectedSquares, Layout, level_blocks
from hlm_ext.criterion import Criterion, KernelError

# Differences in φ (log and atanh scales, of order one): the error of the derivative is of the order of STEP², its
# rounding that of the gradient over STEP.
STEP = 1e-4


class Errors(Protocol):
    """What a search asks of a structure of the level-1 errors; see `hlm.residuals.pattern.Pattern`."""

    @property
    def size(self) -> int:
        """Number of parameters r."""
        ...

    def bounded(self, phi: Matrix, /) -> bool:
        """Whether φ is within bounds."""
        ...

    def log_determinant(self, phi: Matrix, /) -> tuple[float, Matrix]:
        """Return log|C| and its gradient (r,)."""
        ...


class Statistics(Protocol):
    """A problem with the statistics of its residual structure: a problem of known precision for each φ.

    Attributes
    ----------
    problem : Problem
        With independent errors of one variance.
    pattern : Errors
    terms : int
        Sums that enter each value, whose rounding adds up.
    """

    problem: Problem
    terms: int

    @property
    def pattern(self) -> Errors:
        """The structure."""
        ...

    def at(self, phi: Matrix, estimated: Estimated | None = None) -> Problem:
        """Return the problem with the residual structure known, at φ (r,), and what is known of it as an estimate."""
        ...

    def expected(self, problem: Problem, inner: Objective, sigma2: float, spread: bool) -> ExpectedSquares:
        """Return the expected squares of the errors where the criterion `inner` of the problem `at` a φ stands.

        `sigma2` is σ²; without `spread` those of the estimated errors.
        """
        ...


def gathered(problem: Problem, pattern: Pattern) -> Statistics:
    """Return the statistics of a problem with independent errors of one variance under a residual structure."""
    return Gathered(problem, pattern) if problem.crossed is None else GatheredRows(problem, pattern)


class Gathered:
    """`Statistics` of a nested hierarchy.

    Parameters
    ----------
    problem : Problem
        With independent errors of one variance.
    pattern : Pattern
    """

    def __init__(self, problem: Problem, pattern: Pattern) -> None:
        self.problem = problem
        self.pattern = pattern
        rows, weights = problem.rows()
        if weights is not None:
            rows = rows * np.sqrt(weights)[:, None]
        self.widths = [factor.width for factor in problem.ordered]
        layout = Layout(problem.statistics.hierarchy, sum(self.widths))
        self.errors: ErrorStatistics = pattern.statistics(rows, layout)
        self.terms = self.errors.terms

    def at(self, phi: Matrix, estimated: Estimated | None = None) -> Problem:
        """See `Statistics`."""
        problem, statistics = self.problem, self.problem.statistics
        products, total = self.errors.combine(phi)
        blocks = level_blocks(products, self.widths, statistics.hierarchy)
        return replace(
            problem,
            coordinates=replace(problem.coordinates, blocks=blocks, total=total),
            statistics=replace(statistics, log_weights=statistics.log_weights - self.pattern.log_determinant(phi)[0]),
            residual=estimated or Estimated(self.pattern, phi),
        )

    def expected(self, problem: Problem, inner: Objective, sigma2: float, spread: bool) -> ExpectedSquares:
        """See `Statistics`."""
        matrices = problem.space.factors_of(np.array(inner.theta))
        roots = [matrices[k] for k in problem.template.order]
        children = list(problem.statistics.hierarchy.children)
        return self.errors.expected(second_moments(inner, problem.coordinates.blocks, children, roots, sigma2, spread))


class JointCriterion:
    """What `hlm_ext.criterion.Criterion` is in θ, in x = (θ, φ).

    Parameters
    ----------
    gathered : Statistics
    reml : bool
    """

    def __init__(self, gathered: Statistics, reml: bool) -> None:
        self.gathered = gathered
        self.reml = reml
        self.pattern = gathered.pattern
        self.theta = np.zeros(0)
        self.last = np.nan
        self._phi: Matrix | None = None
        self._at: tuple[Matrix, str, Matrix, Matrix] | None = None

    # ---- readings that are those of the criterion at φ ------------------------------------------------------------

    inner: Objective
    problem: Problem
    freedom = property(lambda self: self.inner.freedom)
    residual = property(lambda self: self.inner.residual)
    sigma2 = property(lambda self: self.inner.sigma2)
    forest = property(lambda self: self.inner.forest)
    beta = property(lambda self: self.inner.beta)
    cross_inverse = property(lambda self: self.inner.cross_inverse)
    trace_products = property(lambda self: self.inner.trace_products)
    second_derivatives = property(lambda self: self.inner.second_derivatives)

    def effects(self, covariances: bool = False, beta_known: bool = False) -> tuple[list[Matrix], list[Matrix] | None]:
        """Return û of all factors, leaves first, and Cov(u - û)/σ²."""
        return self.inner.effects(covariances, beta_known)

    def moments(self) -> list[tuple[Matrix, Matrix]]:
        """Return Σ Z'PZ and Σ Z'êê'Z of all factors, leaves first."""
        return self.inner.moments()

    @property
    def rounding(self) -> float:
        """Rounding error, see `hlm.optimize.newton.minimize`: sums over many patterns round more than those of one."""
        return newton.ROUNDING * float(np.sqrt(1 + self.gathered.terms))

    # ---- value and derivatives ------------------------------------------------------------------------------------

    def split(self, x: Matrix) -> tuple[Matrix, Matrix]:
        """Return θ and φ."""
        at = len(x) - self.pattern.size
        return x[:at], x[at:]

    def value(self, x: Matrix) -> float:
        """Return -2 log-likelihood at x.

        Raises
        ------
        KernelError
            As the compiled criterion, or if φ is too large.
        """
        if not self.pattern.bounded(self.split(x)[1]):
            raise KernelError("parameters of the errors beyond all bounds", -1, -1, -1)
        return self._evaluate(x)

    def _evaluate(self, x: Matrix) -> float:
        theta, phi = self.split(np.array(x))
        if self._phi is None or not np.array_equal(phi, self._phi):
            try:
                self.problem = self.gathered.at(phi)
            except np.linalg.LinAlgError:
                raise KernelError("singular covariance of the errors", -1, -1, -1) from None
            self.inner = self.problem.criterion(self.reml)
            self._phi = phi
        self.last = self.inner.value(theta)
        self.theta = np.array(x)
        return self.last

    def expected(self, sigma2: float | None = None, spread: bool = True) -> ExpectedSquares:
        """Return the expected squares of the errors at the x of the last `value`; see `Statistics.expected`."""
        sigma2 = self.inner.sigma2 if sigma2 is None else sigma2
        return self.gathered.expected(self.problem, self.inner, sigma2, spread)

    def squares(self) -> Matrix:
        """Return the derivatives of r² in φ (r,)."""
        return self.expected(1.0, spread=False).gradient(self.split(self.theta)[1])

    def cross_slopes(self) -> Matrix:
        """Return the derivatives of (X'V⁻¹X)⁻¹ in φ (r, p, p) by differences, in units of σ²."""
        x, r = self.theta, self.pattern.size
        out = np.zeros((r, self.forest.p, self.forest.p))
        for a in range(r):
            step = np.zeros(len(x))
            step[len(x) - r + a] = STEP
            sides = []
            for sign in (1.0, -1.0):
                self._evaluate(x + sign * step)
                sides.append(self.inner.cross_inverse)
            out[a] = (sides[0] - sides[1]) / (2 * STEP)
        self._evaluate(x)
        return out

    def _slope(self) -> Matrix:
        """Gradient in φ."""
        phi = self.split(self.theta)[1]
        return self.expected().gradient(phi) + self.pattern.log_determinant(phi)[1]

    def gradient(self) -> Matrix:
        """Return the gradient in (θ, φ) at the x of the last `value`."""
        inner = self.inner
        own = inner.gradient() if isinstance(inner, Criterion) else inner.derivatives("average")[0]
        return np.concatenate([own, self._slope()])

    def derivatives(self, information: str = "observed") -> tuple[Matrix, Matrix]:
        """Return gradient and Hessian in (θ, φ) at the x of the last `value`; see the module."""
        x, r = self.theta, self.pattern.size
        if self._at is not None and np.array_equal(self._at[0], x) and self._at[1] == information:
            self.inner.derivatives(information)
            return self._at[2].copy(), self._at[3].copy()
        columns = []
        for a in range(len(x) - r, len(x)):
            step = np.zeros(len(x))
            step[a] = STEP
            sides = []
            for sign in (1.0, -1.0):
                self._evaluate(x + sign * step)
                sides.append(self.gradient())
            columns.append((sides[0] - sides[1]) / (2 * STEP))
        self._evaluate(x)
        own, hessian = self.inner.derivatives(information)
        m = len(own)
        full = np.zeros((m + r, m + r))
        full[:m, :m] = hessian
        across = np.array(columns).reshape(r, m + r)
        full[m:, :m] = across[:, :m]
        full[:m, m:] = across[:, :m].T
        full[m:, m:] = 0.5 * (across[:, m:] + across[:, m:].T)
        gradient = np.concatenate([own, self._slope()])
        self._at = (x, information, gradient.copy(), full.copy())
        return gradient, full


class JointSpace:
    """The space of x = (θ, φ): that of θ, and φ without bounds.

    Parameters
    ----------
    space : Template or Variances
    criterion : JointCriterion
        Where it stands tells φ, when a point is asked for by its covariances.
    """

    def __init__(self, space: Space, criterion: JointCriterion) -> None:
        self.space = space
        self.criterion = criterion

    order = property(lambda self: self.space.order)
    factors = property(lambda self: self.space.factors)
    triangles = property(lambda self: self.space.triangles)

    @property
    def m(self) -> int:
        """Free dimensions."""
        return self.space.m + self.criterion.pattern.size

    def _join(self, theta: Matrix) -> Matrix:
        return np.concatenate([theta, self.criterion.split(self.criterion.theta)[1]])

    def factors_of(self, x: Matrix) -> list[Matrix]:
        """Return Λ of each factor in the order of the formula."""
        return self.space.factors_of(self.criterion.split(x)[0])

    def theta_of_covariances(self, covariances: Sequence[Matrix]) -> Matrix:
        """Return x from D of each factor, with the φ where the criterion stands."""
        return self._join(self.space.theta_of_covariances(covariances))

    def point(self, covariances: Sequence[Matrix], sigma2: float) -> Matrix:
        """Return x from D of each factor, with the φ where the criterion stands."""
        return self._join(self.space.point(covariances, sigma2))

    def move(self, x: Matrix, step: Matrix) -> Matrix:
        """Return the point that a step leads to."""
        theta, phi = self.criterion.split(x)
        own, further = self.criterion.split(step)
        return np.concatenate([self.space.move(theta, own), phi + further])

    def ambient(self, x: Matrix, gradient: Matrix) -> Matrix:
        """Return a gradient in the coordinates of x itself."""
        own, further = self.criterion.split(gradient)
        return np.concatenate([self.space.ambient(self.criterion.split(x)[0], own), further])

    def cones(self) -> Iterable[tuple[int, tuple[int, ...]]]:
        """See `Template.cones`."""
        return self.space.cones()

    def rays(self, theta: Matrix) -> Iterable[tuple[int, Matrix]]:
        """See `Template.rays`."""
        return self.space.rays(self.criterion.split(theta)[0])

    def settled(self, x: Matrix, nearly: float) -> Matrix | None:
        """Return x with variances below `nearly` at zero, or None if there are none."""
        theta, phi = self.criterion.split(x)
        found = self.space.settled(theta, nearly)
        return None if found is None else np.concatenate([found, phi])


def at_estimate(
    problem: Problem, point: Matrix, reml: bool
) -> tuple[Objective | JointCriterion, Space | JointSpace, Matrix]:
    """Return a new criterion of all variance parameters, those of the level-1 errors too, its space and the estimate.

    Parameters
    ----------
    problem : Problem
        Of a fit.
    point : float64 array
        The fit's θ.
    reml : bool
    """
    criterion: Objective | JointCriterion
    space: Space | JointSpace
    if problem.residual is None:
        criterion, space = problem.criterion(reml), problem.space
    else:
        criterion = JointCriterion(gathered(replace(problem, residual=None), problem.residual.pattern), reml)
        space, point = JointSpace(problem.space, criterion), np.concatenate([point, problem.residual.phi])
    criterion.value(point)
    return criterion, space, point
