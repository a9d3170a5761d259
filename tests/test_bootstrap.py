"""Bootstrap: by hand, against asymptotics and closed forms, seeds and workers, what fails is counted."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from scipy.stats.mstats import mjci

import hlm
from hlm.errors import NumericalError

from .reference import frame

RNG = np.random.default_rng(11)
J, M = 30, 4
CODES = np.repeat(np.arange(J), M)
N = len(CODES)
DATA = pd.DataFrame({"x": RNG.normal(size=N), "g": CODES, "h": RNG.integers(0, 8, N), "t": np.tile(np.arange(M), J)})
DATA["y"] = 1 + DATA["x"] + RNG.normal(size=J)[CODES] + 0.5 * RNG.normal(size=8)[DATA["h"]] + RNG.normal(size=N)
DATA["c"] = "c" + (DATA["t"] % 2).astype(str)

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "nested": ("y ~ x + (x | g)", {}, {}),
    "crossed": ("y ~ x + (1 | g) + (1 | h)", {}, {}),
    "structure": ("y ~ x + (0 + c | g)", {"covariance": {"g": "cs"}}, {}),
    "known": ("y ~ x + (1 | g)", {}, {"fixed": {"sigma": 1.0}}),
    "errors": ("y ~ x + (1 | g)", {"residual": hlm.residuals.AR1("t")}, {}),
    "no groups": ("y ~ x", {}, {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_replicates_are_fits_to_simulated_responses(name: str) -> None:
    """To the bit, for any number of workers."""
    formula, options, asked = MODELS[name]
    fit = hlm.Model(formula, DATA, **options).fit(**asked)
    count = 5
    found = fit.bootstrap(count, seed=4, statistic=lambda new: {"criterion": new.criterion})
    for i, stream in enumerate(np.random.default_rng(4).spawn(count)):
        new = fit.refit(fit.simulate(1, stream)[0])
        row = found.replicates.loc[i]
        assert row["criterion"] == new.criterion
        assert row["sigma"] == new.sigma
        assert (row[list(new.params.index)] == new.params).all()
        table = new.variance_table()
        np.testing.assert_array_equal(row[found.variances], table.loc[found.variances, "estimate"])
        if name != "errors" and name != "no groups":
            for factor, value in new.icc()["icc"].items():
                assert row[f"icc({factor})"] == pytest.approx(value, rel=1e-10, abs=1e-14)
    for workers in (2, 3):
        again = fit.bootstrap(count, seed=4, workers=workers, statistic=lambda new: {"criterion": new.criterion})
        pd.testing.assert_frame_equal(again.replicates, found.replicates, check_exact=True)
        assert again.failures == found.failures
    other = fit.bootstrap(count, seed=5)
    assert not np.array_equal(other.replicates["x"], found.replicates["x"])
    assert list(found.estimates.index) == list(found.replicates.columns)


def test_a_large_balanced_design_agrees_with_asymptotics() -> None:
    """Standard errors, and limits of all kinds, within their Monte Carlo errors and the skewness of 400 groups."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), 5)
    y = 2 * rng.normal(size=400)[groups] + rng.normal(size=2000)
    fit = hlm.Model.from_arrays(y, np.ones((2000, 1)), [hlm.Random(groups)]).fit()
    found = fit.bootstrap(400, seed=2)
    assert not found.failures
    assert found.singular == 0
    wald = fit.variance_table()["se"]
    wald["Intercept"] = fit.bse["Intercept"]
    np.testing.assert_allclose(found.bse[wald.index] / wald, 1.0, atol=4 / np.sqrt(800))
    error = found.bse / np.sqrt(400)
    assert (found.bias.abs() < 4 * error + 0.1 * found.bse).all()
    np.testing.assert_allclose(np.diag(found.cov()), found.bse**2)
    for method in ("percentile", "basic", "normal", "bc"):
        limits = found.conf_int(0.1, method)
        for name, se in wald.items():
            half = norm.ppf(0.95) * se
            assert limits.loc[name, "lower"] == pytest.approx(
                found.estimates[name] - half, abs=4 * limits.loc[name, "lower_error"] + 0.2 * se
            )
            assert limits.loc[name, "upper"] == pytest.approx(
                found.estimates[name] + half, abs=4 * limits.loc[name, "upper_error"] + 0.2 * se
            )


def drawn(values: np.ndarray, estimate: float) -> hlm.Bootstrap:
    return hlm.Bootstrap("parametric", pd.Series({"a": estimate}), pd.DataFrame({"a": values}), 0, {}, ["a"], [])


def test_limits_by_their_definitions() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=199)
    estimate = 1.5
    found = drawn(values, estimate)
    ordered = np.sort(values)
    percentile = found.conf_int(0.1).loc["a"]
    assert (percentile["lower"], percentile["upper"]) == (ordered[9], ordered[189])  # the 10th and 190th of 199
    basic = found.conf_int(0.1, "basic").loc["a"]
    assert basic["lower"] == pytest.approx(2 * estimate - ordered[189])
    assert basic["upper_error"] == percentile["lower_error"]
    normal = found.conf_int(0.1, "normal").loc["a"]
    centre = 2 * estimate - values.mean()
    assert normal["upper"] == pytest.approx(centre + norm.ppf(0.95) * values.std(ddof=1))
    shift = norm.ppf((values < estimate).mean())
    level = norm.cdf(2 * shift + norm.ppf(0.95))
    corrected = found.conf_int(0.1, "bc").loc["a"]
    assert corrected["upper"] == pytest.approx(np.quantile(values, level, method="weibull"))
    assert percentile["upper_error"] == pytest.approx(mjci(values, [0.95])[0], rel=0.2)
    with pytest.raises(hlm.DataError, match="too few"):
        found.conf_int(0.001)


def test_monte_carlo_errors_are_those_of_repetitions() -> None:
    """The spread of limits over independent sets of replicates, of a skewed distribution."""
    rng = np.random.default_rng(7)
    for method in ("percentile", "normal"):
        tables = [drawn(rng.gamma(2.0, size=399), 2.0).conf_int(0.1, method).loc["a"] for _ in range(300)]
        frame = pd.DataFrame(tables)
        for side in ("lower", "upper"):
            assert frame[f"{side}_error"].mean() == pytest.approx(frame[side].std(), rel=0.15)


def test_what_fails_or_is_singular_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = hlm.Model("Yield ~ 1 + (1 | Batch)", frame("Dyestuff2")).fit()
    found = fit.bootstrap(40, seed=1)
    sd = found.replicates["sd(Intercept | Batch)"]
    assert found.singular == (sd == 0).sum() > 0
    assert found.conf_int(0.2).loc["sd(Intercept | Batch)", "lower"] == 0
    assert f"{found.singular} of them with a singular covariance" in str(found)

    slopes = hlm.Model("y ~ x + (x | g)", DATA.assign(y=DATA["y"] - DATA["x"])).fit()
    undefined = slopes.bootstrap(30, seed=0).table(0.2)["replicates"]
    assert undefined["sigma"] == 30
    assert undefined["cor(Intercept, x | g)"] <= 30

    calls = []
    refit = hlm.Fit.refit

    def failing(self: hlm.Fit, y: Any) -> hlm.Fit:
        calls.append(0)
        if len(calls) % 4 == 0:
            raise NumericalError("no luck: today")
        return refit(self, y)

    monkeypatch.setattr(hlm.Fit, "refit", failing)
    found = fit.bootstrap(40, seed=1)
    assert found.failures == {"no luck": 10}
    assert found.replicates.isna().all(axis=1).sum() == 10
    assert found.table(0.2)["replicates"].max() == 30
    assert "30 of 40 responses fitted" in str(found)
    assert "no luck (10)" in str(found)

    def never(self: hlm.Fit, y: Any) -> hlm.Fit:
        raise NumericalError("never")

    monkeypatch.setattr(hlm.Fit, "refit", never)
    with pytest.raises(NumericalError, match="no drawn response could be fitted"):
        fit.bootstrap(3)


def test_intervals_of_a_fit_by_the_bootstrap() -> None:
    fit = hlm.Model("y ~ x + (1 | g)", DATA).fit()
    found = fit.bootstrap(60, seed=9)
    limits = fit.conf_int(0.2, method="bootstrap", count=60, seed=9)
    pd.testing.assert_frame_equal(limits, found.conf_int(0.2).loc[["Intercept", "x"], ["lower", "upper"]])
    table = fit.variance_table(0.2, method="bootstrap", count=60, seed=9)
    assert list(table.index) == ["sd(Intercept | g)", "sigma"]
    assert table.loc["sigma", "se"] == found.bse["sigma"]
    squares = fit.variance_table(0.2, method="bootstrap", scale="variance", count=60, seed=9)
    assert squares.loc["sigma²", "upper"] == pytest.approx(table.loc["sigma", "upper"] ** 2)
    with pytest.raises(hlm.DataError, match="options"):
        fit.variance_table(count=60)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "wild"}, hlm.DataError, "kind"),
        ({"count": 1}, hlm.DataError, "count"),
        ({"count": 2.5}, hlm.DataError, "count"),
        ({"workers": 0}, hlm.DataError, "workers"),
        ({"statistic": 3}, hlm.DataTypeError, "function"),
        ({"statistic": lambda fit: {"sigma": 1.0}}, hlm.DataError, "another name"),
        ({"seed": "x"}, hlm.DataTypeError, "seed"),
    ],
)
def test_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    fit = hlm.Model("y ~ x + (1 | g)", DATA).fit()
    with pytest.raises(error, match=words):
        fit.bootstrap(**{"count": 3, **options})
