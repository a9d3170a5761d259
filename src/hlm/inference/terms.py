"""Terms of the fixed part: which columns belong together, what they are made of, and how their categories are coded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hlm.covariance import Matrix
from hlm.errors import DataError
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
    return [EncodedTerm(name, (name,), (c,)) for c, name in enumerate(model.design.names) if name != "Intercept"]


def contains(model: Model, outer: EncodedTerm, inner: EncodedTerm) -> bool:
    """Whether `outer` has the numbers of `inner`, and its other variables and more."""
    encoder = encoder_of(model)
    if encoder is None:
        return False
    numbers = encoder.numbers
    same = set(outer.variables) & numbers == set(inner.variables) & numbers
    return same and set(inner.variables) < set(outer.variables)


def balanced(model: Model) -> Matrix:
    """(p, p) combinations of the coefficients that tables of type III test; see `Encoder.balanced`."""
    encoder = encoder_of(model)
    return np.eye(len(model.design.names)) if encoder is None else encoder.balanced()


def variables_of(model: Model) -> dict[str, Variable]:
    """Describe the columns of the data that the fixed part uses.

    Raises
    ------
    DataError
        For a model of arrays, which does not know them.
    """
    if model._reader is None:
        raise DataError("a model of arrays does not know its variables: test combinations with `test`")
    return model._reader.variables(model.design)
