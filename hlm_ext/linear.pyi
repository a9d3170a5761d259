import numpy as np
import numpy.typing as npt

_Matrix = npt.NDArray[np.float64]

def orthonormal(gram: _Matrix, aliased: float) -> tuple[npt.NDArray[np.bool_], _Matrix]: ...
def scaled_columns(
    mean: _Matrix,
    factor: _Matrix,
    multiple: _Matrix,
    constant: int,
    places: npt.NDArray[np.intp],
    shifted: bool = True,
) -> tuple[_Matrix, _Matrix, _Matrix, int]: ...
def eigh(matrix: _Matrix) -> tuple[_Matrix, _Matrix]: ...
def lower_factor(root: _Matrix) -> _Matrix: ...
def lower_root(matrix: _Matrix, least: float = 0.0, relative: float = 0.0) -> _Matrix: ...
