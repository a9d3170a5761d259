"""How soon Ctrl-C ends a long fit: ``python benchmarks/interrupt.py --help``.

SIGINT comes from another process at random moments (a thread of this one would wait for the interpreter as the fit
does), which notes the time; what follows is the delay until KeyboardInterrupt is caught.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from generate import ratings, tiny_groups

import hlm

KILLER = """
import os, signal, sys, time
for line in sys.stdin:
    time.sleep(float(line))
    sent = time.clock_gettime(time.CLOCK_MONOTONIC)
    os.kill(os.getppid(), signal.SIGINT)
    print(sent, flush=True)
"""
DESIGNS: dict[str, tuple[str, Callable[[], dict[str, np.ndarray]]]] = {
    "nested": ("y ~ x1 + x2 + x3 + x4 + x5 + (1 + x1 | g)", lambda: tiny_groups(600_000, 180_000, seed=1)),
    "crossed": ("y ~ 1 + (1 | user) + (1 | item)", lambda: ratings(300_000, 20_000, 2_000, seed=2)),
}


def main() -> None:
    options = _options()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, hlm {hlm.__version__}")
    print(f"{'design':<9}{'a fit takes':>12}{'signals':>9}{'median':>9}{'largest':>9}   seconds")
    for name in options.designs:
        formula, generate = DESIGNS[name]
        data = pd.DataFrame(generate())
        began = time.monotonic()
        hlm.Model(formula, data).fit()
        length = time.monotonic() - began
        delays = _delays(lambda: hlm.Model(formula, data).fit(), length, options.signals)  # noqa: B023
        median, largest = statistics.median(delays), max(delays)
        print(f"{name:<9}{length:>12.2f}{len(delays):>9}{median:>9.3f}{largest:>9.3f}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--signals", type=int, default=30, help="of each design (default %(default)s)")
    return parser.parse_args()


def _delays(fit: Callable[[], object], length: float, count: int) -> list[float]:
    """Seconds from the signal to KeyboardInterrupt, for signals at random moments of a fit that takes `length`."""
    rng = np.random.default_rng(0)
    killer = subprocess.Popen(
        [sys.executable, "-c", KILLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert killer.stdin is not None
    assert killer.stdout is not None
    delays = []
    for moment in rng.uniform(0.0, length, count):
        try:
            killer.stdin.write(f"{moment}\n")
            while True:
                fit()
        except KeyboardInterrupt:
            caught = time.clock_gettime(time.CLOCK_MONOTONIC)
        delays.append(caught - float(killer.stdout.readline()))
    killer.stdin.close()
    killer.wait()
    return delays


if __name__ == "__main__":
    main()
