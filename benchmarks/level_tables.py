"""Time equations with a table for each level beside the formula of the joined table.

``python benchmarks/level_tables.py --pupils 1000000 --schools 20000``

Both models are built and fitted from frames in memory in interleaved rounds; the join that pandas would do first is
timed beside them. Prints medians in seconds, and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

import hlm

EQUATIONS = """
    y  = b0 + b1*x0 + b2*x1 + b3*x2 + b4*x3
    b0 = g00 + g01*w0 + g02*w1 + g03*w2 + u0[school]
    b1 = g10 + g11*w0 + g12*w1 + u1[school]
    b2 = g20 + g21*w2 + u2[school]
"""


def tables(pupils: int, schools: int, text: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(1)
    codes = np.sort(rng.integers(0, schools, pupils))
    w, u = rng.normal(size=(schools, 3)), rng.normal(size=(schools, 3))
    x = rng.normal(size=(pupils, 4))
    slopes = (1 + u[codes, 1] + w[codes, 0]) * x[:, 0] + u[codes, 2] * x[:, 1]
    y = slopes + u[codes, 0] + w[codes, 1] + rng.normal(size=pupils)
    lower = pd.DataFrame({"y": y, "school": codes} | {f"x{k}": x[:, k] for k in range(4)})
    order = rng.permutation(schools)
    upper = pd.DataFrame({"school": order} | {f"w{k}": w[order, k] for k in range(3)})
    if text:
        lower["school"], upper["school"] = "s" + lower["school"].astype(str), "s" + upper["school"].astype(str)
    return lower, upper


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pupils", type=int, default=1_000_000)
    parser.add_argument("--schools", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--text", action="store_true", help="keys are text instead of integers")
    options = parser.parse_args()
    pupils, schools = tables(options.pupils, options.schools, options.text)
    joined = pupils.merge(schools, on="school")
    model = hlm.Model.from_equations(EQUATIONS, pupils, school=schools)
    formula = str(model.formula)
    assert abs(model.fit().criterion / hlm.Model(formula, joined).fit().criterion - 1) < 1e-12
    calls = {
        "equations, a table for each level": lambda: hlm.Model.from_equations(EQUATIONS, pupils, school=schools).fit(),
        "formula, joined table": lambda: hlm.Model(formula, joined).fit(),
        "the join by pandas": lambda: pupils.merge(schools, on="school"),
    }
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(options.rounds)]
    medians = {name: statistics.median(times[name] for times in rounds) for name in calls}
    for name, value in medians.items():
        print(f"{name}: {value:.3f} s")
    tables_, formula_, _ = medians.values()
    print(f"equations ÷ formula: {tables_ / formula_:.2f}")


if __name__ == "__main__":
    main()
