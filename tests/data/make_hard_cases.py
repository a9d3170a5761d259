"""Copy the hard cases of the tests from a folder: ``python make_hard_cases.py FOLDER [OUTPUT]``.

FOLDER holds ``problems.json``, ``best_known.json`` and ``data/FAMILY.npz``; OUTPUT (default: ``hard_cases`` beside this
script) gets the arrays as they are and one compressed JSON file of what the tests read about each problem.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

# fmt: off
KEYS = (
    "id", "family", "index", "reml", "formula", "fixed", "random", "columns", "note", "sha256", "crit", "Sigma",
    "sigma2", "beta", "se", "kept", "null_dims",
)
# fmt: on


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the problems of a file by their ids."""
    return {problem["id"]: problem for problem in json.loads(path.read_text(encoding="utf-8"))["problems"]}


def main(folder: Path, output: Path) -> None:
    """Make all files anew."""
    output.mkdir(parents=True, exist_ok=True)
    best = read(folder / "best_known.json")
    problems = [problem | best[name] for name, problem in read(folder / "problems.json").items()]
    lines = [json.dumps({key: problem[key] for key in KEYS}, separators=(",", ":")) for problem in problems]
    (output / "problems.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", mtime=0))
    for path in sorted((folder / "data").glob("*.npz")):
        shutil.copyfile(path, output / path.name)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).with_name("hard_cases"))
