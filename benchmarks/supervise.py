"""Run a worker, keep what it measured, stop it when it hangs and carry on without the implementation at fault."""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peers import Result


@dataclass
class Record:
    """What was measured of one implementation on one problem."""

    problem: str
    implementation: str
    version: str = ""
    status: str = ""  # empty: fitted and timed in rounds
    seconds: list[float] = field(default_factory=list)
    result: Result | None = None
    memory: tuple[int, int] | None = None  # bytes: peak over the loaded data; design matrix

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    def take(self, kind: str, content: Any) -> None:
        if kind == "seconds":
            self.seconds.extend(content)
        elif kind != "start":
            setattr(self, kind, content)


Records = dict[str, Record]


def supervise(
    problem: str,
    implementations: Iterable[str],
    timeout: float,
    target: Callable[..., None],
    arguments: Callable[[list[str]], tuple[Any, ...]],
) -> Records:
    """Run ``target(connection, *arguments(names))`` in fresh processes until every implementation is accounted for."""
    records = {name: Record(problem, name) for name in implementations}
    while pending := [name for name, record in records.items() if not record.status]:
        culprit, reason = _run(records, timeout, target, arguments(pending))
        if not reason:
            break
        for name in [culprit] if culprit else pending:
            records[name].status = reason
    return records


def _run(records: Records, timeout: float, target: Callable[..., None], arguments: tuple[Any, ...]) -> tuple[str, str]:
    """Return the implementation at work when the process died or was stopped, and why; empty when it ended well."""
    context = multiprocessing.get_context("spawn")
    from_worker, to_parent = context.Pipe(duplex=False)
    with TemporaryDirectory() as folder:
        log = Path(folder) / "stderr"
        process = context.Process(target=_quietly, args=(log, target, to_parent, *arguments), daemon=True)
        process.start()
        to_parent.close()
        current = ""
        try:
            while from_worker.poll(timeout):
                kind, name, content = from_worker.recv()
                if kind == "end":
                    return "", ""
                current = name
                records[name].take(kind, content)
            return current, f"timed out after {timeout:g} s"
        except EOFError:
            process.join()
            return current, f"failed: the process died with exit code {process.exitcode}{_last_words(log)}"
        finally:
            process.kill()
            process.join()


def _quietly(log: Path, target: Callable[..., None], *arguments: Any) -> None:
    """Run in the worker with its standard error, also that of compiled code, in a file."""
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 2)
    target(*arguments)


def _last_words(log: Path) -> str:
    """Return what explains a death, if anything: the last line of a Python traceback, the first of anything else."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    if not lines:
        return ""
    return f": {lines[-1 if any(line.startswith('Traceback') for line in lines) else 0][:200]}"
