"""Structures of the covariance of random effects: how few parameters θ fill D = F(θ) F(θ)'.

A structure gives a square root F of D, not D itself: then D is positive semidefinite for every θ, without bounds, and
a variance of zero is an ordinary point. F need not be triangular.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from hlm.covariance import Matrix
from hlm.errors import DataTypeError, DesignError
from hlm_ext.linear import lower_root


class Structure(ABC):
    """The covariance structure of one random term; derive from it to write one.

    For a term of q effects, D = F(θ) F(θ)' is T/σ², the relative covariance of its effects, in the user's units. The
    set of D's must be a cone: with D it must contain c²D for every c, as the data alone know σ.

    Attributes
    ----------
    name : str
        What `Model(covariance=...)` and the summary call it.
    closed_form : bool
        Whether ``start(S)`` minimises log|D| + tr(D⁻¹S) for every S: then EM has its M-step.

    Examples
    --------
    Two effects of which the second has twice the standard deviation of the first, uncorrelated:

    >>> import numpy as np, hlm
    >>> class Double(hlm.Structure):
    ...     name = "double"
    ...     def size(self, q): return 1
    ...     def root(self, theta, q): return theta[0] * np.diag([1.0, 2.0])
    ...     def derivatives(self, theta, q): return np.diag([1.0, 2.0])[None]
    ...     def start(self, D): return np.array([np.sqrt((D[0, 0] + D[1, 1] / 4) / 2)])
    >>> data = hlm.datasets.load("sleepstudy")
    >>> fit = hlm.Model("Reaction ~ Days + (Days | Subject)", data, covariance={"Subject": Double()}).fit()
    >>> T = fit.covariances["Subject"].to_numpy()
    >>> round(T[1, 1] / T[0, 0], 6)
    4.0
    """

    name: ClassVar[str] = ""
    closed_form: ClassVar[bool] = False
    # What the parameters are called where D has one standard deviation, and one correlation: that of the first two
    # effects. Empty: D is described by its elements.
    described_by: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def size(self, q: int) -> int:
        """Return the length m of θ for q effects."""

    @abstractmethod
    def root(self, theta: Matrix, q: int) -> Matrix:
        """Return F (q, q) at θ (m,)."""

    @abstractmethod
    def derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return ∂F/∂θ_a, (m, q, q)."""

    def second_derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return ∂²F/∂θ_a∂θ_b, (m, m, q, q); zeros where F is linear in θ."""
        m = len(theta)
        return np.zeros((m, m, q, q))

    @abstractmethod
    def start(self, D: Matrix) -> Matrix:
        """Return θ (m,) for which F F' is near D (q, q); F F' = D if D has the structure."""

    def names(self, effects: Sequence[str]) -> list[str]:
        """Return the names of θ for effects of these names."""
        return [f"{self.name}{a}" for a in range(self.size(len(effects)))]

    def shapes(self, q: int) -> list[Matrix]:
        """Return θ's whose D's the optimality of D = 0 is tested with; needed where ∂F/∂θ at F = 0 depends on θ."""
        return []

    def lowest_correlation(self, q: int) -> float:
        """Return the lowest correlation that two of q effects may have."""
        return -1.0

    def correlated(self, value: float, q: int) -> tuple[Matrix, Matrix] | None:
        """Return the θ's at which the first two effects have a given correlation: θ = origin (m,) + basis (m, r) t.

        None: they are no affine space, and a profile of the correlation keeps to it by a condition.
        """
        return None


class Unstructured(Structure):
    """Any D: θ is the lower triangle of F, column by column."""

    name: ClassVar[str] = "unstructured"
    closed_form: ClassVar[bool] = True

    def size(self, q: int) -> int:
        """Return q (q + 1) / 2."""
        return q * (q + 1) // 2

    def root(self, theta: Matrix, q: int) -> Matrix:
        """Return the lower triangular F."""
        F = np.zeros((q, q))
        F.T[np.triu_indices(q)] = theta
        return F

    def derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return the entries' unit matrices."""
        return np.array([self.root(unit, q) for unit in np.eye(self.size(q))]).reshape(-1, q, q)

    def start(self, D: Matrix) -> Matrix:
        """Return the lower triangular root of D."""
        return np.asarray(lower_root(D).T[np.triu_indices(len(D))])

    def names(self, effects: Sequence[str]) -> list[str]:
        """Return row.column, and row on the diagonal."""
        q = len(effects)
        return [effects[i] + (f".{effects[j]}" if i != j else "") for j in range(q) for i in range(j, q)]


class Identity(Structure):
    """Uncorrelated effects of one variance, D = θ²I."""

    name: ClassVar[str] = "identity"
    closed_form: ClassVar[bool] = True
    described_by: ClassVar[tuple[str, ...]] = ("sd",)

    def size(self, q: int) -> int:
        """Return 1."""
        return 1

    def root(self, theta: Matrix, q: int) -> Matrix:
        """Return θI."""
        return np.asarray(theta[0] * np.eye(q))

    def derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return I."""
        return np.eye(q)[None]

    def start(self, D: Matrix) -> Matrix:
        """Return the root of the mean variance."""
        return np.array([np.sqrt(max(np.trace(D) / len(D), 0.0))])

    def names(self, effects: Sequence[str]) -> list[str]:
        """Return "common"."""
        return ["common"]


class CompoundSymmetry(Structure):
    """One variance and one correlation, which may be as low as -1/(q - 1).

    D = a² 11'/q + b² (I - 11'/q): a² is the variance of the effects' sum divided by √q, b² that of any contrast of unit
    length. Both may be zero, and D fills the whole range of the structure.
    """

    name: ClassVar[str] = "cs"
    closed_form: ClassVar[bool] = True
    described_by: ClassVar[tuple[str, ...]] = ("sd", "cor")

    def size(self, q: int) -> int:
        """Return 2; 1 for a single effect."""
        return min(q, 2)

    def root(self, theta: Matrix, q: int) -> Matrix:
        """Return the symmetric root."""
        return np.asarray(np.einsum("a,aij->ij", theta, self.derivatives(theta, q)))

    def derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return the two projections."""
        mean = np.full((q, q), 1 / q)
        return np.array([mean, np.eye(q) - mean])[: self.size(q)]

    def start(self, D: Matrix) -> Matrix:
        """Return the roots of the mean variances in the two spaces."""
        q = len(D)
        common = D.sum() / q
        rest = (np.trace(D) - common) / max(q - 1, 1)
        return np.sqrt(np.maximum([common, rest], 0.0))[: self.size(q)]

    def names(self, effects: Sequence[str]) -> list[str]:
        """Return "sum" and "contrast"."""
        return ["sum", "contrast"][: self.size(len(effects))]

    def lowest_correlation(self, q: int) -> float:
        """Return -1/(q - 1), where the effects' sum has no variance."""
        return -1 / (q - 1)

    def correlated(self, value: float, q: int) -> tuple[Matrix, Matrix]:
        """Return the ray on which a² : b² is 1 + (q - 1)ρ : 1 - ρ."""
        ray = np.sqrt(np.maximum([1 + (q - 1) * value, 1 - value], 0.0))
        return np.zeros(2), (ray / np.sqrt(ray @ ray))[:, None]


class AR1(Structure):
    """Autoregressive effects of one variance: D_ij = s² ρ^|i - j|, in the order of the columns, -1 ≤ ρ ≤ 1.

    θ is (s, α) with ρ = sin α: any angle will do.
    """

    name: ClassVar[str] = "ar1"
    described_by: ClassVar[tuple[str, ...]] = ("sd", "rho")

    def size(self, q: int) -> int:
        """Return 2; 1 for a single effect."""
        return min(q, 2)

    def root(self, theta: Matrix, q: int) -> Matrix:
        """Return s times the Cholesky factor of the correlations."""
        return np.asarray(theta[0] * self._factor(theta, q, 0))

    def derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return ∂F/∂s and ∂F/∂α."""
        return np.array([self._factor(theta, q, 0), theta[0] * self._factor(theta, q, 1)])[: self.size(q)]

    def second_derivatives(self, theta: Matrix, q: int) -> Matrix:
        """Return the second derivatives in (s, α)."""
        first = self._factor(theta, q, 1)
        both = np.array([[np.zeros((q, q)), first], [first, theta[0] * self._factor(theta, q, 2)]])
        return both[: self.size(q), : self.size(q)]

    @staticmethod
    def _factor(theta: Matrix, q: int, order: int) -> Matrix:
        """Return L (q, q), or its first or second derivative in α: ρ^i in column 0, ρ^(i-j) √(1-ρ²) in column j."""
        if q == 1:
            return np.ones((1, 1))
        s, c = np.sin(theta[1]), np.cos(theta[1])
        p = np.arange(q, dtype=float)

        def power(k: int) -> Matrix:  # s^(p - k), where it has a factor that is not zero
            return np.asarray(np.power(s, np.maximum(p - k, 0)))

        if order == 0:
            first, rest = power(0), power(0) * c
        elif order == 1:
            first, rest = p * power(1) * c, p * power(1) * c * c - power(-1)
        else:
            first = p * (p - 1) * power(2) * c * c - p * power(0)
            rest = p * (p - 1) * power(2) * c**3 - 2 * p * power(0) * c - (p + 1) * power(0) * c
        L = np.zeros((q, q))
        L[:, 0] = first
        for j in range(1, q):
            L[j:, j] = rest[: q - j]
        return L

    def start(self, D: Matrix) -> Matrix:
        """Return s from the mean variance, α from the mean covariance of neighbours."""
        q = len(D)
        variance = max(np.trace(D) / q, 0.0)
        rho = np.trace(D, offset=1) / (q - 1) / variance if q > 1 and variance > 0 else 0.0
        return np.array([np.sqrt(variance), np.arcsin(np.clip(rho, -1, 1))])[: self.size(q)]

    def names(self, effects: Sequence[str]) -> list[str]:
        """Return "sd" and "angle"."""
        return ["sd", "angle"][: self.size(len(effects))]

    def correlated(self, value: float, q: int) -> tuple[Matrix, Matrix]:
        """Return the angle of ρ with any s."""
        return np.array([0.0, np.arcsin(value)]), np.array([[1.0], [0.0]])

    def shapes(self, q: int) -> list[Matrix]:
        """Return s = 1 with correlations from -1 to 1."""
        return [np.array([1.0, angle]) for angle in np.linspace(-np.pi / 2, np.pi / 2, 17)] if q > 1 else []


# "diagonal" takes a term apart, as ``||`` does: each effect becomes an unstructured term of its own.
DIAGONAL = "diagonal"
STRUCTURES: dict[str, Structure] = {
    structure.name: structure for structure in (Unstructured(), Identity(), CompoundSymmetry(), AR1())
}


def find_structure(given: object, what: str) -> Structure | None:
    """Return a structure given by name or as an object; None for "diagonal".

    Raises
    ------
    DesignError, DataTypeError
        For a name that is not known, or another kind of object.
    """
    if isinstance(given, Structure):
        return given
    if not isinstance(given, str):
        shown = given.__name__ if isinstance(given, type) else type(given).__name__
        hint = f"; write {shown}()" if isinstance(given, type) and issubclass(given, Structure) else ""
        raise DataTypeError(f"covariance of {what} must be a name or an hlm.Structure, got {shown}{hint}")
    if given == DIAGONAL:
        return None
    if given not in STRUCTURES:
        raise DesignError(
            f"covariance of {what}: no structure '{given}'; there are {DIAGONAL}, {', '.join(STRUCTURES)}"
        )
    return STRUCTURES[given]


# Relative difference of a user's derivative from a central difference: that of a right one is about 1e-9.
DERIVATIVE = 1e-5


def check_structure(structure: Structure, effects: Sequence[str], what: str) -> None:
    """Check what a user wrote: shapes, derivatives against differences, ``start`` against ``root``, the cone.

    Raises
    ------
    DesignError
        Naming the method that is wrong.
    """
    q = len(effects)
    m = structure.size(q)

    def fail(method: str, why: str) -> DesignError:
        return DesignError(f"{type(structure).__name__}.{method}, covariance of {what}: {why}")

    def shaped(method: str, value: object, shape: tuple[int, ...]) -> Matrix:
        array = np.asarray(value, dtype=np.float64)
        if array.shape != shape or not np.isfinite(array).all():
            raise fail(method, f"must give finite numbers of shape {shape}, got shape {array.shape}")
        return array

    if len(structure.names(effects)) != m:
        raise fail("names", f"must give {m} names, one for each θ")
    spread = np.random.default_rng(0).normal(size=(q, q))
    theta = shaped("start", structure.start(np.eye(q) + 0.1 * spread @ spread.T), (m,))
    D = shaped("root", structure.root(theta, q), (q, q))
    D = D @ D.T
    for factor in (1.0, 4.0):
        again = shaped("start", structure.start(factor * D), (m,))
        F = structure.root(again, q)
        if np.abs(F @ F.T - factor * D).max() > 1e-6 * factor * np.abs(D).max():
            why = (
                "must give the θ of a D that has the structure" if factor == 1 else "D times 4 must have the structure"
            )
            raise fail("start", why)
    theta = theta + 0.1 * (1 + np.arange(m)) / (m + 1)
    first = shaped("derivatives", structure.derivatives(theta, q), (m, q, q))
    second = shaped("second_derivatives", structure.second_derivatives(theta, q), (m, m, q, q))
    h = 1e-5
    for a in range(m):
        up, down = theta.copy(), theta.copy()
        up[a] += h
        down[a] -= h
        slope = (structure.root(up, q) - structure.root(down, q)) / (2 * h)
        if np.abs(slope - first[a]).max() > DERIVATIVE * (1 + np.abs(slope).max()):
            raise fail("derivatives", f"∂F/∂θ[{a}] differs from the change of root()")
        slope = (np.asarray(structure.derivatives(up, q)) - np.asarray(structure.derivatives(down, q))) / (2 * h)
        if np.abs(slope - second[a]).max() > DERIVATIVE * (1 + np.abs(slope).max()):
            raise fail("second_derivatives", f"∂²F/∂θ[{a}]∂θ differs from the change of derivatives()")
