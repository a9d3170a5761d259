import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]

def group_sums(blocks: _Array, D: _Array) -> tuple[_Array, _Array, _Array, _Array]: ...
