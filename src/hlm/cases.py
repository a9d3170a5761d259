"""The textbook's models of two levels by name; each is a set of equations, which `Model.equations` prints.

========================================  ==========================================================================
name                                      equations
========================================  ==========================================================================
`pooled_ols`                              y = b0 + b1*x
`one_way_anova`                           y = b0; b0 = g00 + u0[j]
`means_as_outcomes`                       y = b0; b0 = g00 + g01*w + u0[j]
`varying_intercept`                       y = b0 + b1*x; b0 = g00 + g01*w + u0[j]; b1 = g10
`ancova`                                  y = b0 + b1*x; b0 = fixed[j], an α_j for each group, absorbed
`random_coefficients`                     y = b0 + b1*x; b0 = g00 + u0[j]; b1 = g10 + u1[j]
`intercepts_and_slopes_as_outcomes`       y = b0 + b1*x; b0 = g00 + g01*w + u0[j]; b1 = g10 + g11*w + u1[j]
`varying_slopes`                          y = b0 + b1*x; b0 = g00 + g01*w; b1 = g10 + u1[j]
`nonrandomly_varying_slopes`              y = b0 + b1*x; b0 = g00 + g01*w + u0[j]; b1 = g10 + g11*w
========================================  ==========================================================================

In all of them `data` is the table of level 1, or of everything; `level1` and `level2` are regressors, one or several:
columns or transforms. `units`, in all but `pooled_ols` and `ancova`, is the table of the groups, if that is another
one. Further arguments are those of `Model.from_equations`. Names follow Raudenbush and Bryk (2002), chapter 2.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hlm.model import Model
from hlm.specification.equations import Disturbance, Effect, Equation
from hlm.specification.substitution import FIXED

__all__ = [
    "ancova",
    "intercepts_and_slopes_as_outcomes",
    "means_as_outcomes",
    "nonrandomly_varying_slopes",
    "one_way_anova",
    "pooled_ols",
    "random_coefficients",
    "varying_intercept",
    "varying_slopes",
]

Names = str | Sequence[str]
Case = TypeVar("Case", bound=Callable[..., Model])


_ENTRIES = {
    "data": "data : DataFrame or mapping\n    Table of level 1, or of everything.",
    "response": "response : str\n    Column of the response.",
    "group": "group : str\n    Column of the groups.",
    "level1": "level1 : str or sequence of str\n    Regressors of level 1: columns or transforms.",
    "level2": "level2 : str or sequence of str\n    Regressors of the groups.",
    "error": (
        "error : bool\n    Whether the intercept has the random error u0 (analysis of covariance with random\n"
        "    effects), or varies with its regressors only."
    ),
    "options": "**options\n    See `hlm.cases` and `Model.from_equations`.",
}


def _described(case: Case) -> Case:
    """Describe the parameters of a case, which mean the same in all of them."""
    if case.__doc__:  # python -OO keeps none
        entries = "\n".join(_ENTRIES[name] for name in inspect.signature(case).parameters)
        case.__doc__ += f"\n\nParameters\n----------\n{entries}\n\nReturns\n-------\nModel"
    return case


@_described
def pooled_ols(data: Any, response: str, level1: Names = (), **options: Any) -> Model:
    """Return the regression that forgets the groups: y = b0 + b1*x + e; regressors may be of any level."""
    slopes = [Effect(f"b{k}", (text,)) for k, text in enumerate(_several(level1), 1)]
    return Model.from_equations([Equation(response, (Effect("b0"), *slopes))], data, **options)


@_described
def one_way_anova(data: Any, response: str, group: str, **options: Any) -> Model:
    """Return the one-way analysis of variance with random effects: y = b0 + e; b0 = g00 + u0[j]."""
    return _two_levels(data, response, group, (), (), (), (True, False), **options)


@_described
def means_as_outcomes(data: Any, response: str, group: str, level2: Names, **options: Any) -> Model:
    """Return the regression of group means on regressors of level 2: b0 = g00 + g01*w + u0[j]."""
    return _two_levels(data, response, group, (), level2, (), (True, False), **options)


@_described
def varying_intercept(
    data: Any, response: str, group: str, level1: Names, level2: Names = (), *, error: bool = True, **options: Any
) -> Model:
    """Return the model whose intercept varies over the groups and whose slopes do not."""
    return _two_levels(data, response, group, level1, level2, (), (error, False), **options)


@_described
def ancova(data: Any, response: str, group: str, level1: Names, **options: Any) -> Model:
    """Return the analysis of covariance: a fixed intercept α_j for each group, absorbed (`Fit.group_intercepts`)."""
    slopes = [Effect(f"b{k}", (text,)) for k, text in enumerate(_several(level1), 1)]
    first = Equation(response, (Effect("b0"), *slopes))
    return Model.from_equations([first, Equation("b0", (Disturbance(FIXED, (group,)),))], data, **options)


@_described
def random_coefficients(data: Any, response: str, group: str, level1: Names, **options: Any) -> Model:
    """Return the model in which intercept and slopes vary at random, without regressors: b1 = g10 + u1[j]."""
    return _two_levels(data, response, group, level1, (), (), (True, True), **options)


@_described
def intercepts_and_slopes_as_outcomes(
    data: Any, response: str, group: str, level1: Names, level2: Names, **options: Any
) -> Model:
    """Return the full model: intercept and slopes have the regressors of level 2, and errors."""
    return _two_levels(data, response, group, level1, level2, level2, (True, True), **options)


@_described
def varying_slopes(data: Any, response: str, group: str, level1: Names, level2: Names = (), **options: Any) -> Model:
    """Return the model whose slopes vary at random while the intercept has no error: b0 = g00 + g01*w."""
    return _two_levels(data, response, group, level1, level2, (), (False, True), **options)


@_described
def nonrandomly_varying_slopes(
    data: Any, response: str, group: str, level1: Names, level2: Names, **options: Any
) -> Model:
    """Return the model whose slopes vary with the regressors of level 2, without an error: b1 = g10 + g11*w."""
    return _two_levels(data, response, group, level1, level2, level2, (True, False), **options)


def _several(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _two_levels(
    data: Any,
    response: str,
    group: str,
    level1: Names,
    intercept: Names,
    slopes: Names,
    errors: tuple[bool, bool],
    *,
    units: Any = None,
    **options: Any,
) -> Model:
    """Write the equations: regressors of the intercept and of each slope, and which of the two have an error."""
    regressors = [(), *((text,) for text in _several(level1))]
    equations = [Equation(response, tuple(Effect(f"b{k}", own) for k, own in enumerate(regressors)))]
    for k in range(len(regressors)):
        own = _several(slopes if k else intercept)
        effects = [Effect(f"g{k}0"), *(Effect(f"g{k}{m}", (text,)) for m, text in enumerate(own, 1))]
        error = [Disturbance(f"u{k}", (group,))] if errors[k > 0] else []
        equations.append(Equation(f"b{k}", (*effects, *error)))
    tables = {} if units is None else {group: units}
    return Model.from_equations(equations, data, **tables, **options)
