"""The door of arrays: random terms given as codes and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hlm.design import as_float, intercept
from hlm.errors import DataError, DataTypeError

if TYPE_CHECKING:
    from hlm.variance.structures import Structure


@dataclass(frozen=True, eq=False)
class Random:
    """A random term for `Model.from_arrays`.

    Parameters
    ----------
    codes : (n,) array
        Label of the group that each row belongs to: integers, strings or anything that pandas can factorize.
    Z : (n, q) or (n,) array, optional
        Random columns; a random intercept when left out.
    name : str
        Name of the grouping factor, the key of `fit.covariances` and `fit.random_effects`.
    effects : sequence of str, optional
        Names of the columns of Z; "Intercept" for a missing Z or a column of ones, else "z0", "z1", …
    correlated : bool
        Whether the columns' covariance is unstructured (`True`) or diagonal (lme4's ``||``).
    covariance : str or Structure, optional
        Structure of the columns' covariance: "unstructured", "diagonal", "identity", "cs", "ar1" or one's own.
    between : (J, J) DataFrame, array, sparse matrix or Between, optional
        Known covariance between the levels; see `hlm.Between`.

    Raises
    ------
    DataTypeError, DataError
        If the arrays have the wrong type or shape.
    """

    codes: npt.ArrayLike
    Z: npt.ArrayLike | None = None
    name: str = "g"
    effects: Sequence[str] | None = None
    correlated: bool = True
    covariance: str | Structure | None = None
    between: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise DataTypeError(f"name of a Random must be a string, got {self.name!r}")
        if not isinstance(self.correlated, (bool, np.bool_)):
            raise DataTypeError(f"correlated must be True or False, got {self.correlated!r}", column=self.name)

    def columns(self, n: int) -> list[npt.NDArray[np.float64]]:
        """Return the q random columns, each (n,) float64."""
        if self.Z is None:
            return [intercept(n)]
        Z = as_float(self.Z, f"Z of '{self.name}'")
        if Z.ndim == 1:
            Z = Z[:, None]
        if Z.ndim != 2 or Z.shape[1] == 0:
            raise DataError(
                f"Z of '{self.name}' must be (n, q) with q at least 1, got shape {Z.shape}", column=self.name
            )
        if Z.shape[0] != n:
            raise DataError(f"Z of '{self.name}' has {Z.shape[0]} rows, y has {n}", column=self.name)
        return list(Z.T)

    def effect_names(self, columns: list[npt.NDArray[np.float64]]) -> list[str]:
        """Return the names of the random columns."""
        if self.effects is not None:
            if len(self.effects) != len(columns):
                raise DataError(f"'{self.name}' has {len(columns)} random columns but {len(self.effects)} effect names")
            if len(set(self.effects)) < len(self.effects):
                raise DataError(
                    f"effect names of '{self.name}' must differ, got {list(self.effects)}", column=self.name
                )
            return [str(effect) for effect in self.effects]
        names = []
        for j, column in enumerate(columns):
            constant = len(column) > 0 and column[0] == 1.0 and column[-1] == 1.0 and bool((column == 1.0).all())
            names.append("Intercept" if constant else f"z{j}")
        return names
