import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]

def delete_groups(
    blocks: _Array,
    own: _Array,
    D: _Array,
    freedom: _Array,
    schur: _Array,
    sums: tuple[_Array, _Array, _Array, _Array],
    beta_map: _Array,
    jacobian: _Array,
    bend: _Array,
    reml: bool,
) -> tuple[_Array, _Array, _Array, _Array, _Array, _Array, _Array]: ...
