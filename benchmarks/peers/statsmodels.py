"""statsmodels (BSD): ``mixedlm(formula, data, groups, re_formula).fit()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import statsmodels.formula.api as smf

from peers import Result

if TYPE_CHECKING:
    from problems import Problem

DISTRIBUTION = "statsmodels"
LIMITS = "random slopes of one grouping factor only"


def supports(problem: Problem) -> bool:
    return len(problem.model.random) == 1


def prepare(problem: Problem) -> Callable[[], Any]:
    formula, frame, (term,) = problem.model.fixed_formula, problem.frame, problem.model.random
    random = f"~ {term.formula}"
    return lambda: smf.mixedlm(formula, frame, groups=term.group, re_formula=random).fit()


def result(fitted: Any) -> Result:
    return Result(-2.0 * float(fitted.llf), bool(fitted.converged))
