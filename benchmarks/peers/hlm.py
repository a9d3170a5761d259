"""This library, from a formula and a pandas frame: both the parsing and the fit are timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import hlm
from peers import Result

if TYPE_CHECKING:
    from problems import Problem

DISTRIBUTION = "hlm-ext"
LIMITS = "none among these problems"


def supports(problem: Problem) -> bool:
    return True


def prepare(problem: Problem) -> Callable[[], hlm.Fit]:
    formula, frame = problem.model.formula, problem.frame
    return lambda: hlm.Model(formula, frame).fit()


def result(fitted: hlm.Fit) -> Result:
    return Result(fitted.criterion, bool(fitted.converged))
