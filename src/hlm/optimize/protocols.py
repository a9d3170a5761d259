"""What the optimisers ask of a criterion and of the space that they search, whatever its parameters are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hlm.design import Factor
from hlm_ext.forest import Forest

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


class Smooth(Protocol):
    """A function with two derivatives at the point of its last value: what Newton's method asks for."""

    @property
    def freedom(self) -> float:
        """Terms that the value sums, for its rounding error."""

    def value(self, theta: Array) -> float:
        """Return the value at a point."""

    def derivatives(self, information: str = "observed") -> tuple[Array, Array]:
        """Return gradient and Hessian at the point of the last value."""


class Searchable(Smooth, Protocol):
    """A criterion as the certificate and EM read it; see `hlm_ext.criterion.Criterion`."""

    @property
    def theta(self) -> Array:
        """The point of the last value."""

    @property
    def last(self) -> float:
        """The last value."""

    @property
    def reml(self) -> bool:
        """Whether β is integrated out."""

    @property
    def residual(self) -> float:
        """r² at the last point."""

    @property
    def sigma2(self) -> float:
        """σ² at the last point."""

    @property
    def forest(self) -> Forest:
        """The statistics."""

    @property
    def trace_products(self) -> Array:
        """tr(P V_a P V_b) in the entries of all D."""

    @property
    def second_derivatives(self) -> Array:
        """Second derivatives in the entries of all D."""

    def moments(self) -> list[tuple[Array, Array]]:
        """Return Σ Z'PZ and Σ Z'êê'Z of all factors, leaves first."""


class Steps(Protocol):
    """Where a step leads."""

    def move(self, theta: Array, step: Array) -> Array:
        """Return the point reached from `theta`."""


class Region(Steps, Protocol):
    """A space of covariances; see `hlm.covariance.Template`."""

    @property
    def m(self) -> int:
        """Free dimensions."""

    @property
    def order(self) -> tuple[int, ...]:
        """The hierarchy's order of the factors."""

    @property
    def factors(self) -> tuple[Factor, ...]:
        """In the order of the formula."""

    @property
    def triangles(self) -> list[tuple[Places, Places]]:
        """Rows and columns of the lower triangle of each factor."""

    def factors_of(self, theta: Array) -> list[Array]:
        """Return Λ of each factor in the order of the formula."""

    def theta_of_covariances(self, covariances: Sequence[Array]) -> Array:
        """Return the point of D of each factor."""

    def point(self, covariances: Sequence[Array], sigma2: float) -> Array:
        """Return the point of D of each factor relative to `sigma2`."""

    def ambient(self, theta: Array, gradient: Array) -> Array:
        """Return a gradient in the coordinates of the point itself."""

    def cones(self) -> Iterable[tuple[int, tuple[int, ...]]]:
        """Factor and columns of each block to which every covariance is open."""

    def rays(self, theta: Array) -> Iterable[tuple[int, Array]]:
        """D's beside the cones that the optimality of `theta` is tested with."""

    def settled(self, theta: Array, nearly: float) -> Array | None:
        """Return the point with variances below `nearly` at zero; None if there are none."""
