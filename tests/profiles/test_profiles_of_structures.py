"""Profiles under covariance structures, known values, related levels and structures of the level-1 errors.

Each is compared with the dense likelihood, minimised by differences over all parameters but the one held.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

import hlm
from hlm.inference.distributions import normal_quantile
from hlm.profiles.held import Held
from hlm.profiles.intervals import chosen, intervals
from hlm.profiles.profile import Profile
from hlm.residuals import AR1, ByStratum, CompoundSymmetry, LogLinear, Unstructured

from ..dense import criterion_at

J, Q, REPEATS = 20, 3, 6
RNG = np.random.default_rng(8)
CODES = np.repeat(np.arange(J), REPEATS)
N = len(CODES)
OCCASION = np.tile(np.arange(REPEATS), J)
DATA = pd.DataFrame({"x": RNG.normal(size=N), "g": CODES, "o": OCCASION % Q, "t": OCCASION, "s": RNG.integers(0, 2, N)})
DATA["y"] = 1 + DATA["x"]
DATA["y"] += ((RNG.normal(size=(J, 2)) @ np.array([[1.0, 0.3], [0.0, 0.6]]))[CODES] * [[1, x] for x in DATA["x"]]).sum(
    axis=1
)
DATA["y"] += (RNG.normal(size=(J, Q)))[CODES, DATA["o"]] + RNG.normal(size=N) * (1 + 0.5 * DATA["s"])
DATA["c"] = "c" + DATA["o"].astype(str)
X = np.column_stack([np.ones(N), DATA["x"]])
INTERCEPT, SLOPE, DUMMIES = X[:, :1], X, np.eye(Q)[DATA["o"]]
SAME = CODES[:, None] == CODES[None, :]
DISTANCE = np.abs(OCCASION[:, None] - OCCASION[None, :])
K = 0.5 ** np.abs(np.subtract.outer(np.arange(J), np.arange(J)))
Build = Callable[[float, np.ndarray], np.ndarray]


class Common(hlm.Structure):
    """A user's: D = ll' + d²I, one direction that is the same for the last two effects."""

    name = "common"

    def size(self, q: int) -> int:
        return 3

    def root(self, theta: np.ndarray, q: int) -> np.ndarray:
        F = theta[2] * np.eye(q)
        F[:, 0] += np.r_[theta[0], np.full(q - 1, theta[1])]
        return F

    def derivatives(self, theta: np.ndarray, q: int) -> np.ndarray:
        return np.array([self.root(unit, q) for unit in np.eye(3)])

    def start(self, D: np.ndarray) -> np.ndarray:
        # a₁ = l + d in the first row and column, l₂ d-free below: exact if D has the structure
        d = np.sqrt(max(D[-1, -1] - D[-1, -2], 1e-12))
        below = np.sqrt(max(D[-1, -2], 1e-12))
        return np.array([D[1, 0] / below - d, below, d])


def covariance(Z: np.ndarray, T: np.ndarray, between: np.ndarray = SAME) -> np.ndarray:
    return (Z @ T @ Z.T) * between


def white(log_sigma: float) -> np.ndarray:
    return np.exp(2 * log_sigma) * np.eye(N)


def two(sds: Any, r: float) -> np.ndarray:
    return np.outer(sds, sds) * np.array([[1, r], [r, 1]])


def exchangeable(sd: float, r: float) -> np.ndarray:
    return sd**2 * ((1 - r) * np.eye(Q) + r)


def serial(sd: float, r: float) -> np.ndarray:
    return sd**2 * r ** np.abs(np.subtract.outer(np.arange(Q), np.arange(Q)))


def of_unit(z: float, low: float = -1.0) -> float:
    return low + (1 - low) / (1 + np.exp(-z))


def common(z: np.ndarray) -> np.ndarray:
    F = z[2] * np.eye(Q)
    F[:, 0] += [z[0], z[1], z[1]]
    return F @ F.T


def common_with_sd(sd: float, z: np.ndarray) -> np.ndarray:
    """The first standard deviation is l + d."""
    return common(np.array([sd - z[1], z[0], z[1]]))


# formula, what the model is given, what the fit is, parameter, V by the value and the others, their number
OWN = "y ~ x + (0 + c | g)"
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str, Build, int]] = {
    "cs sd": (OWN, {"covariance": {"g": "cs"}}, {}, "sd(g)",
              lambda v, z: covariance(DUMMIES, exchangeable(v, of_unit(z[0], -0.5))) + white(z[1]), 2),
    "cs cor": (OWN, {"covariance": {"g": "cs"}}, {}, "cor(g)",
               lambda v, z: covariance(DUMMIES, exchangeable(z[0], v)) + white(z[1]), 2),
    "ar1 sd": (OWN, {"covariance": {"g": "ar1"}}, {}, "sd(g)",
               lambda v, z: covariance(DUMMIES, serial(v, np.tanh(z[0]))) + white(z[1]), 2),
    "ar1 rho": (OWN, {"covariance": {"g": "ar1"}}, {}, "rho(g)",
                lambda v, z: covariance(DUMMIES, serial(z[0], v)) + white(z[1]), 2),
    "identity sd": (OWN, {"covariance": {"g": "identity"}}, {}, "sd(g)",
                    lambda v, z: covariance(DUMMIES, v**2 * np.eye(Q)) + white(z[0]), 1),
    "own sd": (OWN, {"covariance": {"g": Common()}}, {}, "sd(c[c0] | g)",
               lambda v, z: covariance(DUMMIES, common_with_sd(v, z)) + white(z[2]), 3),
    "a variance known": ("y ~ x + (x | g)", {}, {"fixed": {"g": {"x": 0.5}}}, "cor(Intercept, x | g)",
                         lambda v, z: covariance(SLOPE, two([np.exp(z[0]), np.sqrt(0.5)], v)) + white(z[1]), 2),
    "tied variances": ("y ~ x + (x | g)", {}, {"constraints": "var(x | g) = 0.5*sigma2"}, "sigma",
                       lambda v, z: covariance(SLOPE, two([np.exp(z[0]), v * np.sqrt(0.5)], np.tanh(z[1])))
                       + v**2 * np.eye(N), 2),
    "related sd": ("y ~ x + (1 | g)", {"between": {"g": K}}, {}, "sd(Intercept | g)",
                   lambda v, z: covariance(INTERCEPT, v**2 * np.eye(1), K[CODES][:, CODES]) + white(z[0]), 1),
    "icc": ("y ~ x + (x | g)", {}, {}, "icc(g)",
            lambda v, z: np.exp(2 * z[2]) * (of_share(v, two(np.exp(z[:2]), np.tanh(z[3])))), 4),
    "errors rho": ("y ~ x + (1 | g)", {"residual": AR1("t")}, {}, "residual.rho",
                   lambda v, z: covariance(INTERCEPT, z[0] ** 2 * np.eye(1))
                   + np.exp(2 * z[1]) * SAME * v**DISTANCE, 2),
    "errors sd": ("y ~ x + (1 | g)", {"residual": AR1("t")}, {}, "sd(Intercept | g)",
                  lambda v, z: covariance(INTERCEPT, v**2 * np.eye(1))
                  + np.exp(2 * z[1]) * SAME * np.tanh(z[0]) ** DISTANCE, 2),
    "strata": ("y ~ x + (1 | g)", {"residual": ByStratum("s")}, {}, "residual.sd(1) / sd(0)",
               lambda v, z: covariance(INTERCEPT, z[0] ** 2 * np.eye(1))
               + np.exp(2 * z[1]) * np.diag(np.where(DATA["s"] == 1, v**2, 1.0)), 2),
    "strata, structure": (OWN, {"residual": ByStratum("s"), "covariance": {"g": "cs"}}, {}, "cor(g)",
                          lambda v, z: covariance(DUMMIES, exchangeable(z[0], v))
                          + np.exp(2 * z[1]) * np.diag(np.where(DATA["s"] == 1, np.exp(z[2]), 1.0)), 3),
    "log-linear": ("y ~ x + (1 | g)", {"residual": LogLinear("~ x + t")}, {}, "residual.x",
                   lambda v, z: covariance(INTERCEPT, z[0] ** 2 * np.eye(1))
                   + np.diag(np.exp(z[1] + v * DATA["x"] + z[2] * DATA["t"])), 3),
    "errors cor": ("y ~ x", {"residual": CompoundSymmetry("g")}, {}, "residual.rho",
                   lambda v, z: np.exp(2 * z[0]) * (SAME * v + (1 - v) * np.eye(N)), 1),
    "any errors, ratio": ("y ~ x", {"residual": Unstructured("c", "h")}, {}, "residual.sd(c1) / sd(c0)",
                          lambda v, z: of_occasions([1, v, np.exp(z[0])], z[1:4], z[4]), 5),
    "any errors, cor": ("y ~ x", {"residual": Unstructured("c", "h")}, {}, "residual.cor(c1, c2)",
                        lambda v, z: of_occasions([1, *np.exp(z[:2])], [z[2], z[3], v], z[4], True), 5),
}  # fmt: skip
DATA["h"] = [f"{g}.{t // Q}" for g, t in zip(DATA["g"], DATA["t"], strict=True)]


def of_share(share: float, T: np.ndarray) -> np.ndarray:
    """Cov(y)/σ² of which the mean z'Tz is a given share."""
    mean = float(np.einsum("ij,jk,ik->i", SLOPE, T, SLOPE).mean())
    return covariance(SLOPE, T * share / (1 - share) / mean) + np.eye(N)


def of_occasions(sds: Any, rows: Any, log_sigma: float, held: bool = False) -> np.ndarray:
    """Any covariance of three occasions in a half; `held`: the last of `rows` is the correlation of the last two."""
    if held:  # occasions in the order 1, 2, 0
        r = rows[2]
        L = np.array([[1, 0, 0], [r, np.sqrt(1 - r * r), 0], [rows[0], rows[1], 1.0]])
        order = [2, 0, 1]
    else:
        L, order = np.array([[1, 0, 0], [rows[0], 1, 0], [rows[1], rows[2], 1.0]]), [0, 1, 2]
    L = L / np.sqrt((L * L).sum(axis=1))[:, None]
    C = (L @ L.T)[np.ix_(order, order)] * np.outer(sds, sds)
    half = DATA["h"].to_numpy()
    return np.exp(2 * log_sigma) * C[np.ix_(DATA["o"], DATA["o"])] * (half[:, None] == half[None, :])


def deviance(V: np.ndarray, reml: bool) -> float:
    sign, logdet = np.linalg.slogdet(V)
    if sign <= 0 or not np.isfinite(logdet):
        return 1e10
    inverse = np.linalg.inv(V)
    S = X.T @ inverse @ X
    e = DATA["y"].to_numpy() - X @ np.linalg.solve(S, X.T @ inverse @ DATA["y"].to_numpy())
    value = logdet + e @ inverse @ e + (N - 2 * reml) * np.log(2 * np.pi)
    return float(value + (np.linalg.slogdet(S)[1] if reml else 0.0))


def least(build: Build, value: float, count: int, reml: bool) -> float:
    """The dense profile at a value."""
    found = []
    for start in (np.full(count, 0.3), np.full(count, -0.3)):
        with np.errstate(all="ignore"):
            found.append(minimize(lambda z: deviance(build(value, z), reml), start, method="BFGS").fun)
    return min(found)


@pytest.mark.parametrize("name", CASES)
def test_a_profile_is_the_least_dense_deviance(name: str) -> None:
    formula, options, asked, parameter, build, count = CASES[name]
    reml = list(CASES).index(name) % 2 == 0
    fit = hlm.Model(formula, DATA, **options).fit(reml=reml, **asked)
    (p,) = chosen(fit, parameter)
    profile = Profile(fit, p)
    for target in (-norm.ppf(0.975), 1.0):
        limit = profile.limit(target)
        assert not np.isnan(limit), profile.note
        rise = least(build, p.natural(limit), count, reml) - fit.criterion
        assert profile.zeta(limit) ** 2 == pytest.approx(rise, abs=2e-5)  # BFGS by differences
        if limit in (p.low, p.high):
            assert rise <= target**2
        else:
            assert rise == pytest.approx(target**2, abs=2e-5)
            assert profile.zeta(limit) == pytest.approx(target, abs=2e-7)


@pytest.mark.parametrize(
    ("formula", "options", "asked", "name", "value"),
    [
        (OWN, {"covariance": {"g": Common()}}, {}, "cor(c[c0], c[c1] | g)", 0.3),
        (OWN, {}, {}, "cor(c[c0], c[c2] | g)", -0.6),
        (OWN, {}, {}, "cor(c[c1], c[c2] | g)", 1.0),
        (OWN, {}, {"fixed": {"g": {"c[c1]": 0.7}}}, "cor(c[c0], c[c1] | g)", 0.5),
        (OWN, {}, {}, "sd(c[c1] | g)", 0.8),
        (OWN, {"covariance": {"g": "cs"}}, {}, "cor(g)", -0.3),
        (OWN, {"covariance": {"g": "ar1"}}, {}, "rho(g)", 0.4),
        (OWN, {}, {}, "icc(g)", 0.3),
    ],
)
def test_derivatives_with_a_parameter_held(
    formula: str, options: dict[str, Any], asked: dict[str, Any], name: str, value: float
) -> None:
    """Every point that a step leads to has the value; gradient and Hessian are those of the criterion there."""
    fit = hlm.Model(formula, DATA, **options).fit(**asked)
    criterion, space, (start, *_) = Held(fit, chosen(fit, name)[0]).at(value)
    rng = np.random.default_rng(1)
    x = space.project(start + 0.1 * rng.normal(size=len(start)))
    criterion.value(x)
    gradient, hessian = criterion.derivatives()
    h, unit = 1e-4, np.eye(space.m)

    def at(step: np.ndarray) -> tuple[float, np.ndarray]:
        point = space.move(x, step)
        return float(criterion.value(point)), point

    slopes = [(at(h * e)[0] - at(-h * e)[0]) / (2 * h) for e in unit]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())
    here = at(0 * unit[0])[0]
    second = [(at(20 * h * e)[0] + at(-20 * h * e)[0] - 2 * here) / (20 * h) ** 2 for e in unit]
    np.testing.assert_allclose(np.diag(hessian), second, rtol=1e-3, atol=1e-3 * np.abs(hessian).max())
    T = Held(fit, chosen(fit, name)[0]).relative(space, at(0.3 * rng.normal(size=space.m))[1])[0]
    kind, _, effects = name.partition("(")
    if kind in ("cor", "rho"):
        i, j = (int(word.strip()[3]) for word in effects.split(",")) if "," in effects else (0, 1)
        assert T[i, j] / np.sqrt(T[i, i] * T[j, j]) == pytest.approx(value, abs=1e-8)


WALD = [name for name in CASES if name not in ("identity sd", "icc", "errors sd", "own sd")]


@pytest.mark.parametrize("name", WALD)
def test_a_standard_error_is_the_curvature_of_the_profile(name: str) -> None:
    formula, options, asked, parameter, _, _ = CASES[name]
    fit = hlm.Model(formula, DATA, **options).fit(**asked)
    row = fit.variance_table().loc[parameter]
    assert row["note"] == ""
    assert row["lower"] < row["estimate"] < row["upper"]
    (p,) = chosen(fit, parameter)
    profile, step = Profile(fit, p), 0.02 * p.step
    rise = [profile.zeta(p.estimate + sign * step) ** 2 for sign in (1, -1)]
    change = p.natural(p.estimate + step) - p.natural(p.estimate - step)
    assert np.mean(rise) == pytest.approx((0.5 * change / row["se"]) ** 2, rel=1e-2)


def test_fixed_effects_under_structures() -> None:
    """The profile of γ at c is the criterion of the model in which it is known."""
    for options in (
        {"covariance": {"g": "cs"}},
        {"residual": AR1("t")},
        {"residual": ByStratum("s"), "covariance": {"g": "cs"}},
    ):
        model = hlm.Model("y ~ x + (0 + c | g)", DATA, **options)
        fit = model.fit(reml=False)
        limits = fit.conf_int(method="profile").loc["x"]
        for limit in limits:
            known = model.fit(reml=False, fixed={"x": limit})
            assert known.criterion - fit.criterion == pytest.approx(normal_quantile(0.05) ** 2, abs=1e-6)
    tied = hlm.Model("y ~ x + (1 | g)", DATA).fit(reml=False, constraints="Intercept = 2*x")
    limits = tied.conf_int(method="profile")
    np.testing.assert_allclose(limits.loc["Intercept"], 2 * limits.loc["x"], rtol=1e-6)


def test_what_is_known_says_so() -> None:
    fit = hlm.Model("y ~ x + (x | g)", DATA).fit(
        reml=False, fixed={"x": 1.0, "sigma": 1.2, "g": {("Intercept", "x"): 0.0}}
    )
    table = intervals(fit)
    known = ["x", "sigma", "cor(Intercept, x | g)"]
    assert (table.loc[known, "note"] == "known").all()
    assert (table.loc[known, "lower"] == table.loc[known, "estimate"]).all()
    free = table.drop(known)
    assert (free["lower"] < free["estimate"]).all()
    with pytest.raises(hlm.DataError, match="is known"):
        fit.profile("sigma")


def test_ends_of_the_range() -> None:
    """No variance at all, and the correlations at which the structures become singular."""
    rng = np.random.default_rng(3)
    for structure, low in (("cs", -1 / (Q - 1)), ("ar1", -1.0)):
        for seed in range(40):
            noise = np.random.default_rng(seed).normal(size=N)
            fit = hlm.Model(OWN, DATA.assign(y=noise), covariance={"g": structure}).fit()
            if fit.covariances["g"].iloc[0, 0] == 0:
                break
        table = fit.variance_table()
        row = table.loc["sd(g)"]
        assert row["estimate"] == row["lower"] == 0
        assert "boundary" in row["note"]
        profile = Profile(fit, chosen(fit, "sd(g)")[0])
        assert profile.zeta(row["upper"]) == pytest.approx(norm.ppf(0.975), abs=1e-6)
        correlation = table.loc["cor(g)" if structure == "cs" else "rho(g)"]
        assert (correlation["lower"], correlation["upper"]) == (low, 1.0)
        contrasts = rng.normal(size=(J, Q))
        contrasts -= contrasts.mean(axis=1, keepdims=True) * (structure == "cs")
        if structure == "ar1":
            contrasts = contrasts[:, :1] * [1, -1, 1]
        y = contrasts[CODES, DATA["o"]] + 0.3 * rng.normal(size=N)
        fit = hlm.Model(OWN, DATA.assign(y=y), covariance={"g": structure}).fit()
        row = fit.variance_table().loc["cor(g)" if structure == "cs" else "rho(g)"]
        assert row["lower"] == pytest.approx(low)
        assert low <= row["estimate"] < row["upper"] < 1


def test_a_limit_that_does_not_exist_is_infinite() -> None:
    """Correlation in continuous time falls to nothing: the deviance has an asymptote, independent errors."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": CODES, "t": OCCASION + 0.1 * rng.random(N), "y": rng.normal(size=N)})
    data["y"] += 0.1 * np.roll(data["y"], 1)
    fit = hlm.Model("y ~ 1", data, residual=AR1("t", "g")).fit()
    profile = Profile(fit, chosen(fit, "residual.rho")[0])
    assert profile.limit(-4.0) == -np.inf
    assert "no lower limit" in profile.note
    independent = hlm.Model("y ~ 1", data).fit()
    assert min(profile.points.values()) == pytest.approx(-np.sqrt(independent.criterion - fit.criterion), abs=1e-4)
    row = intervals(fit, ["residual.rho"], alpha=1e-4).loc["residual.rho"]
    assert row["lower"] == 0
    assert row["upper"] > row["estimate"]


def test_intraclass_correlation_on_the_boundary() -> None:
    data = DATA.assign(y=np.random.default_rng(5).normal(size=N))
    data["y"] -= data.groupby("g")["y"].transform("mean")
    plain = hlm.Model("y ~ 1 + (1 | g)", data).fit()
    row = plain.icc(method="profile").loc["g"]
    assert row["icc"] == row["lower"] == 0
    ratio = float(row["upper"] / (1 - row["upper"]))
    held = hlm.Model("y ~ 1 + (1 | g)", data).fit(constraints=f"var(g) = {ratio!r}*sigma2")
    assert held.criterion - plain.criterion == pytest.approx(norm.ppf(0.975) ** 2, abs=1e-6)
    with pytest.raises(hlm.DataError, match="method"):
        plain.icc(method="exact")


def test_effects_that_can_explain_every_row_leave_sigma_no_lower_limit() -> None:
    """As many effects as rows: without errors the deviance is that of the effects alone."""
    rng = np.random.default_rng(0)
    groups, which = np.repeat(np.arange(8), 2), np.tile([0, 1], 8)
    y = 3 * rng.normal(size=8)[groups] + rng.normal(size=16) + rng.normal(size=16) * (which == 0)
    ones = np.ones((16, 1))
    fit = hlm.Model.from_arrays(y, ones, [hlm.Random(groups, np.eye(2)[which], covariance="ar1")]).fit()
    table = intervals(fit, ["sigma", "icc(g)"])
    assert table.loc["sigma", "lower"] == 0
    assert table.loc["icc(g)", "upper"] == 1

    def without(z: np.ndarray) -> float:
        T = np.exp(2 * z[0]) * np.array([[1, np.tanh(z[1])], [np.tanh(z[1]), 1]])
        return criterion_at(y, ones, [(np.eye(2)[which], groups, T)], np.full(16, 1e-10), True)

    rise = minimize(without, [1.0, 0.5], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).fun
    assert Profile(fit, chosen(fit, "sigma")[0]).zeta(0.0) ** 2 == pytest.approx(rise - fit.criterion, abs=1e-5)
