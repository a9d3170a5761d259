import numpy as np
import numpy.typing as npt

from hlm_ext.core import Core
from hlm_ext.forest import Forest

_Array = npt.NDArray[np.float64]
_Codes = npt.NDArray[np.intp]

class CrossedForest(Forest):
    core: Core
    def __init__(
        self,
        stats: list[_Array],
        counts: list[int],
        widths: list[int],
        children: list[_Codes],
        offsets: _Codes,
        columns: _Codes,
        core: Core,
    ) -> None: ...
