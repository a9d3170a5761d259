import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]
_Codes = npt.NDArray[np.intp]

def touched_columns(
    starts: _Codes, widths: _Codes, size: int, order: _Codes | None, first: _Codes
) -> tuple[_Codes, _Codes]: ...
def unit_statistics(
    rows: _Array,
    order: _Codes | None,
    leaf_rows: _Codes,
    children: list[_Codes],
    widths: _Codes,
    starts: _Codes,
    core_widths: _Codes,
    offsets: _Codes,
    columns: _Codes,
    size: int,
) -> list[_Array]: ...
def plan_batches(
    sizes: _Codes, chunks: int, chunk_room: int, batch_room: int
) -> tuple[_Codes, _Codes, _Codes, int]: ...
