"""What concerns the process: import cost, Ctrl-C, threads, forks, memory."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import hlm

from .dense import make_case


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return done.stdout.strip()


def test_import_does_not_load_formulaic_or_scipy_stats_or_narwhals() -> None:
    """What costs the most is loaded when it is needed (times vary too much on shared machines to be tested)."""
    heavy = ("formulaic", "narwhals", "matplotlib", "scipy.stats")
    assert run(f"import hlm, sys; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_plain_formulas_do_not_load_formulaic() -> None:
    out = run(
        """
        import sys, hlm
        hlm.Model("Reaction ~ Days + (Days | Subject)", hlm.datasets.load("sleepstudy")).fit()
        print("formulaic" in sys.modules)
        """
    )
    assert out == "False"


def test_threads_of_python_get_the_bits_of_a_serial_run() -> None:
    case = make_case([2, 1], 3, seed=3, tops=60)
    expected = case.model().fit()
    found: list[list[float]] = []

    def work() -> None:
        for _ in range(5):
            fit = case.model().fit()
            found.append([fit.criterion, *fit.theta, *fit.params])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert all(numbers == [expected.criterion, *expected.theta, *expected.params] for numbers in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_can_fit() -> None:
    out = run(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        import numpy as np, hlm
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(3000), 10)
        y = rng.normal(size=3000)[groups] + rng.normal(size=30000)
        fit = lambda: hlm.Model.from_arrays(y, np.ones((30000, 1)), [hlm.Random(groups)]).fit().criterion
        parent = fit()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if fit() == parent else 1)
        print(os.waitpid(pid, 0)[1])
        """
    )
    assert out == "0"


@pytest.fixture
def obeys_sigint() -> Iterator[None]:
    """A shell starts what runs in the background with SIGINT ignored: not here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
@pytest.mark.usefixtures("obeys_sigint")
def test_ctrl_c_stops_a_long_fit_and_the_next_one_is_right() -> None:
    rng = np.random.default_rng(0)
    n = 400_000
    groups = np.repeat(np.arange(n // 4), 4)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 3))])
    y = X.sum(axis=1) + rng.normal(size=n // 4)[groups] + rng.normal(size=n)
    model = hlm.Model.from_arrays(y, X, [hlm.Random(groups)])
    expected = model.fit().criterion

    def fit_forever() -> None:
        while True:
            hlm.Model.from_arrays(y, X, [hlm.Random(groups)]).fit()

    for delay in (0.01, 0.05, 0.1):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            fit_forever()
        timer.join()
        assert model.fit().criterion == expected


def test_many_fits_do_not_leak() -> None:
    out = run(
        """
        import resource, numpy as np, hlm
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(50), 8)
        X = np.column_stack([np.ones(400), rng.normal(size=400)])
        y = rng.normal(size=50)[groups] + rng.normal(size=400)
        def some(count):
            for _ in range(count):
                fit = hlm.Model.from_arrays(y, X, [hlm.Random(groups, X)]).fit()
                fit.random_effects_cov
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        some(300)
        before = some(100)
        print(some(1000) - before)
        """
    )
    assert int(out) < 1024, "KiB of growth in 1,000 fits"


def test_a_fit_needs_little_more_than_the_design() -> None:
    """Peak memory over the input at most 1.5 × the design matrix (here far below: columns are not copied)."""
    out = run(
        """
        import resource, numpy as np, pandas as pd, hlm
        rng = np.random.default_rng(0)
        n = 300_000
        frame = pd.DataFrame({f"x{j}": rng.normal(size=n) for j in range(12)})
        frame["g"] = np.repeat(np.arange(n // 50), 50)
        frame["y"] = frame["x0"] + rng.normal(size=n // 50)[frame["g"]] + rng.normal(size=n)
        formula = "y ~ " + " + ".join(f"x{j}" for j in range(12)) + " + (x0 | g)"
        hlm.Model(formula, frame.head(5000)).fit()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        hlm.Model(formula, frame).fit()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (n * 13 * 8))
        """
    )
    assert float(out) < 1.5
