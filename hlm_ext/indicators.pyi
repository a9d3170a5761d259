import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]

def leave_one_out(p: _Array, weight: _Array) -> _Array: ...
