"""Terms of the fixed part: which columns belong together, what they are made of, and how their categories are coded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hlm.covariance import Matrix
from hlm.errors import DataError, DesignError
from hlm.specification.columns import EncodedTerm, Encoder
from hlm.specification.variables import Variable

if TYPE_CHECKING:
    from hlm.model import Model


def encoder_of(model: Model) -> Encoder | None:
    """Return how the columns of the fixed part are built, or None for a model of arrays."""
    return None if model._reader is None else model._reader.fixed_encoder


def fixed_terms(model: Model) -> list[EncodedTerm]:
    """Return the terms of the fixed part without the intercept; of arrays, each column is one."""
    encoder = encoder_of(model)
    if encoder is not None:
        return encoder.terms()
    if model._reader is not None:  # some columns of another model
        columns: dict[tuple[str, ...], list[int]] = {}
        for c, pieces in enumerate(model._reader.pieces):
            if pieces:
                columns.setdefault(tuple(piece.expression for piece in pieces), []).append(c)
        return [EncodedTerm(":".join(parts), parts, tuple(own)) for parts, own in columns.items()]
    return [EncodedTerm(name, (name,), (c,)) for c, name in enumerate(model.design.names) if name != "Intercept"]


def contains(model: Model, outer: EncodedTerm, inner: EncodedTerm) -> bool:
    """Whether `outer` has the numbers of `inner`, and its other variables and more."""
    if model._reader is None:
        return False
    numbers = model._reader.numbers
    same = set(outer.variables) & numbers == set(inner.variables) & numbers
    return same and set(inner.variables) < set(outer.variables)


def balanced(model: Model) -> Matrix:
    """(p, p) combinations of the coefficients that tables of type III test; see `Encoder.balanced`.

    Raises
    ------
    DesignError
        For a part of another model with categories.
    """
    encoder = encoder_of(model)
    if encoder is not None:
        return encoder.balanced()
    if model._reader is not None:
        several = [v for term in fixed_terms(model) for v in term.variables if v not in model._reader.numbers]
        if several:
            raise DesignError(
                f"'{several[0]}' is coded as in a larger model: tables of type III are offered for a model of its own",
                column=several[0],
            )
    return np.eye(len(model.design.names))


def variables_of(model: Model) -> dict[str, Variable]:
    """Describe the columns of the data that the fixed part uses.

    Raises
    ------
    DataError
        For a model of arrays, which does not know them.
    DesignError
        For absorbed intercepts of groups, without which there are no means.
    """
    if model._reader is None:
        raise DataError("a model of arrays does not know its variables: test combinations with `test`")
    if model.design.absorbed is not None:
        raise DesignError(
            f"means and slopes over a grid are not offered where intercepts of '{model.design.absorbed.name}' are "
            "absorbed: test combinations with `test`",
            column=model.design.absorbed.name,
        )
    return model._reader.variables(model.design)
