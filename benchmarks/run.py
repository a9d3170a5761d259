"""Time this library and its peers side by side: ``python benchmarks/run.py --help``."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from peers import IMPLEMENTATIONS, LIMIT, OURS, PEERS
from problems import MODELS, USUAL, default_folder
from supervise import Record, Records, supervise
from worker import run_memory, run_rounds

CLOSE = 0.01  # of the criterion: farther from the known optimum is no fit, and no peer to be compared with


def main() -> None:
    options = _options()
    environment = _environment()
    print("  ".join(f"{key} {value}" for key, value in environment.items()))
    names = [name for name in IMPLEMENTATIONS if name not in PEERS or name in options.peers]
    records: list[Record] = []
    for problem in options.problems:
        print(f"\n{problem}  {MODELS[problem].formula}", flush=True)
        if options.memory:
            found = _memory(problem, names, options)
            _print_memory(found)
        else:
            found = _rounds(problem, names, options)
            _print_times(found)
        records.extend(found.values())
        if options.json:
            _write(options.json, environment, records)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--problems", nargs="+", choices=MODELS, default=USUAL, metavar="W", help="default: all but W6, which is large"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="beside this library; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="least number of rounds (default %(default)s)")
    parser.add_argument("--budget", type=float, default=20, help="seconds of rounds a problem (default %(default)g)")
    parser.add_argument("--slow", type=float, default=10, help="slower fits are timed once (default %(default)g s)")
    parser.add_argument("--timeout", type=float, default=120, help="slower fits are stopped (default %(default)g s)")
    parser.add_argument("--memory", action="store_true", help="peak memory of one fit each instead of times")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="generated data (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number measured")
    return parser.parse_args()


def _environment() -> dict[str, str]:
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": str(os.cpu_count()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load": f"{os.getloadavg()[0]:.1f}",
    }
    limits = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return found | {name: os.environ[name] for name in limits if name in os.environ}


def _rounds(problem: str, names: list[str], options: argparse.Namespace) -> Records:
    return supervise(
        problem,
        names,
        options.timeout,
        run_rounds,
        lambda pending: (problem, options.folder, pending, options.rounds, options.budget, options.slow),
    )


def _memory(problem: str, names: list[str], options: argparse.Namespace) -> Records:
    found: Records = {}
    for name in names:
        found |= supervise(
            problem, [name], options.timeout, run_memory, lambda pending: (problem, options.folder, pending[0])
        )
    return found


def _from_optimum(record: Record) -> float:
    return np.nan if record.result is None else record.result.criterion - MODELS[record.problem].optimum


def _note(record: Record) -> str:
    if record.result is None or record.implementation == LIMIT:
        return record.status
    notes = [record.status] if record.status else []
    if record.result.converged is False:
        notes.append("says it did not converge")
    if not abs(_from_optimum(record)) <= CLOSE:
        notes.append("not at the optimum")
    return "; ".join(notes)


def _shown(records: Records) -> list[Record]:
    """Leave out the machine's limit where it is not measured: it is no package of which something could be missing."""
    return [record for record in records.values() if record.implementation != LIMIT or not record.status]


def _print_times(records: Records) -> None:
    print(f"  {'implementation':<18}{'version':<10}{'median s':>11}{'min s':>11}{'calls':>7}{'− optimum':>12}")
    for record in _shown(records):
        if not record.seconds:
            print(f"  {record.implementation:<18}{record.version:<10}{_note(record)}")
            continue
        times = f"{record.median:>11.6f}{record.minimum:>11.6f}{len(record.seconds):>7}"
        off = "" if record.implementation == LIMIT else f"{_from_optimum(record):+.1e}"
        print(f"  {record.implementation:<18}{record.version:<10}{times}{off:>12}  {_note(record)}".rstrip())
    _print_ratios(records)


def _print_ratios(records: Records) -> None:
    peers = [r for r in records.values() if r.implementation in PEERS and r.seconds and abs(_from_optimum(r)) <= CLOSE]
    others = {"the fastest peer": min(peers, key=lambda r: r.median)} if peers else {}
    if LIMIT in records and records[LIMIT].seconds:
        others["the machine's limit"] = records[LIMIT]
    for ours in (records[name] for name in OURS if records[name].seconds):
        for what, other in others.items():
            print(
                f"  {ours.implementation} / {what}, {other.implementation}: "
                f"{ours.median / other.median:.3g} by medians, {ours.minimum / other.minimum:.3g} by minima"
            )


def _print_memory(records: Records) -> None:
    print(f"  {'implementation':<18}{'version':<10}{'peak MiB':>11}{'/ design':>11}{'− optimum':>12}")
    for record in _shown(records):
        if record.memory is None:
            print(f"  {record.implementation:<18}{record.version:<10}{_note(record)}")
            continue
        peak, design = record.memory
        off = "" if record.implementation == LIMIT else f"{_from_optimum(record):+.1e}"
        numbers = f"{peak / 2**20:>11.1f}{peak / design:>11.2f}{off:>12}"
        print(f"  {record.implementation:<18}{record.version:<10}{numbers}  {_note(record)}".rstrip())


def _write(file: Path, environment: dict[str, str], records: list[Record]) -> None:
    results = [asdict(record) | {"from_optimum": _from_optimum(record)} for record in records]
    text = json.dumps({"environment": environment, "results": results}, indent=1)
    file.write_text(text.replace("NaN", "null") + "\n")


if __name__ == "__main__":
    main()
