"""Coverage of 95 % intervals by simulation: ``python benchmarks/coverage.py``.

Two-level designs with 6 to 50 groups of unequal sizes; the intercept varies over groups, in half of the designs not at
all, so that many fits are on the boundary. The coefficients are those of an intercept, a column of the groups and one
of the rows. Beside them the standard deviations of groups and rows (`fit.variance_table`, Wald on the log scale and by
profile), and by the methods of PREDICTED intervals of predictions: the expected response of a row, that of a row of a
known group, and a response of a known group and of one that was not in the data (in this order in a column).
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
OTHERS = ("sd wald", "sd profile", "sigma wald")
PREDICTED = ("z", "satterthwaite", "kenward-roger")


def simulate(rng: np.random.Generator, groups: int, variance: float) -> tuple[hlm.Fit, np.ndarray]:
    """Fit one simulated data set; also return the effects of its groups."""
    codes = np.repeat(np.arange(groups), rng.integers(3, 12, groups))
    X = np.column_stack([np.ones(len(codes)), rng.normal(size=groups)[codes], rng.normal(size=len(codes))])
    u = np.sqrt(variance) * rng.normal(size=groups)
    y = X @ COEFFICIENTS + u[codes] + rng.normal(size=len(codes))
    names = ["Intercept", "w", "x"]
    return hlm.Model.from_arrays(y, X, [hlm.Random(codes)], names=names).fit(), u


def of_variances(fit: hlm.Fit, variance: float) -> list[bool]:
    """Whether the intervals of variances cover the truth."""
    inside = []
    for method in ("wald", "profile"):
        table = fit.variance_table(method=method)
        truth = [np.sqrt(variance), 1.0][: 2 if method == "wald" else 1]
        inside.append([bool(row.lower <= t <= row.upper) for t, row in zip(truth, table.itertuples(), strict=False)])
    (sd, sigma), (profile,) = inside
    return [sd, profile, sigma]


def of_predictions(fit: hlm.Fit, u: np.ndarray, rng: np.random.Generator, variance: float) -> dict[str, np.ndarray]:
    """Return shares of new rows, one a group, whose intervals cover: see the module."""
    J = len(u)
    X = np.column_stack([np.ones(J), rng.normal(size=J), rng.normal(size=J)])
    new, mean = (X, [hlm.Random(np.arange(J))]), X @ COEFFICIENTS
    truths = [
        ("population", "confidence", mean),
        ("all", "confidence", mean + u),
        ("all", "prediction", mean + u + rng.normal(size=J)),
        ("population", "prediction", mean + np.sqrt(variance) * rng.normal(size=J) + rng.normal(size=J)),
    ]
    shares = {}
    for method in PREDICTED:
        found = [fit.predict(new, effects=e, interval=i, method=method) for e, i, _ in truths]
        shares[method] = np.array(
            [t["lower"].le(y).mul(t["upper"].ge(y)).mean() for t, (_, _, y) in zip(found, truths, strict=True)]
        )
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    error = 100 * np.sqrt(0.05 * 0.95 / options.replicates)
    print(f"{options.replicates} replicates; standard error of a figure near 95: {error:.1f}")
    print(
        "groups  variance  singular  "
        + "".join(f"{method:>24}" for method in (*METHODS, *OTHERS, *(f"pred {m}" for m in PREDICTED)))
    )
    for groups, variance in DESIGNS:
        inside = {method: np.zeros(3) for method in METHODS}
        beside, singular = np.zeros(len(OTHERS)), 0
        predicted = {method: np.zeros(4) for method in PREDICTED}
        for _ in range(options.replicates):
            fit, u = simulate(rng, groups, variance)
            singular += fit.is_singular
            for method in METHODS:
                interval = fit.inference(method).conf_int()
                inside[method] += (interval["lower"].lt(COEFFICIENTS) & interval["upper"].gt(COEFFICIENTS)).to_numpy()
            beside += of_variances(fit, variance)
            for method, shares in of_predictions(fit, u, rng, variance).items():
                predicted[method] += shares
        figures = ["/".join(f"{100 * x / options.replicates:.1f}" for x in inside[method]) for method in METHODS]
        figures += [f"{100 * x / options.replicates:.1f}" for x in beside]
        figures += ["/".join(f"{100 * x / options.replicates:.1f}" for x in predicted[method]) for method in PREDICTED]
        share = 100 * singular / options.replicates
        print(f"{groups:6}  {variance:8.1f}  {share:6.0f} %  " + "".join(f"{text:>24}" for text in figures), flush=True)


if __name__ == "__main__":
    main()
