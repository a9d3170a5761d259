"""This library, from arrays: no formula, no frame."""

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
    y, X = problem.y, problem.X
    terms = [hlm.Random(problem.codes(term), problem.Z(term), name=term.group) for term in problem.model.random]
    return lambda: hlm.Model.from_arrays(y, X, terms).fit()


def result(fitted: hlm.Fit) -> Result:
    return Result(fitted.criterion, bool(fitted.converged))
