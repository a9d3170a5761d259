import numpy as np
import numpy.typing as npt

from hlm_ext.columns import Columns

_Array = npt.NDArray[np.float64]
_Codes = npt.NDArray[np.intp]

def scan(columns: Columns) -> tuple[_Array, _Array]: ...
def gather(
    columns: Columns,
    order: _Codes | None,
    first: _Codes,
    shift: _Array,
    factor: _Array,
    selected: _Codes,
    weights: _Array | None = None,
) -> tuple[_Array, _Array]: ...
def transform(products: _Array, left: _Array, right: _Array) -> _Array: ...
def leaf_products(
    columns: Columns,
    order: _Codes | None,
    first: _Codes,
    shift: _Array,
    factor: _Array,
    basis: _Array,
    weights: _Array | None = None,
) -> _Array: ...
