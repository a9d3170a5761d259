"""Command line for one-off fits: ``python -m hlm FORMULA FILE``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

import hlm


def read(source: str) -> pd.DataFrame:
    """Read a shipped data set by name, or a CSV or Parquet file."""
    if source in hlm.datasets.names():
        return hlm.datasets.load(source)
    path = Path(source)
    if not path.exists():
        raise hlm.DataError(
            f"no file '{source}', and no shipped data set of that name ({', '.join(hlm.datasets.names())})"
        )
    if path.suffix in (".parquet", ".pq"):
        return pd.read_parquet(path)
    return pd.read_csv(path)


def main(arguments: list[str] | None = None) -> int:
    """Fit one model and print its summary; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hlm", description="Fit a hierarchical linear model and print it.")
    parser.add_argument("formula", help='lme4 notation, e.g. "mathach ~ cses + (cses | school)"')
    parser.add_argument("data", help=f"CSV or Parquet file, or one of: {', '.join(hlm.datasets.names())}")
    parser.add_argument("--ml", action="store_true", help="maximum likelihood instead of REML")
    parser.add_argument("--method", default="newton", choices=["newton", "fisher", "em", "ecme"])
    parser.add_argument("--weights", metavar="COLUMN", help="column of precision weights")
    parser.add_argument(
        "--frequencies", metavar="COLUMN", help="column of the numbers of rows that each row stands for"
    )
    parser.add_argument("--missing", default="drop", choices=["drop", "raise"])
    parser.add_argument("--html", action="store_true", help="print the summary as HTML")
    parser.add_argument("--trace", action="store_true", help="print the steps of the optimiser too")
    options = parser.parse_args(arguments)
    try:
        data = read(options.data)
        model = hlm.Model(
            options.formula,
            data,
            weights=options.weights,
            frequencies=options.frequencies,
            missing=options.missing,
        )
        fit = model.fit(reml=not options.ml, method=options.method)
    except hlm.HLMError as error:
        print(f"hlm: {error}", file=sys.stderr)
        return 2
    print(fit._repr_html_() if options.html else fit)
    if options.trace:
        print()
        print(fit.trace.to_string())
    return 0 if fit.converged else 1


if __name__ == "__main__":
    sys.exit(main())
