"""Model: the doors in, and `fit` out; no arithmetic here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlm.criterion import Problem, make_problem
from hlm.crossed import SOLVERS
from hlm.design import Column, Design, Factor, as_float, check_design
from hlm.errors import DataError, DataTypeError, DesignError, HLMError, RankDeficientWarning
from hlm.fit import Fit
from hlm.frames import bad_values
from hlm.residuals.estimation import estimate_model
from hlm.residuals.structures import Residual, bind, columns_of
from hlm.responses import Prepared
from hlm.specification import arrays
from hlm.specification.arrays import Random
from hlm.specification.build import FormulaReader
from hlm.specification.equation_reader import EquationReader
from hlm.specification.equations import Equation
from hlm.variance.restrictions import read_restrictions
from hlm.variance.structures import Structure
from hlm.views import ModelViews


class Model(ModelViews):
    """A hierarchical linear model: a design that can be fitted.

    Parameters
    ----------
    formula : str
        lme4's notation: ``"y ~ x * z + (x | school)"``. Random terms ``(x | g)``, ``(1 | g)``, ``(0 + x | g)``,
        ``(x || g)``, nested ``(1 | a/b/c)``, interactions ``(1 | a:b)``; transforms ``log(x)``, ``center(x)``,
        ``scale(x)``, ``poly(x, 2)``, ``ns(x, 3)``, ``bs(x, df=5)``, ``C(x, Sum)``, ``I(x^2)``, ``offset(x)``;
        ``center(x, g)`` (deviations from the means of g), ``mean(x, g)`` (these means), ``within_between(x, g)``
        (both), where ``new="own"``, ``"grand"`` or ``"error"`` says which mean a new group has: that of its rows, that
        of all rows of the fit, or none. Nothing is evaluated as Python.
    data : DataFrame or mapping of columns
        pandas; polars, pyarrow and others through narwhals.
    weights : str or (N,) array, optional
        Precision weights w (lme4's meaning): Var(ε_i) = σ²/w_i. A row of weight 0 is left out.
    frequencies : str or (N,) array, optional
        Whole numbers f: row i stands for f_i identical rows, and for none where f_i = 0.
    sampling_variance : str or (N,) array, optional
        Known variances v of the responses (V-known models, meta-analysis): Var(ε_i) = v_i, σ is 1. There may be as many
        groups as rows then.
    covariance : dict, optional
        Structure of the covariance of a random term: "unstructured" (the default), "diagonal" (as ``||``), "identity"
        (one variance, uncorrelated), "cs" (compound symmetry), "ar1" (in the order of the columns), or an
        `hlm.Structure`. Keys are grouping factors, or terms as written where a factor has several:
        ``{"school": "cs"}``, ``{"(0 + x | school)": "cs"}``.
    between : dict, optional
        Known covariance K between the levels of a grouping factor (pedigrees, space), Cov(u_l, u_m) = K_lm T: a
        DataFrame with the levels as index, an array in the order of the levels, or an `hlm.Between`, which also takes
        sparse matrices and precisions. A dense matrix of its levels is factored: for up to some thousands.
    residual : Residual, optional
        Structure of the level-1 errors, see `hlm.residuals`: ``ByStratum("sex")``, ``LogLinear("~ age + sex")``,
        ``AR1("occasion")``, …; left out, they are independent, of variance σ²/w_i.
    missing : {"drop", "raise"}
        Drop rows in which a used column is missing (they are counted, and outputs keep the input's rows), or raise.

    Raises
    ------
    FormulaError, DataError, DataTypeError, DesignError
        See `hlm.errors`; each names the column, row, group or position at fault.

    Examples
    --------
    >>> import hlm
    >>> model = hlm.Model("Reaction ~ Days + (Days | Subject)", hlm.datasets.load("sleepstudy"))
    >>> round(model.fit().criterion, 4)
    1743.6283
    """

    design: Design

    def __init__(
        self,
        formula: str,
        data: Any,
        *,
        weights: Any = None,
        frequencies: Any = None,
        sampling_variance: Any = None,
        covariance: Mapping[str, str | Structure] | None = None,
        between: Mapping[str, Any] | None = None,
        residual: Residual | None = None,
        missing: str = "drop",
    ) -> None:
        self._reader: FormulaReader | None = FormulaReader(formula)
        given = {"weights": weights, "frequencies": frequencies, "sampling_variance": sampling_variance}
        self.design = self._reader.design(data, given, missing, covariance, between, residual)
        check_design(self.design)

    @classmethod
    def from_arrays(
        cls,
        y: npt.ArrayLike,
        X: npt.ArrayLike,
        random: Sequence[Random] = (),
        *,
        names: Sequence[str] | None = None,
        weights: npt.ArrayLike | None = None,
        frequencies: npt.ArrayLike | None = None,
        sampling_variance: npt.ArrayLike | None = None,
        residual: Residual | None = None,
        response: str = "y",
    ) -> Model:
        """Build a model from arrays; no copies are made of float64 arrays.

        Parameters
        ----------
        y : (n,) array
            Response.
        X : (n, p) array
            Fixed columns, an intercept among them if there is to be one.
        random : sequence of Random
            One for each term; terms with the same name belong to one factor, uncorrelated with each other.
        names : sequence of p str, optional
            Names of the columns of X; "Intercept" for a first column of ones, else "x0", "x1", …
        weights : (n,) array, optional
            Precision weights: Var(ε_i) = σ²/w_i. A row of weight 0 is left out.
        frequencies : (n,) array, optional
            Whole numbers: row i stands for f_i identical rows, and for none where f_i = 0.
        sampling_variance : (n,) array, optional
            Known variances of the responses, σ = 1.
        residual : Residual, optional
            Structure of the level-1 errors, of arrays with a value for each row; see `hlm.residuals`.
        response : str
            Name of y in tables.

        Raises
        ------
        DataError, DataTypeError, DesignError
        """
        model = cls.__new__(cls)
        model._reader = None
        given = {"weights": weights, "frequencies": frequencies, "sampling_variance": sampling_variance}
        model.design = bind(residual, arrays.design(y, X, random, names, given, response))
        check_design(model.design)
        return model

    @classmethod
    def from_equations(
        cls,
        equations: str | Sequence[Equation],
        data: Any,
        *,
        weights: Any = None,
        frequencies: Any = None,
        sampling_variance: Any = None,
        covariance: Mapping[str, str | Structure] | None = None,
        between: Mapping[str, Any] | None = None,
        residual: Residual | None = None,
        missing: str = "drop",
        structural_zeros: Sequence[str] = (),
        **tables: Any,
    ) -> Model:
        """Build a model from the equations of its levels, as textbooks print them, and one table for each level.

        Parameters
        ----------
        equations : str or sequence of Equation
            One a line: first that of level 1, then one for each of its coefficients, for each of theirs, and so on. A
            name that is a column is a regressor, a name with brackets (``u0[school]``, ``r0[school:class]``) a random
            error of that level, any other name a coefficient; transforms are those of formulas. An equation may be a
            number: ``g01 = 5.0`` is a coefficient known in advance. Errors of one level are correlated. The error of
            level 1 is always there and may be written ``e``. ``b0 = fixed[school]`` gives each school an intercept that
            is no random variable (absorbed; see `Fit.group_intercepts`).
        data : DataFrame or mapping
            Rows of level 1; or all columns, joined.
        weights, frequencies, sampling_variance : str or (N,) array, optional
            See `Model`.
        covariance, between, residual : optional
            See `Model`.
        missing : {"drop", "raise", "error"}
            Rows without a value, and all rows of a unit without one: left out and counted, or an error ("raise" and
            "error" are the same).
        structural_zeros : sequence of str
            Columns of upper levels in which a missing value means zero.
        **tables : DataFrame or mapping
            ``school=schools``: the table of level "school", one row a unit, joined by the column "school" of both; the
            key of a third level stands in the table of the second or in `data`.

        Raises
        ------
        FormulaError, DesignError
            For equations that cannot be read or contradict each other or the data; the message shows line and place.
        DataError
            For a key without match or twice in its table, a column in two tables; see `Model` too.

        Examples
        --------
        >>> import hlm
        >>> model = hlm.Model.from_equations(
        ...     '''
        ...     mathach = b0 + b1*cses
        ...     b0 = g00 + g01*meanses + g02*sector + u0[school]
        ...     b1 = g10 + g11*meanses + g12*sector + u1[school]
        ...     ''',
        ...     hlm.datasets.load("hsb_pupils"),
        ...     school=hlm.datasets.load("hsb_schools"),
        ... )
        >>> round(model.fit().criterion, 3)
        46503.668
        """
        model = cls.__new__(cls)
        reader = EquationReader(equations, data, tables, structural_zeros)
        given = {"weights": weights, "frequencies": frequencies, "sampling_variance": sampling_variance}
        named = [*(name for name in given.values() if isinstance(name, str)), *columns_of(residual)]
        model._reader = reader
        model.design = reader.design(reader.joined(missing, named), given, missing, covariance, between, residual)
        check_design(model.design)
        return model

    @cached_property
    def problem(self) -> Problem:
        """Statistics of the design in the coordinates of the engine, gathered once."""
        try:
            problem = make_problem(self.design)
        except HLMError as error:
            used = self.design.kept
            raise (error if used is None else error.of_input(np.flatnonzero(used).tolist())) from None
        kept = problem.coordinates.kept
        aliased = [f"'{name}'" for name, keep in zip(self.design.names, kept, strict=True) if not keep]
        if aliased:
            names, are = ", ".join(aliased), "is a linear combination" if len(aliased) == 1 else "are combinations"
            warnings.warn(
                f"rank-deficient fixed part: {names} {are} of earlier columns; dropped, the coefficient is NaN",
                RankDeficientWarning,
                stacklevel=4,  # past `cached_property` and `fit`
            )
        return problem

    @cached_property
    def _restricted(self) -> Problem:
        """The problem with nothing asked for but what the model says itself."""
        return self.problem.restrict(read_restrictions(self.design, None, None))

    @cached_property
    def _prepared(self) -> Prepared:
        """The rows in the coordinates of the engine; shared by the models of other responses, not pickled."""
        return Prepared(self.problem)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_prepared"}

    def with_response(self, y: npt.ArrayLike) -> Model:
        """Return the model with another response: X and Z are not read again, only the columns of y change.

        Parameters
        ----------
        y : (N,) array or Series
            One value for each row of the input; those of rows that were dropped are not looked at.

        Raises
        ------
        DataError
            If the length is another, or a value is missing or infinite.
        NumericalError
            If the fixed part reproduces the response.
        """
        design = self.design
        if design.absorbed is not None:
            raise DesignError("a model with absorbed intercepts takes no other response: build it anew")
        values = as_float(y, design.response)
        length = design.rows if design.kept is None else len(design.kept)
        if values.shape != (length,):
            raise DataError(f"y must have {length} values, one for each row, got shape {values.shape}")
        values = values if design.kept is None else values[design.kept]
        for bad, what in ((np.isnan(values), "missing"), (np.isinf(values), "infinite")):
            if bad.any():
                raise bad_values("the new response", design.response, bad, what)
        if design.offset is not None:
            values = values - design.offset
        model = type(self).__new__(type(self))
        model._reader = self._reader
        model._prepared = self._prepared
        model.problem = self._prepared.with_response(values)
        model.design = model.problem.design
        return model

    @property
    def formula(self) -> str | None:
        """The formula (for a model of equations that of the combined equation), or None for a model of arrays."""
        return self._reader.formula.text if self._reader is not None else None

    def fit(
        self,
        *,
        reml: bool = True,
        method: str = "newton",
        fixed: Mapping[str, Any] | None = None,
        constraints: Any = None,
        max_iter: int | None = None,
        accelerate: bool = False,
        core: str = "auto",
    ) -> Fit:
        """Estimate the model.

        Parameters
        ----------
        reml : bool
            Restricted maximum likelihood (default) or maximum likelihood.
        method : {"newton", "fisher", "em", "ecme"}
            Trust-region Newton with exact second derivatives; Fisher scoring; the classic EM algorithm of hierarchical
            models; ECME, which maximises over σ² at each step. All minimise the same criterion.
        fixed : mapping, optional
            Known values, in the units of the data. A fixed effect's name: γ. "sigma": the residual standard deviation.
            A grouping factor's name: T, as a (q, q) array or DataFrame in which NaN is free, as a number if q = 1, or
            as a mapping from an effect (its variance) or a pair of effects (their covariance) to numbers. Names that
            mean several of these go under "params" or "covariances": ``fixed={"params": {"sigma": 1.0}}``. With all of
            T and σ known the fit is one solve.
        constraints : str, pair of arrays, or list of those, optional
            Linear constraints: texts such as ``"x1 = x2"``, ``"2*x1 + x3 = 1"``, ``"var(school) = var(class)"``,
            ``"cov(Intercept, x | school) = 0"``, ``"var(school) = 0.5*sigma2"``; pairs (R, r) of matrices for the fixed
            effects, R γ = r. Under REML, log|X'V⁻¹X| is that of the model in which each equation was solved for the
            first of its columns and put in.
        max_iter : int, optional
            Most iterations: 200 for Newton and Fisher scoring, 20,000 steps for EM.
        accelerate : bool
            SQUAREM acceleration of the EM algorithms; the criterion still never rises.
        core : {"auto", "dense", "sparse"}
            Factorisation of what crossed factors leave; "auto" takes the one that counts say is cheaper. Both end at
            the same optimum; a nested design has no core.

        Returns
        -------
        Fit

        Raises
        ------
        DataError
            For an unknown method or core.
        DataTypeError
            If `reml` or `accelerate` is not a truth value.
        DegenerateError
            If the likelihood has no maximum.
        DataError, DataTypeError, FormulaError
            For values and constraints that contradict each other, are redundant, or name what is not there.
        """
        for name, value in (("reml", reml), ("accelerate", accelerate)):
            if not isinstance(value, (bool, np.bool_)):
                raise DataTypeError(f"{name} must be True or False, got {value!r}")
        reml, accelerate = bool(reml), bool(accelerate)
        if core not in SOLVERS:
            raise DataError(f"core must be one of {', '.join(map(repr, SOLVERS))}, got {core!r}")
        gathered = self.problem if core == "auto" else make_problem(self.design, core)
        if fixed is None and constraints is None and core == "auto":
            problem = self._restricted
        else:
            problem = gathered.restrict(read_restrictions(self.design, fixed, constraints), core)
        return Fit(self, *estimate_model(problem, reml, method, max_iter, accelerate), reml, method)

    def new_rows(self, new: Any) -> tuple[list[Column], list[Column], pd.Index]:
        """Return fixed columns (p, each (N,)) and offsets of new rows, and their index.

        Parameters
        ----------
        new : DataFrame, mapping or (X, list of Random)
            As `Fit.predict` takes them.

        Raises
        ------
        DataError, DataTypeError
            If a column is not there, or has other values or another shape than in the fit.
        """
        if self._reader is not None:
            return self._reader.fixed(new)
        return arrays.fixed(new, len(self.design.columns))

    def new_response(self, new: Any) -> Column:
        """Return the response (N,) of new rows.

        Parameters
        ----------
        new : DataFrame, mapping or (y, X, list of Random)

        Raises
        ------
        DataError, DataTypeError
            As `new_rows`.
        """
        if self._reader is not None:
            return self._reader.response(new)
        return arrays.response(new)

    def new_random_columns(self, new: Any, factor: Factor) -> list[Column]:
        """Return the random columns (q, each (N,)) of new rows for one factor, whose grouping need not be there.

        Parameters
        ----------
        new : DataFrame, mapping or (X, list of Random)
        factor : Factor
            Of the design of the fit.

        Raises
        ------
        DataError, DataTypeError
            As `new_rows`.
        """
        return self.new_groups(new, factor)[1] if self._reader is None else self._reader.random_columns(new, factor)

    def new_groups(self, new: Any, factor: Factor) -> tuple[npt.NDArray[np.intp], list[Column], Any]:
        """Return level (-1 if new), random columns (q, each (N,)) and labels of new rows for one factor.

        Parameters
        ----------
        new : DataFrame, mapping or (X, list of Random)
        factor : Factor
            Of the design of the fit.

        Raises
        ------
        DataError, DataTypeError
            As `new_rows`, and if the new rows lack the factor.
        """
        if self._reader is not None:
            return self._reader.groups(new, factor)
        return arrays.groups(new, factor)
