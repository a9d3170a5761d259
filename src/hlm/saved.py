"""Saved fits: what is kept, and a digest by which one that was altered is told before anything is made of it."""

from __future__ import annotations

import hashlib
import pickle
from threading import Lock
from typing import TYPE_CHECKING, Any

from hlm.errors import DataError

if TYPE_CHECKING:
    from hlm.fit import Fit

# What a saved Fit consists of; another format whenever that changes.
FORMAT = 2
KEPT = ("model", "reml", "method", "_problem", "_value", "_certificate", "_trace", "_point")


def state_of(fit: Fit) -> dict[str, Any]:
    """Return what is saved of a fit: not the kernel's memory, which is made again, nor what is computed on request.

    The parts are pickled into one string of bytes: a damaged pickle of arrays and labels could bring the interpreter
    down before anybody looks at it.
    """
    parts = pickle.dumps({key: fit.__dict__[key] for key in KEPT}, protocol=5)
    return {"format": FORMAT, "digest": _digest(parts), "parts": parts}


def restore(fit: Fit, state: Any) -> None:
    """Put a saved state into a new Fit.

    Raises
    ------
    DataError
        If the state is incomplete, of another format, or not what was saved.
    """
    if not isinstance(state, dict) or state.keys() != {"format", "digest", "parts"}:
        raise DataError("this is no saved Fit, or a damaged one: fit the model again")
    if state["format"] != FORMAT:
        raise DataError(
            f"the saved Fit has format {state['format']!r}, this version reads {FORMAT}: fit the model again"
        )
    if not isinstance(state["parts"], bytes) or _digest(state["parts"]) != state["digest"]:
        raise DataError("the saved Fit is damaged: it is not what was saved; fit the model again")
    fit.__dict__.update(pickle.loads(state["parts"]))
    fit._criterion = fit._problem.criterion(fit.reml)
    fit._criterion.value(fit._point)
    fit._lock = Lock()


def _digest(parts: bytes) -> str:
    """A digest that tells damage, not malice: whoever can alter the parts can alter it too."""
    return hashlib.blake2b(parts, digest_size=16).hexdigest()
