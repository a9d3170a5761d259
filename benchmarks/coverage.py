"""Coverage of 95 % intervals by simulation, beside R's: ``python benchmarks/coverage.py``.

Two-level designs with 6 to 50 groups: an intercept, a column w of the groups and a column x of the rows; the intercept
varies over groups, or intercept and slope of x, or nothing, which puts about half of the fits on the boundary.
Intervals are those of the coefficients by each method of `Fit.inference`, of standard deviations, correlation and
intraclass correlation (`Fit.variance_table`, `Fit.icc`), and those of `Fit.predict`: of the expected response over all
groups and in a known group, of a response in a known group and in one that was not in the data.

Where ``Rscript`` is found, coverage.R fits the first replicates with lmer: Satterthwaite's and Kenward and Roger's
intervals of lmerTest and lme4's profiles are counted on the same data. Profiles there are of the likelihood, so that
ours beside them are those of ML fits.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import hlm

METHODS = ("z", "satterthwaite", "kenward-roger", "between-within", "hlm", "CR1", "CR2")
NAMES = ["Intercept", "w", "x"]
COEFFICIENTS = np.array([1.0, 0.5, -0.5])
PARTS = ("coefficients", "variances", "predictions")
PREDICTING = ("z", "satterthwaite", "kenward-roger")
PREDICTED = {
    "mean": ("population", "confidence"),
    "mean of group": ("all", "confidence"),
    "known group": ("all", "prediction"),
    "new group": ("population", "prediction"),
}
DEVIATIONS = ["sd(Intercept)", "sd(x)", "cor", "sigma"]
# Parameters, and what counts as a difference: this part of a df, or of the width of an interval for its limits. lme4
# interpolates between points of its profile.
COMPARED = {"satterthwaite": (NAMES, 1e-3), "kenward-roger": (NAMES, 1e-3), "profile (ML)": (DEVIATIONS, 1e-2)}


@dataclass(frozen=True)
class Design:
    """A design: rows per group from `low` to `high`; covariance of the effects of a group; σ = 1."""

    name: str
    groups: int
    low: int
    high: int
    T: tuple[tuple[float, ...], ...]

    def __str__(self) -> str:
        return f"{self.name} {self.groups}"

    @property
    def root(self) -> np.ndarray:
        """A root of T."""
        values, vectors = np.linalg.eigh(np.array(self.T))
        return vectors * np.sqrt(np.maximum(values, 0.0))

    @property
    def truth(self) -> dict[str, float]:
        """What the intervals should cover."""
        T = np.array(self.T)
        out = {**dict(zip(NAMES, COEFFICIENTS, strict=True)), "sd(Intercept)": float(np.sqrt(T[0, 0])), "sigma": 1.0}
        if len(T) == 1:
            return out | {"ICC": float(T[0, 0] / (T[0, 0] + 1))}
        return out | {"sd(x)": float(np.sqrt(T[1, 1])), "cor": float(T[0, 1] / np.sqrt(T[0, 0] * T[1, 1]))}


SLOPES = ((0.5, 0.15), (0.15, 0.25))
DESIGNS = [
    Design(name, groups, low, high, T)
    for name, low, high, T in (
        ("balanced", 8, 8, ((0.5,),)),
        ("unbalanced", 2, 14, ((0.5,),)),
        ("no variance", 2, 14, ((0.0,),)),
        ("slopes", 5, 11, SLOPES),
    )
    for groups in (6, 10, 20, 50)
]


@dataclass(frozen=True)
class Sample:
    """One simulated data set, a new row of its first group, and what predictions of that row should cover."""

    y: np.ndarray
    X: np.ndarray
    codes: np.ndarray
    new_row: np.ndarray
    new: dict[str, float]
    slopes: bool

    def terms(self, X: np.ndarray, codes: np.ndarray) -> list[hlm.Random]:
        """The random term for some rows."""
        if self.slopes:
            return [hlm.Random(codes, X[:, [0, 2]], name="g", effects=["Intercept", "x"])]
        return [hlm.Random(codes, name="g")]

    def fit(self, reml: bool = True) -> hlm.Fit:
        return hlm.Model.from_arrays(self.y, self.X, self.terms(self.X, self.codes), names=NAMES).fit(reml=reml)


def simulate(design: Design, seed: int, replicate: int) -> Sample:
    """Return a replicate of a design: the same one however many there are."""
    rng = np.random.default_rng([seed, DESIGNS.index(design), replicate])
    J, q = design.groups, len(design.T)
    codes = np.repeat(np.arange(J + 1), rng.integers(design.low, design.high + 1, J + 1))
    w = rng.normal(size=J + 1)
    X = np.column_stack([np.ones(len(codes)), w[codes], rng.normal(size=len(codes))])
    u = rng.normal(size=(J + 1, q)) @ design.root.T
    random = [0, 2][:q]
    y = X @ COEFFICIENTS + (X[:, random] * u[codes]).sum(axis=1) + rng.normal(size=len(codes))
    fitted = codes < J  # rows of the last group are not in the data
    row = np.array([1.0, w[0], rng.normal()])
    mean = float(row @ COEFFICIENTS)
    known, other = (mean + float(row[random] @ u[j]) for j in (0, J))
    noise = rng.normal(size=2)
    new = {"mean": mean, "mean of group": known, "known group": known + noise[0], "new group": other + noise[1]}
    return Sample(y[fitted], X[fitted], codes[fitted], row[None], new, q == 2)


Interval = tuple[str, str, float, float, float]


def of_coefficients(fit: hlm.Fit) -> Iterator[Interval]:
    """Method, parameter, degrees of freedom and limits of each coefficient."""
    for method in METHODS:
        view = fit.inference(method)
        for name, df, row in zip(NAMES, view.df, view.conf_int().itertuples(index=False), strict=True):
            yield method, name, float(df), row.lower, row.upper


def of_deviations(fit: hlm.Fit, method: str, label: str) -> Iterator[Interval]:
    """The same of standard deviations and the correlation."""
    for name, row in fit.variance_table(method=method).iterrows():
        parameter = "cor" if str(name).startswith("cor") else str(name).replace(" | g", "")
        yield label, parameter, np.nan, row["lower"], row["upper"]


def of_variances(sample: Sample, fit: hlm.Fit) -> Iterator[Interval]:
    """The same of deviations by each method, and of the intraclass correlation."""
    for method in ("wald", "profile"):
        yield from of_deviations(fit, method, method)
    if not sample.slopes:
        row = fit.icc().iloc[0]
        yield "wald", "ICC", np.nan, row["lower"], row["upper"]


def of_predictions(sample: Sample, fit: hlm.Fit) -> Iterator[Interval]:
    """The same of a new row, as one of a known and of another group."""
    new = (sample.new_row, sample.terms(sample.new_row, np.array([0])))
    for method in PREDICTING:
        for name, (effects, interval) in PREDICTED.items():
            row = fit.predict(new, effects=effects, interval=interval, method=method).iloc[0]
            yield f"predict {method}", name, row["df"], row["lower"], row["upper"]


def intervals(sample: Sample, fit: hlm.Fit, parts: list[str]) -> Iterator[Interval]:
    """Every interval of one fit that is asked for."""
    if "coefficients" in parts:
        yield from of_coefficients(fit)
    if "variances" in parts:
        yield from of_variances(sample, fit)
    if "predictions" in parts:
        yield from of_predictions(sample, fit)


def run(options: argparse.Namespace) -> tuple[pd.DataFrame, pd.Series, pd.DataFrame]:
    """Return our intervals, the share of singular fits of each design, and the rows for R."""
    found, singular, rows = [], {}, []
    for design in DESIGNS:
        truth, count = design.truth, 0
        for replicate in range(options.replicates):
            sample = simulate(design, options.seed, replicate)
            fit = sample.fit()
            count += fit.is_singular
            every = list(intervals(sample, fit, options.parts))
            if replicate < options.r_replicates:
                rows.append(frame_of(design, replicate, sample))
            if replicate < options.profiles:
                every += of_deviations(sample.fit(reml=False), "profile", "profile (ML)")
            values = truth | sample.new
            found += [
                (str(design), replicate, *entry, bool(entry[3] <= values[entry[1]] <= entry[4])) for entry in every
            ]
        singular[str(design)] = 100 * count / options.replicates
    columns = ["design", "replicate", "method", "parameter", "df", "lower", "upper", "inside"]
    return pd.DataFrame(found, columns=columns), pd.Series(singular), pd.concat(rows) if rows else pd.DataFrame()


def frame_of(design: Design, replicate: int, sample: Sample) -> pd.DataFrame:
    """The rows of a replicate for R."""
    columns = {"y": sample.y, "w": sample.X[:, 1], "x": sample.X[:, 2], "g": sample.codes}
    return pd.DataFrame({"design": str(design), "replicate": replicate, "slopes": int(sample.slopes), **columns})


def run_r(rows: pd.DataFrame, profiles: int) -> tuple[pd.DataFrame | None, str]:
    """R's intervals of the same data, and its versions or why there are none."""
    program = shutil.which("Rscript")
    if program is None or rows.empty:
        return None, "R was not run: " + ("no Rscript on the PATH" if program is None else "no replicates for it")
    with tempfile.TemporaryDirectory() as folder:
        data, result = Path(folder, "data.csv"), Path(folder, "result.csv")
        rows.to_csv(data, index=False)
        script = str(Path(__file__).with_suffix(".R"))
        done = subprocess.run(
            [program, script, str(data), str(result), str(profiles)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return None, f"R failed: {done.stderr.strip()[-500:]}"
        return pd.read_csv(result), done.stdout.strip()


def shares(found: pd.DataFrame, column: str, parameters: list[str]) -> dict[str, str]:
    """Coverage by design in per cent, a figure for each parameter; marked where off by more than 3 standard errors."""
    out = {}
    for design, group in found.groupby("design", sort=False):
        figures = []
        for parameter in parameters:
            inside = group.loc[group["parameter"] == parameter, column]
            if len(inside):
                off = abs(inside.mean() - 0.95) > 3 * np.sqrt(0.95 * 0.05 / len(inside))
                figures.append(f"{100 * inside.mean():.1f}" + "*" * bool(off))
        out[str(design)] = " / ".join(figures)
    return out


def ours(found: pd.DataFrame, singular: pd.Series, parts: list[str]) -> Iterator[pd.DataFrame]:
    """Tables of our coverage, one for each part; figures of coefficients are in the order of NAMES."""
    columns = {
        "coefficients": [(method, NAMES) for method in METHODS],
        "variances": [("wald", DEVIATIONS), ("profile", DEVIATIONS), ("wald", ["ICC"])],
        "predictions": [(f"predict {method}", list(PREDICTED)) for method in PREDICTING],
    }
    share = singular.map("{:.0f} %".format).to_dict()
    by = dict(list(found.groupby("method", sort=False)))
    for part in parts:
        figures = {}
        for method, parameters in columns[part]:
            label = method if parameters == NAMES else f"{method}: {' / '.join(parameters)}"
            figures[label] = shares(by[method], "inside", parameters)
        yield pd.DataFrame({"singular": share, **figures})


def counts(by_row: pd.Series, part: pd.DataFrame) -> dict[str, str]:
    """In how many replicates of each design something holds for any of the parameters."""
    each = by_row.groupby([part["design"], part["replicate"]], sort=False).any()
    return {str(design): str(count) for design, count in each.groupby("design", sort=False).sum().items()}


def beside(found: pd.DataFrame, theirs: pd.DataFrame) -> list[pd.DataFrame]:
    """Tables, one a method, of the coverage of both on the same replicates and of how many replicates differ."""
    both = found.merge(theirs, on=["design", "replicate", "method", "parameter"], suffixes=("", "_r"))
    truth = {(str(design), name): value for design in DESIGNS for name, value in design.truth.items()}
    values = np.array([truth[key] for key in zip(both["design"], both["parameter"], strict=True)])
    both["inside_r"] = (both["lower_r"] <= values) & (values <= both["upper_r"])
    both["missing"] = both[["lower_r", "upper_r"]].isna().any(axis=1)
    tables = []
    for method, (parameters, tolerance) in COMPARED.items():
        part = both[both["method"] == method]
        width = (part["upper"] - part["lower"]).abs()
        far = (part["df"] - part["df_r"]).abs() > tolerance * part["df_r"]
        for side in ("lower", "upper"):
            far |= (part[side] - part[side + "_r"]).abs() > tolerance * width
        known = part[~part["missing"]]
        columns = {
            "hlm": shares(known, "inside", parameters),
            "R": shares(known, "inside_r", parameters),
            f"differ by {tolerance:g}": counts(far & ~part["missing"], part),
            "R has no limit": counts(part["missing"], part),
            "R warns": counts(part["note"].fillna("").str.contains("warning"), part),
        }
        tables.append(pd.DataFrame(columns).rename_axis(method))
    return tables


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown."""
    head = [table.index.name or "design", *table.columns]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head))]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in table.fillna("").itertuples())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--r-replicates", type=int, default=200, help="those that R fits too")
    parser.add_argument("--profiles", type=int, default=50, help="those of which R makes profiles, which takes long")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="intervals to be simulated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the intervals and the data, as CSV")
    options = parser.parse_args()
    found, singular, rows = run(options)
    errors = ", ".join(
        f"{100 * np.sqrt(0.05 * 0.95 / n):.1f} with {n}"
        for n in (options.replicates, options.r_replicates, options.profiles)
        if n
    )
    print(f"hlm {hlm.__version__}, Python {platform.python_version()}, NumPy {np.__version__}; seed {options.seed}")
    print(
        f"Per cent; Monte Carlo standard error of a figure near 95: {errors} replicates; * off by more than 3 of these"
    )
    for table in ours(found, singular, options.parts):
        print("\n" + markdown(table), flush=True)
    if options.keep:
        found.to_csv(options.keep / "hlm.csv", index=False)
        rows.to_csv(options.keep / "data.csv", index=False)
    theirs, said = run_r(rows, options.profiles)
    print(f"\n{said}; {options.r_replicates} replicates, {options.profiles} of profiles")
    if options.keep and theirs is not None:
        theirs.to_csv(options.keep / "r.csv", index=False)
    for table in [] if theirs is None else beside(found, theirs):
        print("\n" + markdown(table))


if __name__ == "__main__":
    main()
