"""What runs in the processes that `run.py` starts: the rounds of one problem, or the memory of one fit.

Each sends messages ``(kind, implementation, content)``, so that the parent knows whom to blame when a process dies or
has to be stopped: compiled code cannot be interrupted from within.
"""

from __future__ import annotations

import resource
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import peers
import problems
from timing import sample, timed

Calls = dict[str, Callable[[], Any]]


def run_rounds(
    to_parent: Connection, name: str, folder: Path, implementations: list[str], rounds: int, budget: float, slow: float
) -> None:
    """Run every implementation once a round, until the budget is used, and at least `rounds` rounds."""
    warnings.simplefilter("ignore")
    problem = _load(to_parent, name, folder, implementations)
    if problem is None:
        return
    calls = _first_calls(to_parent, problem, implementations, slow)
    end, done = perf_counter() + budget, 0
    while calls and (done < rounds or perf_counter() < end):
        for implementation in _rotated(list(calls), done):
            to_parent.send(("start", implementation, None))
            to_parent.send(("seconds", implementation, sample(calls[implementation])))
        done += 1
    to_parent.send(("end", "", done))


def run_memory(to_parent: Connection, name: str, folder: Path, implementation: str) -> None:
    """Send the peak of memory during one fit over what the process held just before it, in bytes."""
    warnings.simplefilter("ignore")
    problem = _load(to_parent, name, folder, [implementation])
    if problem is None:
        return
    to_parent.send(("start", implementation, None))
    try:
        peer = peers.load(implementation)
        call = peers.prepare(peer, problem)
        _import_everything(peer, folder)
        before = _reset_peak()
        result = peer.result(call())
        to_parent.send(("version", implementation, peers.version(peer)))
        to_parent.send(("result", implementation, result))
        to_parent.send(("memory", implementation, (max(0, _peak() - before), problem.design_bytes)))
    except peers.UnavailableError as error:
        to_parent.send(("status", implementation, str(error)))
    except Exception as error:
        to_parent.send(("status", implementation, _failure(error)))
    to_parent.send(("end", "", 1))


def _load(to_parent: Connection, name: str, folder: Path, implementations: list[str]) -> problems.Problem | None:
    try:
        return problems.load(name, folder)
    except Exception as error:
        for implementation in implementations:
            to_parent.send(("status", implementation, f"no data: {_failure(error)}"))
        to_parent.send(("end", "", 0))
        return None


def _first_calls(to_parent: Connection, problem: problems.Problem, implementations: list[str], slow: float) -> Calls:
    """Return what takes part in the rounds; the first call of the slow is their measurement, else a warm-up."""
    calls: Calls = {}
    for implementation in implementations:
        to_parent.send(("start", implementation, None))
        try:
            peer = peers.load(implementation)
            to_parent.send(("version", implementation, peers.version(peer)))
            call = peers.prepare(peer, problem)
            seconds, fitted = timed(call)
            to_parent.send(("result", implementation, peer.result(fitted)))
            del fitted
        except peers.UnavailableError as error:
            to_parent.send(("status", implementation, str(error)))
        except Exception as error:
            to_parent.send(("status", implementation, _failure(error)))
        else:
            if seconds > slow:
                to_parent.send(("seconds", implementation, [seconds]))
                to_parent.send(("status", implementation, "slow: timed once"))
            else:
                calls[implementation] = call
    return calls


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def _failure(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {error}".splitlines()[0][:200]


def _import_everything(peer: peers.Peer, folder: Path) -> None:
    """Fit a small problem: modules loaded on first use are not memory of the fit."""
    small = problems.load("W8q1", folder)
    if peer.supports(small):
        peers.fit(peer, small)


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def _reset_peak() -> int:
    """Return the memory now in use; on Linux also forget the peak that loading the data reached."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_bytes("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    try:
        return _status_bytes("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
