"""The benchmark's problems, by structure: data, model and the REML criterion at the optimum.

The criterion is −2 × the restricted log-likelihood in lme4's convention.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from generate import Columns, equal_groups, nested_groups, ratings, tiny_groups, unequal_groups


@dataclass(frozen=True)
class RandomTerm:
    """Random intercept and slopes of one grouping factor, their covariance unrestricted."""

    group: str
    slopes: tuple[str, ...] = ()

    @property
    def formula(self) -> str:
        """The right-hand side: ``1 + x1``."""
        return " + ".join(("1", *self.slopes))


@dataclass(frozen=True)
class Model:
    """What is fitted, without the data: enough to write it in every notation."""

    name: str
    response: str
    fixed: tuple[str, ...]  # columns beside the intercept
    random: tuple[RandomTerm, ...]
    optimum: float  # the REML criterion there

    @property
    def fixed_formula(self) -> str:
        return f"{self.response} ~ {' + '.join(self.fixed) or '1'}"

    @property
    def formula(self) -> str:
        """The model in lme4's notation."""
        return " + ".join((self.fixed_formula, *(f"({term.formula} | {term.group})" for term in self.random)))


@dataclass(frozen=True, eq=False)
class Problem:
    """A model and its data frame."""

    model: Model
    frame: pd.DataFrame

    @property
    def y(self) -> np.ndarray:
        return np.ascontiguousarray(self.frame[self.model.response], dtype=np.float64)

    @property
    def X(self) -> np.ndarray:
        """Fixed design (n, p), C-contiguous, the intercept first."""
        return _with_intercept(self.frame, self.model.fixed)

    def Z(self, term: RandomTerm) -> np.ndarray:
        """Random design (n, q) of one term, C-contiguous, the intercept first."""
        return _with_intercept(self.frame, term.slopes)

    def codes(self, term: RandomTerm) -> np.ndarray:
        """Return the group of each row (n,): 0, 1, … in the order of the labels."""
        return pd.factorize(self.frame[term.group], sort=True)[0].astype(np.int64)

    @property
    def design_bytes(self) -> int:
        return len(self.frame) * (1 + len(self.model.fixed)) * 8


def _with_intercept(frame: pd.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
    design = np.empty((len(frame), 1 + len(columns)))
    design[:, 0] = 1.0
    for k, column in enumerate(columns, start=1):
        design[:, k] = frame[column]
    return design


def _numbered(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}{k}" for k in range(1, count + 1))


def _slopes_model(name: str, p: int, q: int, optimum: float) -> Model:
    return Model(name, "y", _numbered("x", p - 1), (RandomTerm("g", _numbered("x", q - 1)),), optimum)


_W2_FIXED = (*_numbered("x", 8), *_numbered("w", 3), "x1w1", "x2w1", "x1w2")
_W4_FIXED = (*_numbered("x", 3), "c1", "c2", "s1", "s2")
_W4_RANDOM = (RandomTerm("school", ("x1",)), RandomTerm("cls", ("x1",)))
_W5_RANDOM = (RandomTerm("s"), RandomTerm("d"), RandomTerm("dept"), RandomTerm("dept_service"))
_W6_RANDOM = (RandomTerm("user"), RandomTerm("item"))

MODELS = {
    model.name: model
    for model in (
        Model("W1", "Reaction", ("Days",), (RandomTerm("Subject", ("Days",)),), 1743.6282719584),
        Model("W2", "y", _W2_FIXED, (RandomTerm("g", ("x1", "x2")),), 4316719.263331),
        _slopes_model("W3", 6, 1, 3165179.430068),
        Model("W4", "y", _W4_FIXED, _W4_RANDOM, 600639.717577),
        Model("W5", "y", ("service",), _W5_RANDOM, 237661.535719),
        Model("W6s", "y", (), _W6_RANDOM, 130876.070784),
        Model("W6", "y", (), _W6_RANDOM, 2605651.377627),  # of this library: no peer has been waited for
        _slopes_model("W7b", 6, 2, 15415.877579906),
        _slopes_model("W8q1", 4, 1, 1564.2230800486),
        _slopes_model("W8q2", 4, 2, 1612.7126814806),
        _slopes_model("W8q3", 4, 3, 1619.8233882554),
    )
}

_GENERATORS: dict[str, Callable[[], Columns]] = {
    "W2": partial(unequal_groups, 1_000_000, 20_000, seed=22),
    "W3": partial(tiny_groups, 1_000_000, 300_000, seed=33),
    "W4": partial(nested_groups, 200_000, 10_000, 1_000, seed=44),
    "W5": lambda: _instructors(),
    "W6s": partial(ratings, 50_000, 3_000, 400, seed=666),
    "W6": partial(ratings, 1_000_000, 60_000, 8_000, seed=66),
    "W7b": partial(equal_groups, 5_000, 200, p=6, q=2, seed=77),
    "W8q1": partial(equal_groups, 500, 50, p=4, q=1, seed=81),
    "W8q2": partial(equal_groups, 500, 50, p=4, q=2, seed=82),
    "W8q3": partial(equal_groups, 500, 50, p=4, q=3, seed=83),
}


# W6 takes minutes and gigabytes: only when asked for by name.
USUAL = [name for name in MODELS if name != "W6"]


def _instructors() -> Columns:
    """W5: the lecture evaluations of ETH Zurich that are among the data of the tests."""
    file = Path(__file__).parents[1] / "tests" / "data" / "reference" / "InstEval.csv.gz"
    frame = pd.read_csv(file)
    frame["dept_service"] = frame["dept"] * 2 + frame["service"]
    return {name: frame[name].to_numpy() for name in ("y", "service", "s", "d", "dept", "dept_service")}


def default_folder() -> Path:
    return Path(tempfile.gettempdir()) / "hlm-benchmarks"


def load(name: str, folder: Path) -> Problem:
    """Return a problem; generated data are kept in `folder` and read from there the next time.

    Raises
    ------
    ImportError
        W1 is a data set of the library, which is not installed.
    """
    if name == "W1":
        from hlm import datasets

        return Problem(MODELS[name], datasets.load("sleepstudy"))
    file = folder / f"{name}.npz"
    if not file.exists():
        _store(file, _GENERATORS[name]())
    with np.load(file) as columns:
        return Problem(MODELS[name], pd.DataFrame({column: columns[column] for column in columns.files}))


def _store(file: Path, columns: dict[str, Any]) -> None:
    """Write under another name first: an interrupted run leaves no half file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.stem}.{os.getpid()}.npz")
    np.savez(unfinished, **columns)
    unfinished.replace(file)
