import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]

def trust_region_step(gradient: _Array, hessian: _Array, radius: float) -> tuple[_Array, float, float, float, bool]: ...
def newton(gradient: _Array, hessian: _Array, flat: float = 1e-9) -> tuple[_Array, float]: ...
