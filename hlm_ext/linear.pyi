import numpy as np
import numpy.typing as npt

_Matrix = npt.NDArray[np.float64]

def orthonormal(gram: _Matrix, aliased: float) -> tuple[npt.NDArray[np.bool_], _Matrix]: ...
def orthonormal_basis(
    total: _Matrix,
    mean: _Matrix,
    factor: _Matrix,
    multiple: _Matrix,
    constant: int,
    places: npt.NDArray[np.intp],
    aliased: float,
    drop: bool,
    shifted: bool = True,
) -> tuple[npt.NDArray[np.bool_], _Matrix, _Matrix, int, float]: ...
def eigh(matrix: _Matrix) -> tuple[_Matrix, _Matrix]: ...
def lower_factor(root: _Matrix) -> _Matrix: ...
def lower_root(matrix: _Matrix, least: float = 0.0, relative: float = 0.0) -> _Matrix: ...
