import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]

class Forest:
    depth: int
    chain: int
    p: int
    m: int
    packed: int
    total: _Array
    rooted: bool
    floor: float
    def __init__(self, blocks: list[_Array], children: list[npt.NDArray[np.intp]], total: _Array) -> None: ...
