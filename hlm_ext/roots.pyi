import numpy as np
import numpy.typing as npt

from hlm_ext.forest import Forest

_Array = npt.NDArray[np.float64]
_Codes = npt.NDArray[np.intp]

def leaf_roots(
    rows: _Array,
    order: _Codes | None,
    first: _Codes,
    parents: _Codes,
    above: int,
    q: int,
    weights: _Array | None = None,
) -> tuple[_Array, _Array]: ...

class RootForest(Forest):
    def __init__(
        self,
        blocks: list[_Array],
        children: list[_Codes],
        total: _Array,
        roots: _Array,
        rests: _Array,
        floor: float = 0.0,
    ) -> None: ...
