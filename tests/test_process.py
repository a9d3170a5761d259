"""What concerns the process: import cost, Ctrl-C, threads, forks, memory."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import numpy as np
import pandas as pd
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


def crossed_frame(rows: int, a: int, b: int, seed: int) -> pd.DataFrame:
    """An intercept and a slope that vary over a levels, and an intercept over b levels, crossed."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"a": rng.integers(0, a, rows), "b": rng.integers(0, b, rows), "x": rng.normal(size=rows)})
    effects = rng.normal(size=(a, 2))[data["a"]]
    data["y"] = effects[:, 0] + effects[:, 1] * data["x"] + rng.normal(size=b)[data["b"]] + rng.normal(size=rows)
    return data


def model_of(design: str) -> hlm.Model:
    """Return a small model; the crossed one has a core of several tiles, which threads share."""
    if design == "nested":
        return make_case([2, 1], 3, seed=3, tops=60).model()
    return hlm.Model("y ~ x + (x | a) + (1 | b)", crossed_frame(800, 40, 90, seed=1))


def numbers(fit: hlm.Fit) -> list[float]:
    effects = [fit.random_effects[name].to_numpy().ravel() for name in fit.random_effects]
    return [fit.criterion, *fit.theta, *fit.params, *np.concatenate(effects)]


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "a model each"])
@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_threads_of_python_get_the_bits_of_a_serial_run(design: str, shared: bool) -> None:
    """Eight threads, fifty fits each."""
    model = model_of(design)
    expected = numbers(model.fit())
    found: list[list[float]] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            own = model if shared else model_of(design)
            found.extend(numbers(own.fit()) for _ in range(50))
        except BaseException as error:  # shown by the test, not lost with the thread
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(found) == 400
    assert all(one == expected for one in found)


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
@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_ctrl_c_stops_a_long_fit_and_the_next_one_is_right(design: str) -> None:
    """How soon it does is measured by benchmarks/interrupt.py."""
    if design == "nested":
        rng = np.random.default_rng(0)
        n = 400_000
        groups = np.repeat(np.arange(n // 4), 4)
        X = np.column_stack([np.ones(n), rng.normal(size=(n, 3))])
        y = X.sum(axis=1) + rng.normal(size=n // 4)[groups] + rng.normal(size=n)
        model = hlm.Model.from_arrays(y, X, [hlm.Random(groups)])
    else:
        model = hlm.Model("y ~ x + (1 | a) + (1 | b)", crossed_frame(6000, 900, 700, seed=2))
    expected = numbers(model.fit())

    def fit_forever() -> None:
        while True:
            model.fit()

    for delay in (0.01, 0.05, 0.1):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            fit_forever()
        timer.join()
        assert numbers(model.fit()) == expected


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory in use is read from Linux's /proc")
def test_two_thousand_fits_do_not_leak() -> None:
    """Nested, crossed and singular fits with what is asked of them, and fits that fail; after a warm-up."""
    out = run(
        """
        import gc, warnings, numpy as np, pandas as pd, hlm
        from hlm_ext.partition import set_num_threads
        set_num_threads(2)
        rng = np.random.default_rng(0)
        n = 300
        data = pd.DataFrame({"a": np.arange(n) // 20, "ab": np.arange(n) // 10, "b": rng.integers(0, 8, n)})
        data["x"] = rng.normal(size=n)
        error = rng.normal(size=n)
        plain = rng.normal(size=15)[data["a"]] + rng.normal(size=30)[data["ab"]] + rng.normal(size=8)[data["b"]]
        data["y"] = plain + error
        data["flat"] = error - data.assign(e=error).groupby("a")["e"].transform("mean")  # no variance between
        data["step"] = data["a"] % 7 + 0.0  # constant within groups
        data["hole"] = data["y"].where(data.index != 5, np.inf)
        data["twice"] = 2 * data["x"]

        def right(formula):
            own = data.copy()  # pandas notes each use of a frame in the frame
            fit = hlm.Model(formula, own).fit()
            assert fit.converged
            fit.random_effects_cov, str(fit), fit.predict(own), fit.conf_int()
            return fit

        def failing(formula):
            try:
                hlm.Model(formula, data.copy()).fit()
            except hlm.HLMError:
                return
            raise AssertionError(formula)

        def once(slow):
            if slow:
                gc.collect()  # cycles that wait for the collector are no leak, but leave holes in the heap
            right("y ~ x + (x | a/ab)")
            right("y ~ x + (1 | a) + (x | b)")
            assert right("flat ~ x + (x | a)").is_singular
            assert right("flat ~ 1 + (1 | a) + (1 | b)").is_singular
            right("y ~ x + twice + (1 | a)")
            failing("step ~ x + (1 | a)")
            failing("step ~ x + (1 | a) + (1 | b)" if slow else "step ~ x + (x | a)")
            failing("hole ~ x + (1 | a)")
            failing("y ~ x + (x + twice | a)")
            failing("y ~ x + (1 | nothing)")

        def used():
            gc.collect()
            with open("/proc/self/status") as lines:
                fields = dict(line.split(":", 1) for line in lines)
            return [int(fields[name].split()[0]) for name in ("VmData", "VmRSS")]

        warnings.simplefilter("ignore")
        for i in range(40):
            once(i % 10 == 0)
        before = used()
        for i in range(200):
            once(i % 10 == 0)
        print(*(b - a for a, b in zip(before, used(), strict=True)))
        """,
        PYTHONMALLOC="malloc",  # Python's own allocator takes a MiB at a time
    )
    data, resident = map(int, out.split())
    assert data < 1024, "KiB of growth of private memory in 2,000 fits"
    assert resident < 1024, "KiB of growth of resident memory in 2,000 fits"


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
