"""Two builds of this library against each other: ``python benchmarks/compare.py --base PYTHON --head PYTHON``.

Each interpreter has one of them installed. Every measurement is a process of its own; base and head take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

from peers import OURS
from problems import MODELS, USUAL, default_folder

SIDES = ("base", "head")


def main() -> None:
    options = _options()
    print(f"{'':<25}{'median seconds':>22}{'head / base':>22}{'criterion':>12}")
    print(f"{'problem':<9}{'from':<16}{'base':>11}{'head':>11}{'medians':>11}{'minima':>11}{'head − base':>12}")
    for problem in options.problems:
        for implementation in OURS:
            print(f"{problem:<9}{implementation:<16}{_compared(problem, implementation, options)}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, metavar="PYTHON", help="interpreter with the version compared with")
    parser.add_argument("--head", required=True, metavar="PYTHON", help="interpreter with the version in question")
    parser.add_argument(
        "--problems", nargs="+", choices=MODELS, default=USUAL, metavar="W", help="default: those of run.py"
    )
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="generated data (default %(default)s)")
    return parser.parse_args()


def _compared(problem: str, implementation: str, options: argparse.Namespace) -> str:
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    try:
        for number in range(options.rounds):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                runs[side].append(_measured(getattr(options, side), problem, implementation, options.folder))
    except subprocess.CalledProcessError as error:
        return f"  {side} failed: {(error.stderr.strip() or 'no message').splitlines()[-1]}"
    base, head = (statistics.median(statistics.median(run["seconds"]) for run in runs[side]) for side in SIDES)
    least_base, least_head = (min(min(run["seconds"]) for run in runs[side]) for side in SIDES)
    change = runs["head"][0]["criterion"] - runs["base"][0]["criterion"]
    return f"{base:>11.6f}{head:>11.6f}{head / base:>11.3f}{least_head / least_base:>11.3f}{change:>+12.1e}"


def _measured(python: str, problem: str, implementation: str, folder: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("once.py")
    command = [python, str(script), problem, implementation, "--folder", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
