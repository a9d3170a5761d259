"""Time empirical Bayes of groups never seen: ``python benchmarks/score_groups.py --groups 1000000``.

A random-intercept-and-slope model with cross-level products is fitted to 1,000 groups; new groups of `--rows` rows each
are then scored from a frame, at once and streamed in ten chunks. Prints seconds and the peak of memory.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd

import hlm


def groups(count: int, rows: int, first: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(count), rows)
    x, w = rng.normal(size=len(codes)), rng.normal(size=count)
    u = rng.normal(size=(count, 2))
    y = 1 + x + w[codes] + u[codes, 0] + 0.5 * u[codes, 1] * x + 2 * rng.normal(size=len(codes))
    return pd.DataFrame({"y": y, "x": x, "w": w[codes], "g": codes + first})


def chunks(data: pd.DataFrame, rows: int, parts: int) -> Iterator[pd.DataFrame]:
    size = -(-len(data) // rows // parts) * rows
    for start in range(0, len(data), size):
        yield data.iloc[start : start + size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=5)
    options = parser.parse_args()
    fit = hlm.Model("y ~ x * w + (x | g)", groups(1000, 10, 0, 1)).fit()
    new = groups(options.groups, options.rows, 10_000, 2)
    print(f"{options.groups} groups, {len(new)} rows")
    for name in ("first", "again"):
        start = time.perf_counter()
        found = fit.score_groups(new)["g"]
        print(f"score_groups, {name}: {time.perf_counter() - start:.2f} s")
    assert len(found.effects) == options.groups
    start = time.perf_counter()
    count = sum(len(part["g"].effects) for part in fit.score_stream(chunks(new, options.rows, 10)))
    print(f"score_stream, ten chunks: {time.perf_counter() - start:.2f} s")
    assert count == options.groups
    print(f"peak of memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB, the frame included")


if __name__ == "__main__":
    main()
