"""mixedlm (MIT): ``mixedlm.lmer(formula, data)`` with a pandas frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mixedlm

from peers import Result

if TYPE_CHECKING:
    from problems import Problem

DISTRIBUTION = "mixedlm"
LIMITS = "none among these problems"


def supports(problem: Problem) -> bool:
    return True


def prepare(problem: Problem) -> Callable[[], Any]:
    formula, frame = problem.model.formula, problem.frame
    return lambda: mixedlm.lmer(formula, frame)


def result(fitted: Any) -> Result:
    return Result(float(fitted.REMLcrit()), bool(fitted.converged))
