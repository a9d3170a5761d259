"""Saved fits: what is kept, and a checksum by which one that was altered is told when it is read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hlm.errors import DataError

if TYPE_CHECKING:
    from hlm.fit import Fit

# What a saved Fit consists of; another format whenever that changes.
FORMAT = 1
KEPT = ("model", "reml", "method", "_problem", "_value", "_certificate", "_trace", "_engine_theta")
_OWN = {"format", "checksum"}


def state_of(fit: Fit) -> dict[str, Any]:
    """Return what is saved of a fit: not the kernel's memory, which is made again, nor what is computed on request."""
    kept = {key: fit.__dict__[key] for key in KEPT}
    return {**kept, "format": FORMAT, "checksum": checksum(kept)}


def restore(fit: Fit, state: Any) -> None:
    """Put a saved state into a new Fit.

    Raises
    ------
    DataError
        If the state is incomplete, of another format, or not what was saved.
    """
    if not isinstance(state, dict) or not state.keys() >= _OWN:
        raise DataError("this is no saved Fit, or a damaged one: fit the model again")
    if state["format"] != FORMAT:
        raise DataError(
            f"the saved Fit has format {state['format']!r}, this version reads {FORMAT}: fit the model again"
        )
    kept = {key: value for key, value in state.items() if key not in _OWN}
    if kept.keys() != set(KEPT) or checksum(kept) != state["checksum"]:
        raise DataError("the saved Fit is damaged: it is not what was saved; fit the model again")
    fit.__dict__.update(kept)
    fit._criterion = fit._problem.criterion(fit.reml)
    fit._criterion.value(fit._engine_theta)
    fit._lock = Lock()


def checksum(value: Any) -> int:
    """Return a checksum of all numbers and text in an object, however deep; damage is told, not malice."""
    crc = 0
    for part in _parts(value, set()):
        crc = zlib.crc32(part, crc)
    return crc


def _parts(value: Any, seen: set[int]) -> Iterator[bytes | memoryview]:
    """Walk over an object, once over each object in it."""
    yield type(value).__name__.encode()
    if value is None or isinstance(value, (str, bytes, int, float, complex, np.generic)):
        yield repr(value).encode()
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, pd.Index):
        yield from _parts([value.names, value.to_numpy()], seen)
    elif isinstance(value, np.ndarray):
        yield repr((value.shape, value.dtype)).encode()
        if value.dtype.hasobject:  # labels
            yield repr(value.tolist()).encode()
        else:
            yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _parts(key, seen)
            yield from _parts(item, seen)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _parts(item, seen)
    else:
        yield from _parts(getattr(value, "__dict__", None), seen)
