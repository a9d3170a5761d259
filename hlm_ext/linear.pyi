import numpy as np
import numpy.typing as npt

_Matrix = npt.NDArray[np.float64]

def orthonormal(gram: _Matrix, floor: _Matrix | None = None) -> tuple[npt.NDArray[np.int8], _Matrix]: ...
def orthonormal_basis(
    total: _Matrix,
    mean: _Matrix,
    factor: _Matrix,
    multiple: _Matrix,
    noise: _Matrix,
    constant: int,
    places: npt.NDArray[np.intp],
    aliased: float,
    shifted: bool = True,
) -> tuple[npt.NDArray[np.int8], _Matrix, _Matrix, int]: ...
def eigh(matrix: _Matrix) -> tuple[_Matrix, _Matrix]: ...
def lower_factor(root: _Matrix) -> _Matrix: ...
def lower_root(matrix: _Matrix, least: float = 0.0, relative: float = 0.0) -> _Matrix: ...
