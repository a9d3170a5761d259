"""Run a worker, keep what it measured, stop it when it hangs and carry on without the implementation at fault."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
    """Return the implementation at work when the process died or was stopped, and why; both empty when it ended well."""
    context = multiprocessing.get_context("spawn")
    from_worker, to_parent = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(to_parent, *arguments), daemon=True)
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
        return current, f"failed: the process died with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()
