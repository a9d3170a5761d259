"""glmm (LGPL): ``glmm.fit(data, formula)``, data as a dict of arrays, which it takes faster than a frame.

Standard errors, Satterthwaite degrees of freedom and the tests of the terms are part of its fit by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import glmm

from peers import Result

if TYPE_CHECKING:
    from problems import Problem

DISTRIBUTION = "glmm"
LIMITS = "none among these problems"


def supports(problem: Problem) -> bool:
    return True


def prepare(problem: Problem) -> Callable[[], Any]:
    formula, data = problem.model.formula, {column: problem.frame[column].to_numpy() for column in problem.frame}
    return lambda: glmm.fit(data, formula)


def result(fitted: Any) -> Result:
    return Result(-2.0 * fitted.loglik, bool(fitted.converged))
