import numpy as np
import numpy.typing as npt

from hlm_ext.columns import Columns

_Array = npt.NDArray[np.float64]

def project(columns: Columns, shift: _Array, factor: _Array, basis: _Array) -> _Array: ...
