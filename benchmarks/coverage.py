"""Coverage of 95 % intervals of fixed effects by simulation: ``python benchmarks/coverage.py``.

Two-level designs with 6 to 50 groups of unequal sizes; the intercept varies over groups, in half of the designs not at
all, so that many fits are on the boundary. The coefficients are those of an intercept, a column of the groups and one
of the rows.
Figures are percentages; their Monte Carlo standard error is printed. lmerTest's are those of "satterthwaite" and
"kenward-roger", which agree with R to 1e-4 (tests/inference/test_against_r.py).
"""

from __future__ import annotations

import argparse

import numpy as np

import hlm

METHODS = ("z", "satterthwaite", "kenward-roger", "between-within", "hlm", "CR1", "CR2")
DESIGNS = [(groups, variance) for groups in (6, 10, 20, 50) for variance in (0.0, 0.5)]
COEFFICIENTS = np.array([1.0, 0.5, -0.5])


def simulate(rng: np.random.Generator, groups: int, variance: float) -> hlm.Fit:
    """Fit one simulated data set."""
    codes = np.repeat(np.arange(groups), rng.integers(3, 12, groups))
    X = np.column_stack([np.ones(len(codes)), rng.normal(size=groups)[codes], rng.normal(size=len(codes))])
    u = np.sqrt(variance) * rng.normal(size=groups)
    y = X @ COEFFICIENTS + u[codes] + rng.normal(size=len(codes))
    names = ["Intercept", "w", "x"]
    return hlm.Model.from_arrays(y, X, [hlm.Random(codes)], names=names).fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    error = 100 * np.sqrt(0.05 * 0.95 / options.replicates)
    print(f"{options.replicates} replicates; standard error of a figure near 95: {error:.1f}")
    print("groups  variance  singular  " + "".join(f"{method:>22}" for method in METHODS))
    for groups, variance in DESIGNS:
        inside = {method: np.zeros(3) for method in METHODS}
        singular = 0
        for _ in range(options.replicates):
            fit = simulate(rng, groups, variance)
            singular += fit.is_singular
            for method in METHODS:
                interval = fit.inference(method).conf_int()
                inside[method] += (interval["lower"].lt(COEFFICIENTS) & interval["upper"].gt(COEFFICIENTS)).to_numpy()
        figures = ["/".join(f"{100 * x / options.replicates:.1f}" for x in inside[method]) for method in METHODS]
        share = 100 * singular / options.replicates
        print(f"{groups:6}  {variance:8.1f}  {share:6.0f} %  " + "".join(f"{text:>22}" for text in figures), flush=True)


if __name__ == "__main__":
    main()
