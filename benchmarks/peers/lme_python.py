"""lme-python (lme-rs): ``lme_python.lmer(formula, data)`` with a polars frame, the one it works on itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lme_python
import polars

from peers import Result

if TYPE_CHECKING:
    from problems import Problem

DISTRIBUTION = "lme-python"
LIMITS = "none among these problems"


def supports(problem: Problem) -> bool:
    return True


def prepare(problem: Problem) -> Callable[[], Any]:
    formula, frame = problem.model.formula, polars.from_pandas(problem.frame)
    return lambda: lme_python.lmer(formula, frame)


def result(fitted: Any) -> Result:
    return Result(float(fitted.reml_criterion), fitted.converged)
