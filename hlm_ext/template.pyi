import numpy as np
import numpy.typing as npt

from hlm_ext.forest import Forest

_Array = npt.NDArray[np.float64]

class Template:
    m: int
    def __init__(self, forest: Forest, base: _Array, entries: npt.NDArray[np.intp], coefficients: _Array) -> None: ...
