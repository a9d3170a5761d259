"""What a model shows of itself: its levels, its equations, the matrix of a unit."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from hlm.ladder import Ladder, climb
from hlm.level_equations import LevelEquations, level_equations
from hlm.levels import Levels, find_levels
from hlm.notation import show_equations

if TYPE_CHECKING:
    from hlm.design import Design
    from hlm.model import Model
    from hlm.specification.build import FormulaReader


class ModelViews:
    """Base of `Model`: everything here is read off its design."""

    design: Design
    _reader: FormulaReader | None

    @cached_property
    def level_structure(self) -> Levels:
        """On which level each column varies and how the groupings lie to each other, found from the data."""
        return find_levels(self)

    @property
    def levels(self) -> pd.DataFrame:
        """The level of each column used: a row for each, its level, the unit, and groupings where it is constant."""
        return self.level_structure.table()

    @property
    def structure(self) -> pd.DataFrame:
        """How each two groupings lie to each other: nested, crossed, partially crossed or alike; with counts."""
        return self.level_structure.structure()

    @cached_property
    def level_equations(self) -> LevelEquations:
        """The equations of the levels as objects, given ones or derived from the columns."""
        return level_equations(self)

    @property
    def coefficient_table(self) -> pd.DataFrame:
        """The two-way map between columns and coefficients γ, with the level of each (or "cross-level")."""
        return self.level_equations.table()

    def equations(self, format: str = "text") -> str:
        """Return the equations of all levels and the combined one, whichever door the model came through.

        Parameters
        ----------
        format : {"text", "unicode", "latex"}
            "text" can be read again by `from_equations`.

        Raises
        ------
        DataError
            For another format.
        """
        return show_equations(self.level_equations, format)

    def ladder(self, *, reml: bool = True, seed: Any = 0, **options: Any) -> Ladder:
        """Fit the sequence null → random intercept → random coefficients → means as outcomes → full model, and test it.

        Null: intercept and random intercepts. Random intercept: the regressors of level 1 too. Random coefficients: all
        random effects. Means as outcomes: the regressors of upper levels. Full: products across levels. A step that
        adds nothing to this model is left out; all are fitted to the same rows.

        Parameters
        ----------
        reml : bool
            Estimation of the fits; steps that add fixed effects are tested by ML anyway.
        seed : int or numpy.random.Generator
            For null distributions without a closed form.
        **options
            See `Model.fit`.

        Returns
        -------
        Ladder
            Tables of criterion, tests, variances, and proportions explained.

        Raises
        ------
        DesignError
            If the model absorbs fixed intercepts.

        Examples
        --------
        >>> import hlm
        >>> model = hlm.Model("mathach ~ cses * meanses + (cses | school)", hlm.datasets.load("hsb"))
        >>> list(model.ladder().fits)
        ['null', 'random intercept', 'random coefficients', 'means as outcomes', 'full']
        """
        return climb(cast("Model", self), reml, seed, **options)

    def coefficient_matrix(self, level: str, unit: Any) -> pd.DataFrame:
        """Return the block-diagonal matrix 𝐙_j of a unit: its coefficients are β_j = 𝐙_j γ + u_j.

        Parameters
        ----------
        level : str
            Name of a grouping.
        unit : label
            One of its units.

        Returns
        -------
        DataFrame
            A row for each coefficient that units have, a column for each fixed effect.

        Raises
        ------
        DesignError
            If there is no such level or unit.
        """
        return self.level_structure.coefficient_matrix(level, unit)
