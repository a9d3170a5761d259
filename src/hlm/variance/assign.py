"""Which term has which covariance structure, and which factor a known covariance between its levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hlm.design import Factor
from hlm.errors import DataTypeError, DesignError
from hlm.variance.structures import STRUCTURES, Structure, Unstructured, check_structure, find_structure

Parts = Sequence[tuple[Factor, str]]


def structured(factor: Factor, structure: Structure | None, what: str) -> Factor:
    """Return the factor of a single term with a structure; None takes the term apart (diagonal).

    Raises
    ------
    DesignError
        If a user's structure contradicts itself, see `check_structure`.
    """
    if isinstance(structure, Unstructured):
        return factor
    if structure is None:
        return replace(factor, blocks=tuple((j,) for j in range(factor.width)))
    if not any(structure is known for known in STRUCTURES.values()):
        check_structure(structure, factor.effects, what)
    return replace(factor, structures=(structure,))


def assign(parts: Parts, covariance: Any) -> list[tuple[Factor, str]]:
    """Give the terms of a formula their structures.

    Parameters
    ----------
    parts : sequence of (Factor with a single block, text of the term)
    covariance : mapping or None
        From the name of a grouping factor with a single term, or from the text of a term, to a structure's name or an
        object.

    Raises
    ------
    DesignError, DataTypeError
        For a key that names no term or several, or a term written with ``||``.
    """
    if covariance is None:
        return list(parts)
    if not isinstance(covariance, Mapping):
        raise DataTypeError(
            f"covariance must be a mapping from grouping factors to structures, got {type(covariance).__name__}"
        )
    out = list(parts)
    for key, given in covariance.items():
        found = [place for place, (factor, text) in enumerate(parts) if key == factor.name or _same(key, factor, text)]
        structure = find_structure(given, f"'{key}'")
        texts = list(dict.fromkeys(text for _, text in parts))
        if not found:
            names = list(dict.fromkeys(factor.name for factor, _ in parts))
            raise DesignError(
                f"covariance: no grouping factor or term {key!r}; there are {names} and {texts}", column=key
            )
        if any("||" in parts[place][1] for place in found):
            raise DesignError(
                f"covariance of {key!r}: its term {parts[found[0]][1]} makes the effects independent; write | for ||",
                column=key,
            )
        if len(found) > 1:
            own = [parts[place][1] for place in found]
            raise DesignError(f"covariance of {key!r}: it has the terms {own}; name one of them", column=key)
        factor, text = out[found[0]]
        if factor.structures:
            raise DesignError(f"covariance: {text} is given twice", column=key)
        out[found[0]] = structured(factor, structure, f"'{key}'"), text
    return out


def _same(key: Any, factor: Factor, text: str) -> bool:
    """Whether a key is the text of a term, but for white space and parentheses; of a/b, also its own factor."""
    if not isinstance(key, str):
        return False
    squeezed, own = "".join(key.split()), "".join(text.split())
    effects = own.split("|")[0].lstrip("(")
    return squeezed.removeprefix("(").removesuffix(")") in (own[1:-1], f"{effects}|{factor.name}")
