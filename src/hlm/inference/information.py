"""Information of the variance parameters, σ² among them, in the likelihood in which nothing is profiled out (MATH: §7).

Free parameters z are those of the optimiser and σ², unless it is known or one of those. With D relative, V = σ² V₀(D),
V₀ = W⁻¹ + Σ Z D Z', every direction of z moves V by a combination of the V_a = Z E_a Z' (E_a: an entry of D) and of V₀:

    ∂V/∂z = Σ_a shape[a, z] V_a + size[z] V₀ ,    ∂T_a/∂z = shape[a, z] + D_a size[z] ,    ∂σ²/∂z = size[z]

In this basis information needs no other traces than those of the criterion, and nothing cancels when D is large:

    expected    tr(PV_aPV_b),  tr(PV_a)/σ²,  ν/σ⁴              in (a, b), (a, V₀), (V₀, V₀);  P in units of 1/σ²
    average     f_a'P f_b,     y'PV_aPy/σ⁴,  y'Py/σ⁶ = ν/σ⁴
    observed    2 f_a'P f_b - tr(PV_aPV_b) and the same others, with the curvature of z → D

All are second derivatives of -2 log-likelihood (twice the information).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from hlm.covariance import Matrix, Template
from hlm.criterion import Objective, Problem
from hlm.crossed import traces_affordable
from hlm.errors import DataError, DesignError, NumericalError
from hlm.inference.unit_forms import UnitForms, unit_forms
from hlm.variance.criterion import VarianceCriterion, bordered
from hlm_ext.criterion import Criterion, KernelError

if TYPE_CHECKING:
    from hlm.fit import Fit
    from hlm.residuals.pattern import Estimated

KINDS = ("observed", "expected", "average")
BOUNDARIES = ("free", "all")
# Eigenvalues of the information, scaled to a unit diagonal, below this are directions without information.
FLAT = 1e-9
# Differences of the gradient: step relative to θ (engine units, where θ is of order one) and to its rounding errors.
STEP = 1e-3


@dataclass(frozen=True, eq=False)
class Curvature:
    """Information in the coordinates of the engine.

    Attributes
    ----------
    kind : str
        "observed", "expected" or "average".
    hessian : (r, r) float64
        Second derivatives of -2 log-likelihood in the free parameters z: those of D, those of the level-1 errors, and
        last σ² where it is free.
    shape : (m_D, r) float64
    size : (r,) float64
        See the module.
    D : (m_D,) float64
        Entries of all D: factors leaves first, lower triangles column by column.
    error : float
        Relative error of the Hessian where it comes from differences, else 0.
    errors : slice
        The parameters of the level-1 errors among z.
    """

    kind: str
    hessian: Matrix
    shape: Matrix
    size: Matrix
    D: Matrix
    error: float = 0.0
    errors: slice = field(default_factory=lambda: slice(0))

    @property
    def covariance(self) -> Matrix:
        """(r, r) asymptotic covariance of ẑ, twice the inverse; directions without information are left out."""
        return 2 * pseudo_inverse(self.hessian)

    @property
    def entries(self) -> Matrix:
        """(m_D + 1, r) derivatives of T = σ²D and σ² in z."""
        return np.vstack([self.shape + np.outer(self.D, self.size), self.size])


@dataclass(frozen=True, eq=False)
class VarianceInformation:
    """Information and asymptotic covariance of the variance parameters of a fit, in the user's units.

    Parameters are the entries of T that the model estimates and σ², named (factor, effect, effect), σ² ("residual", "",
    "").

    Attributes
    ----------
    kind : {"observed", "expected", "average"}
    values : Series
        The estimates.
    matrix : DataFrame
        Information: half the second derivatives of -2 log-likelihood; in free directions only (see `free`).
    covariance : DataFrame
        Its inverse, or pseudo-inverse where some direction is not free.
    free : int
        Directions in which the parameters can move. Fewer than there are parameters with structures and known values,
        and when the estimate is on the boundary and directions without variance count as known to have none.
    note : str
        What was left out or approximated; empty if nothing was.
    """

    kind: str
    values: pd.Series
    matrix: pd.DataFrame
    covariance: pd.DataFrame
    free: int
    note: str

    @property
    def bse(self) -> pd.Series:
        """Standard errors of the parameters."""
        diagonal = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        return pd.Series(diagonal, index=self.values.index, name="bse")


def information(fit: Fit, kind: str = "observed", boundary: str = "free") -> VarianceInformation:
    """Return the information of the variance parameters of a fit.

    Parameters
    ----------
    fit : Fit
    kind : {"observed", "expected", "average"}
        Exact second derivatives; their expectation (Fisher), REML or ML as the fit; average information.
    boundary : {"free", "all"}
        On the boundary: only directions that keep the rank of T (a variance of zero counts as known), or all entries of
        T, which only expected and average information allow.

    Returns
    -------
    VarianceInformation

    Raises
    ------
    DataError
        For another kind or boundary, or observed information in all directions.
    DesignError
        For all directions with covariance structures, known or tied variances; beside a residual structure and with
        those for other than observed information.
    NumericalError
        If expected information is asked for and the core of a crossed design is too large for its traces; if expected
        or average information beside a residual structure would take matrices of too many rows.
    """
    with fit._lock:
        found = curvature(fit._problem, fit._criterion, kind, boundary)
        s = fit._criterion.sigma2
    units = user_units(fit._problem)
    R = units @ found.entries
    back = np.linalg.pinv(R, rcond=1e-10)
    names = parameter_names(fit._problem)
    size = np.maximum(np.abs(R).max(axis=1, keepdims=True, initial=0.0), 1e-300)
    rank = int(np.linalg.matrix_rank(R / size, tol=1e-8)) if R.shape[1] else 0
    return VarianceInformation(
        kind,
        pd.Series(units @ np.r_[s * found.D, s], index=names, name="estimate"),
        pd.DataFrame(0.5 * back.T @ found.hessian @ back, index=names, columns=names),
        pd.DataFrame(R @ found.covariance @ R.T, index=names, columns=names),
        rank,
        _note(fit, found, rank, len(names)),
    )


def _note(fit: Fit, found: Curvature, rank: int, count: int) -> str:
    parts = []
    if rank < count and fit.flat_directions:
        flat = "; ".join(f"{', '.join(texts)} of '{name}'" for name, texts in fit.flat_directions.items())
        parts.append(f"on the boundary ({flat}): directions without variance count as known to have none")
    if found.error:
        parts.append(f"second derivatives by differences of the gradient, relative error about {found.error:.0e}")
    return "; ".join(parts)


def curvature(
    problem: Problem,
    criterion: Objective,
    kind: str = "observed",
    boundary: str = "free",
    forms: UnitForms | None = None,
) -> Curvature:
    """Return the information of (θ, σ²) where the criterion stands; see `information`.

    `forms` are those of `hlm.inference.unit_forms.unit_forms`, if they are known.

    Raises
    ------
    DesignError
        For all directions where there are structures, known values or constraints.
    """
    if kind not in KINDS:
        raise DataError(f"information must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    if boundary not in BOUNDARIES:
        raise DataError(f"boundary must be 'free' or 'all', got {boundary!r}")
    if boundary == "all" and kind == "observed":
        raise DataError("observed information has no meaning across the boundary: ask for 'expected' or 'average'")
    template, s, nu = problem.template, criterion.sigma2, criterion.freedom
    theta = np.array(criterion.theta)
    D = template.entries_of([L @ L.T for L in problem.space.factors_of(theta)])
    if isinstance(criterion, VarianceCriterion):
        return _structured(problem, criterion, kind, boundary, D)
    J = inside_blocks(template) if boundary == "all" else jacobian(template, theta)
    r = 0 if problem.residual is None else problem.residual.pattern.size
    error = 0.0
    if kind == "observed":
        hessian, mixed, error = _observed(problem, criterion, J)
        if problem.residual is not None:
            hessian, mixed = _with_errors(problem.residual, hessian, mixed, s * s / nu, s)
    else:
        if problem.residual is None:
            second, outer = _second_in_D(problem, criterion, kind)
        else:
            second, outer = (forms or unit_forms(problem, criterion)).information(criterion, kind)
        full = block_diag(J, np.eye(r))
        hessian, mixed = full.T @ second @ full, full.T @ outer
    m = len(hessian)
    shape = np.zeros((len(D), m + 1))
    shape[:, : J.shape[1]] = s * J
    size = np.r_[np.zeros(m), 1.0]
    return Curvature(kind, bordered(hessian, mixed, nu / (s * s)), shape, size, D, error, slice(m - r, m))


def _structured(problem: Problem, criterion: VarianceCriterion, kind: str, boundary: str, D: Matrix) -> Curvature:
    """Return the information where variances have structures, known values or constraints.

    z is what is free of them: directions of x, and σ² where it is neither known nor one of x.
    """
    if problem.residual is not None and kind != "observed":
        raise DesignError(
            f"{kind} information is not offered for structures, known values or constraints of the random effects "
            "beside a structure of the level-1 errors: ask for 'observed'"
        )
    if boundary == "all":
        raise DesignError("boundary='all' has no meaning with covariance structures, known or tied variances")
    if problem.crossed is not None and kind != "average" and not traces_affordable(problem.crossed):
        raise NumericalError(
            f"{kind} information needs traces over all levels of the crossed factors, which are too many here; "
            "average information does not"
        )
    s, jacobian = criterion.sigma2, criterion.jacobian()
    profiled, m = criterion.variances.profiled, jacobian.shape[1]
    if profiled:
        jacobian = np.block([[jacobian, np.zeros((len(jacobian), 1))]])
        jacobian[-1, m] = 1.0
    shape, size = s * jacobian[:-1], jacobian[-1]
    if kind != "observed":
        second, mixed, corner = criterion.information(kind)
        return Curvature(kind, jacobian.T @ bordered(second, mixed, corner) @ jacobian, shape, size, D)
    residual, r = problem.residual, 0
    if residual is None:
        hessian = criterion.derivatives("observed")[1]
    else:
        hessian, r = residual.hessian, residual.pattern.size
        shape, size = np.insert(shape, [m] * r, 0.0, axis=1), np.insert(size, [m] * r, 0.0)
    if profiled:
        # the criterion has its minimum over σ² put in: H - hh' s²/ν
        _, mixed, corner = criterion.information("average")
        mixed = jacobian[:-1, :m].T @ mixed
        if residual is not None:
            mixed = np.concatenate([mixed, -residual.squares / s**2])
        hessian = bordered(hessian + np.outer(mixed, mixed) / corner, mixed, corner)
    return Curvature(kind, hessian, shape, size, D, errors=slice(m, m + r))


def _with_errors(residual: Estimated, hessian: Matrix, mixed: Matrix, ratio: float, s: float) -> tuple[Matrix, Matrix]:
    """Add the parameters φ of the level-1 errors to the Hessian in θ, and to the derivatives in it and σ².

    T and σ² do not depend on φ: it only takes its part of the information.
    """
    m = len(hessian)
    both = np.concatenate([mixed, -residual.squares / (s * s)])
    full = residual.hessian + np.outer(both, both) * ratio
    full[:m, :m] = hessian
    return full, both


def _second_in_D(problem: Problem, criterion: Criterion, kind: str) -> tuple[Matrix, Matrix]:
    """Return expected or average second derivatives in the entries of D, and those in D and σ²."""
    if kind == "expected" and not _exact(problem):
        raise NumericalError(
            "expected information needs traces over all levels of the crossed factors, which are too many here; "
            "average information does not"
        )
    s, nu, template = criterion.sigma2, criterion.freedom, problem.template
    moments = criterion.moments()
    if kind == "expected":
        products = criterion.quadratic_forms()[2]
        return products, template.packed([post for post, _ in moments]) / s
    outer = template.packed([own for _, own in moments])
    criterion.derivatives("average")
    second = criterion.second_derivatives[: len(outer), : len(outer)]
    return second + np.outer(outer, outer) / (nu * s * s), outer / (s * s)


def _exact(problem: Problem) -> bool:
    return problem.crossed is None or traces_affordable(problem.crossed)


def _observed(problem: Problem, criterion: Criterion, J: Matrix) -> tuple[Matrix, Matrix, float]:
    """Return exact second derivatives in θ and in θ and σ², and their relative error."""
    s, nu = criterion.sigma2, criterion.freedom
    mixed = J.T @ problem.template.packed([own for _, own in criterion.moments()]) / (s * s)
    if _exact(problem):
        profiled, error = criterion.derivatives("observed")[1], 0.0
    else:
        profiled, error = differences(criterion)
    # the criterion has its minimum over σ² put in: H - hh' s²/ν
    return profiled + np.outer(mixed, mixed) * (s * s / nu), mixed, error


def differences(criterion: Criterion) -> tuple[Matrix, float]:
    """Return second derivatives in θ by differences of the exact gradient, and their relative error.

    Central differences with two steps, extrapolated (Richardson); the error is what the extrapolation changed, of which
    the result keeps a small part. The criterion stands where it stood.
    """
    theta = np.array(criterion.theta)
    m = len(theta)
    results = []
    try:
        for factor in (2.0, 1.0):
            H = np.zeros((m, m))
            for a in range(m):
                step = np.zeros(m)
                step[a] = factor * STEP * max(abs(theta[a]), 0.1)
                sides = []
                for sign in (1.0, -1.0):
                    criterion.value(theta + sign * step)
                    sides.append(criterion.gradient())
                H[a] = (sides[0] - sides[1]) / (2 * step[a])
            results.append(0.5 * (H + H.T))
    except KernelError as failure:
        raise NumericalError(f"the gradient fails beside the estimate: {failure}") from None
    finally:
        criterion.value(theta)
    coarse, fine = results
    change = (fine - coarse) / 3
    scale = np.sqrt(np.maximum(np.abs(np.diag(fine)), 1e-300))
    return fine + change, float(np.abs(change / np.outer(scale, scale)).max())


# ---- entries of D and T ---------------------------------------------------------------------------------------------


def inside_blocks(template: Template) -> Matrix:
    """(m_D, m) selection of the entries of D that the model estimates, in the order of θ."""
    place = template.places
    out = np.zeros((len(place), template.m))
    for t, owner in enumerate(template.owners):
        out[place[owner], t] = 1.0
    return out


def jacobian(template: Template, theta: Matrix) -> Matrix:
    """(m_D, m) derivatives of the entries of all D in θ: dD = dΛ Λ' + Λ dΛ'."""
    place = template.places
    out = np.zeros((len(place), template.m))
    matrices = template.factors_of(theta)
    for t, (k, i, j) in enumerate(template.owners):
        for c, value in enumerate(matrices[k][:, j]):
            out[place[k, max(i, c), min(i, c)], t] += 2 * value if i == c else value
    return out


def user_units(problem: Problem) -> Matrix:
    """(m + 1, m_D + 1) map from the engine's entries of T and σ² to the user's; see `parameter_names`."""
    template, scale = problem.template, problem.coordinates.scale
    place = template.places
    out = np.zeros((template.m + 1, len(place) + 1))
    for t, (k, i, j) in enumerate(template.owners):
        M = problem.maps[k]
        for a, b in zip(*template.triangles[k], strict=True):
            value = M[i, a] * M[j, b] + (M[i, b] * M[j, a] if a != b else 0.0)
            out[t, place[k, int(a), int(b)]] = scale**2 * value
    out[-1, -1] = scale**2
    return out


def parameter_names(problem: Problem) -> pd.MultiIndex:
    """Names of the entries of T, in the order of θ, and of σ²."""
    names = []
    for k, i, j in problem.template.owners:
        factor = problem.template.factors[k]
        names.append((factor.name, factor.effects[i], factor.effects[j]))
    return pd.MultiIndex.from_tuples([*names, ("residual", "", "")], names=["factor", "effect", "with"])


def pseudo_inverse(matrix: Matrix) -> Matrix:
    """Inverse of a symmetric matrix on the directions where it is positive, judged at a unit diagonal."""
    scale = np.sqrt(np.abs(np.diag(matrix)))
    scale[scale == 0] = 1.0
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    kept = values > FLAT * max(values.max(initial=0.0), 1.0)
    half = vectors[:, kept] / np.sqrt(values[kept]) / scale[:, None]
    out: Matrix = half @ half.T
    return out
