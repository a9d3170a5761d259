"""Documentation that a method shares with the function it calls, so that `help` of the method says all of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])

_HEADING = "Parameters\n----------\n"


def documented_by(function: Callable[..., Any], *, more: str = "", **renamed: str) -> Callable[[Method], Method]:
    """Return a decorator that gives a method the docstring of the function it calls on its object.

    Parameters
    ----------
    function : callable
        With a NumPy docstring; its first parameter is the method's object, whose entry is left out.
    more : str
        Entries of parameters that only the method has.
    **renamed
        Parameters that the method calls by another name: ``name="factor"``.
    """

    def decorate(method: Method) -> Method:
        text = inspect.getdoc(function)
        if text is not None:  # python -OO keeps none
            first = next(iter(inspect.signature(function).parameters))
            before, heading, after = text.partition(_HEADING)
            entries, gap, others = after.partition("\n\n")
            kept = _entries(entries, first, renamed) if heading else ""
            entries = "\n".join(part for part in (kept, more) if part)
            method.__doc__ = before + (_HEADING + entries + gap if entries else "") + others
        return method

    return decorate


def _entries(text: str, first: str, renamed: dict[str, str]) -> str:
    """The entries of the parameters but the first, under the names that the method has."""
    kept: list[str] = []
    skipping = False
    for line in text.split("\n"):
        if not line.startswith(" "):
            names, colon, kind = line.partition(" : ")
            left = [renamed.get(name, name) for name in re.split(", ", names) if name != first]
            skipping = not left
            line = ", ".join(left) + colon + kind
        if not skipping:
            kept.append(line)
    return "\n".join(kept)
