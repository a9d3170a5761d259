from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

class Columns:
    count: int
    rows: int
    def __init__(self, columns: Sequence[npt.NDArray[np.float64]]) -> None: ...

def location(column: npt.NDArray[np.float64]) -> tuple[int, int]: ...
