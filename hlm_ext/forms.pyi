import numpy as np
import numpy.typing as npt

from hlm_ext.forest import Forest

_Array = npt.NDArray[np.float64]

def forms(forest: Forest, effects: bool = False) -> tuple[_Array, _Array, list[_Array]]: ...
