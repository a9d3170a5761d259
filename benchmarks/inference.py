"""What tests of fixed effects, and the deletion of each group, cost beside the fit: ``python benchmarks/inference.py``.

One process, ratios to the fit. W2 is generated; InstEval (73,421 ratings, crossed) is read from the tests' reference
data of the checkout. Peak memory is that of the whole process so far, data and fit included.
"""

from __future__ import annotations

import argparse
import gzip
import io
import resource
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import problems
from timing import timed

import hlm

# What is asked for: W2's ratios to the fit, InstEval's peak.
BOUNDS = {"satterthwaite": 1.0, "kenward-roger": 3.0, "influence": 3.0}
DATA = Path(__file__).parents[1] / "tests" / "data" / "reference" / "InstEval.csv.gz"


def peak() -> float:
    """Peak resident memory of this process in MiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)


Asked = dict[str, Callable[[hlm.Fit], object]]


def tables(*asked: tuple[str, dict[str, str]]) -> Asked:
    """Everything about each coefficient, by methods of `Fit.inference` and their options."""

    def table(method: str, options: dict[str, str], found: hlm.Fit) -> pd.DataFrame:
        return found.inference(method, **options).table()

    return {" ".join([method, *options.values()]): partial(table, method, options) for method, options in asked}


def measure(name: str, fit: Callable[[], hlm.Fit], asked: Asked, rounds: int) -> None:
    """Print seconds of the fit and of what is asked of each new fit, medians over rounds, and their ratio."""
    seconds: dict[str, list[float]] = {"fit": []}
    for _ in range(rounds + 1):  # the first round is a warm-up
        spent, found = timed(fit)
        seconds["fit"].append(spent)
        if len(seconds) == 1:
            print(f"{name:9} peak memory after the fit {peak():.0f} MiB")
        for label, ask in asked.items():
            spent, _ = timed(partial(ask, found))
            seconds.setdefault(label, []).append(spent)
    base = statistics.median(seconds["fit"][1:])
    for label, spent in seconds.items():
        middle = statistics.median(spent[1:])
        bound = BOUNDS.get(label.split()[0]) if name.startswith("W2") else None
        verdict = "" if bound is None else f"   asked for: at most {bound:g}"
        print(f"{name:9} {label:22} {middle:8.3f} s {middle / base:8.3f} of the fit{verdict}")
    print(f"{name:9} peak memory {peak():.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=problems.default_folder())
    options = parser.parse_args()
    ratings = pd.read_csv(io.BytesIO(gzip.decompress(DATA.read_bytes())), dtype=str)
    ratings["y"] = ratings["y"].astype(float)
    measure(
        "InstEval",
        lambda: hlm.Model("y ~ service + (1 | s) + (1 | d)", ratings).fit(),
        tables(("satterthwaite", {}), ("kenward-roger", {}), ("CR2", {"cluster": "d"}), ("CR2", {"cluster": "s"})),
        options.rounds,
    )
    problem = problems.load("W2", options.folder)
    term = problem.model.random[0]
    y, X, Z, codes = problem.y, problem.X, problem.Z(term), problem.codes(term)
    measure(
        "W2 arrays",
        lambda: hlm.Model.from_arrays(y, X, [hlm.Random(codes, Z, name="g")]).fit(),
        {"influence": hlm.Fit.influence},
        options.rounds,
    )
    measure(
        "W2",
        lambda: hlm.Model(problem.model.formula, problem.frame).fit(),
        tables(("satterthwaite", {}), ("kenward-roger", {}), ("CR0", {}), ("CR2", {})),
        options.rounds,
    )


if __name__ == "__main__":
    main()
