"""Fits to drawn responses: one stream of random numbers for each, so that the answer does not depend on workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hlm.errors import DataError, HLMError
from hlm.simulation import Simulator, generator

if TYPE_CHECKING:
    from hlm.fit import Fit

T = TypeVar("T")


def replicate(
    fits: Sequence[Fit],
    simulator: Simulator,
    reading: Callable[[list[Fit]], T],
    count: int,
    seed: Any,
    workers: int = 1,
) -> tuple[list[T | None], dict[str, int]]:
    """Draw responses, fit models to each, and read something off the fits.

    Parameters
    ----------
    fits : sequence of Fit
        What is refitted to each response.
    simulator : Simulator
        Draws response i from the i-th child of the seed (``np.random.default_rng(seed).spawn(count)[i]``).
    reading : callable
        From the new fits, in the order of `fits`, to what is wanted of them.
    count : int
    seed : int, Generator or None
    workers : int
        Threads that share the work; the kernels run beside each other, Python does not.

    Returns
    -------
    values : list
        One for each response; None where a fit failed or did not converge.
    failures : dict of str to int
        How many have none, by reason.

    Raises
    ------
    DataError
        For a number of responses or workers that is none.
    """
    for what, number, least in (("count", count, 2), ("workers", workers, 1)):
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
            raise DataError(f"{what} must be a whole number of at least {least}, got {number!r}")
    design = fits[0].model.design
    streams = generator(seed).spawn(int(count))

    def one(rng: np.random.Generator) -> tuple[T | None, str]:
        try:
            y = design.full_length(simulator.draw(rng))
            new = [fit.refit(y) for fit in fits]
            return (reading(new), "") if all(fit.converged for fit in new) else (None, "not converged")
        except HLMError as failure:
            return None, str(failure).split(":")[0]

    first = one(streams[0])  # what the models prepare for all responses is made once
    results = [first, *_each(one, streams[1:], workers)]
    failures: dict[str, int] = {}
    for value, why in results:
        if value is None:
            failures[why] = failures.get(why, 0) + 1
    return [value for value, _ in results], failures


def _each(one: Callable[[Any], T], items: Sequence[Any], workers: int) -> list[T]:
    if workers == 1:
        return [one(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(pool.map(one, items))
        except BaseException:  # Ctrl-C does not wait for what has not begun
            pool.shutdown(cancel_futures=True)
            raise
