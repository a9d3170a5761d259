"""Reader and judge of the hard cases (``data/SOURCES.md``): data, best known optimum, and what a fit gets wrong."""

from __future__ import annotations

import gzip
import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hlm

from .long_double import Term, criterion

FOLDER = Path(__file__).parent / "data" / "hard_cases"
RIGHT, WRONG = 1e-6, 1e-2  # units of the criterion above the best known one


@dataclass(frozen=True)
class Problem:
    """One problem: what is fitted, and ``best``: the file's line with the best known optimum."""

    id: str
    family: str
    best: dict[str, Any] = field(repr=False, compare=False)
    data: dict[str, np.ndarray] = field(repr=False, compare=False)

    @property
    def is_singular(self) -> bool:
        """Whether a covariance matrix at the optimum is."""
        return any(self.best["null_dims"])

    def column(self, name: str) -> np.ndarray:
        return np.ones(len(self.data["y"])) if name == "1" else self.data[name]

    def fit(self, **options: Any) -> hlm.Fit:
        """Fit by the formula and a frame, nothing said about the problem."""
        return hlm.Model(self.best["formula"], pd.DataFrame(self.data)).fit(reml=self.best["reml"], **options)

    def criterion(self, covariances: list[Any], sigma2: float) -> float:
        """The criterion at given parameters (user's units, order of the formula), computed from the rows."""
        X = np.column_stack([self.column(name) for name in ["1", *self.best["fixed"]]])[:, self.best["kept"]]
        terms = [
            Term(self.data[term["group"]], np.column_stack([self.column(c) for c in term["cols"]]), np.array(T))
            for term, T in zip(self.best["random"], covariances, strict=True)
        ]
        return criterion(self.data["y"], X, terms, sigma2, self.best["reml"])


@dataclass(frozen=True)
class Verdict:
    """What a fit of one problem got: a gap in units of the criterion (inf without a result), and its other errors."""

    problem: Problem
    gap: float = np.inf
    alarm: str = ""  # a warning, or no convergence; aliased columns must be named and are no alarm
    reported: float = np.inf  # |reported criterion - true one at the reported parameters| / (1e-8 + 1e-13 |value|)
    beta: float = np.inf  # largest |difference from the best known| / standard error
    sigma2: float = np.inf  # relative difference
    singular: bool | None = None
    error: str = ""

    @property
    def right(self) -> bool:
        return self.gap < RIGHT


def judge(problem: Problem, **options: Any) -> Verdict:
    """Fit a problem and compare with the best known optimum."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = problem.fit(**options)
    except hlm.HLMError as error:
        return Verdict(problem, error=str(error))
    said = [str(one.message) for one in caught if one.category is not hlm.RankDeficientWarning]
    covariances = [found.covariances[term["group"]].to_numpy() for term in problem.best["random"]]
    sigma2 = found.sigma**2
    value = problem.criterion(covariances, sigma2)
    difference = found.params.dropna().to_numpy() - problem.best["beta"]
    return Verdict(
        problem,
        gap=value - problem.best["crit"],
        alarm="; ".join(said if found.converged else [*said, str(found.certificate)]),
        reported=abs(found.criterion - value) / (1e-8 + 1e-13 * abs(value)),
        beta=float(np.abs(difference / problem.best["se"]).max()),
        sigma2=abs(sigma2 / problem.best["sigma2"] - 1),
        singular=found.is_singular,
    )


@cache
def families() -> dict[str, list[Problem]]:
    """Return the problems by family."""
    found: dict[str, list[Problem]] = {}
    for problem in _read():
        found.setdefault(problem.family, []).append(problem)
    return found


def _read() -> Iterator[Problem]:
    arrays: dict[str, Any] = {}
    with gzip.open(FOLDER / "problems.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            best = json.loads(line)
            family = best["family"]
            if family not in arrays:
                arrays[family] = dict(np.load(FOLDER / f"{family}.npz"))
            data = {column: arrays[family][f"{best['index']:03d}/{column}"] for column in best["columns"]}
            yield Problem(best["id"], family, best, data)


def digest(problem: Problem) -> str:
    """Return the sum over names and bytes of the columns that the file has."""
    found = hashlib.sha256()
    for column in sorted(problem.data):
        found.update(column.encode() + np.ascontiguousarray(problem.data[column]).tobytes())
    return found.hexdigest()
