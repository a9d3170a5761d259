"""Time one call, or several of a very short one."""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter
from typing import Any

WINDOW = 0.05  # seconds: a shorter call is repeated for this long


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of one call and what it returned."""
    start = perf_counter()
    value = call()
    return perf_counter() - start, value


def sample(call: Callable[[], Any]) -> list[float]:
    """Return seconds per call.

    A call shorter than the window serves as the warm-up of those that are counted: what ran before it in this process
    has emptied the caches.
    """
    gc.collect()
    first, _ = timed(call)
    if first >= WINDOW:
        return [first]
    seconds: list[float] = []
    end = perf_counter() + WINDOW
    while not seconds or perf_counter() < end:
        seconds.append(timed(call)[0])
    return seconds
