from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hlm_ext.failure import KernelError as KernelError
from hlm_ext.forest import Forest

_Array = npt.NDArray[np.float64]

LOST: float
LOST_PER_ROW: float

class Criterion:
    forest: Forest
    m: int
    reml: bool
    freedom: float
    constant: float
    rounding: float
    residual: float
    logdet: float
    logdet_x: float
    evaluations: int
    last: float
    theta: _Array
    post: _Array
    outer: _Array
    factor_x: _Array
    def __init__(
        self,
        forest: Forest,
        freedom: float,
        reml: bool,
        base: _Array,
        entries: npt.NDArray[np.intp],
        coefficients: _Array,
        constant: float = 0.0,
        rounding: float = 2.2e-16,
        precise: Callable[[], Forest] | None = None,
    ) -> None: ...
    @property
    def sigma2(self) -> float: ...
    @property
    def beta(self) -> _Array: ...
    @property
    def cross_inverse(self) -> _Array: ...
    @property
    def schur(self) -> _Array: ...
    @property
    def trace_products(self) -> _Array: ...
    @property
    def tangent(self) -> _Array: ...
    @property
    def second_derivatives(self) -> _Array: ...
    def value(self, theta: _Array) -> float: ...
    def refine(self) -> None: ...
    def gradient(self) -> _Array: ...
    def derivatives(self, information: str = "observed") -> tuple[_Array, _Array]: ...
    def quadratic_forms(self) -> tuple[_Array, _Array, _Array]: ...
    def moments(self) -> list[tuple[_Array, _Array]]: ...
    def effects(
        self, covariances: bool = False, beta_known: bool = False
    ) -> tuple[list[_Array], list[_Array] | None]: ...
